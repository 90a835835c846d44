"""A TCP proxy before a server on a unix socket, with faults on demand.

Owns the connections through it. Does not parse them: it forwards bytes, delays, drops or cuts.
"""

import asyncio
import contextlib
from pathlib import Path
from typing import Final, Self

_CHUNK_BYTES: Final = 65_536


class Proxy:
    """An asynchronous context manager: entering opens a port, leaving cuts every connection.

    The next `replies_to_lose` replies of the server are dropped, and their connections cut.
    """

    def __init__(self, socket: Path) -> None:
        self.port = 0
        self.replies_to_lose = 0
        self.opened = 0
        self._can_flow = asyncio.Event()
        self._can_flow.set()
        self._socket = socket
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """The URL of the server through this proxy."""
        return f"redis://127.0.0.1:{self.port}/0"

    def freeze(self) -> None:
        """Forward nothing until `thaw`, like a network that drops packets."""
        self._can_flow.clear()

    def thaw(self) -> None:
        """Forward again, also what was held back."""
        self._can_flow.set()

    def drop_packets(self) -> None:
        """Drop everything on open connections, like a firewall that lost its table."""
        self._can_flow.clear()
        self._can_flow = asyncio.Event()
        self._can_flow.set()

    def cut(self) -> None:
        """Cut every open connection."""
        for connection in self._connections:
            connection.cancel()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()
        await asyncio.sleep(0)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def end(connection: asyncio.Task[None]) -> None:
            self._connections.discard(connection)
            writer.transport.abort()

        self.opened += 1
        connection = asyncio.create_task(self._relay(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(end)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward bytes both ways until one side closes, or the connection is cut."""
        inner_reader, inner_writer = await asyncio.open_unix_connection(str(self._socket))
        can_flow = self._can_flow
        directions = [
            asyncio.create_task(self._forward(reader, inner_writer, can_flow, loses_replies=False)),
            asyncio.create_task(self._forward(inner_reader, writer, can_flow, loses_replies=True)),
        ]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            inner_writer.transport.abort()
            for direction in directions:
                direction.cancel()

    async def _forward(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        can_flow: asyncio.Event,
        *,
        loses_replies: bool,
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(_CHUNK_BYTES):
                await can_flow.wait()
                if loses_replies and self.replies_to_lose:
                    self.replies_to_lose -= 1
                    return
                writer.write(data)
                await writer.drain()
