"""What is seen of an answer on a terminal and beside it, and how long a follower is patient."""

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from typing_extensions import override

from deploy.answer_printer import AnswerPrinter
from deploy.follower import Event, Failure, Follower, Message, ReceivedEvent
from shared.errors import PolluxError, UnavailableError
from tests.deploy.scripted_api import (
    ID,
    ScriptedApi,
    ScriptedReply,
    accepted,
    completed,
    event,
    later,
    refusal,
)
from tests.support.clocks import ManualClock


class Terminal(io.StringIO):
    """A stream to a terminal, whose screen several may share."""

    def __init__(self, screen: list[str] | None = None) -> None:
        super().__init__()
        self._screen = [] if screen is None else screen

    @override
    def write(self, text: str, /) -> int:
        self._screen.append(text)
        return super().write(text)

    @override
    def isatty(self) -> bool:
        return True


class SteadyClock(ManualClock):
    """A clock on which 50 s pass between two readings: as if each connection lasted so long."""

    @override
    def monotonic(self) -> float:
        self.now += 50.0
        return super().monotonic()


def _write_line(answer: AnswerPrinter, *events: dict[str, Any]) -> None:
    for fields in events:
        answer.show_event(ReceivedEvent(_event(fields), "{}"))


def _event(fields: dict[str, Any]) -> Event:
    ((name, rest),) = fields.items()
    return Event(type=name, **rest)


def _seen(*events: dict[str, Any]) -> str:
    """Return what a terminal shows on which both streams appear."""
    screen: list[str] = []
    answer = AnswerPrinter(Terminal(screen), Terminal(screen))
    _write_line(answer, *events)
    answer.end_line()
    return "".join(screen)


def test_text_grows_on_a_terminal() -> None:
    terminal = Terminal()
    answer = AnswerPrinter(terminal, io.StringIO())
    _write_line(answer, {"delta": {"text": "Two "}})
    assert terminal.getvalue() == "Two "
    _write_line(answer, {"delta": {"text": "bears"}}, {"completed": {}})
    assert terminal.getvalue() == "Two bears\n"


def test_reasoning_is_dimmed_and_ends_before_the_answer_begins() -> None:
    assert (
        _seen({"reasoning": {"text": "Hm"}}, {"reasoning": {"text": "."}}, {"delta": {"text": "2"}})
        == "\x1b[2mHm\x1b[22m\x1b[2m.\x1b[22m\n2\n"
    )


def test_reasoning_is_not_shown_in_a_file() -> None:
    out, err = Terminal(), io.StringIO()
    _write_line(AnswerPrinter(out, err), {"reasoning": {"text": "Hm"}}, {"delta": {"text": "Two"}})
    assert (out.getvalue(), err.getvalue()) == ("Two", "")


def test_what_is_dropped_is_begun_anew_below() -> None:
    assert (
        _seen(
            {"delta": {"text": "Two bears"}},
            {"reset": {"keep": 4}},
            {"delta": {"text": "wolves"}},
        )
        == "Two bears\n[starting over]\nTwo wolves\n"
    )


def test_dropped_reasoning_is_begun_anew_too() -> None:
    hm = "\x1b[2mHm\x1b[22m"
    assert (
        _seen({"reasoning": {"text": "Hm"}}, {"reset": {"keep": 0}}, {"reasoning": {"text": "Hm"}})
        == f"{hm}\n[starting over]\n{hm}\n"
    )


@pytest.mark.parametrize(
    "event",
    [
        {"reset": {"keep": 3}},
        {"snapshot": {"text": "Two"}},
        {"completed": {}},
    ],
    ids=str,
)
def test_what_drops_nothing_begins_nothing_anew(event: dict[str, Any]) -> None:
    assert "[starting over]" not in _seen({"delta": {"text": "Two"}}, event)


def test_snapshot_replaces_all_before_and_shows_only_what_is_new() -> None:
    assert _seen({"delta": {"text": "Two"}}, {"snapshot": {"text": "Two bears"}}) == "Two bears\n"
    assert (
        _seen({"delta": {"text": "Two"}}, {"snapshot": {"text": "Three"}})
        == "Two\n[starting over]\nThree\n"
    )


def test_a_terminal_is_given_no_commands_and_a_pipe_every_letter() -> None:
    text = "a\x1b[31m\x07b\tc\x9b\r\n"
    for out, shown in ((Terminal(), "a[31mb\tc\n"), (io.StringIO(), text)):
        _write_line(AnswerPrinter(out, io.StringIO()), {"delta": {"text": text}}, {"completed": {}})
        assert out.getvalue() == shown


def test_a_pipe_gets_nothing_of_an_answer_that_failed() -> None:
    out = io.StringIO()
    answer = AnswerPrinter(out, io.StringIO())
    _write_line(answer, {"delta": {"text": "Two"}})
    with pytest.raises(PolluxError, match="It fell silent"):
        answer.show_event(
            ReceivedEvent(Event(type="failed", failure=Failure("It fell silent.")), "{}")
        )
    assert out.getvalue() == ""


def test_media_are_told_beside_the_answer() -> None:
    out, err = io.StringIO(), io.StringIO()
    _write_line(
        AnswerPrinter(out, err), {"media": {"kind": "image", "url": "https://example.org/1"}}
    )
    assert (out.getvalue(), err.getvalue()) == ("", "image: https://example.org/1\n")


