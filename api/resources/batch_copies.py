"""The copies of a batch's items among its results, in both orders.

A copy ends with its original, and has its result; nothing else is stored of it. In input order it
has its own line's place. In the order of finishing copies follow their original: its number there
is the original's in the upper bits, and counts its copies in the lower ones, so that it is
continued after any of them.

DESIGN. However many copies one item has, `_AT_ONCE` are in memory. Copies that come together are
resolved together, so that each chunk of results is read once for them.
"""

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from shared.redis.client import Redis
from shared.stores.batch_copies import CopyReader
from shared.stores.batches import BatchRef, BatchResults
from shared.wire.batch import Batch, ItemResult
from shared.wire.batch_copies import Copy

_AT_ONCE: Final = 128
# A number of finishing has so many bits for the copies of one item.
_COPY_BITS: Final = 24


class ResultItem(NamedTuple):
    """An item to send. `seq` is its number of finishing, where that order is asked for.

    `copy_of` is the name of the item whose answer it shares; `place` is the index of that item, or
    its own.
    """

    place: int
    result: ItemResult
    seq: int | None = None
    copy_of: str | None = None


def original_seq(seq: int) -> int:
    """Return after which number of finishing of items to read, to continue after this one."""
    return max(0, (seq >> _COPY_BITS) - 1)


class CopyResults:
    """Puts copies among the results of one download.

    In input order, `is_cut` says that it ends before a copy whose original runs again; if
    `is_partial`, such copies are left out.
    """

    def __init__(
        self,
        redis: Redis,
        results: BatchResults,
        ref: BatchRef,
        batch: Batch,
        *,
        is_partial: bool = False,
    ) -> None:
        self.is_cut = False
        self._is_partial = is_partial
        self._reader = CopyReader(redis, ref, batch)
        self._results = results
        self._ref = ref
        self._coming: list[Copy] = []
        self._sections: AsyncGenerator[list[Copy], None] | None = None

    async def merged(
        self, batch: Batch, items: Sequence[ResultItem], after: int, until: int | None
    ) -> AsyncGenerator[list[ResultItem], None]:
        """Yield items in input order with the copies among and after them, up to a line.

        Call it for consecutive parts of one download, which begins after the line `after`; until
        None, all copies that are left come.
        """
        found: list[ResultItem | Copy] = []
        for item in [*items, None]:
            line = until if item is None else item.result.line
            while (copy := await self._next(after, line)) is not None:
                found.append(copy)
                if len(found) >= _AT_ONCE:
                    yield await self._resolved(batch, found)
                    found = []
                if self.is_cut:
                    return
            if item is not None:
                found.append(item)
        yield await self._resolved(batch, found)

    async def with_copies(
        self, items: Sequence[ResultItem], after: int
    ) -> AsyncGenerator[list[ResultItem], None]:
        """Yield items in the order of finishing, each with its copies, after a number there."""
        found: list[ResultItem] = []
        for item in items:
            seq = (item.seq or 0) << _COPY_BITS
            if seq > after:
                found.append(item._replace(seq=seq))
            async for section in self._reader.of_original(item.place):
                for copy in section:
                    seq += 1
                    if seq > after:
                        found.append(_copied(copy, item.result, seq))
                if len(found) >= _AT_ONCE:
                    yield found
                    found = []
        yield found

    async def _next(self, after: int, until: int | None) -> Copy | None:
        """Return the next copy if it is not behind a line."""
        if self._sections is None:
            self._sections = self._reader.after_line(after)
        while not self._coming:
            section = await anext(self._sections, None)
            if section is None:
                return None
            self._coming = section[::-1]
        is_behind = until is not None and self._coming[-1].line > until
        return None if is_behind else self._coming.pop()

    async def _resolved(self, batch: Batch, found: Sequence[ResultItem | Copy]) -> list[ResultItem]:
        """Return items, and copies whose originals have ended, in their order."""
        known = {each.place: each.result for each in found if isinstance(each, ResultItem)}
        by_chunk: dict[int, set[int]] = {}
        for each in found:
            if isinstance(each, Copy) and each.original not in known:
                chunk = await self._results.chunk_of(self._ref, batch, each.original)
                by_chunk.setdefault(chunk, set()).add(each.original)
        for chunk, indexes in by_chunk.items():
            first, results = await self._results.read(self._ref, batch, chunk)
            ended = {index: results[index - first] for index in indexes if results}
            known |= {index: result for index, result in ended.items() if result is not None}
        return list(self._ended(found, known))

    def _ended(
        self, found: Sequence[ResultItem | Copy], known: Mapping[int, ItemResult]
    ) -> Iterator[ResultItem]:
        for each in found:
            if isinstance(each, ResultItem):
                yield each
            elif each.original in known:
                yield _copied(each, known[each.original])
            elif not self._is_partial:
                self.is_cut = True
                return


def _copied(copy: Copy, result: ItemResult, seq: int | None = None) -> ResultItem:
    shown = msgspec.structs.replace(
        result, custom_id=copy.custom_id, line=copy.line, captured=0, item=None, metadata=None
    )
    return ResultItem(copy.original, shown, seq, result.custom_id)
