"""A program that benches start: persons who send messages at a steady rate, whatever answers take.

For each line of its standard input, `Arrivals` in JSON, it sends the same request at random times,
each on a connection of its own or one that is free, and waits for the last answer. Prints how many
answers were wrong, then of each answer the seconds to its first token and to its end, both from the
moment at which it should have been sent. Ends with its input.
"""

import asyncio
import random
import sys
from typing import Final, cast

import msgspec
import uvloop
from typing_extensions import override

from shared.clock import SystemClock
from tests.bench.peers import contract

_END: Final = b"0\r\n\r\n"


class Arrivals(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent how often, and the texts that mark the first token and the end of an answer."""

    port: int
    request: str
    first: str
    last: str
    per_second: float
    seconds: float
    seed: int


class _Connection(asyncio.Protocol):
    """A connection with at most one request under way."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._loop = asyncio.get_running_loop()
        self._first, self._last = arrivals.first.encode(), arrivals.last.encode()
        self._transport: asyncio.Transport
        self._seen = b""
        self._began = self._first_seconds = 0.0
        self._answered: asyncio.Future[tuple[float, float] | None]

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    @override
    def data_received(self, data: bytes) -> None:
        self._seen += data
        seconds = self._loop.time() - self._began
        if not self._first_seconds and self._first in self._seen:
            self._first_seconds = seconds
        if self._seen.endswith(_END) and not self._answered.done():
            is_good = self._first_seconds and self._last in self._seen
            self._answered.set_result((self._first_seconds, seconds) if is_good else None)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if not self._answered.done():
            self._answered.set_result(None)

    async def ask(self, request: bytes, began: float) -> tuple[float, float] | None:
        """Send the request; return the seconds to the first token and to the end, if it is good."""
        self._seen, self._began, self._first_seconds = b"", began, 0.0
        self._answered = self._loop.create_future()
        self._transport.write(request)
        return await self._answered

    def close(self) -> None:
        self._transport.close()


async def _send_all(arrivals: Arrivals) -> list[tuple[float, float] | None]:
    loop, clock = asyncio.get_running_loop(), SystemClock()
    chance = random.Random(arrivals.seed)
    free: list[_Connection] = []
    request = arrivals.request.encode()

    async def send(at: float) -> tuple[float, float] | None:
        await clock.sleep(at - loop.time())
        if not free:
            _, connection = await loop.create_connection(
                lambda: _Connection(arrivals), "127.0.0.1", arrivals.port
            )
            free.append(connection)
        connection = free.pop()
        taken = await connection.ask(request, at)
        free.append(connection)
        return taken

    began = loop.time()
    times = [began]
    while (at := times[-1] + chance.expovariate(arrivals.per_second)) < began + arrivals.seconds:
        times.append(at)
    answers = await asyncio.gather(*map(send, times))
    for connection in free:
        connection.close()
    return answers


async def _main() -> None:
    while line := await asyncio.to_thread(sys.stdin.readline):
        answers = await _send_all(msgspec.json.decode(line, type=Arrivals))
        good = [each for each in answers if each is not None]
        contract.print_line(len(answers) - len(good), *(time for each in good for time in each))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main())
