"""A program that benches start: a client of streamed answers that costs little CPU.

For each line of its standard input, a `Volley` in JSON, it sends the same request `count` times, on
`at_once` connections spread over the ports; a connection is used again once an answer is complete.
Prints the seconds that took, the time to the first token at p50 and p99 in ms, the time of a whole
answer at p50, and how many answers were wrong. Ends with its input.
"""

import asyncio
import sys
import time
from typing import Final, cast

import msgspec
import uvloop
from typing_extensions import override

from tests.bench import figures
from tests.bench.peers import contract

_END: Final = b"0\r\n\r\n"
_TAIL_BYTES: Final = 64


class Volley(msgspec.Struct, frozen=True, kw_only=True):
    """What to send, and the texts that mark the first token and the end of an answer."""

    ports: list[int]
    request: str
    first: str
    last: str
    count: int
    at_once: int


class _Tally:
    """What is left to send, and the results so far; times in seconds."""

    def __init__(self, volley: Volley) -> None:
        self.left = volley.count
        self.first_seconds: list[float] = []
        self.whole_seconds: list[float] = []
        self.bad = 0
        self.is_done = asyncio.Event()

    def note_whole(self, seconds: float, *, is_good: bool) -> None:
        self.whole_seconds.append(seconds)
        self.bad += not is_good


class _Connection(asyncio.Protocol):
    """One connection, which sends the request repeatedly."""

    def __init__(self, volley: Volley, tally: _Tally) -> None:
        self._volley = volley
        self._tally = tally
        self._request, self._first, self._last = (
            text.encode() for text in (volley.request, volley.first, volley.last)
        )
        self._transport: asyncio.Transport
        self._tail = b""
        self._has_first = self._has_last = False
        self._began = 0.0

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    @override
    def data_received(self, data: bytes) -> None:
        seen = self._tail + data
        if not self._has_first and self._first in seen:
            self._has_first = True
            self._tally.first_seconds.append(time.monotonic() - self._began)
        self._has_last = self._has_last or self._last in seen
        self._tail = seen[-_TAIL_BYTES:]
        if seen.endswith(_END):
            is_good = self._has_first and self._has_last
            self._tally.note_whole(time.monotonic() - self._began, is_good=is_good)
            self._ask()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self._began:
            self._tally.bad += 1
            self._tally.is_done.set()

    def _ask(self) -> None:
        self._tail, self._has_first, self._has_last, self._began = b"", False, False, 0.0
        if len(self._tally.whole_seconds) == self._volley.count:
            self._tally.is_done.set()
        if not self._tally.left:
            self._transport.close()
            return
        self._tally.left -= 1
        self._began = time.monotonic()
        self._transport.write(self._request)


async def _fire(volley: Volley) -> tuple[float, ...]:
    loop, tally = asyncio.get_running_loop(), _Tally(volley)
    began = time.monotonic()
    for number in range(volley.at_once):
        port = volley.ports[number % len(volley.ports)]
        await loop.create_connection(lambda: _Connection(volley, tally), "127.0.0.1", port)
    await tally.is_done.wait()
    seconds = time.monotonic() - began
    first = [figures.quantile(tally.first_seconds, share) * 1000 for share in (0.5, 0.99)]
    whole = figures.quantile(tally.whole_seconds, 0.5) * 1000
    return (seconds, *first, whole, tally.bad)


async def _main() -> None:
    while line := await asyncio.to_thread(sys.stdin.readline):
        contract.print_line(*await _fire(msgspec.json.decode(line, type=Volley)))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main())
