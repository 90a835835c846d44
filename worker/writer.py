"""Appends the events and text of an attempt to its stream: numbered, coalesced, under its token.

Owns the order and sequence numbers of events. The first text is sent at once, also right after a
change of stage; whatever follows within `flush_seconds` is sent as one append. An append that Redis
did not answer is repeated with the same number, so Redis ignores the second one; any other error
stops the attempt. Refuses to end the generation: events not yet sent go with the settlement.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

from shared.clock import Clock
from shared.errors import StoreError
from shared.lifecycle import Stage
from shared.redis import functions
from shared.redis.client import Connection, Reply
from shared.routing import price
from shared.telemetry import logs
from shared.wire import event as events
from worker.answer_lengths import progress
from worker.outcome import StopReason
from worker.redis_retry import retry_until_answered

# Events beside text and reasoning that show a caller a part of the answer.
_SHOWN: Final = (events.ToolCall, events.ToolResult, events.ApprovalRequired, events.Media)


class Writer:
    """The stream of one attempt. `on_stop` is called on a refused token, a cancel, a fault."""

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
        # In a later attempt the claim itself appended event 1, which discards the earlier text.
        self._seq = 1 if claimed.attempt == 1 else 2
        self._events: list[str] = []
        self._new_text: list[str] = []
        self._text_parts: list[str] = []
        self._new_reasoning: list[str] = []
        self._reasoning_parts: list[str] = []
        self._has_shown = False
        self._text_bytes = 0
        self._reasoning_bytes = 0
        self._routed: int | None = None
        self._bill: Callable[[], str | None] = _nothing_charged
        self._first_unsent = 0
        # Of earlier rounds, which are kept.
        self._is_between_rounds = False
        self._text_bytes_before = self._bytes_before = 0
        self._text_bytes_kept: int | None = None
        self._entries: list[str] = []
        self._rounds_bill = ""
        self._stage: Stage | None = None
        self._progress = 0
        self._expected_bytes = 0
        # The append under way, or the task that repeats it.
        self._append: asyncio.Future[Reply] | asyncio.Task[functions.AppendResult] | None = None
        self._timer: asyncio.Handle | None = None
        self._waits_for_text = False
        self._has_sent_text = False
        self._closed = False
        self._has_failed = False

    def text(self) -> str:
        """Return all of the answer so far."""
        return "".join(self._text_parts)

    def reasoning(self) -> str:
        """Return all of the reasoning so far."""
        return "".join(self._reasoning_parts)

    def length(self) -> int:
        """Return the bytes of text and reasoning so far."""
        return self._text_bytes + self._reasoning_bytes

    def tokens(self) -> tuple[int, int]:
        """Estimate the tokens of the present round's text and of its reasoning; 0 without any."""
        text_bytes = self._text_bytes - self._text_bytes_before
        reasoning_bytes = self._reasoning_bytes - (self._bytes_before - self._text_bytes_before)
        return (
            price.tokens_in_bytes(text_bytes) if text_bytes else 0,
            price.tokens_in_bytes(reasoning_bytes) if reasoning_bytes else 0,
        )

    def charge_with(self, bill: Callable[[], str | None]) -> None:
        """Send with each append what `bill` returns: the charge for all that was shown by then."""
        self._bill = bill

    def part_count(self) -> int:
        """Return the number of pieces of text and reasoning so far; one is usually one token."""
        return len(self._text_parts) + len(self._reasoning_parts)

    def has_shown(self) -> bool:
        """Return whether a caller may have seen anything of the present round."""
        # As `_has_text`, without the call: each append asks.
        has_text = self._text_bytes + self._reasoning_bytes > self._bytes_before
        return has_text or (self._has_shown and not self._is_between_rounds)

    def begin_round(self) -> None:
        """Begin a round: what finished rounds have shown bars no retry of it."""
        self._is_between_rounds = self._has_shown = self._has_sent_text = False

    def end_round(self) -> None:
        """End a round: its text is kept, and what follows (tools' results) is no part of any."""
        self._is_between_rounds = True
        self._text_bytes_before = self._text_bytes
        self._bytes_before = self._text_bytes + self._reasoning_bytes

    async def drop_round(self) -> None:
        """Drop the present round's text and reasoning, for followers too."""
        await self.flush()
        reasoning_bytes = self._bytes_before - self._text_bytes_before
        text = self.text().encode()[: self._text_bytes_before].decode()
        reasoning = self.reasoning().encode()[:reasoning_bytes].decode()
        self.restore(text, reasoning)
        self._text_bytes_kept = self._text_bytes
        self.append_event(events.Reset(len(text)))

    def restore(self, text: str, reasoning: str) -> None:
        """Continue after the text that earlier attempts have stored, and their reasoning."""
        self._text_parts, self._first_unsent = [text], 1
        self._reasoning_parts = [reasoning]
        self._text_bytes, self._reasoning_bytes = _bytes_of(text), _bytes_of(reasoning)
        self.end_round()

    def keep(self, entry: str, bill: str) -> None:
        """Store an entry of the rounds' log with the next event; `bill` is due for the rounds.

        A later attempt starts from it, with all the text so far.
        """
        self._entries.append(entry)
        self._rounds_bill = bill

    async def flush(self) -> None:
        """Wait until everything appended so far is stored."""
        while True:
            await self._append_ended()
            if self._closed:
                raise asyncio.CancelledError
            if self._timer is not None:
                self._timer.cancel()
            self._flush()
            if self._append is None:
                return

    def next_seq(self) -> int:
        """Return the number of the next event: the end event's once the writer is closed."""
        return self._seq

    def append_event(self, event: events.Event, *, stage: Stage | None = None) -> None:
        """Append an event after everything appended so far."""
        self._coalesce()
        if isinstance(event, events.Routed):
            self._routed = self._seq + len(self._events)
        self._events.append(events.encode(event))
        self._has_shown = self._has_shown or isinstance(event, _SHOWN)
        self._stage = stage or self._stage
        if self._is_idle():
            # An event before the answer waits for the first text, and is sent with it.
            self._waits_for_text = True
            self._timer = asyncio.get_running_loop().call_later(self._flush_seconds, self._flush)

    def expect(self, length: int) -> None:
        """Compute progress against an answer of `length` bytes, reasoning included."""
        self._expected_bytes = length + self._bytes_before

    def append_text(self, text: str) -> None:
        """Append a piece of the answer."""
        if self._new_reasoning:
            self._coalesce()
        self._new_text.append(text)
        self._text_parts.append(text)
        self._text_bytes += _bytes_of(text)
        self._schedule_flush()

    def append_reasoning(self, text: str) -> None:
        """Append a piece of reasoning."""
        if self._new_text:
            self._coalesce()
        self._new_reasoning.append(text)
        self._reasoning_parts.append(text)
        self._reasoning_bytes += _bytes_of(text)
        self._schedule_flush()

    async def close(self) -> functions.AppendAsk | None:
        """Stop flushing; return what is not appended yet, to be settled; None after a fault."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self._append_ended()
        # The settlement carries the charge itself.
        return None if self._has_failed else self._next_append(_nothing_charged)

    def _is_idle(self) -> bool:
        return self._append is None and self._timer is None and not self._closed

    def _has_text(self) -> bool:
        return self._text_bytes + self._reasoning_bytes > self._bytes_before

    def _schedule_flush(self) -> None:
        if self._waits_for_text and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waits_for_text = False
        if self._is_idle():
            # Waiting one turn of the event loop sends what is appended in this turn as one append,
            # or with the settlement if the answer ends now.
            self._timer = asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Send everything not yet sent."""
        self._timer = None
        self._waits_for_text = False
        ask = self._next_append(self._bill)
        if ask is not None:
            self._has_sent_text = self._has_sent_text or self._has_text()
            self._append = functions.begin_append(self._redis, self._claimed.root, ask)
            self._append.add_done_callback(partial(self._note_reply, ask))

    async def _append_ended(self) -> None:
        while self._append is not None:
            await asyncio.wait((self._append,))

    def _note_reply(self, ask: functions.AppendAsk, reply: asyncio.Future[Reply]) -> None:
        """Note what an append came to, or have a task repeat it until Redis answers."""
        try:
            result = functions.append_result(reply)
        except StoreError as fault:
            self._fail(fault)
            return
        if result is not None:
            self._append_done(result)
            return
        repeating = asyncio.create_task(
            retry_until_answered(
                self._clock,
                "an append",
                partial(functions.append, self._redis, self._claimed.root, ask),
            )
        )
        repeating.add_done_callback(self._note_repeated)
        self._append = repeating

    def _note_repeated(self, repeating: asyncio.Task[functions.AppendResult]) -> None:
        fault = asyncio.CancelledError() if repeating.cancelled() else repeating.exception()
        if fault is None:
            self._append_done(repeating.result())
        else:
            self._fail(fault)

    def _fail(self, fault: BaseException) -> None:
        self._append, self._has_failed = None, True
        logs.logger().error("an append failed", exc_info=fault)
        self._stop("fault")

    def _append_done(self, result: functions.AppendResult) -> None:
        """Schedule the next flush, or stop the attempt: no further event would be stored."""
        self._append = None
        if result != "appended":
            self._stop("lost" if result == "refused" else "cancel")
        elif not self._closed:
            # Nobody reads a batch's text live: its appends stay a whole window apart.
            awaits_text = not self._has_sent_text and self._claimed.lane != "batch"
            delay_seconds = 0.0 if awaits_text and self._has_text() else self._flush_seconds
            self._waits_for_text = awaits_text and not self._has_text()
            self._timer = asyncio.get_running_loop().call_later(delay_seconds, self._flush)

    def _stop(self, why: StopReason) -> None:
        self._closed = True
        self._on_stop(why)

    def _next_append(self, bill: Callable[[], str | None]) -> functions.AppendAsk | None:
        self._coalesce()
        if not self._events:
            return None
        ask = functions.AppendAsk(
            account=self._claimed.account,
            id=self._claimed.id,
            attempt=self._claimed.attempt,
            seq=self._seq,
            events=self._events,
            text="".join(self._text_parts[self._first_unsent :]) or None,
            text_bytes_kept=self._text_bytes_kept,
            stage=self._stage,
            progress=self._shown_progress(),
            bill=bill(),
            routed=self._routed,
            rounds=self._finished_rounds() if self._entries else None,
        )
        self._seq += len(self._events)
        self._events, self._first_unsent = [], len(self._text_parts)
        self._stage = self._routed = self._text_bytes_kept = None
        return ask

    def _finished_rounds(self) -> functions.FinishedRounds:
        text = self.text()
        finished = functions.FinishedRounds(
            entries=self._entries,
            text_bytes=self._text_bytes,
            text_points=len(text),
            bill=self._rounds_bill,
        )
        self._entries = []
        return finished

    def _shown_progress(self) -> int:
        """Return the progress in percent, 0 to 99; it never falls."""
        length = self._text_bytes + self._reasoning_bytes
        if length and self._expected_bytes:
            self._progress = max(self._progress, progress(length, self._expected_bytes))
        return self._progress

    def _coalesce(self) -> None:
        """Make one event of the pieces since the last event: all are text, or all reasoning."""
        if self._new_text:
            self._events.append(events.encode(events.Delta("".join(self._new_text))))
            self._new_text = []
        elif self._new_reasoning:
            self._events.append(events.encode(events.Reasoning("".join(self._new_reasoning))))
            self._new_reasoning = []


def _bytes_of(text: str) -> int:
    """Return the length of a text as UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def _nothing_charged() -> None:
    """Before a model is called, nothing is due."""
