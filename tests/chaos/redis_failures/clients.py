"""Clients of one account that keep calling the front during a failure, and their calls.

Owns how they behave: a message that is answered 503 is sent again under the same Idempotency-Key, a
stream that ends early is resumed after its last event. Does not judge: every call is kept with its
times.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final, Literal, NamedTuple

import httpx

from shared import ids
from shared.clock import SystemClock
from tests.support.api_client import NO_TLS, Json
from tests.support.stream_reader import ENDS, ReceivedEvent, read_events, text_of

Kind = Literal["submit", "chat", "status", "wait", "stream", "healthz", "readyz"]

_PACE_SECONDS: Final = 0.1
_RETRY_PAUSE_SECONDS: Final = 0.1
_WAIT_SECONDS: Final = 1
# How long the front of a deployment waits for the answer of a chat.
CHAT_SECONDS: Final = 1
_CLIENT_SECONDS: Final = 60.0
_SUBMITTERS: Final = 3
_OK: Final = httpx.codes.OK
_ACCEPTED: Final = frozenset({httpx.codes.OK, httpx.codes.ACCEPTED})


class Call(NamedTuple):
    """One call: `status` is that of the response, or the connection error; times are monotonic.

    `asked_seconds` is the wait that the request asked for.
    """

    kind: Kind
    began: float
    ended: float
    status: str
    asked_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        """How long the response took beyond the wait that was asked for."""
        return max(0.0, self.ended - self.began - self.asked_seconds)


class Clients:
    """The clients of one account. `receipts` are those of accepted messages, by message."""

    def __init__(self, http: httpx.AsyncClient, name: str) -> None:
        self.calls: list[Call] = []
        self.receipts: dict[str, Json] = {}
        self.received: list[ReceivedEvent] = []
        self.is_stopping = False
        self._http = http
        self._name = name
        self._clock = SystemClock()
        self._sent = 0

    # -- one call ----------------------------------------------------------------------------------

    async def call(
        self,
        kind: Kind,
        path: str,
        *,
        message: Json | None = None,
        key: str = "",
        wait_seconds: int = 0,
    ) -> httpx.Response | None:
        """Make a call and keep it; return None if the connection failed."""
        began = self._clock.monotonic()
        request = self._http.build_request(
            "GET" if message is None else "POST",
            path,
            json=message,
            headers={"idempotency-key": key} if key else {},
            params={"wait": wait_seconds} if kind == "wait" else {},
        )
        answer: httpx.Response | None = None
        try:
            answer = await self._http.send(request)
            status = str(answer.status_code)
        except httpx.TransportError as error:
            status = type(error).__name__
        self._keep(kind, began, status, wait_seconds)
        return answer

    def _keep(self, kind: Kind, began: float, status: str, asked_seconds: float = 0.0) -> None:
        self.calls.append(Call(kind, began, self._clock.monotonic(), status, asked_seconds))

    async def send(self, words: str = "", **fields: object) -> Json | None:
        """Send a message until it is accepted; return None if it is refused for good."""
        return await self._repeat_until_answered("submit", "/api/v1/chat", words, fields)

    async def chat(self) -> Json | None:
        """Send a message in the Kombify dialect, which waits for the answer; else as `send`."""
        return await self._repeat_until_answered(
            "chat", "/v1/ai/chat", "", {}, wait_seconds=CHAT_SECONDS
        )

    async def _repeat_until_answered(
        self,
        kind: Kind,
        path: str,
        words: str,
        fields: dict[str, object],
        *,
        wait_seconds: int = 0,
    ) -> Json | None:
        self._sent += 1
        text = f"{self._name} {self._sent} {words}".rstrip()
        key, message = ids.new_id(), {"message": text, "model": "alpha", **fields}
        while True:
            answer = await self.call(
                kind, path, message=message, key=key, wait_seconds=wait_seconds
            )
            if answer is not None and answer.status_code in _ACCEPTED:
                self.receipts[text] = _receipt(answer.json())
                return self.receipts[text]
            is_passing = answer is None or answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
            if not is_passing:
                return None
            # Sooner than Retry-After says, so that more calls meet the failure.
            await self._clock.sleep(_RETRY_PAUSE_SECONDS)

    async def poll(self, receipt: Json) -> Json | None:
        """Return the status of a generation, or None if the front does not answer 200."""
        answer = await self.call("status", receipt["poll_url"])
        return answer.json() if answer is not None and answer.status_code == _OK else None

    async def end(self, receipt: Json) -> Json:
        """Poll until a generation has ended, and return its last status."""
        while True:
            status = await self.poll(receipt)
            if status is not None and status["state"] != "processing":
                return status
            await self._clock.sleep(_RETRY_PAUSE_SECONDS)

    # -- going on ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def calls_going_on(self, slow: Json, queued: Json) -> AsyncIterator[None]:
        """Keep all clients calling until the end of the block; submissions are finished."""
        calls_to_make: list[Callable[[], Awaitable[object]]] = [
            *[self.send] * _SUBMITTERS,
            self.chat,
            lambda: self.poll(slow),
            lambda: self.call("healthz", "/healthz"),
            lambda: self.call("readyz", "/readyz"),
        ]
        tasks = [asyncio.create_task(self._keep_asking(ask)) for ask in calls_to_make]
        tasks += [asyncio.create_task(self._wait_on(each)) for each in (slow, queued)]
        try:
            yield
            self.is_stopping = True
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_asking(self, ask: Callable[[], Awaitable[object]]) -> None:
        while not self.is_stopping:
            await ask()
            await self._clock.sleep(_PACE_SECONDS)

    async def _wait_on(self, receipt: Json) -> None:
        """Wait for the end of a generation repeatedly; an ended one is answered at once."""
        while not self.is_stopping:
            await self.call("wait", receipt["poll_url"], wait_seconds=_WAIT_SECONDS)
            await self._clock.sleep(_PACE_SECONDS)

    async def follow(self, receipt: Json) -> None:
        """Follow a generation to its end, with a new stream after each loss."""
        while not (self.received and self.received[-1].name in ENDS):
            status = await self._follow_once(receipt["events_url"])
            if status not in {"200", "503", "lost"}:
                return
            await self._clock.sleep(_RETRY_PAUSE_SECONDS)

    async def _follow_once(self, path: str) -> str:
        headers = {"last-event-id": self.received[-1].id} if self.received else {}
        began, read, status = self._clock.monotonic(), b"", "lost"
        before = list(self.received)
        with suppress(httpx.TransportError):
            async with self._http.stream("GET", path, headers=headers) as answer:
                status = str(answer.status_code)
                self._keep("stream", began, status)
                if answer.status_code != _OK:
                    return status
                async for piece in answer.aiter_raw():
                    read += piece
                    self.received = before + read_events(read)
                return status
        self._keep("stream", began, "lost")
        return "lost"

    def followed_text(self) -> str:
        """Return the text that the follower has."""
        return text_of(self.received)


def _receipt(payload: Json) -> Json:
    """Return the id and the poll URL of a receipt of either dialect."""
    id_ = payload.get("message_id") or payload["id"]
    return {"message_id": id_, "poll_url": f"/api/v1/generate/{id_}/status"} | payload


@asynccontextmanager
async def calling(url: str, headers: dict[str, str], name: str) -> AsyncIterator[Clients]:
    """Yield the clients of an account; their connections end with the block."""
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=_CLIENT_SECONDS, verify=NO_TLS, trust_env=False
    ) as http:
        yield Clients(http, name)
