"""Programs of one account that go on calling the front, whatever happens, and what they saw.

Owns their manners: a message that is answered 503 is sent again under the same Idempotency-Key, a
stream that ends early is gone on with after the last event. Refuses to judge: every call is kept
with its times.
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
# As long as the front of a scene keeps a chat waiting.
CHAT_SECONDS: Final = 1
_CLIENT_SECONDS: Final = 60.0
_SUBMITTERS: Final = 3
_OK: Final = httpx.codes.OK
_ACCEPTED: Final = frozenset({httpx.codes.OK, httpx.codes.ACCEPTED})


class Call(NamedTuple):
    """One call: `status` is the answer's, or what became of the line; times are monotonic.

    `asked_seconds` is for how long it asked to be kept waiting.
    """

    kind: Kind
    began: float
    ended: float
    status: str
    asked_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        """How long the answer took, beyond what was asked for."""
        return max(0.0, self.ended - self.began - self.asked_seconds)


class Clients:
    """The programs of one account. `receipts` are what was acknowledged, by message."""

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
        """Make a call and keep what came of it; None when the line was lost."""
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
        """Send a message until it is acknowledged; None when it is refused for good."""
        return await self._repeat_until_answered("submit", "/api/v1/chat", words, fields)

    async def chat(self) -> Json | None:
        """Send a message in the other dialect, whose answer is waited for; the same otherwise."""
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
            # Sooner than Retry-After asks for: so more of the calls meet the trouble.
            await self._clock.sleep(_RETRY_PAUSE_SECONDS)

    async def poll(self, receipt: Json) -> Json | None:
        """Return a generation's status, if the front tells it."""
        answer = await self.call("status", receipt["poll_url"])
        return answer.json() if answer is not None and answer.status_code == _OK else None

    async def end(self, receipt: Json) -> Json:
        """Look until a generation has ended, and return its last status."""
        while True:
            status = await self.poll(receipt)
            if status is not None and status["state"] != "processing":
                return status
            await self._clock.sleep(_RETRY_PAUSE_SECONDS)

    # -- going on ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def calls_going_on(self, slow: Json, queued: Json) -> AsyncIterator[None]:
        """Have them all call on until the end of the block; who submits sees its message in."""
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
        """Wait for a generation's end, again and again: what has ended is answered at once."""
        while not self.is_stopping:
            await self.call("wait", receipt["poll_url"], wait_seconds=_WAIT_SECONDS)
            await self._clock.sleep(_PACE_SECONDS)

    async def follow(self, receipt: Json) -> None:
        """Follow a generation to its end, through as many streams as it takes."""
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
        """Return the text that the follower has in the end."""
        return text_of(self.received)


def _receipt(payload: Json) -> Json:
    """Return where to look for an answer, in either dialect's words."""
    id_ = payload.get("message_id") or payload["id"]
    return {"message_id": id_, "poll_url": f"/api/v1/generate/{id_}/status"} | payload


@asynccontextmanager
async def calling(url: str, headers: dict[str, str], name: str) -> AsyncIterator[Clients]:
    """Yield the callers of an account; every one of their lines ends with the block."""
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=_CLIENT_SECONDS, verify=NO_TLS, trust_env=False
    ) as http:
        yield Clients(http, name)
