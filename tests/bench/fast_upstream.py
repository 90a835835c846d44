"""A program that benches start: an upstream of every dialect, whose answers are made once.

Prints its port. Each request is answered in the dialect of its path, with `--tokens` tokens and
`--events` events in a chunk, one chunk each 10 ms. With `--echo` the whole answer is sent at once,
and its text begins with the last number of the prompt (of `sentence 17 into`, 17), so that an
answer to another prompt is noticed; a request without `"stream":true` gets one JSON document. Ends
with its standard input.
"""

import argparse
import asyncio
import json
import re
import sys
from collections.abc import Callable
from typing import Final, cast

import uvloop
from typing_extensions import override

from shared.clock import SystemClock
from tests.worker.providers.dialect_row import Dialect
from tests.worker.providers.dialects import DIALECTS

GAP_SECONDS: Final = 0.01
# How an answer of `--echo` begins; its other tokens are ` word1`, ` word2` and so on.
ECHOED: Final = "NUMBER"
_NUMBER: Final = re.compile(rb"sentence (\d+) into")
_STREAMED: Final = re.compile(rb'"stream":\s*true')
_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n%b\r\n\r\n"
_STREAM_HEAD: Final = _HEAD % (b"text/event-stream", b"transfer-encoding: chunked")

# Answers a request, of which it is given the path and the body.
Respond = Callable[[bytes, bytes, asyncio.WriteTransport], None]


class _Connection(asyncio.Protocol):
    """One connection; its requests have a Content-Length."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond
        self._received = b""
        self._transport: asyncio.WriteTransport

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    @override
    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, rest = self._received.partition(b"\r\n\r\n")
            length = int(
                head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0],
            )
            if len(rest) < length:
                return
            self._received = rest[length:]
            self._respond(head.split(b" ", 2)[1], rest[:length], self._transport)


class SlowAnswers:
    """The answer in each dialect, in chunks with a gap before each."""

    def __init__(self, tokens: int, events: int) -> None:
        self._chunks = {
            dialect.path.encode(): _chunks(dialect, tokens, events) for dialect in DIALECTS
        }
        self._clock = SystemClock()
        self._tasks: set[asyncio.Task[None]] = set()

    def respond(self, path: bytes, _body: bytes, transport: asyncio.WriteTransport) -> None:
        """Answer a request."""
        task = asyncio.create_task(self._write(self._chunks[path], transport))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write(self, chunks: list[bytes], transport: asyncio.WriteTransport) -> None:
        transport.write(_STREAM_HEAD)
        for chunk in chunks:
            await self._clock.sleep(GAP_SECONDS)
            transport.write(chunk)


class Echo:
    """The answer in each dialect, at once and with the number of the prompt."""

    def __init__(self, tokens: int) -> None:
        words = (ECHOED, *(f" word{number}" for number in range(1, tokens)))
        self._streamed = {
            dialect.path.encode(): dialect.answer(*words).split(ECHOED.encode())
            for dialect in DIALECTS
        }
        choice = {"message": {"role": "assistant", "content": "".join(words)}}
        usage = {"prompt_tokens": 3, "completion_tokens": 2}
        whole = json.dumps({"id": "c", "choices": [choice], "usage": usage})
        self._whole = whole.encode().split(ECHOED.encode())

    def respond(self, path: bytes, body: bytes, transport: asyncio.WriteTransport) -> None:
        """Answer a request."""
        found = _NUMBER.search(body)
        number = found[1] if found else b"0"
        if _STREAMED.search(body):
            events = number.join(self._streamed[path])
            content = b"%x\r\n%b\r\n0\r\n\r\n" % (len(events), events)
            transport.write(_STREAM_HEAD + content)
        else:
            content = number.join(self._whole)
            length = b"content-length: %d" % len(content)
            transport.write(_HEAD % (b"application/json", length) + content)


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


async def _main(respond: Respond) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(respond), "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--events", type=int, default=1)
    parser.add_argument("--echo", action="store_true")
    arguments = parser.parse_args()
    answers = (
        Echo(arguments.tokens)
        if arguments.echo
        else SlowAnswers(arguments.tokens, arguments.events)
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main(answers.respond))
