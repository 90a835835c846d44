"""Event ids: both forms are read."""

import pytest

from api.follow import event_ids
from api.follow.event_ids import EventNumber
from shared.errors import Code, RequestError


def test_both_forms_are_read() -> None:
    assert event_ids.read("1-7") == (None, EventNumber(1, 7))
    assert event_ids.read("abc_-9:0-1") == ("abc_-9", EventNumber(0, 1))


@pytest.mark.parametrize(
    "text",
    ["1", "1-", "-1", "1-7 ", ":1-7", "a:b:1-7", "a b:1-7", "1-7\n", "x:", f"{'a' * 65}:1-7"],
)
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(RequestError) as refused:
        event_ids.read(text)
    assert refused.value.code is Code.INVALID_FIELDS


def test_follower_goes_on_after_its_own_generations_event_only() -> None:
    assert event_ids.after(None, "mine") == EventNumber(0, 0)
    assert (
        event_ids.after("2-3", "mine") == event_ids.after("mine:2-3", "mine") == EventNumber(2, 3)
    )
    with pytest.raises(RequestError):
        event_ids.after("other:2-3", "mine")
