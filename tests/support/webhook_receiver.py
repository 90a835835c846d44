"""A receiver of webhooks on a socket of its own, which answers as a test says.

Owns what it received: each POST with its headers and body, in the order of arrival.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple, Self

import msgspec

from shared.clock import SystemClock
from shared.settings import EgressSettings


class Received(NamedTuple):
    """One POST: its path, its headers by name in lower case, and its body."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        """The id of the message."""
        return self.headers["webhook-id"]

    @property
    def payload(self) -> dict[str, Any]:
        """The decoded body."""
        return msgspec.json.decode(self.body, type=dict[str, Any])


_sleep: Final = SystemClock().sleep
# Answers one request: it may write anything, or nothing.
Answer = Callable[[Received, asyncio.StreamWriter], Awaitable[None]]


def status(code: int, body: str = "", **headers: str) -> Answer:
    """Return an answer with a status and a body."""

    async def answer(_: Received, writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {code} Some", f"content-length: {len(body.encode())}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write(("\r\n".join((*lines, "", body))).encode())
        await writer.drain()

    return answer


async def reset(_: Received, writer: asyncio.StreamWriter) -> None:
    """Cut the connection instead of answering."""
    writer.transport.abort()


async def hang(_: Received, __: asyncio.StreamWriter) -> None:
    """Never answer."""
    await asyncio.Event().wait()


async def drip(_: Received, writer: asyncio.StreamWriter) -> None:
    """Answer one byte at a time, too slowly to end in any time."""
    for byte in b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n":
        writer.write(bytes((byte,)))
        await writer.drain()
        await _sleep(1.0)


async def slow_body(_: Received, writer: asyncio.StreamWriter) -> None:
    """Answer at once, with a body one byte at a time."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n")
    for _byte in range(100):
        await writer.drain()
        await _sleep(1.0)
        writer.write(b"x")


class Receiver:
    """A server on 127.0.0.1; `answer` may be replaced at any time."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.answer = answer or status(200)
        self.received: list[Received] = []
        self.open = 0
        self.open_most = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def port(self) -> int:
        """The port on which it listens."""
        assert self._server is not None
        found: int = self._server.sockets[0].getsockname()[1]
        return found

    @property
    def url(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def ids(self) -> list[str]:
        """The ids of what it received."""
        return [each.id for each in self.received]

    async def __aenter__(self) -> Self:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it, and every connection."""
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.open += 1
        self.open_most = max(self.open_most, self.open)
        try:
            received = await _read(reader)
            self.received.append(received)
            await _until_caller_leaves(self.answer(received, writer), reader)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            writer.close()


async def _until_caller_leaves(answer: Awaitable[None], reader: asyncio.StreamReader) -> None:
    answering, leaving = asyncio.ensure_future(answer), asyncio.ensure_future(reader.read())
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        answering.cancel()
        leaving.cancel()
        await asyncio.gather(answering, leaving, return_exceptions=True)


async def _read(reader: asyncio.StreamReader) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])
    }
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Received(head[0].split(" ")[1], headers, body)


def reachable(*receivers: Receiver) -> EgressSettings:
    """Return the settings under which these receivers may be called."""
    return EgressSettings(allow=("127.0.0.1",), ports=tuple(each.port for each in receivers))
