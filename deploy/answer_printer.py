"""What is seen of an answer while it is made: the answer on one stream, all else on the other.

Owns two ways to show the text. On a terminal it appears as it grows; what stands there cannot be
taken back, so when a new attempt drops some of it, a line `[starting over]` is shown and the text
begins anew below. Into a pipe or a file it goes once, whole, when it is known to be the answer: who
reads it gets the answer and nothing else, and nothing of one that failed.

What a model says is shown without control characters on a terminal, which would obey them.
"""

from collections.abc import Callable
from typing import Final, TextIO

from deploy.follower import Event, ReceivedEvent
from shared.errors import PolluxError

_CONTROLS: Final = dict.fromkeys({*range(32), *range(127, 160)} - {ord("\n"), ord("\t")})
# What a person is warned of: an answer that its model did not finish.
_CUT_SENTENCES: Final = {
    "length": "[the answer was cut: it reached the limit of its length]",
    "content_filter": "[the answer was cut: the provider's content filter stopped it]",
}
_DIM: Final = ("\x1b[2m", "\x1b[22m")


class AnswerPrinter:
    """An answer that is being told: on `out` its text, or its events as JSON, on `err` the rest.

    `url` is where the API is: what an answer refers to by a path alone is there.
    """

    def __init__(self, out: TextIO, err: TextIO, *, as_json: bool = False, url: str = "") -> None:
        self._out = out
        self._err = err
        self._as_json = as_json
        self._url = url.rstrip("/")
        self._is_terminal = out.isatty()
        self._text = ""
        self._session = ""
        self._poll_url = ""
        self._has_shown_reasoning = False
        # The stream on whose last line something stands.
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
        """Show what an event tells. Raises PolluxError at an end without an answer."""
        if self._as_json:
            print(received.line, file=self._out, flush=True)
        elif received.event.type in self._renderers:
            self._renderers[received.event.type](received.event)
        if received.event.type == "failed":
            failure = received.event.failure
            raise PolluxError(failure.message if failure else "The generation failed.")
        if received.event.type == "cancelled":
            raise PolluxError("The generation was cancelled.")

    def pending_poll_url(self) -> str:
        """Return where to look at an answer of which nothing has come yet; empty otherwise."""
        has_begun = self._text or self._has_shown_reasoning or self._as_json
        return "" if has_begun else self._poll_url

    def note(self, line: str) -> None:
        """Show a person a line beside the answer."""
        self.end_line()
        print(line.translate(_CONTROLS), file=self._err, flush=True)

    def end_line(self) -> None:
        """End the line on which something stands, if there is one."""
        if self._unfinished_stream is not None:
            print(file=self._unfinished_stream, flush=True)
            self._unfinished_stream = None

    def _remember_receipt(self, event: Event) -> None:
        self._session, self._poll_url = event.session_id, event.poll_url

    def _show_model(self, event: Event) -> None:
        if event.routing is not None and event.routing.chosen:
            self.note(f"model: {event.routing.chosen} ({event.routing.reason})")

    def _show_snapshot(self, event: Event) -> None:
        """Show all of an answer so far, as far as it is not to be seen already."""
        if not self._has_shown_reasoning:
            self._show_reasoning(event.reasoning)
        self._set_text(event.text)
        for media in event.media:
            self._show_media(media.kind, media.url)

    def _show_media(self, kind: str, url: str) -> None:
        """Tell where a picture or a sound is, so that it can be opened from anywhere."""
        self.note(f"{kind}: {self._url}{url}" if url.startswith("/") else f"{kind}: {url}")

    def _show_end(self, event: Event) -> None:
        if event.message is not None:
            self._set_text(event.message.content)
        if not self._is_terminal:
            self._write(self._out, self._text)
        self.end_line()
        if event.message is not None and event.message.finish_reason in _CUT_SENTENCES:
            self.note(_CUT_SENTENCES[event.message.finish_reason])
        self.note(f"session: {self._session}")

    def _show_reasoning(self, text: str) -> None:
        """Show reasoning to a person; a file of messages has no use for it."""
        if text and self._err.isatty():
            self._has_shown_reasoning = True
            dim, undim = _DIM
            self._write(self._err, text, dim, undim)

    def _set_text(self, text: str) -> None:
        """Let the text be this: what is new of it is shown, or all if it is another."""
        if text.startswith(self._text):
            self._append_text(text[len(self._text) :])
        else:
            self._restart_text(text)

    def _reset(self, event: Event) -> None:
        """Keep the beginning of the text; what was thought goes with the rest."""
        kept = self._text[: event.keep]
        if kept != self._text or self._has_shown_reasoning:
            self._restart_text(kept)

    def _restart_text(self, text: str) -> None:
        """Show a text below what is to be seen and holds no more."""
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
