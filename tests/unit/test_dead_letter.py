"""Names of dead letters, cursors in their list, and filters."""

import pytest

from shared import ids
from shared.clock import instant, iso
from shared.errors import Category, Failure
from shared.stores.dead_letters import ALL, DeadLetterFilter, PageCursor
from shared.wire.dead_letter import DeadLetter, DeadLetterName


def _letter(category: Category = "internal", **fields: object) -> DeadLetter:
    failure = Failure(message="No.", category=category, code="X", provider="p")
    values = {
        "name": DeadLetterName("ann", "g"),
        "session": "s",
        "turn": 1,
        "lane": "interactive",
        "model": "auto",
        "failure": failure,
        "attempt": 1,
        "attempts": (),
        "accepted": 1,
        "died": 2,
        "hold": 0,
        "key": "k",
    }
    return DeadLetter(**(values | fields))  # type: ignore[arg-type]  # of the fields' types


def test_a_name_is_parsed_as_it_is_written() -> None:
    name = DeadLetterName("acme", ids.new_id())
    assert DeadLetterName.parse(str(name)) == name


@pytest.mark.parametrize(
    "text", ["", "acme", "/x", "acme/", "a:b/x", "acme/x/y", "acme/x\n", "é/x"]
)
def test_other_texts_are_no_name(text: str) -> None:
    assert DeadLetterName.parse(text) is None


def test_a_cursor_is_parsed_as_it_is_written() -> None:
    place = PageCursor(1_790_000_000_000, "acme", ids.new_id())
    assert PageCursor.parse(str(place)) == place


@pytest.mark.parametrize(
    "text",
    ["", "1", "1.a", "1.a.", ".a.b", "x.a.b", "-1.a.b", "²1.a.b", "1.a.b.c", f"{10**16}.a.b"],
)
def test_other_texts_are_no_cursor(text: str) -> None:
    assert PageCursor.parse(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-31", "2026-01-31T00:00:00Z"),
        ("2026-01-31T12:30:15Z", "2026-01-31T12:30:15Z"),
        ("2026-01-31T12:30:15", "2026-01-31T12:30:15Z"),
        ("2026-01-31T12:30:15+02:00", "2026-01-31T10:30:15Z"),
        ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59Z"),
        ("0001-01-01", "0001-01-01T00:00:00Z"),
    ],
)
def test_times_are_parsed_in_utc(text: str, expected: str) -> None:
    found = instant(text)
    assert found is not None
    assert iso(found) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "soon", "31.1.2026", "2026-13-01", "2026-02-30", "²026-01-01"),
        # In UTC their years are 10000 and 0.
        *("9999-12-31T23:59:59-00:01", "0001-01-01T00:00:00+00:01"),
    ],
)
def test_other_texts_are_no_time(text: str) -> None:
    assert instant(text) is None


def test_stored_times_without_a_date_are_shown_as_the_nearest_date() -> None:
    assert iso(253_402_300_859_000) == "9999-12-31T23:59:59Z"
    assert iso(2**63) == "9999-12-31T23:59:59Z"
    assert iso(-(2**63)) == "0001-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("wanted", "is_fit"),
    [
        (ALL, True),
        (
            DeadLetterFilter(
                category="internal", code="X", provider="p", model="auto", account="ann"
            ),
            True,
        ),
        (DeadLetterFilter(category="timeout"), False),
        (DeadLetterFilter(code="Y"), False),
        (DeadLetterFilter(provider="q"), False),
        (DeadLetterFilter(model="alpha"), True),
        (DeadLetterFilter(model="beta"), False),
        (DeadLetterFilter(account="bob"), False),
    ],
)
def test_a_letter_must_match_every_field_of_the_filter(
    wanted: DeadLetterFilter, is_fit: bool
) -> None:
    assert wanted.matches(_letter(chosen="alpha")) == is_fit


def test_a_letter_without_a_chosen_model_matches_only_the_requested_one() -> None:
    assert not DeadLetterFilter(model="alpha").matches(_letter())
