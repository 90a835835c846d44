"""One message over HTTP, followed from its acceptance to its end, whatever becomes of the line.

Owns patience: a line that breaks is taken up again after the last event that was heard, and a
message whose acceptance was not heard is posted again under the same Idempotency-Key, so that
nothing is accepted twice. Refuses to show anything: that is the answer's.
"""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from typing import Final, NamedTuple

import httpx
import msgspec
from httpx_sse import EventSource, ServerSentEvent, SSEError

from shared import ids
from shared.clock import Clock
from shared.errors import PolluxError, UnavailableError

_ENDS: Final = frozenset({"completed", "failed", "cancelled"})
_RETRIED_STATUSES: Final = frozenset({429, 502, 503, 504})
_GIVE_UP_SECONDS: Final = 60.0
# Where nobody has ever answered, nobody lives, as a rule.
_FIRST_ANSWER_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = (0.25, 5.0)
# A stream is never silent for longer than the time between two pings, 15 s.
_SILENCE_SECONDS: Final = 45.0
_TIMEOUT: Final = httpx.Timeout(10.0, read=_SILENCE_SECONDS)
_CANCEL_SECONDS: Final = 5.0
_STREAM_BROKE_OFF: Final = "the stream broke off"
_CANNOT_FOLLOW_YET: Final = "the message is in, but cannot be followed yet"


class Media(msgspec.Struct, frozen=True):
    """A picture, a film or a sound, and where it is."""

    kind: str = ""
    url: str = ""


class Routing(msgspec.Struct, frozen=True):
    """Which model answers, and why, in a sentence."""

    chosen: str | None = None
    reason: str = ""


class Failure(msgspec.Struct, frozen=True):
    """Why there is no answer, in a sentence."""

    message: str = "The generation failed."


