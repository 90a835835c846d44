"""What the printer of answers writes on a terminal, into a pipe, and on standard error."""

import io
from typing import Any

import pytest
from typing_extensions import override

from deploy.answer_printer import AnswerPrinter
from deploy.follower import Event, Failure, Message, ReceivedEvent
from shared.errors import PolluxError


class Terminal(io.StringIO):
    """A stream to a terminal; several streams may share its screen."""

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


def _show(answer: AnswerPrinter, *events: dict[str, Any]) -> None:
    for fields in events:
        answer.show_event(ReceivedEvent(_event(fields), "{}"))


def _event(fields: dict[str, Any]) -> Event:
    ((name, rest),) = fields.items()
    return Event(type=name, **rest)


def _seen(*events: dict[str, Any]) -> str:
    """Return the screen of a terminal on which both streams appear."""
    screen: list[str] = []
    answer = AnswerPrinter(Terminal(screen), Terminal(screen))
    _show(answer, *events)
    answer.end_line()
    return "".join(screen)


def test_text_grows_on_a_terminal() -> None:
    terminal = Terminal()
    answer = AnswerPrinter(terminal, io.StringIO())
    _show(answer, {"delta": {"text": "Two "}})
    assert terminal.getvalue() == "Two "
    _show(answer, {"delta": {"text": "bears"}}, {"completed": {}})
    assert terminal.getvalue() == "Two bears\n"


def test_reasoning_is_dimmed_and_on_lines_of_its_own() -> None:
    assert (
        _seen({"reasoning": {"text": "Hm"}}, {"reasoning": {"text": "."}}, {"delta": {"text": "2"}})
        == "\x1b[2mHm\x1b[22m\x1b[2m.\x1b[22m\n2\n"
    )


def test_reasoning_is_not_printed_into_a_file() -> None:
    out, err = Terminal(), io.StringIO()
    _show(AnswerPrinter(out, err), {"reasoning": {"text": "Hm"}}, {"delta": {"text": "Two"}})
    assert (out.getvalue(), err.getvalue()) == ("Two", "")


def test_text_after_a_reset_starts_over_on_a_new_line() -> None:
    assert (
        _seen(
            {"delta": {"text": "Two bears"}},
            {"reset": {"keep": 4}},
            {"delta": {"text": "wolves"}},
        )
        == "Two bears\n[starting over]\nTwo wolves\n"
    )


def test_reasoning_after_a_reset_starts_over_too() -> None:
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
def test_an_event_that_discards_nothing_does_not_start_over(event: dict[str, Any]) -> None:
    assert "[starting over]" not in _seen({"delta": {"text": "Two"}}, event)


def test_a_snapshot_replaces_the_text_and_prints_only_what_is_new() -> None:
    assert _seen({"delta": {"text": "Two"}}, {"snapshot": {"text": "Two bears"}}) == "Two bears\n"
    assert (
        _seen({"delta": {"text": "Two"}}, {"snapshot": {"text": "Three"}})
        == "Two\n[starting over]\nThree\n"
    )


def test_control_characters_are_removed_on_a_terminal_only() -> None:
    text = "a\x1b[31m\x07b\tc\x9b\r\n"
    for out, shown in ((Terminal(), "a[31mb\tc\n"), (io.StringIO(), text)):
        _show(AnswerPrinter(out, io.StringIO()), {"delta": {"text": text}}, {"completed": {}})
        assert out.getvalue() == shown


def test_a_pipe_gets_nothing_of_a_failed_answer() -> None:
    out = io.StringIO()
    answer = AnswerPrinter(out, io.StringIO())
    _show(answer, {"delta": {"text": "Two"}})
    with pytest.raises(PolluxError, match="It fell silent"):
        answer.show_event(
            ReceivedEvent(Event(type="failed", failure=Failure("It fell silent.")), "{}")
        )
    assert out.getvalue() == ""


def test_media_urls_are_printed_on_standard_error() -> None:
    out, err = io.StringIO(), io.StringIO()
    _show(AnswerPrinter(out, err), {"media": {"kind": "image", "url": "https://example.org/1"}})
    assert (out.getvalue(), err.getvalue()) == ("", "image: https://example.org/1\n")


def test_media_paths_are_printed_with_the_apis_url() -> None:
    out, err = io.StringIO(), io.StringIO()
    answer = AnswerPrinter(out, err, url="http://127.0.0.1:8000/")
    _show(answer, {"media": {"kind": "image", "url": "/media/a/s/x.png?expires=1"}})
    assert err.getvalue() == "image: http://127.0.0.1:8000/media/a/s/x.png?expires=1\n"


@pytest.mark.parametrize(
    ("reason", "note"),
    [
        ("length", "[the answer was cut: it reached the limit of its length]\n"),
        ("content_filter", "[the answer was cut: the provider's content filter stopped it]\n"),
        ("stop", ""),
        (None, ""),
    ],
)
def test_an_incomplete_answer_is_marked_on_standard_error(reason: str | None, note: str) -> None:
    out, err = io.StringIO(), io.StringIO()
    message = Message(content="Two", finish_reason=reason)
    _show(AnswerPrinter(out, err), {"completed": {"message": message}})
    assert out.getvalue() == "Two\n"
    assert err.getvalue() == note + "session: \n"
