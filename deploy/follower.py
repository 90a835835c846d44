"""Posts one message over HTTP and follows its events until the last, across broken connections.

Owns the reconnecting: a broken stream is resumed after the last event received (Last-Event-ID). A
message whose `accepted` event did not arrive is posted again with the same Idempotency-Key, so that
it is never accepted twice. Refuses to print anything: `answer_printer` does.
"""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from typing import Final, NamedTuple

import httpx
import msgspec
from httpx_sse import EventSource, ServerSentEvent, SSEError

from deploy.retry_timer import GIVE_UP_SECONDS, RETRIED_STATUSES, RetryTimer, retry_after
from shared import ids
from shared.clock import Clock
from shared.errors import PolluxError, UnavailableError

_ENDS: Final = frozenset({"completed", "failed", "cancelled"})
# An address that has never answered is given up sooner: most likely no API listens there.
_FIRST_ANSWER_SECONDS: Final = 5.0
# The API sends a ping every 15 s, so a longer silence means a dead connection.
_SILENCE_SECONDS: Final = 45.0
_TIMEOUT: Final = httpx.Timeout(10.0, read=_SILENCE_SECONDS)
_CANCEL_SECONDS: Final = 5.0
_STREAM_BROKE_OFF: Final = "the stream broke off"
_CANNOT_FOLLOW_YET: Final = "the message is accepted, but its events cannot be read yet"


class Media(msgspec.Struct, frozen=True):
    """An image, video or sound, and its URL."""

    kind: str = ""
    url: str = ""


class Routing(msgspec.Struct, frozen=True):
    """The chosen model, and the reason as a sentence."""

    chosen: str | None = None
    reason: str = ""


class Failure(msgspec.Struct, frozen=True):
    """Why the generation failed, as a sentence."""

    message: str = "The generation failed."


class Message(msgspec.Struct, frozen=True):
    """The complete answer, and why the model ended it, if the API says so."""

    content: str = ""
    finish_reason: str | None = None


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that are read of events of any type; unknown types and fields are ignored."""

    type: str
    id: str = ""
    session_id: str | None = ""
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
    """An event, and its JSON text as received."""

    event: Event
    json: str


class _Refusal(msgspec.Struct, frozen=True):
    """The body of an error response: the sentence is in `message` or in `error`."""

    message: str = ""
    error: object = None


class _Receipt(msgspec.Struct, frozen=True):
    """The body of a 202: the message is accepted, but its events cannot be streamed now."""

    id: str


class _RetryLaterError(Exception):
    """The API cannot serve the request now; it may after `pause_seconds`."""

    def __init__(self, message: str, pause_seconds: float) -> None:
        super().__init__(message)
        self.pause_seconds = pause_seconds


_decode_event = msgspec.json.Decoder(Event).decode
_decode_refusal = msgspec.json.Decoder(_Refusal).decode
_decode_receipt = msgspec.json.Decoder(_Receipt).decode


class Follower:
    """Follows one message. `note` receives a line for a person when the connection has problems."""

    def __init__(self, http: httpx.AsyncClient, clock: Clock, note: Callable[[str], None]) -> None:
        self._http = http
        self._clock = clock
        self._note = note
        self._retry_timer = RetryTimer(
            clock,
            lambda problem: note(f"[{problem}; trying again]"),
            str(http.base_url).rstrip("/"),
            give_up_seconds=_FIRST_ANSWER_SECONDS,
        )
        # When the API answered on the present connection; None as long as it has not.
        self._answered_at: float | None = None
        self._generation = ""
        self._last_event = ""

    async def ask(self, body: Mapping[str, object]) -> AsyncGenerator[ReceivedEvent, None]:
        """Post a message and yield its events, each once, to the last. Raises PolluxError."""
        key = ids.new_id()
        while True:
            problem, pause_seconds = _STREAM_BROKE_OFF, 0.0
            try:
                async with aclosing(self._read_stream(body, key)) as stream_events:
                    async for received in stream_events:
                        self._retry_timer.reset()
                        yield received
                        if received.event.type in _ENDS:
                            return
            except (SSEError, msgspec.MsgspecError):
                raise UnavailableError(
                    f"{self._http.base_url} does not answer as Pollux does."
                ) from None
            except httpx.TransportError as error:
                if self._answered_at is None:
                    problem = f"no reply ({type(error).__name__})"
            except _RetryLaterError as error:
                problem, pause_seconds = str(error), error.pause_seconds
            self._note_disconnected()
            await self._retry_timer.pause(problem, pause_seconds)

    async def cancel(self) -> None:
        """Cancel the generation, if its id is known; one attempt, without retries."""
        if not self._generation:
            return
        is_done = False
        with suppress(httpx.TransportError):
            reply = await self._http.post(
                f"/api/v1/generate/{self._generation}/cancel", timeout=_CANCEL_SECONDS
            )
            # 409: the generation has ended meanwhile, so it no longer runs either.
            is_done = reply.is_success or reply.status_code == httpx.codes.CONFLICT
        self._note("[cancelled]" if is_done else "[the generation could not be cancelled]")

    async def _read_stream(
        self, body: Mapping[str, object], key: str
    ) -> AsyncGenerator[ReceivedEvent, None]:
        """Yield the events of one connection."""
        async with self._request_stream(body, key) as reply:
            self._answered_at = self._clock.monotonic()
            self._retry_timer.give_up_seconds = GIVE_UP_SECONDS
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

    def _note_disconnected(self) -> None:
        now = self._clock.monotonic()
        # A connection that lasted longer than the silence limit has received pings: no failure.
        if self._answered_at is not None and now - self._answered_at > _SILENCE_SECONDS + 1:
            self._retry_timer.reset()
        self._answered_at = None

    def _decode(self, event: ServerSentEvent) -> ReceivedEvent:
        received = ReceivedEvent(_decode_event(event.data), event.data)
        # An API of version 0.6 accepts the number alone, without the part before the colon.
        self._last_event = event.id.rpartition(":")[2]
        if received.event.type == "accepted":
            self._generation = received.event.id
        return received


async def _read_refusal(reply: httpx.Response) -> Exception:
    """Return the exception for an error response: retried later, or final with its sentence."""
    sentence = f"The API answered {reply.status_code}."
    with suppress(msgspec.MsgspecError):
        received = _decode_refusal(await reply.aread())
        error = received.error if isinstance(received.error, str) else ""
        sentence = received.message or error or sentence
    if reply.status_code in RETRIED_STATUSES:
        return _RetryLaterError(sentence.removesuffix("."), retry_after(reply))
    return PolluxError(sentence)
