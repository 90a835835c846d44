"""Our engine with a provider that answers at once: the worker's own process, without HTTP.

Has the peers' command line, with settings from its environment, and a little more.

work                      workers as in production; prints when each generation's function begins
work --silent             the same without that: a line on standard input starts it, every further
                          one prints the CPU seconds used so far
work --held               its provider answers only once it has read the line `open`
enqueue --account ID      for each line, accept a generation, print its number and the time before
bare --generations N      no worker: a loop around the same functions; prints seconds, CPU seconds
"""

import argparse
import asyncio
import os
import sys
import threading
import time
import zlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import uvloop

from shared import garbage_collection
from shared.clock import SystemClock
from shared.redis import functions
from shared.redis.client import Redis
from shared.redis.functions import Claimed
from shared.settings import ProviderSettings, Secret, Settings
from shared.telemetry import logs
from shared.wire import event as events
from shared.wire.message import AssistantMessage, Usage, encode_assistant
from tests.bench import queue_rig
from tests.bench.peers import contract
from tests.support.redis_functions import KEEP, RedisFunctions
from worker.consumer.arq_worker import PolluxWorker
from worker.providers import registry
from worker.providers.contract import ChatRequest, Ended, Part, Provider, Text

_OPEN: Final = asyncio.Event()
_TEXT: Final = "There is nothing to it."
_USAGE: Final = Usage(input_tokens=8, output_tokens=8, cost=10)


class Noop:
    """A provider whose upstream is this process."""

    async def stream(self, _request: ChatRequest) -> AsyncGenerator[Part, None]:
        """Answer in one piece."""
        await _OPEN.wait()
        yield Text(_TEXT)
        yield Ended("stop")

    async def close(self) -> None:
        """Nothing is open."""


def _connect_to_nothing(provider: ProviderSettings, key: Secret | None) -> Provider:  # noqa: ARG001  as it is called
    return Noop()


async def print_begun(ctx: dict[str, Any]) -> None:
    """Print when a generation's function begins; arq calls its hooks for chores, too."""
    if "claimed" in ctx:
        contract.print_begun(_number_of(str(ctx["job_id"])))


def _number_of(generation: str) -> int:
    """Return a number for a generation's id: lines between the programs have numbers only."""
    return zlib.crc32(generation.encode())


async def _work(settings: Settings, workers: int, *, is_silent: bool) -> None:
    if is_silent:
        threading.Thread(target=_answer, args=(asyncio.get_running_loop(),), daemon=True).start()
    else:
        contract.end_with_stdin()
    await asyncio.gather(*(_one(settings, is_silent=is_silent) for _ in range(workers)))


async def _one(settings: Settings, *, is_silent: bool) -> None:
    worker = PolluxWorker(settings, {}, SystemClock())
    if not is_silent:
        worker.on_job_start = print_begun
    try:
        await worker.async_run()
    finally:
        await worker.close()


def _answer(loop: asyncio.AbstractEventLoop) -> None:
    """Print the CPU seconds used so far for every line; end with the input."""
    while line := sys.stdin.readline():
        if line.strip() == "open":
            loop.call_soon_threadsafe(_OPEN.set)
        contract.print_line(time.process_time())
    os._exit(0)


@asynccontextmanager
async def _connect(settings: Settings, account: str) -> AsyncIterator[contract.Enqueue]:
    redis = Redis(settings.redis)
    await redis.connect()
    queue = RedisFunctions(redis, settings.redis)

    async def enqueue(_number: int) -> int:
        return _number_of(await queue_rig.accept(queue, account))

    yield enqueue
    await redis.close()


async def _bare(settings: Settings, generations: int) -> None:
    """Claim as many as the concurrency allows, settle them all at once, and repeat."""
    redis = Redis(settings.redis)
    await redis.connect()
    queue = RedisFunctions(redis, settings.redis)
    at_once, left = settings.worker.concurrency, generations
    began, cpu = time.monotonic(), time.process_time()
    while left:
        claimed = await queue.claim(min(at_once, left))
        assert claimed
        await asyncio.gather(*(_end(redis, one) for one in claimed))
        left -= len(claimed)
    contract.print_line(time.monotonic() - began, time.process_time() - cpu)
    await redis.close()


async def _end(redis: Redis, claimed: Claimed) -> None:
    """Settle as a worker whose answer came at once: with the events, without an append."""
    delta = events.encode(events.Delta(_TEXT))
    ask = functions.SettleAsk(
        account=claimed.account,
        id=claimed.id,
        attempt=claimed.attempt,
        seq=4,
        stage="completed",
        event=events.encode(events.Completed(message=claimed.id, usage=_USAGE, routing=None)),
        cost=_USAGE.cost,
        keep=KEEP,
        events=[delta, delta, delta],
        through="generating",
    )
    message = AssistantMessage(
        status="completed", content=_TEXT, created=claimed.claimed_ms, usage=_USAGE
    )
    settled = await functions.settle(redis, claimed.root, ask, encode_assistant(message))
    assert settled is not None


def main() -> None:
    """Run the role of the command line."""
    arguments = _parser().parse_args()
    settings = Settings.read(dict(os.environ))  # noqa: TID251  the edge of a process
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if arguments.role == "work":
            registry.connect = _connect_to_nothing
            logs.configure(settings.log, process="worker")
            garbage_collection.tune()
            if not arguments.held:
                _OPEN.set()
            if arguments.silent:
                contract.print_line(0.0)
                sys.stdin.readline()
                contract.print_line(time.process_time())
            runner.run(_work(settings, arguments.workers, is_silent=arguments.silent))
        elif arguments.role == "enqueue":
            runner.run(contract.enqueue(_connect(settings, arguments.account)))
        else:
            runner.run(_bare(settings, arguments.generations))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    roles = parser.add_subparsers(dest="role", required=True)
    work = roles.add_parser("work")
    work.add_argument("--silent", action="store_true")
    work.add_argument("--held", action="store_true")
    work.add_argument("--workers", type=int, default=1)
    roles.add_parser("enqueue").add_argument("--account", required=True)
    bare = roles.add_parser("bare")
    bare.add_argument("--generations", type=int, required=True)
    return parser


if __name__ == "__main__":
    main()
