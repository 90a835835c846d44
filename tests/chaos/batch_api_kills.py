"""A client of a batch whose API process is killed while it uploads, downloads and cancels.

Owns the process and the client that repeats what broke, as `pollux batch run` does: an upload with
its Idempotency-Key, a download after its last whole line, a cancel as it was. Counts kills.
"""

import asyncio
import contextlib
import itertools
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

import httpx

from shared.clock import SystemClock
from shared.redis import keys
from shared.stores.accounts import Accounts
from shared.wire.account import DEFAULT_SCOPES, MICROCREDITS_PER_CREDIT
from tests.chaos.evidence import question
from tests.chaos.scene import Scene
from tests.support import processes, waiting
from tests.support.processes import Process

Reply = dict[str, Any]
Moment = Literal["upload", "download", "cancel"]
MOMENTS: Final[tuple[Moment, ...]] = ("upload", "download", "cancel")
_CREDITS: Final = 10**13
_READY_SECONDS: Final = 60.0
_GIVE_UP_SECONDS: Final = 600.0
_LINES_A_BLOCK: Final = 200


class BatchClient:
    """A front as a process, and one account that uses it. A context manager: leaving it ends it."""

    def __init__(self, scene: Scene, programs: Sequence[tuple[str, ...]]) -> None:
        self._scene = scene
        self._next_program = itertools.cycle(programs)
        self._port = processes.free_port()
        self._url = f"http://127.0.0.1:{self._port}"
        self._stack = AsyncExitStack()
        self._front: Process | None = None
        self.account = ""
        self.kills: Counter[Moment] = Counter()

    async def __aenter__(self) -> Self:
        redis = self._scene.settings.redis
        accounts = Accounts(self._scene.redis, redis, b"", SystemClock())
        account = await accounts.create("mill", "enterprise")
        await accounts.grant(account, _CREDITS)
        self.account = account.id
        key = (await accounts.create_key(account, DEFAULT_SCOPES)).key
        self._http = await self._stack.enter_async_context(
            httpx.AsyncClient(
                base_url=self._url, headers={"x-api-key": key}, timeout=30.0, trust_env=False
            )
        )
        await self._start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        self._front = self.start(f"api --port {self._port}", next(self._next_program))

        async def is_ready() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return (await self._http.get("/readyz")).status_code == httpx.codes.OK
            return False

        await waiting.until(is_ready, _READY_SECONDS, what="the front")

    def start(self, words: str, program: tuple[str, ...]) -> Process:
        """Start a process, which ends with this client."""
        process = Process(words.split(), self._scene.environment, Path(os.devnull), program=program)
        return self._stack.enter_context(process)

    async def kill(self, moment: Moment) -> None:
        """Kill the process with SIGKILL and start another in its place."""
        assert self._front is not None
        self.kills[moment] += 1
        self._front.kill()
        await self._start()

    async def _repeat(self, request: Callable[[], Awaitable[httpx.Response]]) -> Reply:
        """Send until it is answered; return the answer."""
        found: list[Reply] = []

        async def is_answered() -> bool:
            with contextlib.suppress(httpx.TransportError):
                reply = await request()
                if reply.status_code == httpx.codes.OK:
                    found.append(reply.json())
                else:
                    assert reply.status_code in {409, 429, 503}, reply.text
            return bool(found)

        await waiting.until(is_answered, _GIVE_UP_SECONDS, what="an answer")
        return found[0]

    async def upload(self, name: str, count: int, kills: int) -> str:
        """Upload a batch; in each of the first tries the process is killed. Return its id.

        The last of these kills is after the whole body, before the answer.
        """
        for number in range(kills):
            with contextlib.suppress(httpx.TransportError):
                share = count * (number + 1) // kills
                await self._post(name, self._body(count, share))
            await self._give_up_uploads()
        reply = await self._repeat(lambda: self._post(name, self._body(count, None)))
        assert reply["total"] == count, reply
        return str(reply["batch_id"])

    async def _post(self, name: str, body: AsyncIterator[bytes]) -> httpx.Response:
        headers = {"content-type": "application/x-ndjson", "idempotency-key": name}
        return await self._http.post("/api/v1/batches", content=body, headers=headers)

    async def _body(self, count: int, killed_after: int | None) -> AsyncIterator[bytes]:
        """Yield the lines; the process is killed when so many were sent."""
        for start in range(1, count + 1, _LINES_A_BLOCK):
            lines = range(start, min(start + _LINES_A_BLOCK, count + 1))
            yield b"".join(self._line(line) for line in lines)
            if killed_after is not None and lines.stop > killed_after:
                await self.kill("upload")
                killed_after = None

    def _line(self, line: int) -> bytes:
        message = question(self.account, f"item {line}")
        return json.dumps({"custom_id": f"c{line}", "message": message}).encode() + b"\n"

    async def _give_up_uploads(self) -> None:
        """Move the time at which uploads without a sign of life are given up, to now."""
        redis, root = self._scene.redis, self._scene.root
        for name in await redis.call("ZRANGE", keys.BATCHES(root, self.account), 0, -1):
            batch = keys.BATCH(root, self.account, name.decode())
            if await redis.call("HGET", batch, "state") == b"validating":
                await redis.call("HSET", batch, "upload_ends", 1)
                due = f"{self.account}:{name.decode()}"
                await redis.call("ZADD", keys.BATCH_WORK(root), 1, due)

    async def show(self, batch: str) -> Reply:
        """Return the batch as it is shown."""
        return await self._repeat(lambda: self._http.get(f"/api/v1/batches/{batch}"))

    async def used(self) -> int:
        """Return the microcredits that all batches of the account used."""
        reply = await self._repeat(lambda: self._http.get("/api/v1/batches"))
        used: float = sum(each["credits"]["used"] for each in reply["batches"])
        return round(used * MICROCREDITS_PER_CREDIT)

    async def listed(self) -> int:
        """Return how many batches the account has."""
        reply = await self._repeat(lambda: self._http.get("/api/v1/batches"))
        return int(reply["pagination"]["total"])

    async def download(self, batch: str, order: str, lines: list[Any]) -> None:
        """Read all results as they come, and add them to `lines`."""
        clock = SystemClock()
        while True:
            place, field = ("after_line", "line") if order == "input" else ("after_seq", "seq")
            after = {"order": order, place: lines[-1][field] if lines else 0}
            with contextlib.suppress(httpx.TransportError):
                state = await self._read(f"/api/v1/batches/{batch}/results", after, lines)
                before = (await self.show(batch))["total"]
                if state in {"completed", "failed", "cancelled"} and len(lines) >= before:
                    return
            await clock.sleep(0.02)

    async def _read(self, path: str, after: dict[str, Any], lines: list[Any]) -> str | None:
        async with self._http.stream("GET", path, params=after) as reply:
            if reply.status_code != httpx.codes.OK:
                return None
            torn = b""
            async for piece in reply.aiter_bytes():
                *whole, torn = (torn + piece).split(b"\n")
                lines += map(json.loads, filter(None, whole))
            return reply.headers["batch-state"]

    async def kill_in_download(self, batch: str) -> None:
        """Kill the process while it sends results from the first line on."""
        with contextlib.suppress(httpx.TransportError):
            path = f"/api/v1/batches/{batch}/results"
            async with self._http.stream("GET", path) as reply:
                assert reply.status_code == httpx.codes.OK, reply
                async for _ in reply.aiter_bytes():
                    await self.kill("download")
                    break

    async def cancel(self, batch: str, *, is_killed: bool) -> None:
        """Cancel a batch; the process is killed when it has the request."""
        path = f"/api/v1/batches/{batch}/cancel"
        if is_killed:
            sent = asyncio.ensure_future(self._http.post(path))
            await self._until_stopped(batch)
            await self.kill("cancel")
            with contextlib.suppress(httpx.TransportError):
                await sent
        await self._repeat(lambda: self._http.post(path))

    async def _until_stopped(self, batch: str) -> None:
        name = keys.BATCH(self._scene.root, self.account, batch)

        async def is_stopped() -> bool:
            stop, state = await self._scene.redis.call("HMGET", name, "stop", "state")
            return stop is not None or state == b"cancelled"

        await waiting.until(is_stopped, what="the stop")