class Message(msgspec.Struct, frozen=True):
    """The whole answer, and why the model ended it, where the server says so."""

    content: str = ""
    finish_reason: str | None = None


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of an event of any type; later types and fields are let pass."""

    type: str
    id: str = ""
    session_id: str = ""
    poll_url: str = ""
    text: str = ""
    reasoning: str = ""
    media: tuple[Media, ...] = ()
    kind: str = ""
    url: str = ""
    keep: int = 0
    routing: Routing | None = None
    message: Message | None = None
    failure: Failure | None = None


class ReceivedEvent(NamedTuple):
    """An event, and its JSON as it came."""

    event: Event
    line: str


class _Refusal(msgspec.Struct, frozen=True):
    """The sentence of a refusal, by the one name or the other."""

    message: str = ""
    error: object = None


class _Receipt(msgspec.Struct, frozen=True):
    """What is said of a message that is in, when its events cannot be followed now."""

    id: str


class _RetryLaterError(Exception):
    """The other end cannot now: it may after `pause_seconds`."""

    def __init__(self, message: str, pause_seconds: float) -> None:
        super().__init__(message)
        self.pause_seconds = pause_seconds


_decode_event = msgspec.json.Decoder(Event).decode
_decode_refusal = msgspec.json.Decoder(_Refusal).decode
_decode_receipt = msgspec.json.Decoder(_Receipt).decode


class Follower:
    """Who follows one message. `note` receives a line for every trouble with the line."""

    def __init__(self, http: httpx.AsyncClient, clock: Clock, note: Callable[[str], None]) -> None:
        self._http = http
        self._retry_timer = _RetryTimer(clock, note, str(http.base_url).rstrip("/"))
        self._note = note
        self._generation = ""
        self._last_event = ""

    async def ask(self, body: Mapping[str, object]) -> AsyncGenerator[ReceivedEvent, None]:
        """Post a message and yield its events, each once, until its end. Raises PolluxError."""
        key = ids.new_id()
        while True:
            trouble, pause_seconds = _STREAM_BROKE_OFF, 0.0
            try:
                async with aclosing(self._read_stream(body, key)) as stream_events:
                    async for received in stream_events:
                        self._retry_timer.reset_failure()
                        yield received
                        if received.event.type in _ENDS:
                            return
            except (SSEError, msgspec.MsgspecError):
                raise UnavailableError(
                    f"{self._http.base_url} does not answer as Pollux does."
                ) from None
            except httpx.TransportError as error:
                if not self._retry_timer.was_answered:
                    trouble = f"no reply ({type(error).__name__})"
            except _RetryLaterError as error:
                trouble, pause_seconds = str(error), error.pause_seconds
            await self._retry_timer.pause(trouble, pause_seconds)

    async def cancel(self) -> None:
        """Have the generation cancelled, if its acceptance was heard; said once, and briefly."""
        if not self._generation:
            return
        is_done = False
        with suppress(httpx.TransportError):
            reply = await self._http.post(
                f"/api/v1/generate/{self._generation}/cancel", timeout=_CANCEL_SECONDS
            )
            # What has ended meanwhile is a conflict, and no longer runs either.
            is_done = reply.is_success or reply.status_code == httpx.codes.CONFLICT
        self._note("[cancelled]" if is_done else "[the generation could not be cancelled]")

    async def _read_stream(
        self, body: Mapping[str, object], key: str
    ) -> AsyncGenerator[ReceivedEvent, None]:
        """Yield the events of one line."""
        async with self._request_stream(body, key) as reply:
            self._retry_timer.note_answered()
            if reply.status_code == httpx.codes.ACCEPTED:
                self._generation = _decode_receipt(await reply.aread()).id
                raise _RetryLaterError(_CANNOT_FOLLOW_YET, 0.0)
            if reply.status_code != httpx.codes.OK:
                raise await _read_refusal(reply)
            async with aclosing(EventSource(reply).aiter_sse()) as events:
                async for event in events:
                    if event.data:
                        yield self._decode(event)

    def _request_stream(
        self, body: Mapping[str, object], key: str
    ) -> AbstractAsyncContextManager[httpx.Response]:
        if not self._generation:
            headers = {"Idempotency-Key": key, "Accept": "text/event-stream"}
            return self._http.stream(
                "POST", "/v1/ai/chat", json=dict(body), headers=headers, timeout=_TIMEOUT
            )
        headers = {"Last-Event-ID": self._last_event} if self._last_event else {}
        path = f"/api/v1/generate/{self._generation}/events"
        return self._http.stream("GET", path, headers=headers, timeout=_TIMEOUT)

    def _decode(self, event: ServerSentEvent) -> ReceivedEvent:
        received = ReceivedEvent(_decode_event(event.data), event.data)
        # Fronts of version 0.6 know the number alone.
        self._last_event = event.id.rpartition(":")[2]
        if received.event.type == "accepted":
            self._generation = received.event.id
        return received


class _RetryTimer:
    """How long to go on trying: so long after the last sign of life, with growing pauses."""

    def __init__(self, clock: Clock, note: Callable[[str], None], address: str) -> None:
        self._clock = clock
        self._note = note
        self._address = address
        self._give_up_seconds = _FIRST_ANSWER_SECONDS
        self._answered_at: float | None = None
        self._failing_since: float | None = None
        self._pause_seconds = _PAUSE_SECONDS[0]

    @property
    def was_answered(self) -> bool:
        """Whether the present line was answered."""
        return self._answered_at is not None

    def note_answered(self) -> None:
        """Note when a line was answered."""
        self._answered_at = self._clock.monotonic()
        self._give_up_seconds = _GIVE_UP_SECONDS

    def reset_failure(self) -> None:
        """Take heart: something was heard."""
        self._failing_since, self._pause_seconds = None, _PAUSE_SECONDS[0]

    async def pause(self, trouble: str, seconds: float) -> None:
        """Wait before the next line, at least so long. Raises UnavailableError when it is over."""
        now = self._clock.monotonic()
        # A line that has stood for longer than it may be silent was not: there were pings.
        if self._answered_at is not None and now - self._answered_at > _SILENCE_SECONDS + 1:
            self.reset_failure()
        self._answered_at = None
        if self._failing_since is None:
            self._failing_since = now
            self._note(f"[{trouble}; trying again]")
        seconds = max(seconds, self._pause_seconds)
        if now + seconds > self._failing_since + self._give_up_seconds:
            raise UnavailableError(f"The API at {self._address} did not answer: {trouble}.")
        self._pause_seconds = min(2 * self._pause_seconds, _PAUSE_SECONDS[1])
        await self._clock.sleep(seconds)


async def _read_refusal(reply: httpx.Response) -> Exception:
    """Read a refusal: one that time may mend, or its sentence."""
    sentence = f"The API answered {reply.status_code}."
    with suppress(msgspec.MsgspecError):
        received = _decode_refusal(await reply.aread())
        error = received.error if isinstance(received.error, str) else ""
        sentence = received.message or error or sentence
    if reply.status_code in _RETRIED_STATUSES:
        after = reply.headers.get("Retry-After", "")
        return _RetryLaterError(
            sentence.removesuffix("."), float(after) if after.isdigit() else 0.0
        )
    return PolluxError(sentence)
