"""Which long answer gets no more pieces when another account needs its place."""

from contextlib import ExitStack

import pytest

from api.guards import large_pages
from api.guards.large_pages import End, LargePages
from shared.errors import Code, RefusedError


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_pages, "PER_ACCOUNT", 3)
    monkeypatch.setattr(large_pages, "PER_PROCESS", 4)
    monkeypatch.setattr(large_pages, "_ENDED_MAX", 2)


class _Pages:
    def __init__(self) -> None:
        self.pages = LargePages()
        self.stack = ExitStack()
        self.ended: list[str] = []

    def hold(self, account: str, name: str | None = None) -> None:
        """Hold a place; a page with a name can be continued."""
        end: End = None if name is None else (lambda: self.ended.append(name))
        self.stack.enter_context(self.pages.hold(account, end))

    def refusal(self, account: str) -> Code:
        with pytest.raises(RefusedError) as caught:
            self.hold(account, "refused")
        return caught.value.code


def test_the_oldest_of_the_account_with_most_ends() -> None:
    rig = _Pages()
    rig.hold("one", "one")
    for name in ("first", "second", "third"):
        rig.hold("two", name)
    assert rig.refusal("two") == Code.RATE_LIMITED
    rig.hold("three", "three")
    assert rig.ended == ["first"]
    # Theirs would be as many as those of the account with most.
    assert rig.refusal("three") == Code.UNAVAILABLE
    rig.hold("four", "four")
    assert rig.ended == ["first", "second"]
    # All have one now.
    assert rig.refusal("five") == Code.UNAVAILABLE


def test_a_page_that_cannot_be_continued_is_sent_to_its_end() -> None:
    rig = _Pages()
    for name in (None, "continued", None):
        rig.hold("one", name)
    rig.hold("two")
    rig.hold("three")
    assert rig.ended == ["continued"]
    assert rig.refusal("four") == Code.UNAVAILABLE


def test_pages_that_were_ended_and_not_read_are_bounded_too() -> None:
    rig, readers = _Pages(), ExitStack()
    rig.hold("other")
    for _ in range(2):
        readers.enter_context(rig.pages.hold("slow", lambda: rig.ended.append("slow")))
    for _ in range(2):
        readers.enter_context(rig.pages.hold("slow", lambda: rig.ended.append("slow")))
        with rig.pages.hold("new"):
            pass
    assert rig.ended == ["slow"] * 2
    readers.enter_context(rig.pages.hold("slow", lambda: rig.ended.append("slow")))
    assert rig.refusal("new") == Code.UNAVAILABLE
    readers.close()
    assert (rig.pages._ended, list(rig.pages._held)) == (set(), ["other"])
