"""Log sinks that fail under a running system: what clients see of it.

Tries a pipe whose reader is gone, a pipe that nobody reads, and a full disk. A front and a worker
log to one of them, messages are sent, and answers are counted; then both get SIGTERM.
`python -m tests.chaos.log_sinks` prints a line for each sink.
"""

import asyncio
import fcntl
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final, Literal, NamedTuple, get_args

import httpx

from shared.settings import RedisSettings
from tests.support import api_client, processes, waiting
from tests.support.api_client import ApiClient
from tests.support.processes import Process
from tests.support.redis_server import Server
from tests.support.scripted_provider import ScriptedProvider
from tests.support.system import System

Kind = Literal["closed pipe", "full pipe", "full disk", "file"]

MESSAGES: Final = 20
_PIPE_BYTES: Final = 4096
_ANSWER_SECONDS: Final = 5.0
_START_SECONDS: Final = 20.0
# How long both may take to shut down; the front flushes its log for a second at most.
_END_SECONDS: Final = 10.0


class Outcome(NamedTuple):
    """The results: messages answered, the health check, and the end of both processes."""

    answered: int
    is_healthy: bool
    has_ended: bool


class Sink(NamedTuple):
    """The log file, and a function that makes it fail once the processes run."""

    path: Path
    fail: Callable[[], None]


@contextmanager
def sink(kind: Kind, folder: Path) -> Iterator[Sink]:
    """Yield a sink that fails in this way; a full disk is full from the start."""
    if kind in {"full disk", "file"}:
        path = Path("/dev/full") if kind == "full disk" else folder / "sink"
        yield Sink(path, lambda: None)
        return
    path = folder / "sink"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def fail() -> None:
        if kind == "closed pipe":
            os.close(reader)
        else:
            # Byte by byte, because a larger write that does not fit writes nothing.
            with suppress(BlockingIOError):
                while True:
                    os.write(writer, b"x")

    try:
        yield Sink(path, fail)
    finally:
        os.close(writer)
        with suppress(OSError):
            os.close(reader)


async def observe(system: System, kind: Kind, folder: Path, *, fronts: int = 1) -> Outcome:
    """Send messages to a front and a worker that log to a sink, and end both."""
    environment = processes.environment(system.settings, folder)
    port = processes.free_port()
    words = ["--port", str(port), "--workers", str(fronts)]
    async with AsyncExitStack() as stack:
        path, fail = stack.enter_context(sink(kind, folder))
        started = [
            stack.enter_context(Process(["api", *words], environment, path)),
            stack.enter_context(Process(["worker"], environment, path)),
        ]
        url = f"http://127.0.0.1:{port}"
        key = (await system.key(await system.account())).key
        client = await stack.enter_async_context(api_client.connected(url, {"x-api-key": key}))
        if not await _is_ready(client):
            return Outcome(0, is_healthy=False, has_ended=await _end(started))
        fail()
        sent = [_is_answered(client, f"message {number}") for number in range(MESSAGES)]
        answered = sum(await asyncio.gather(*sent))
        is_healthy = await _answers(client, "/healthz")
        return Outcome(answered, is_healthy, await _end(started))


async def _is_ready(client: ApiClient) -> bool:
    """Wait until the front is ready and a worker has reported; return False at the timeout."""

    async def is_ready() -> bool:
        listed = await _answers(client, "/v1/ai/agents")
        return listed and await _answers(client, "/readyz")

    try:
        await waiting.until(is_ready, _START_SECONDS, what="the front")
    except AssertionError:
        return False
    return True


async def _is_answered(client: ApiClient, message: str) -> bool:
    """Return whether a message is accepted and answered in time."""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            sent = await client.post("/api/v1/chat", json={"message": message})
            if sent.status_code != httpx.codes.OK:
                return False
            return bool((await client.wait_for_end(sent.json()))["state"] == "completed")
    except (TimeoutError, httpx.HTTPError, AssertionError):
        return False


async def _answers(client: ApiClient, path: str) -> bool:
    try:
        async with asyncio.timeout(2):
            return (await client.get(path)).status_code == httpx.codes.OK
    except (TimeoutError, httpx.HTTPError):
        return False


async def _end(started: list[Process]) -> bool:
    """Send SIGTERM to all; return whether they end in time."""
    for process in started:
        process.terminate()
    try:
        await waiting.until(
            lambda: not any(each.is_running for each in started), _END_SECONDS, what="the end"
        )
    except AssertionError:
        return False
    return True


async def main() -> int:
    """Try every sink and print the results; return 1 if anything is missing."""
    is_clean = True
    for kind in get_args(Kind):
        with Server() as server, tempfile.TemporaryDirectory() as name:
            settings = RedisSettings(url=server.url, durability="process")
            async with (
                ScriptedProvider() as provider,
                System(settings, provider, Path(name)) as system,
            ):
                outcome = await observe(system, kind, Path(name))
        is_clean = is_clean and outcome == Outcome(MESSAGES, is_healthy=True, has_ended=True)
        sys.stdout.write(
            f"{kind:12} answered {outcome.answered} of {MESSAGES}, healthz "
            f"{'answers' if outcome.is_healthy else 'is silent'}, "
            f"{'ended in time' if outcome.has_ended else 'did not end in time'}\n"
        )
        sys.stdout.flush()
    return 0 if is_clean else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
