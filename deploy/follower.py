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
_TRY_AGAIN: Final = frozenset({429, 502, 503, 504})
_PATIENCE_SECONDS: Final = 60.0
# Where nobody has ever answered, nobody lives, as a rule.
_GREETING_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = (0.25, 5.0)
# A stream is never silent for longer than the time between two pings, 15 s.
_SILENCE_SECONDS: Final = 45.0
_TIMEOUT: Final = httpx.Timeout(10.0, read=_SILENCE_SECONDS)
_CANCEL_SECONDS: Final = 5.0
_BROKE_OFF: Final = "the stream broke off"
_NOT_YET: Final = "the message is in, but cannot be followed yet"


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


class Told(NamedTuple):
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


class _LaterError(Exception):
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
        self._patience = _Patience(clock, note, str(http.base_url).rstrip("/"))
        self._note = note
        self._generation = ""
        self._last_event = ""

    async def ask(self, body: Mapping[str, object]) -> AsyncGenerator[Told, None]:
        """Post a message and yield its events, each once, until its end. Raises PolluxError."""
        key = ids.new_id()
        while True:
            trouble, pause_seconds = _BROKE_OFF, 0.0
            try:
                async with aclosing(self._listen(body, key)) as heard:
                    async for told in heard:
                        self._patience.renew()
                        yield told
                        if told.event.type in _ENDS:
                            return
            except (SSEError, msgspec.MsgspecError):
                raise UnavailableError(
                    f"{self._http.base_url} does not answer as Pollux does."
                ) from None
            except httpx.TransportError as error:
                if not self._patience.is_met:
                    trouble = f"no reply ({type(error).__name__})"
            except _LaterError as error:
                trouble, pause_seconds = str(error), error.pause_seconds
            await self._patience.pause(trouble, pause_seconds)

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

    async def _listen(self, body: Mapping[str, object], key: str) -> AsyncGenerator[Told, None]:
        """Yield the events of one line."""
        async with self._open(body, key) as reply:
            self._patience.meet()
            if reply.status_code == httpx.codes.ACCEPTED:
                self._generation = _decode_receipt(await reply.aread()).id
                raise _LaterError(_NOT_YET, 0.0)
            if reply.status_code != httpx.codes.OK:
                raise await _refused(reply)
            async with aclosing(EventSource(reply).aiter_sse()) as events:
                async for event in events:
                    if event.data:
                        yield self._heard(event)

    def _open(
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

    def _heard(self, event: ServerSentEvent) -> Told:
        told = Told(_decode_event(event.data), event.data)
        # Fronts of version 0.6 know the number alone.
        self._last_event = event.id.rpartition(":")[2]
        if told.event.type == "accepted":
            self._generation = told.event.id
        return told


class _Patience:
    """How long to go on trying: so long after the last sign of life, with growing pauses."""

    def __init__(self, clock: Clock, note: Callable[[str], None], address: str) -> None:
        self._clock = clock
        self._note = note
        self._address = address
        self._patience_seconds = _GREETING_SECONDS
        self._met: float | None = None
        self._since: float | None = None
        self._pause_seconds = _PAUSE_SECONDS[0]

    @property
    def is_met(self) -> bool:
        """Whether the present line was answered."""
        return self._met is not None

    def meet(self) -> None:
        """Note when a line was answered."""
        self._met = self._clock.monotonic()
        self._patience_seconds = _PATIENCE_SECONDS

    def renew(self) -> None:
        """Take heart: something was heard."""
        self._since, self._pause_seconds = None, _PAUSE_SECONDS[0]

    async def pause(self, trouble: str, seconds: float) -> None:
        """Wait before the next line, at least so long. Raises UnavailableError when it is over."""
        now = self._clock.monotonic()
        # A line that has stood for longer than it may be silent was not: there were pings.
        if self._met is not None and now - self._met > _SILENCE_SECONDS + 1:
            self.renew()
        self._met = None
        if self._since is None:
            self._since = now
            self._note(f"[{trouble}; trying again]")
        seconds = max(seconds, self._pause_seconds)
        if now + seconds > self._since + self._patience_seconds:
            raise UnavailableError(f"The API at {self._address} did not answer: {trouble}.")
        self._pause_seconds = min(2 * self._pause_seconds, _PAUSE_SECONDS[1])
        await self._clock.sleep(seconds)


async def _refused(reply: httpx.Response) -> Exception:
    """Read a refusal: one that time may mend, or its sentence."""
    sentence = f"The API answered {reply.status_code}."
    with suppress(msgspec.MsgspecError):
        told = _decode_refusal(await reply.aread())
        error = told.error if isinstance(told.error, str) else ""
        sentence = told.message or error or sentence
    if reply.status_code in _TRY_AGAIN:
        after = reply.headers.get("Retry-After", "")
        return _LaterError(sentence.removesuffix("."), float(after) if after.isdigit() else 0.0)
    return PolluxError(sentence)
