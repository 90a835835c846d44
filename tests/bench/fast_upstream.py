"""A program that benches start: an upstream of every dialect with a fixed answer.

Prints its port. Each request is answered in the dialect of its path, with `--tokens` tokens and
`--events` events in a chunk, one chunk each 10 ms. Ends with its standard input.
"""

import argparse
import asyncio
import sys
from typing import Final

import uvloop

from shared.clock import SystemClock
from tests.worker.providers.dialect_row import Dialect
from tests.worker.providers.dialects import DIALECTS

GAP_SECONDS: Final = 0.01
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)


class FastUpstream:
    """The answer in each dialect, in chunks that are made once."""

    def __init__(self, tokens: int, events: int) -> None:
        self._chunks = {
            dialect.path.encode(): _chunks(dialect, tokens, events) for dialect in DIALECTS
        }
        self._clock = SystemClock()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(length))
                writer.write(_HEAD)
                for chunk in self._chunks[head.split(b" ", 2)[1]]:
                    await self._clock.sleep(GAP_SECONDS)
                    writer.write(chunk)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


def _chunks(dialect: Dialect, tokens: int, events: int) -> list[bytes]:
    """Return an answer in HTTP chunks with `events` events each."""
    events_of_answer = dialect.answer(*(f" word{number}" for number in range(tokens))).split(
        b"\n\n"
    )[:-1]
    pieces = [
        b"\n\n".join([*events_of_answer[at : at + events], b""])
        for at in range(0, len(events_of_answer), events)
    ]
    return [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces] + [b"0\r\n\r\n"]


async def _main(tokens: int, events: int) -> None:
    server = await asyncio.start_server(FastUpstream(tokens, events).serve, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--events", type=int, required=True)
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main(arguments.tokens, arguments.events))
