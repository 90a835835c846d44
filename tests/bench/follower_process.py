"""A program that benches start beside the front: many followers in one process.

Each connection follows one generation and sends nothing else. An event whose text is a time of the
machine's monotonic clock, as in `@12.5`, is a delivery: its lateness is kept. Prints the number of
streams once all have begun; for a line on standard input, what came since the last: deliveries, and
their lateness at p50 and p99 in ms. Ends with its standard input.
"""

import argparse
import asyncio
import re
import sys
import time
from collections.abc import Sequence
from typing import Final, cast

import uvloop
from typing_extensions import override

from tests.bench import figures
from tests.bench.peers import contract

_MOMENT: Final = re.compile(rb'"text":"@([0-9.]+)"')
_AT_ONCE: Final = 64


class _Follower(asyncio.Protocol):
    """One connection; `late_seconds` is shared by all."""

    def __init__(self, request: bytes, late_seconds: list[float]) -> None:
        self.begun = asyncio.get_running_loop().create_future()
        self._request = request
        self._late_seconds = late_seconds

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self._request)

    @override
    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        self._late_seconds.extend(now - float(moment) for moment in _MOMENT.findall(data))
        if not self.begun.done():
            assert data.startswith(b"HTTP/1.1 200"), data
            self.begun.set_result(None)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if not self.begun.done():
            self.begun.set_exception(exc or ConnectionResetError())


async def _follow(host: str, port: int, key: str, paths: Sequence[str]) -> None:
    loop, room = asyncio.get_running_loop(), asyncio.Semaphore(_AT_ONCE)
    late_seconds: list[float] = []

    async def one(path: str) -> None:
        request = f"GET {path} HTTP/1.1\r\nhost: {host}\r\nx-api-key: {key}\r\n\r\n".encode()
        async with room:
            _, follower = await loop.create_connection(
                lambda: _Follower(request, late_seconds), host, port
            )
            await follower.begun

    await asyncio.gather(*(one(path) for path in paths))
    contract.print_line(len(paths))
    while await asyncio.to_thread(sys.stdin.readline):
        seen, late_seconds[:] = list(late_seconds), []
        at = [figures.quantile(seen, share) * 1000 for share in (0.5, 0.99)] if seen else [0, 0]
        contract.print_line(len(seen), *at)


def main() -> None:
    """Follow the paths of the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--each", type=int, required=True, help="followers a path")
    parser.add_argument("paths", nargs="+")
    arguments = parser.parse_args()
    paths = arguments.paths * arguments.each
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_follow("127.0.0.1", arguments.port, arguments.key, paths))


if __name__ == "__main__":
    main()
