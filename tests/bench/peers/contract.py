"""The command line of every peer; needs only Python's standard library.

work --redis URL             run one worker; each job prints its number and when its function began
work --redis URL --until N   run it silently until N jobs have begun, then print how many seconds
                             there were from the first to the last, and how many of CPU
fill N --redis URL           put N jobs into the queue
enqueue --redis URL          wait for a line, put a job into the queue, print its number and the
                             time before; and again
"""

import argparse
import asyncio
import itertools
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

# Put the job with a number into the queue; return the number that its function prints.
Enqueue = Callable[[int], Awaitable[int]]
Begin = Callable[[int], None]
LoopFactory = Callable[[], asyncio.AbstractEventLoop]

_AT_ONCE: Final = 100


class Work(Protocol):
    """Run a worker for ever, whose only job calls `begin` with its number."""

    def __call__(self, url: str, begin: Begin) -> Awaitable[None]: ...


class Connect(Protocol):
    """Open what enqueues that job."""

    def __call__(self, url: str) -> AbstractAsyncContextManager[Enqueue]: ...


class Counted:
    """Called as each job begins: silent until the last of them."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._begun = 0
        self._at = self._cpu = 0.0

    def __call__(self, _number: int) -> None:
        if self._begun == 0:
            self._at, self._cpu = time.monotonic(), time.process_time()
        self._begun += 1
        if self._begun == self._jobs:
            print_line(time.monotonic() - self._at, time.process_time() - self._cpu)
            os._exit(0)


def print_begun(number: int) -> None:
    """Print a job's number and the time: called as each job begins."""
    print_line(number, time.monotonic())


def print_line(*numbers: float) -> None:
    """Print numbers on a line, at once."""
    sys.stdout.write(" ".join(f"{number:.7f}" for number in numbers) + "\n")
    sys.stdout.flush()


def main(work: Work, connect: Connect, loop: LoopFactory | None = None) -> None:
    """Run the role of the command line, on an event loop of this kind."""
    arguments = parser().parse_args()
    with asyncio.Runner(loop_factory=loop) as runner:
        if arguments.role == "work":
            end_with_stdin()
            begin = Counted(arguments.until) if arguments.until else print_begun
            runner.run(_run(work(arguments.redis, begin)))
        elif arguments.role == "fill":
            runner.run(fill(connect(arguments.redis), arguments.jobs))
        else:
            runner.run(enqueue(connect(arguments.redis)))


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser()
    roles = parser.add_subparsers(dest="role", required=True)
    for name in ("work", "fill", "enqueue"):
        role = roles.add_parser(name)
        role.add_argument("--redis", required=True)
        if name == "work":
            role.add_argument("--until", type=int, default=0)
        elif name == "fill":
            role.add_argument("jobs", type=int)
    return parser


def end_with_stdin() -> None:
    """End this process, whatever it does, once its standard input is closed."""

    def wait() -> None:
        while sys.stdin.readline():
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


async def fill(connection: AbstractAsyncContextManager[Enqueue], jobs: int) -> None:
    """Enqueue so many jobs, a hundred at a time."""
    async with connection as enqueue_one:
        for first in range(0, jobs, _AT_ONCE):
            count = min(_AT_ONCE, jobs - first)
            await asyncio.gather(*(enqueue_one(first + each) for each in range(count)))


async def enqueue(connection: AbstractAsyncContextManager[Enqueue]) -> None:
    """Enqueue one job for each line of the standard input; print which, and when that began."""
    numbers = itertools.count()
    async with connection as enqueue_one:
        async for _ in _lines():
            began = time.monotonic()
            print_line(await enqueue_one(next(numbers)), began)


async def _lines() -> AsyncIterator[str]:
    while line := await asyncio.to_thread(sys.stdin.readline):
        yield line


async def _run(working: Awaitable[None]) -> None:
    await working
