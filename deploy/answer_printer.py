"""Prints an answer while it is generated: the text on one stream, all else on the other.

Owns two ways to print the text. On a terminal it appears as it grows. Printed text cannot be taken
back, so when a new attempt discards some of it, a line `[starting over]` is printed and the whole
text again below it. A pipe or a file gets the text once, when the answer is complete, and nothing
of an answer that failed.

On a terminal, control characters are removed from a model's text: the terminal would execute them.
"""

from collections.abc import Callable
from typing import Final, TextIO

from deploy.follower import Event, ReceivedEvent
from shared.errors import PolluxError

_CONTROLS: Final = dict.fromkeys({*range(32), *range(127, 160)} - {ord("\n"), ord("\t")})
# Notes for a person about an answer that its model did not finish.
_CUT_SENTENCES: Final = {
    "length": "[the answer was cut: it reached the limit of its length]",
    "content_filter": "[the answer was cut: the provider's content filter stopped it]",
}
_DIM: Final = ("\x1b[2m", "\x1b[22m")


class AnswerPrinter:
    """Prints one answer: its text, or its events as JSON, on `out`, everything else on `err`.

    `url` is the API's: media whose URL is a path are printed with it.
    """

    def __init__(self, out: TextIO, err: TextIO, *, as_json: bool = False, url: str = "") -> None:
        self._out = out
        self._err = err
        self._as_json = as_json
        self._url = url.rstrip("/")
        self._is_terminal = out.isatty()
        self._text = ""
        self._session: str | None = ""
        self._poll_url = ""
        self._has_shown_reasoning = False
        # The stream whose last line has no newline yet.
        self._unfinished_stream: TextIO | None = None
        self._renderers: dict[str, Callable[[Event], None]] = {
            "accepted": self._remember_receipt,
            "routed": self._show_model,
            "reasoning": lambda event: self._show_reasoning(event.text),
            "delta": lambda event: self._append_text(event.text),
            "media": lambda event: self._show_media(event.kind, event.url),
            "reset": self._reset,
            "snapshot": self._show_snapshot,
            "completed": self._show_end,
        }

    def show_event(self, received: ReceivedEvent) -> None:
        """Show an event. Raises PolluxError if it ends the generation without an answer."""
        if self._as_json:
            print(received.json, file=self._out, flush=True)
        elif received.event.type in self._renderers:
            self._renderers[received.event.type](received.event)
        if received.event.type == "failed":
            failure = received.event.failure
            raise PolluxError(failure.message if failure else "The generation failed.")
        if received.event.type == "cancelled":
            raise PolluxError("The generation was cancelled.")

    def pending_poll_url(self) -> str:
        """Return the status URL as long as no part of the answer is shown, else an empty text."""
        has_begun = self._text or self._has_shown_reasoning or self._as_json
        return "" if has_begun else self._poll_url

    def note(self, line: str) -> None:
        """Print a line for a person on `err`."""
        self.end_line()
        print(line.translate(_CONTROLS), file=self._err, flush=True)

    def end_line(self) -> None:
        """End the last line if it is unfinished."""
        if self._unfinished_stream is not None:
            print(file=self._unfinished_stream, flush=True)
            self._unfinished_stream = None

    def _remember_receipt(self, event: Event) -> None:
        self._session, self._poll_url = event.session_id, event.poll_url

    def _show_model(self, event: Event) -> None:
        if event.routing is not None and event.routing.chosen:
            self.note(f"model: {event.routing.chosen} ({event.routing.reason})")

    def _show_snapshot(self, event: Event) -> None:
        """Show the answer so far, except what is shown already."""
        if not self._has_shown_reasoning:
            self._show_reasoning(event.reasoning)
        self._set_text(event.text)
        for media in event.media:
            self._show_media(media.kind, media.url)

    def _show_media(self, kind: str, url: str) -> None:
        """Print the absolute URL of an image, video or sound."""
        self.note(f"{kind}: {self._url}{url}" if url.startswith("/") else f"{kind}: {url}")

    def _show_end(self, event: Event) -> None:
        if event.message is not None:
            self._set_text(event.message.content)
        if not self._is_terminal:
            self._write(self._out, self._text)
        self.end_line()
        if event.message is not None and event.message.finish_reason in _CUT_SENTENCES:
            self.note(_CUT_SENTENCES[event.message.finish_reason])
        if self._session is not None:
            self.note(f"session: {self._session}")

    def _show_reasoning(self, text: str) -> None:
        """Show reasoning, dimmed, on a terminal only."""
        if text and self._err.isatty():
            self._has_shown_reasoning = True
            dim, undim = _DIM
            self._write(self._err, text, dim, undim)

    def _set_text(self, text: str) -> None:
        """Replace the text: show what was added to it, or all of it if it differs otherwise."""
        if text.startswith(self._text):
            self._append_text(text[len(self._text) :])
        else:
            self._restart_text(text)

    def _reset(self, event: Event) -> None:
        """Keep the first `keep` characters of the text; discard the rest, and the reasoning."""
        kept = self._text[: event.keep]
        if kept != self._text or self._has_shown_reasoning:
            self._restart_text(kept)

    def _restart_text(self, text: str) -> None:
        """Show a text from its start, below the text that it replaces."""
        if self._is_terminal or self._has_shown_reasoning:
            self.note("[starting over]")
        self._text, self._has_shown_reasoning = "", False
        self._append_text(text)

    def _append_text(self, text: str) -> None:
        self._text += text
        if self._is_terminal:
            self._write(self._out, text)

    def _write(self, stream: TextIO, text: str, before: str = "", after: str = "") -> None:
        if not text:
            return
        if self._unfinished_stream is not stream:
            self.end_line()
        shown = text.translate(_CONTROLS) if stream.isatty() else text
        stream.write(before + shown + after)
        stream.flush()
        self._unfinished_stream = None if text.endswith("\n") else stream
