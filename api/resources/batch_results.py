"""Sends the results of a batch, line by line, while other requests run.

Owns the orders in which they are sent, how a later request continues, compression, and how the
event loop is shared. Knows nothing of a line's fields: the dialect makes each line.

DESIGN. One chunk of items is in memory at a time, whatever the size of the batch; the client's
speed decides when the next is read. Lines are made for half a millisecond at a time, by one
download at a time; then every other request that is ready runs first. Where any was, the download
also pauses, since a request comes back to the loop several times.
"""

import asyncio
import zlib
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Final, Literal, NamedTuple

from api import errors
from api.endpoints.endpoint import RequestContext
from api.resources.batch_copies import CopyResults, ResultItem, original_seq
from api.server import disconnect
from api.server.responses import ChunkedResponse
from shared.errors import UnavailableError
from shared.stores import batches
from shared.stores.batches import BatchRef, ChunkResults
from shared.wire.batch import Batch, ItemResult, ItemState

MEDIA_TYPE: Final = "application/x-ndjson"
# Makes a line: the item, its number in the order of finishing, and whose answer it shares.
MakeLine = Callable[[ItemResult, int | None, str | None], bytes]

_SLICE_SECONDS: Final = 0.0005
# A turn of the loop in which nothing else was ready takes less.
_IDLE_TURN_SECONDS: Final = 0.0001
_BUSY_TURNS_MAX: Final = 16
_PAUSE_SECONDS: Final = 0.001
# Of the order of finishing: items that are looked up together, and the bytes of their lines.
_LOOKED_UP: Final = (64, 1_024)
_LOOKED_UP_BYTES: Final = 2_000_000
_GZIP: Final = 16 + zlib.MAX_WBITS
_GZIP_LEVEL: Final = 1


class _Part(NamedTuple):
    """Items in input order, read at one moment of the batch; their copies may follow to a line."""

    batch: Batch
    items: list[ResultItem]
    until: int | None


class ResultsWanted(NamedTuple):
    """Which results, in which order: those after a line, or after a number of finishing.

    `is_partial`: what has not ended is left out, instead of ending the answer.
    """

    order: Literal["input", "finished"]
    after: int
    is_partial: bool
    state: ItemState | None
    is_gzip: bool


async def respond(
    context: RequestContext, ref: BatchRef, wanted: ResultsWanted, make_line: MakeLine
) -> ChunkedResponse:
    """Return the results that there are, as JSON lines.

    Raises:
        RequestError: BATCH_NOT_FOUND.
        RefusedError: RATE_LIMITED, UNAVAILABLE when too many long answers are sent already.

    """
    batch = await batches.find(context.state.redis, ref)
    if batch is None:
        raise errors.unknown_batch()
    headers = {"batch-state": batch.state, "vary": "Accept-Encoding"}
    if wanted.is_gzip:
        headers["content-encoding"] = "gzip"
    download = _Download(context, ref, wanted, make_line)
    body = await ChunkedResponse.begin(download.pieces(batch))
    return body._replace(headers=headers, content_type=MEDIA_TYPE)


