"""Counts what one process writes to Redis, by a socket between both.

Owns a unix socket before the server's own. What arrives in one read was sent in one write as long
as there is time between two writes: so it is for slow rates. Each write is kept as the names of its
commands; a function's name is its own, without the library's.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import hiredis

from shared.redis import library

_CHUNK_BYTES: Final = 1 << 20
_MORE: Final = object()


class RedisTap:
    """The writes so far, in order: a tuple of command names each."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.writes: list[tuple[str, ...]] = []


@asynccontextmanager
async def tapped(server: Path, name: str) -> AsyncIterator[RedisTap]:
    """Open the socket `name` in the server's folder until the end of the block."""
    tap_socket = server.with_name(name)
    tap = RedisTap(f"unix://{tap_socket}")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(server)
        back = asyncio.create_task(_carry(far_reader, writer))
        parser = hiredis.Reader(notEnoughData=_MORE)
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                parser.feed(data)
                tap.writes.append(tuple(_names(parser)))
                far_writer.write(data)
        far_writer.close()
        await back

    listener = await asyncio.start_unix_server(serve, tap_socket)
    try:
        yield tap
    finally:
        listener.close()
        tap_socket.unlink(missing_ok=True)


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK_BYTES):
            writer.write(data)
    writer.close()


def _names(parser: hiredis.Reader) -> list[str]:
    names = []
    while (command := parser.gets()) is not _MORE:
        verb = command[0].decode().upper()
        is_function = verb in {"FCALL", "FCALL_RO"}
        names.append(command[1].decode().removeprefix(f"{library.NAME}_") if is_function else verb)
    return names