def test_media_of_the_front_are_told_with_its_address() -> None:
    out, err = io.StringIO(), io.StringIO()
    answer = AnswerPrinter(out, err, url="http://127.0.0.1:8000/")
    _write_line(answer, {"media": {"kind": "image", "url": "/media/a/s/x.png?expires=1"}})
    assert err.getvalue() == "image: http://127.0.0.1:8000/media/a/s/x.png?expires=1\n"


# Patience


@asynccontextmanager
async def _follower(url: str, clock: ManualClock) -> AsyncIterator[tuple[Follower, list[str]]]:
    notes: list[str] = []
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        yield Follower(http, clock, notes.append), notes


async def _received(follower: Follower) -> list[str]:
    return [received.event.type async for received in follower.ask({"message": "What?"})]


async def test_nobody_is_soon_given_up() -> None:
    clock = ManualClock()
    async with ScriptedApi() as gone:
        url = gone.url
    async with _follower(url, clock) as (follower, notes):
        with pytest.raises(UnavailableError, match="did not answer"):
            await _received(follower)
    assert clock.slept == [0.25, 0.5, 1.0, 2.0]
    assert len(notes) == 1


async def test_somebody_is_waited_for_with_growing_pauses(scripted_api: ScriptedApi) -> None:
    clock = ManualClock()
    scripted_api.lines.extend([refusal(503, "The queue is full.")] * 100)
    async with _follower(scripted_api.url, clock) as (follower, notes):
        with pytest.raises(UnavailableError, match="The queue is full"):
            await _received(follower)
    assert clock.slept == [0.25, 0.5, 1.0, 2.0, 4.0, *[5.0] * 10]
    assert notes == ["[The queue is full; trying again]"]


async def test_whoever_is_heard_again_is_given_all_patience_again(
    scripted_api: ScriptedApi,
) -> None:
    clock = ManualClock()
    for number in range(1, 30):
        scripted_api.lines.extend([refusal(503, "Away.", "Retry-After: 20")] * 2)
        scripted_api.lines.append(
            ScriptedReply((accepted(), event(f"1-{number}", "delta", text="x")))
        )
    scripted_api.lines.append(ScriptedReply((completed("1-99", "x"),)))
    async with _follower(scripted_api.url, clock) as (follower, _):
        assert (await _received(follower))[-1] == "completed"
    assert sum(clock.slept) > 600


async def test_line_that_stands_for_long_is_a_sign_of_life_though_nothing_is_told(
    scripted_api: ScriptedApi,
) -> None:
    scripted_api.lines.append(ScriptedReply((accepted(),), is_cut=True))
    scripted_api.lines.extend([ScriptedReply((b": ping\n\n",), is_cut=True)] * 30)
    scripted_api.lines.append(ScriptedReply((completed("1-1", "x"),)))
    async with _follower(scripted_api.url, SteadyClock()) as (follower, _):
        assert await _received(follower) == ["accepted", "completed"]


async def test_lines_that_break_at_once_are_none(scripted_api: ScriptedApi) -> None:
    scripted_api.lines.append(ScriptedReply((accepted(),), is_cut=True))
    scripted_api.lines.extend([ScriptedReply((b": ping\n\n",), is_cut=True)] * 100)
    async with _follower(scripted_api.url, ManualClock()) as (follower, _):
        with pytest.raises(UnavailableError, match="broke off"):
            await _received(follower)


async def test_what_is_in_but_cannot_yet_be_followed_is_followed_later(
    scripted_api: ScriptedApi,
) -> None:
    scripted_api.lines.append(later())
    scripted_api.lines.append(refusal(503, "Away."))
    scripted_api.lines.append(ScriptedReply((accepted(), completed("1-1", "x"))))
    async with _follower(scripted_api.url, ManualClock()) as (follower, notes):
        assert await _received(follower) == ["accepted", "completed"]
    assert [asked.path for asked in scripted_api.asked[1:]] == [f"/api/v1/generate/{ID}/events"] * 2
    assert notes == ["[the message is accepted, but its events cannot be read yet; trying again]"]


async def test_longer_wish_than_patience_is_not_waited_for(scripted_api: ScriptedApi) -> None:
    clock = ManualClock()
    scripted_api.lines.append(refusal(429, "Too many.", "Retry-After: 3600"))
    async with _follower(scripted_api.url, clock) as (follower, _):
        with pytest.raises(UnavailableError, match="Too many"):
            await _received(follower)
    assert clock.slept == []


async def test_resumed_line_is_asked_from_the_last_event_that_was_whole(
    scripted_api: ScriptedApi,
) -> None:
    scripted_api.lines.append(ScriptedReply((accepted(), b"id: 1-9\ndata: {"), is_cut=True))
    scripted_api.lines.append(ScriptedReply((completed("1-2", "x"),)))
    async with _follower(scripted_api.url, ManualClock()) as (follower, _):
        assert await _received(follower) == ["accepted", "completed"]
    assert scripted_api.asked[1].headers["last-event-id"] == "0-1"
    assert scripted_api.asked[1].path == f"/api/v1/generate/{ID}/events"


@pytest.mark.parametrize(
    ("reason", "note"),
    [
        ("length", "[the answer was cut: it reached the limit of its length]\n"),
        ("content_filter", "[the answer was cut: the provider's content filter stopped it]\n"),
        ("stop", ""),
        (None, ""),
    ],
)
def test_an_answer_that_was_cut_is_marked_beside_it(reason: str | None, note: str) -> None:
    out, err = io.StringIO(), io.StringIO()
    message = Message(content="Two", finish_reason=reason)
    _write_line(AnswerPrinter(out, err), {"completed": {"message": message}})
    assert out.getvalue() == "Two\n"
    assert err.getvalue() == note + "session: \n"
