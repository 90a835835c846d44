"""Reads the copies of a batch's items, section by section, by their line or by their original.

Sections never change, so those read last are kept; a batch that is deleted meanwhile has none.
"""

import asyncio
import bisect
from collections import OrderedDict
from collections.abc import AsyncGenerator
from operator import attrgetter
from typing import Final

from shared.redis import keys
from shared.redis.client import Connection
from shared.stores.batches import BatchRef
from shared.wire.batch import Batch
from shared.wire.batch_copies import Copy, CopyPlaces, unpack_places, unpack_section

_SECTIONS_KEPT: Final = 32
_line = attrgetter("line")
_original = attrgetter("original")


class CopyReader:
    """Reads the copies of one batch, for one download."""

    def __init__(self, redis: Connection, ref: BatchRef, batch: Batch) -> None:
        self._redis = redis
        self._ref = ref
        # What is stored of copies ends with these and the counts.
        self._places_chunk = batch.copies_chunk - 1
        self._places: CopyPlaces | None = None
        self._sections: OrderedDict[int, list[Copy]] = OrderedDict()

    async def after_line(self, line: int) -> AsyncGenerator[list[Copy], None]:
        """Yield the copies after a line of the caller's file, in input order."""
        places = await self._load_places()
        first = max(0, bisect.bisect_right(places.lines, line) - 1)
        for at in range(first, len(places.lines)):
            section = await self._section(places.first + at)
            yield section[bisect.bisect_right(section, line, key=_line) :]

    async def of_original(self, index: int) -> AsyncGenerator[list[Copy], None]:
        """Yield the copies of an item, in input order."""
        places = await self._load_places()
        first = max(0, bisect.bisect_left(places.originals, index) - 1)
        for at in range(first, len(places.originals)):
            if places.originals[at] > index:
                return
            section = await self._section(places.first + len(places.lines) + at)
            begin = bisect.bisect_left(section, index, key=_original)
            end = bisect.bisect_right(section, index, key=_original)
            if begin < end:
                yield section[begin:end]

    async def _load_places(self) -> CopyPlaces:
        if self._places is None:
            stored = await self._read(self._places_chunk)
            if stored is None:
                return CopyPlaces(0, [], [])
            self._places = await asyncio.to_thread(unpack_places, stored)
        return self._places

    async def _section(self, chunk: int) -> list[Copy]:
        known = self._sections.get(chunk)
        if known is not None:
            self._sections.move_to_end(chunk)
            return known
        stored = await self._read(chunk)
        section = [] if stored is None else unpack_section(stored)
        self._sections[chunk] = section
        if len(self._sections) > _SECTIONS_KEPT:
            self._sections.popitem(last=False)
        return section

    async def _read(self, chunk: int) -> bytes | None:
        stored: bytes | None = await self._redis.call("GET", keys.BATCH_ITEMS(*self._ref, chunk))
        return stored
