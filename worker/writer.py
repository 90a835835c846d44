"""The answer's way out: what an attempt tells, numbered, coalesced, under its token.

Owns the order and the numbers of what is appended. The first words leave at once, also right after
a change of stage was appended; what follows within the next `flush_seconds` leaves together. An
append that Redis did not answer is said again with the same number, which Redis takes as done; one
that fails otherwise stops the attempt. Refuses to end anything: what is left at the end goes out
with the settlement.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Literal

from shared.clock import Clock
from shared.lifecycle import Stage
from shared.redis import functions
from shared.redis.client import Connection
from shared.routing import price
from shared.telemetry import logs
from shared.wire import event as events
from worker.insist import until_answered
from worker.lengths import progress

Answer = Literal["appended", "cancel", "refused"]
StopReason = Literal["lost", "cancel", "fault"]

# Beside text and reasoning, what a caller may have taken for a part of the answer.
_SHOWN: Final = (events.ToolCall, events.ToolResult, events.ApprovalRequired, events.Media)


class Writer:
    """What one attempt writes. `on_stop` hears of a refused token, a cancel, a fault."""

    def __init__(
        self,
        redis: Connection,
        claimed: functions.Claimed,
        *,
        clock: Clock,
        flush_seconds: float,
        on_stop: Callable[[StopReason], None],
    ) -> None:
        self._redis = redis
        self._claimed = claimed
        self._clock = clock
        self._flush_seconds = flush_seconds
        self._on_stop = on_stop
        # The first event of a later attempt, which drops what was told, came with the claim.
        self._seq = 1 if claimed.attempt == 1 else 2
        self._events: list[str] = []
        self._fresh: list[str] = []
        self._parts: list[str] = []
        self._fresh_thoughts: list[str] = []
        self._thoughts: list[str] = []
        self._has_shown = False
        self._text_bytes = 0
        self._thought_bytes = 0
        self._routed: int | None = None
        self._bill: Callable[[], str | None] = _nothing_charged
        self._has_called = False
        self._unsent = 0
        self._stage: Stage | None = None
        self._progress = 0
        self._expected_bytes = 0
        self._flight: asyncio.Task[Answer] | None = None
        self._timer: asyncio.Handle | None = None
        self._is_patient = False
        self._has_sent_words = False
        self._closed = False
        self._has_failed = False

    def text(self) -> str:
        """Return all of the answer so far."""
        return "".join(self._parts)

    def reasoning(self) -> str:
        """Return all that the model has thought so far."""
        return "".join(self._thoughts)

    def length(self) -> int:
        """Return the bytes of text and reasoning so far."""
        return self._text_bytes + self._thought_bytes

    def text_tokens(self) -> int:
        """Estimate the tokens of the answer so far; none where nothing was said."""
        return price.tokens_in_bytes(self._text_bytes) if self._parts else 0

    def reasoning_tokens(self) -> int:
        """Estimate the tokens of the reasoning so far; none where nothing was thought."""
        return price.tokens_in_bytes(self._thought_bytes) if self._thoughts else 0

    def priced_by(self, bill: Callable[[], str | None]) -> None:
        """Write with each append what `bill` says is due for all that has been shown by then."""
        self._bill = bill

    def parts(self) -> int:
        """Return of how many pieces, tokens as a rule, text and reasoning are made so far."""
        return len(self._parts) + len(self._thoughts)

    def has_shown(self) -> bool:
        """Return whether a caller may have seen anything of an answer."""
        return bool(self._parts or self._thoughts or self._has_shown)

    def has_called(self) -> bool:
        """Return whether the model has called a tool."""
        return self._has_called

    def next_seq(self) -> int:
        """Return the number of the next event: the end event's once the writer is closed."""
        return self._seq

    def say(self, event: events.Event, *, stage: Stage | None = None) -> None:
        """Append an event, after all that was added before it."""
        self._gather()
        if isinstance(event, events.Routed):
            self._routed = self._seq + len(self._events)
        self._events.append(events.encode(event))
        self._has_shown = self._has_shown or isinstance(event, _SHOWN)
        self._has_called = self._has_called or isinstance(event, events.ToolCall)
        self._stage = stage or self._stage
        if self._is_idle():
            # What is said of an answer can wait for its first words, and leave with them.
            self._is_patient = True
            self._timer = asyncio.get_running_loop().call_later(self._flush_seconds, self._flush)

    def expect(self, length: int) -> None:
        """Show progress against an answer of so many bytes, reasoning included."""
        self._expected_bytes = length

    def add(self, text: str) -> None:
        """Let the answer grow."""
        if self._fresh_thoughts:
            self._gather()
        self._fresh.append(text)
        self._parts.append(text)
        self._text_bytes += _bytes_of(text)
        self._wake()

    def think(self, text: str) -> None:
        """Let the reasoning grow, as the answer does."""
        if self._fresh:
            self._gather()
        self._fresh_thoughts.append(text)
        self._thoughts.append(text)
        self._thought_bytes += _bytes_of(text)
        self._wake()

    async def close(self) -> functions.AppendAsk | None:
        """Stop flushing; return what is still to be appended; after a fault, nothing."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._flight is not None:
            await asyncio.wait((self._flight,))
        # The settlement says itself what is due.
        return None if self._has_failed else self._take(_nothing_charged)

    def _is_idle(self) -> bool:
        return self._flight is None and self._timer is None and not self._closed

    def _has_words(self) -> bool:
        return bool(self._parts or self._thoughts)

    def _wake(self) -> None:
        if self._is_patient and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._is_patient = False
        if self._is_idle():
            # One turn of the loop lets what is written in the same breath leave together, and a
            # near end take it along.
            self._timer = asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Send all there is."""
        self._timer = None
        self._is_patient = False
        ask = self._take(self._bill)
        if ask is not None:
            self._has_sent_words = self._has_words()
            self._flight = asyncio.create_task(self._append(ask))
            self._flight.add_done_callback(self._landed)

    def _landed(self, flight: asyncio.Task[Answer]) -> None:
        """Go on, or stop the attempt: nobody would see what it made from here on."""
        self._flight = None
        fault = asyncio.CancelledError() if flight.cancelled() else flight.exception()
        if fault is not None:
            self._has_failed = True
            logs.logger().error("an append failed", exc_info=fault)
            self._stop("fault")
        elif flight.result() != "appended":
            self._stop("lost" if flight.result() == "refused" else "cancel")
        elif not self._closed:
            # Nobody waits for the words of a batch: its appends stay a whole window apart.
            awaits_words = not self._has_sent_words and self._claimed.lane != "batch"
            delay_seconds = 0.0 if awaits_words and self._has_words() else self._flush_seconds
            self._is_patient = awaits_words and not self._has_words()
            self._timer = asyncio.get_running_loop().call_later(delay_seconds, self._flush)

    def _stop(self, why: StopReason) -> None:
        self._closed = True
        self._on_stop(why)

    async def _append(self, ask: functions.AppendAsk) -> Answer:
        return await until_answered(
            self._clock,
            "an append",
            lambda: functions.append(self._redis, self._claimed.root, ask),
        )

    def _take(self, bill: Callable[[], str | None]) -> functions.AppendAsk | None:
        self._gather()
        if not self._events:
            return None
        ask = functions.AppendAsk(
            account=self._claimed.account,
            id=self._claimed.id,
            attempt=self._claimed.attempt,
            seq=self._seq,
            events=self._events,
            text="".join(self._parts[self._unsent :]) or None,
            stage=self._stage,
            progress=self._shown_progress(),
            bill=bill(),
            routed=self._routed,
        )
        self._seq += len(self._events)
        self._events, self._unsent = [], len(self._parts)
        self._stage = self._routed = None
        return ask

    def _shown_progress(self) -> int:
        """Return how far the answer has come, 0 to 99; it never falls."""
        if self._expected_bytes and self._has_words():
            now = progress(self.length(), self._expected_bytes)
            self._progress = max(self._progress, now)
        return self._progress

    def _gather(self) -> None:
        """Make one event of the pieces since the last: they are all of text or all of reasoning."""
        if self._fresh:
            self._events.append(events.encode(events.Delta("".join(self._fresh))))
            self._fresh = []
        elif self._fresh_thoughts:
            self._events.append(events.encode(events.Reasoning("".join(self._fresh_thoughts))))
            self._fresh_thoughts = []


def _bytes_of(text: str) -> int:
    """Return the length of a text as UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def _nothing_charged() -> None:
    """Before a model is asked, nothing is due."""
