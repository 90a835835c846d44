"""An upstream on a real socket that sends the replies of exchanges, byte for byte.

Owns which exchange a request belongs to (the first segment of its path), the requests that came,
and the pauses between two pieces of a reply.
"""

import asyncio
import contextlib
import json
import time
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from typing import Any, Final, NamedTuple, Self

from shared.clock import SystemClock
from tests.exchanges.exchange import SOON_DATE, SOON_TIME, Exchange, Piece, plain

_HEAD_END: Final = b"\r\n\r\n"
_GONE: Final = (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError)


class Call(NamedTuple):
    """A request: its decoded body, and its monotonic time in seconds."""

    body: Any
    at: float


class Upstream:
    """The upstream of several exchanges; an asynchronous context manager."""

    def __init__(self, exchanges: Iterable[Exchange]) -> None:
        self.calls: defaultdict[str, list[Call]] = defaultdict(list)
        self._exchanges = {each.name: each for each in exchanges}
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[object]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def url(self, name: str) -> str:
        """Return the base URL of an exchange."""
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}/{name}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            # Cancelled when the upstream closes, also in the middle of a reply.
            with contextlib.suppress(*_GONE):
                while await self._answer(reader, writer):
                    pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether the connection stays open."""
        name, body = await _request(reader)
        self.calls[name].append(Call(body, time.monotonic()))
        reply = self._reply(name, json.dumps(body, ensure_ascii=False))
        for piece in reply:
            if isinstance(piece, float):
                await SystemClock().sleep(piece)
            else:
                writer.write(_dated(piece))
                await writer.drain()
        first = next(each for each in reply if isinstance(each, bytes))
        return b"content-length" in first.partition(_HEAD_END)[0].lower()

    def _reply(self, name: str, body: str) -> tuple[Piece, ...]:
        exchange = self._exchanges[name]
        gets_reply = exchange.marker in body and exchange.refuses in body
        gets_reply = gets_reply and not (exchange.times and len(self.calls[name]) > exchange.times)
        gets_reply = gets_reply and not (exchange.until and exchange.until in body)
        return exchange.reply if gets_reply else plain(exchange.dialect)


def _dated(piece: bytes) -> bytes:
    soon = datetime.now(UTC) + timedelta(minutes=10)
    date = formatdate(soon.timestamp(), usegmt=True).encode()
    time_ = soon.isoformat(timespec="seconds").encode()
    return piece.replace(SOON_DATE.encode(), date).replace(SOON_TIME.encode(), time_)


async def _request(reader: asyncio.StreamReader) -> tuple[str, Any]:
    """Read a request; return its exchange's name and its decoded body."""
    head = (await reader.readuntil(_HEAD_END)).decode("latin-1")
    first, *lines = head.split("\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    content = await reader.readexactly(int(fields.get("content-length", "0")))
    return first.split()[1].split("/")[1], json.loads(content or b"null")
