"""Which items of an upload are identical: the first one is answered, and the others are its copies.

Two items are identical where they ask for the same after the batch's defaults; their names and
metadata do not count. Hashes and copies are kept in an SQLite database without a name, which is
gone when it is closed, and of which at most 2 MiB are in memory.
"""

import array
import asyncio
import hashlib
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Literal

import msgspec

from api.accept.intent import Intent
from shared.wire.batch_copies import (
    SECTION_COPIES,
    Copy,
    CopyPlaces,
    pack_counts,
    pack_places,
    pack_section,
)

_TABLES: Final = (
    "PRAGMA journal_mode = OFF",
    "PRAGMA temp_store = FILE",
    "PRAGMA cache_size = -2048",
    "CREATE TABLE originals (hash BLOB PRIMARY KEY, item INTEGER) WITHOUT ROWID",
    "CREATE TABLE copies (line INTEGER PRIMARY KEY, name TEXT, original INTEGER)",
    "BEGIN",
)
_SELECT: Final = {
    "line": "SELECT name, line, original FROM copies ORDER BY line",
    "original": "SELECT name, line, original FROM copies ORDER BY original, line",
}
_HASH_BYTES: Final = 16
_encode = msgspec.msgpack.Encoder(order="sorted").encode


class Copies:
    """The copies of one upload."""

    def __init__(self) -> None:
        # A long line is made into an item in another thread, while nothing else uses it.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for statement in _TABLES:
            self._database.execute(statement)
        self._execute = self._database.cursor().execute

    def close(self) -> None:
        """Drop all of it."""
        self._database.close()

    def find(self, asked: bytes) -> int | None:
        """Return the index of the item that has this hash; None where it would be the first."""
        found = self._execute("SELECT item FROM originals WHERE hash = ?", (asked,)).fetchone()
        return None if found is None else found[0]

    def add_original(self, asked: bytes, index: int) -> None:
        """Note the first item that has this hash."""
        self._execute("INSERT INTO originals VALUES (?, ?)", (asked, index))

    def add(self, copy: Copy) -> None:
        """Note a copy."""
        self._execute(
            "INSERT INTO copies VALUES (?, ?, ?)", (copy.line, copy.custom_id, copy.original)
        )

    async def store(self, first: int, write: Callable[[bytes], Awaitable[None]]) -> int:
        """Write all copies as chunks, of which the next one is `first`; return that of counts."""
        places = CopyPlaces(first, [], [])
        async for section in self._sections("line"):
            places.lines.append(section[0].line)
            await write(pack_section(section))
        counts = array.array("I")
        async for section in self._sections("original"):
            places.originals.append(section[0].original)
            _count(counts, section)
            await write(pack_section(section))
        await write(pack_places(places))
        for part in pack_counts(counts):
            await write(part)
        return first + len(places.lines) + len(places.originals) + 1

    async def _sections(self, order: Literal["line", "original"]) -> AsyncIterator[list[Copy]]:
        # Sorting takes a while, and the first rows wait for it.
        rows = await asyncio.to_thread(self._database.execute, _SELECT[order])
        while section := await asyncio.to_thread(rows.fetchmany, SECTION_COPIES):
            yield [Copy(*row) for row in section]


def _count(counts: "array.array[int]", section: list[Copy]) -> None:
    last = section[-1].original
    if last >= len(counts):
        counts.frombytes(bytes(counts.itemsize * (last + 1 - len(counts))))
    for copy in section:
        counts[copy.original] += 1


def hash_of(asked: Intent) -> bytes:
    """Return the hash of what an item asks for, without what it is called."""
    kind = (
        asked.message,
        asked.conversation,
        asked.model,
        asked.project,
        asked.enhance_prompt,
        asked.budget,
        asked.max_output_tokens,
        asked.features,
        asked.sampling,
        asked.form,
    )
    return hashlib.blake2b(_encode(kind), digest_size=_HASH_BYTES).digest()
