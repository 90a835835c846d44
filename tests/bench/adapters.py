"""CPU of a streamed token in an adapter, compared with the least code that reads one.

An upstream in another process speaks each dialect over sockets of 127.0.0.1: to our adapter, with
all its bounds and errors, and in turns to bare httpx, which splits at blank lines and decodes the
JSON of each event. Measured is the CPU of the reading thread for whole calls: 32 at once, with one
event in a chunk, as tokens usually come, and with forty. The event loop is that of workers.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Final

import httpx
import uvloop

from tests.bench import bounds, contestants, figures
from tests.bench.contestants import Contestant
from tests.bench.figures import Figure, median
from tests.worker.providers.calls import REQUEST, connect
from tests.worker.providers.dialect_row import Dialect
from tests.worker.providers.dialects import DIALECTS
from worker.providers.contract import Text

RUNS: Final = 3
STREAMS: Final = 32
# Tokens of an answer, events in a chunk, and the bound as a multiple of the bare reader's cost.
_SHAPES: Final = ((50, 1, bounds.ADAPTER_SINGLE), (1_000, 40, bounds.ADAPTER_BURST))
_UPSTREAM: Final = Contestant("upstream", (sys.executable, "-m", "tests.bench.fast_upstream"))

# Reads one answer and returns its tokens.
Read = Callable[[], Awaitable[int]]


async def measure(runs: int = RUNS, streams: int = STREAMS) -> list[Figure]:
    """Measure both readers in turns, for each dialect and each shape of answers."""
    found = []
    for tokens, events, bound in _SHAPES:
        words = ("--tokens", str(tokens), "--events", str(events))
        async with contestants.running(_UPSTREAM, *words) as upstream:
            (port,) = await upstream.read_line()
            for dialect in DIALECTS:
                race = _race(dialect, int(port), (tokens, bound), runs, streams)
                ours, bare = await asyncio.to_thread(_in_a_loop, race)
                found.append(_figure(dialect.name, events, ours, bare, bound))
    return found


def _in_a_loop(race: Awaitable[tuple[float, float]]) -> tuple[float, float]:
    async def run() -> tuple[float, float]:
        return await race

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


def _figure(name: str, events: int, ours: float, bare: float, bound: float) -> Figure:
    return Figure(
        f"{name}, {events} event{'s' * (events > 1)} a chunk: CPU a token",
        f"{ours * 1e6:.1f} us = {ours / bare:.2f}",
        f"httpx and json: {bare * 1e6:.1f} us",
        f"<= {bound:g}",
        ours <= bound * bare,
    )


async def _race(
    dialect: Dialect, port: int, shape: tuple[int, float], runs: int, streams: int
) -> tuple[float, float]:
    """Return the CPU seconds of a token: ours, and the bare reader's."""
    tokens, bound = shape
    provider = connect(dialect, f"http://127.0.0.1:{port}/v1")
    body = dialect.words.body(REQUEST)
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=streams)) as client:

        async def ours() -> int:
            return sum([type(part) is Text async for part in provider.stream(REQUEST)])

        async def bare() -> int:
            return await _read_events(client, f"http://127.0.0.1:{port}{dialect.path}", body)

        async def turn() -> tuple[float, float]:
            own = await _cpu_seconds_a_token(ours, streams, tokens)
            return own, await _cpu_seconds_a_token(bare, streams, tokens)

        # The first turn opens the connections.
        await turn()
        turns = await figures.rounds(runs, turn, lambda turn: [turn[0] <= bound * turn[1]])
    await provider.close()
    return median(own for own, _ in turns), median(other for _, other in turns)


async def _cpu_seconds_a_token(read: Read, streams: int, tokens: int) -> float:
    """Return the CPU seconds of a token while `streams` answers are read at once."""
    before = time.thread_time()
    counts = await asyncio.gather(*(read() for _ in range(streams)))
    assert all(count >= tokens for count in counts), counts
    return (time.thread_time() - before) / (streams * tokens)


async def _read_events(client: httpx.AsyncClient, url: str, body: bytes) -> int:
    """Read an answer without any checks; return the number of its events."""
    count, left = 0, b""
    async with client.stream("POST", url, content=body) as response:
        async for chunk in response.aiter_bytes():
            *events, left = (left + chunk).split(b"\n\n")
            for event in events:
                data = event.partition(b"data: ")[2]
                if data != b"[DONE]":
                    json.loads(data)
                count += 1
    return count


async def main() -> None:
    """Measure and print."""
    figures.print_line(figures.table(figures.machine(), await measure()))


if __name__ == "__main__":
    asyncio.run(main())