class _Download:
    """One answer with results."""

    def __init__(
        self, context: RequestContext, ref: BatchRef, wanted: ResultsWanted, make_line: MakeLine
    ) -> None:
        self._state = context.state
        self._context = context
        self._ref = ref
        self._wanted = wanted
        self._make_line = make_line
        self._loop = asyncio.get_running_loop()
        self._has_disconnected = self._is_shutting_down = self._is_ended = False

    async def pieces(self, batch: Batch) -> AsyncGenerator[bytes, None]:
        """Yield the body. Raises when the batch, the key or the server ends before it does."""
        state, caller = self._state, self._context.caller
        # Revocations arrive on this connection.
        await state.subscriber.connect()
        disconnect.listen(
            self._context.request.scope,
            on_disconnect=self._note_disconnect,
            on_shutdown=self._note_shutdown,
        )
        compressor = zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP) if self._wanted.is_gzip else None
        in_order = self._by_input if self._wanted.order == "input" else self._by_finishing
        with (
            state.large_pages.hold(caller.account.id, self._note_ended),
            state.revocations.watch(caller.key, lambda: None) as key_use,
        ):
            async with aclosing(in_order(batch)) as found:
                async for items in found:
                    async with aclosing(self._lines(items)) as slices:
                        async for lines in slices:
                            if self._has_disconnected:
                                return
                            key_use.check()
                            yield lines if compressor is None else _compressed(compressor, lines)
            # The response begins with the first piece, also where there are no lines.
            yield b"" if compressor is None else compressor.flush()

    def _note_disconnect(self) -> None:
        self._has_disconnected = True

    def _note_ended(self) -> None:
        self._is_ended = True

    def _note_shutdown(self) -> None:
        self._is_shutting_down = True

    async def _by_input(self, batch: Batch) -> AsyncGenerator[list[ResultItem], None]:
        """Yield items in input order, up to the first that has not ended."""
        after, copies = self._wanted.after, self._copies(batch)
        async for part in self._by_chunk(batch):
            if copies is None:
                yield part.items
                continue
            async for group in copies.merged(part.batch, part.items, after, part.until):
                yield group
            if copies.is_cut:
                return

    async def _by_chunk(self, batch: Batch) -> AsyncGenerator[_Part, None]:
        """Yield items without their copies, and in the end, where all have ended, none."""
        after, reader = self._wanted.after, self._state.batch_results
        if batch.state == "validating" or not batch.chunks:
            return
        chunk = await reader.first_chunk_after_line(self._ref, batch, after)
        while chunk < batch.chunks:
            found = await reader.read(self._ref, batch, chunk)
            ended = list(_ended(found, is_partial=self._wanted.is_partial))
            until = await self._line_until(found, chunk, ended) if batch.copies else 0
            yield _Part(batch, [each for each in ended if each.result.line > after], until)
            if len(ended) < len(found.results) and not self._wanted.is_partial:
                return
            if found.first >= batch.position and batch.cut_off is None:
                break
            chunk += 1
            batch = await self._refreshed()
        yield _Part(batch, [], None)

    def _copies(self, batch: Batch) -> CopyResults | None:
        if not batch.copies:
            return None
        state = self._state
        return CopyResults(
            state.redis,
            state.batch_results,
            self._ref,
            batch,
            is_partial=self._wanted.is_partial,
        )

    async def _line_until(
        self, found: ChunkResults, chunk: int, ended: Sequence[ResultItem]
    ) -> int:
        """Return up to which line copies may follow: to the item that has not ended, or the last.

        Where that line is not known, up to the last item that is sent.
        """
        last = ended[-1].result.line if ended else 0
        if not found.results:
            return last
        is_whole = self._wanted.is_partial or len(ended) == len(found.results)
        place = len(found.results) - 1 if is_whole else len(ended)
        line = await self._state.batch_results.line_of(self._ref, found, chunk, place)
        return last if line is None else line if is_whole else line - 1

    async def _by_finishing(self, batch: Batch) -> AsyncGenerator[list[ResultItem], None]:
        """Yield items in the order in which they ended, each with its copies."""
        # How its items are numbered is known once all of it has arrived.
        if batch.state == "validating":
            return
        after, copies = self._wanted.after, self._copies(batch)
        if copies is None:
            async for items in self._items_by_finishing(batch, after):
                yield items
            return
        async for items in self._items_by_finishing(batch, original_seq(after)):
            async for group in copies.with_copies(items, after):
                yield group

    async def _items_by_finishing(
        self, batch: Batch, after: int
    ) -> AsyncGenerator[list[ResultItem], None]:
        """Yield items in the order in which they ended; what a stop cut off comes last."""
        count, most = _LOOKED_UP
        while True:
            # Read before the order: where the batch has ended, the order that follows is whole.
            batch = await self._refreshed()
            indexes = await batches.ended_after(self._state.redis, self._ref, after, count)
            if not indexes:
                break
            items = await self._looked_up(batch, after, indexes)
            yield items
            after += len(indexes)
            size = sum(len(each.result.answer) for each in items) // len(indexes)
            count = min(most, max(1, _LOOKED_UP_BYTES // max(1, size)))
        if batch.finished is None or batch.cut_off is None:
            return
        # They have no number of their own, and follow in input order.
        index = batch.position + max(0, after - batch.seq)
        while index < batch.total:
            chunk = await self._state.batch_results.chunk_of(self._ref, batch, index)
            found = await self._state.batch_results.read(self._ref, batch, chunk)
            batch = await self._refreshed()
            rest = found.results[index - found.first :]
            seq = batch.seq + 1 + index - batch.position
            yield [
                ResultItem(index + at, each, seq + at)
                for at, each in enumerate(rest)
                if each is not None
            ]
            if not rest:
                return
            index += len(rest)

    async def _looked_up(
        self, batch: Batch, after: int, indexes: Sequence[int]
    ) -> list[ResultItem]:
        """Return the items with these indexes that ended there last; each chunk is read once."""
        by_chunk: dict[int, list[tuple[int, int]]] = {}
        for seq, index in enumerate(indexes, after + 1):
            chunk = await self._state.batch_results.chunk_of(self._ref, batch, index)
            by_chunk.setdefault(chunk, []).append((seq, index))
        items: list[ResultItem] = []
        for chunk, wanted in by_chunk.items():
            # A stop may keep a failure from running again, so its old end is sent, too.
            found = await self._state.batch_results.read(
                self._ref, batch, chunk, has_old_failures=True
            )
            for seq, index in wanted if found.results else ():
                result = found.results[index - found.first]
                if result is not None and result.seq == seq:
                    items.append(ResultItem(index, result, seq))
            await self._give_way()
        items.sort(key=_seq)
        return items

    async def _refreshed(self) -> Batch:
        batch = await batches.find(self._state.redis, self._ref)
        if batch is None:
            raise errors.unknown_batch()
        return batch

    async def _lines(self, items: list[ResultItem]) -> AsyncGenerator[bytes, None]:
        """Yield the items' lines, as many at a time as are made in one slice."""
        state = self._wanted.state
        wanted = iter([each for each in items if state is None or each.result.state == state])
        while lines := await self._slice(wanted):
            yield lines
        yield b""

    async def _slice(self, wanted: Iterator[ResultItem]) -> bytes:
        if self._is_shutting_down:
            raise UnavailableError("The server shuts down.")
        if self._is_ended:
            raise UnavailableError("Another account needs the place of this download.")
        async with self._state.large_pages.turn:
            lines: list[bytes] = []
            ends = self._loop.time() + _SLICE_SECONDS
            for item in wanted:
                lines.append(self._make_line(item.result, item.seq, item.copy_of))
                if self._loop.time() >= ends:
                    break
            await self._give_way()
        return b"".join(lines)

    async def _give_way(self) -> None:
        """Let other requests run until none is ready; pause a moment if one was."""
        for turn in range(_BUSY_TURNS_MAX):
            began = self._loop.time()
            await asyncio.sleep(0)  # noqa: TID251  a turn of the loop
            if self._loop.time() - began < _IDLE_TURN_SECONDS:
                if turn:
                    await asyncio.sleep(_PAUSE_SECONDS)  # noqa: TID251  a turn of the loop
                return


def _ended(found: ChunkResults, *, is_partial: bool) -> Iterator[ResultItem]:
    for index, result in enumerate(found.results, found.first):
        if result is not None:
            yield ResultItem(index, result)
        elif not is_partial:
            return


def _seq(item: ResultItem) -> int:
    return item.seq or 0


def _compressed(compressor: "zlib._Compress", lines: bytes) -> bytes:
    """Compress lines so that a client can unpack them before the next come."""
    return compressor.compress(lines) + compressor.flush(zlib.Z_SYNC_FLUSH) if lines else b""
