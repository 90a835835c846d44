"""Calls the API's batches, and repeats calls across broken connections, 429, 502, 503 and 504.

Owns what is repeated and for how long. An API that has never answered is given up after 5 s, one
that has after 10 minutes: a batch runs overnight, and its API may be restarted meanwhile.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Final, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from deploy.batch.wire import (
    Batch,
    Fault,
    Refusal,
    decode_batch,
    decode_page,
    decode_refusal,
)
from deploy.retry_timer import RETRIED_STATUSES, RetryTimer, retry_after
from shared.clock import Clock
from shared.errors import Code, PolluxError, UnavailableError

BATCHES: Final = "/api/v1/batches"
_FIRST_ANSWER_SECONDS: Final = 5.0
_GIVE_UP_SECONDS: Final = 600.0
_TIMEOUT: Final = httpx.Timeout(60.0, connect=10.0)
# After the body of an upload, the API stores what is left of it.
_UPLOAD_TIMEOUT: Final = httpx.Timeout(60.0, connect=10.0, read=300.0)

T = TypeVar("T")
Params = Mapping[str, str | int]


class RefusalError(PolluxError):
    """The API refused a request; `faults` are the first of `invalid` lines of an upload."""

    def __init__(self, status: int, refusal: Refusal, retry_after_seconds: float) -> None:
        super().__init__(refusal.error or f"The API answered {status}.")
        self.status = status
        self.retry_after_seconds = retry_after_seconds
        self.faults: list[Fault] = refusal.errors
        self.invalid = refusal.invalid


class BatchApi:
    """The API's batches. `note` receives a line for a person when the connection has problems."""

    def __init__(self, http: httpx.AsyncClient, clock: Clock, note: Callable[[str], None]) -> None:
        self._http = http
        self._note = note
        self.timer = RetryTimer(
            clock,
            lambda problem: note(f"[{problem}; trying again]"),
            str(http.base_url).rstrip("/"),
            give_up_seconds=_FIRST_ANSWER_SECONDS,
        )

    async def find(self, key: str) -> Batch | None:
        """Return the batch that was made with an Idempotency-Key, or None."""
        reply = await self.call("GET", BATCHES, params={"key": key})
        batches = _decode(decode_page, reply.content).batches
        return batches[0] if batches else None

    async def load(self, batch_id: str) -> Batch:
        """Return a batch as it is now."""
        return _decode(decode_batch, (await self.call("GET", path_of(batch_id))).content)

    async def call(
        self, method: str, path: str, *, params: Params | None = None, body: object = None
    ) -> httpx.Response:
        """Return the reply to a request, which may be sent several times. Raises PolluxError."""
        while True:
            try:
                reply = await self._http.request(
                    method,
                    path,
                    params=dict(params) if params else None,
                    json=body,
                    timeout=_TIMEOUT,
                )
                self._check(reply)
            except (httpx.RequestError, RefusalError) as error:
                await self.pause_after(error)
            else:
                self.timer.reset()
                return reply

    async def post_body(
        self, params: Params, key: str, pieces: AsyncIterator[bytes]
    ) -> httpx.Response:
        """Upload a gzipped JSONL body once.

        Raises:
            httpx.RequestError: the connection broke, so the outcome is unknown.
            RefusalError: the API refused it.

        """
        reply = await self._http.post(
            BATCHES,
            params=dict(params),
            content=pieces,
            headers={
                "Content-Type": "application/x-ndjson",
                "Content-Encoding": "gzip",
                "Idempotency-Key": key,
            },
            timeout=_UPLOAD_TIMEOUT,
        )
        self._check(reply)
        self.timer.reset()
        return reply

    async def stream_results(
        self, batch_id: str, params: Params, on_state: Callable[[str], None]
    ) -> AsyncGenerator[list[bytes], None]:
        """Yield the lines of one response, as many as have arrived, without those that are torn.

        `on_state` gets the batch's state when the response began.

        Raises:
            httpx.RequestError: the connection broke; a part of the lines was yielded.
            RefusalError: the API refused it.

        """
        path, torn = f"{path_of(batch_id)}/results", bytearray()
        async with self._http.stream("GET", path, params=dict(params), timeout=_TIMEOUT) as reply:
            if not reply.is_success:
                await reply.aread()
            self._check(reply)
            on_state(reply.headers.get("Batch-State", ""))
            async for piece in reply.aiter_bytes():
                self.timer.reset()
                torn += piece
                end = torn.rfind(b"\n") + 1
                if end:
                    yield bytes(torn[:end]).splitlines()
                    del torn[:end]

    async def pause_after(self, error: httpx.RequestError | RefusalError) -> None:
        """Wait before a failed request is sent again.

        Raises:
            RefusalError: sending it again would change nothing.
            UnavailableError: it has failed for too long.

        """
        if isinstance(error, RefusalError):
            if error.status not in RETRIED_STATUSES:
                raise error
            await self.timer.pause(error.message.removesuffix("."), error.retry_after_seconds)
            return
        await self.timer.pause(f"no reply ({type(error).__name__})")

    def _check(self, reply: httpx.Response) -> None:
        """Raise RefusalError unless the reply is a success."""
        self.timer.give_up_seconds = _GIVE_UP_SECONDS
        if reply.is_success:
            return
        refusal = Refusal()
        with suppress(msgspec.MsgspecError):
            refusal = decode_refusal(reply.content)
        raise RefusalError(reply.status_code, refusal, retry_after(reply))


def path_of(batch_id: str) -> str:
    """Return a batch's path. Raises PolluxError for a text that cannot be an id."""
    if not batch_id or batch_id in {".", ".."}:
        raise PolluxError(
            "Name a batch by its id, as `pollux batch list` prints it.", Code.NOT_FOUND
        )
    return f"{BATCHES}/{quote(batch_id, safe='')}"


def _decode(decode: Callable[[bytes], T], content: bytes) -> T:
    try:
        return decode(content)
    except msgspec.MsgspecError:
        raise UnavailableError("The API does not answer as Pollux does.") from None
