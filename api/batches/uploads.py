"""One upload from its first byte to its receipt.

DESIGN. All work is cut into slices (`time_slices`), whatever a body consists of. Long lines are
made into items one at a time, since what they are decoded to is many times as large. Lines are
stored as they come: the options of their batch are known before the first. A JSON document is read
whole before anything is stored, since its options may stand behind its items; its items wait in a
file. Whatever ends an upload before its body does, what it has stored is deleted.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from api.accept import rejections
from api.accept.accept import Submissions, note_replayed
from api.batches.body_stream import BodyStream
from api.batches.chunks import UPLOAD_MS, ChunkWriter, Store
from api.batches.copies import Copies
from api.batches.item_maker import ItemMaker, LineReader
from api.batches.item_names import ItemNames
from api.batches.json_items import JsonItems
from api.batches.lines import LineCutter, NumberedLine
from api.batches.terms import BatchReceipt, BatchTerms, quota_exceeded
from api.batches.time_slices import TimeSlices
from api.batches.upload_places import UploadPlaces
from api.guards.identify import Caller
from api.live_fleet import LiveFleet
from api.wire.fields import InvalidItem
from shared import ids
from shared.errors import Code, PolluxError, RefusedError, RequestError, UnavailableError
from shared.redis import functions
from shared.redis.functions import (
    BatchBegun,
    BatchKnown,
    BeginBatchAsk,
    Rate,
    Rejected,
    UploadUnderWay,
)
from shared.settings import Settings
from shared.telemetry import logs
from shared.tiers import Tier

_UNDER_WAY_SECONDS_MAX: Final = 10
# A longer line is made into an item in another thread: one full of escapes takes a millisecond.
_LONG_LINE_BYTES: Final = 16_384
# What is stored of a body that is not compressed, at least: texts shrink to a third.
_STORED_SHARE: Final = 3
# Blank lines count too: a body may have so many lines for each item that its batch may have.
_LINES_PER_ITEM: Final = 2


class UploadHead(NamedTuple):
    """What is known of an upload before its body: the hash of its Idempotency-Key, its length.

    `stored_bytes` is what the body will take at least; 0 where that is unknown.
    """

    caller: Caller
    request_id: str
    idempotency: str | None
    stored_bytes: int


def stored_bytes(content_length: int, *, is_gzip: bool) -> int:
    """Return what a body of so many bytes takes at least when it is stored."""
    return content_length if is_gzip else content_length // _STORED_SHARE


class Opened(NamedTuple):
    """A batch whose items may now come: its terms, how to read a line, and the account's rate."""

    terms: BatchTerms
    reader: LineReader
    writer: ChunkWriter
    rate: Rate | None


@dataclass
class Uploads:
    """The uploads of this process."""

    settings: Settings
    store: Store
    submissions: Submissions
    live_fleet: LiveFleet
    _places: UploadPlaces = field(init=False)
    _long_lines: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    def __post_init__(self) -> None:
        """Have no upload yet."""
        self._places = UploadPlaces(self.settings, self.store.clock)

    async def receive_lines(
        self, head: UploadHead, body: BodyStream, terms: BatchTerms, reader: LineReader
    ) -> BatchReceipt:
        """Store a batch whose items are the lines of a body.

        Raises:
            RequestError: INVALID_FIELDS, MISSING_FIELDS, PAYLOAD_TOO_LARGE, REQUEST_TIMEOUT,
                IDEMPOTENCY_MISMATCH.
            RefusedError: RATE_LIMITED, QUOTA_EXCEEDED, QUEUE_FULL, UPLOAD_UNDER_WAY, UNAVAILABLE.
            UnavailableError: Redis is away, or the disk is full; it may be sent again.

        """
        with self._places.hold(head.caller.account, body), _in_files():
            await body.load_short()
            known, opened = await self._begin(head, terms, reader)
            if opened is None:
                async for _ in body.blocks():
                    pass
                return _replay(head, known, body.fingerprint)
            lines_max = _LINES_PER_ITEM * self._tier(head).batch_items_max
            return await self._store(head, opened, body, self._lines(body, lines_max))

    async def receive_document(
        self,
        head: UploadHead,
        body: BodyStream,
        read_terms: Callable[[bytes], tuple[BatchTerms, LineReader]],
    ) -> BatchReceipt:
        """Store a batch whose items stand in a JSON document. Raises as `receive_lines`."""
        items_max = self._tier(head).batch_items_max
        with (
            self._places.hold(head.caller.account, body),
            _in_files(),
            contextlib.closing(JsonItems(self._line_bytes_max, items_max)) as found,
        ):
            async for block in body.blocks():
                for first in range(0, len(block), _SCAN_BYTES):
                    found.feed(block[first : first + _SCAN_BYTES])
                    await body.slices.give_way()
            terms, reader = await self._read_terms(read_terms, found.finish())
            known, opened = await self._begin(head, terms, reader)
            if opened is None:
                return _replay(head, known, body.fingerprint)
            return await self._store(head, opened, body, _once(found.items()))

    @property
    def _line_bytes_max(self) -> int:
        return self.settings.api.body_bytes_max

    def _tier(self, head: UploadHead) -> Tier:
        return self.settings.limits.of(head.caller.account.tier)

    async def _read_terms(
        self, read_terms: Callable[[bytes], tuple[BatchTerms, LineReader]], rest: bytes
    ) -> tuple[BatchTerms, LineReader]:
        if len(rest) <= _LONG_LINE_BYTES:
            return read_terms(rest)
        async with self._long_lines:
            return await asyncio.to_thread(read_terms, rest)

    async def _begin(
        self, head: UploadHead, terms: BatchTerms, reader: LineReader
    ) -> tuple[BatchKnown | None, Opened | None]:
        """Begin a batch, or find the one that the Idempotency-Key stands for."""
        caller, tier = head.caller, self._tier(head)
        await self.store.rejections.check_batch_memory(caller, head.stored_bytes)
        ask = BeginBatchAsk(
            account=caller.account.id,
            batch=ids.new_id(),
            key=caller.key.id,
            per_minute=tier.submissions_per_minute,
            open_max=tier.open_batches_max,
            stored_bytes_max=tier.stored_bytes_max,
            upload_ms=UPLOAD_MS,
            bytes_min=head.stored_bytes,
            idempotency=head.idempotency,
            metadata=terms.metadata,
            max_credits=terms.max_credits,
            dedupe=terms.is_deduplicated,
            webhook=terms.webhook,
        )
        begun = await functions.begin_batch(self.store.redis, caller.root, ask)
        match begun:
            case BatchBegun(rate):
                writer = ChunkWriter(self.store, caller, ask.batch, tier)
                return None, Opened(terms, reader, writer, rate)
            case BatchKnown():
                return begun, None
            case _:
                raise self._refusal(caller, ask, begun)

    def _refusal(
        self, caller: Caller, ask: BeginBatchAsk, refused: UploadUnderWay | Rejected
    ) -> RequestError | RefusedError:
        if isinstance(refused, UploadUnderWay):
            seconds = max(1, min(_UNDER_WAY_SECONDS_MAX, -(-refused.retry_ms // 1000)))
            return RefusedError(
                "Another upload with this Idempotency-Key is under way.",
                Code.UPLOAD_UNDER_WAY,
                retry_after_seconds=seconds,
            )
        if refused.reason == "mismatch":
            return rejections.idempotency_mismatch()
        if refused.reason == "limited":
            return self.store.rejections.rate_limited(caller.account.id, refused.rate)
        limit = ask.open_max if refused.about == "open_batches" else ask.stored_bytes_max
        return quota_exceeded(refused.about, refused.used, limit, refused.rate)

    async def _lines(
        self, body: BodyStream, lines_max: int
    ) -> AsyncGenerator[Iterable[NumberedLine], None]:
        cutter = LineCutter(self._line_bytes_max)
        async for block in body.blocks():
            yield cutter.cut(block)
            if cutter.number > lines_max:
                raise quota_exceeded("batch_lines", cutter.number, lines_max)
        yield cutter.finish()

    async def _store(
        self,
        head: UploadHead,
        opened: Opened,
        body: BodyStream,
        groups: AsyncGenerator[Iterable[NumberedLine], None],
    ) -> BatchReceipt:
        """Store the items; whatever prevents that, nothing of them is left."""
        writer, terms = opened.writer, opened.terms
        try:
            with contextlib.ExitStack() as files:
                names = files.enter_context(contextlib.closing(ItemNames()))
                copies = Copies() if terms.is_deduplicated else None
                if copies is not None:
                    files.callback(copies.close)
                maker = ItemMaker(self.submissions, opened.reader, names, head.request_id, copies)
                async with contextlib.aclosing(groups):
                    async for group in groups:
                        await self._add(group, maker, writer, terms, body.slices)
                _check_items(writer, terms)
                fingerprint = body.fingerprint if head.idempotency is not None else None
                await writer.finish(self._deadline_ms(terms), fingerprint, copies)
        except BaseException:
            await asyncio.shield(_abandon(writer))
            raise
        if head.caller.attempt is not None:
            head.caller.attempt.give_back()
        return BatchReceipt(
            batch=writer.batch,
            state="running",
            total=writer.total,
            invalid=writer.invalid,
            errors=tuple(writer.errors),
            rate=opened.rate,
            is_replayed=False,
        )

    async def _add(
        self,
        group: Iterable[NumberedLine],
        maker: ItemMaker,
        writer: ChunkWriter,
        terms: BatchTerms,
        slices: TimeSlices,
    ) -> None:
        """Make items of lines and store them, in slices."""
        maker.use(await self.live_fleet.current())
        for number, raw in group:
            if raw is not None and len(raw) > _LONG_LINE_BYTES:
                async with self._long_lines:
                    item = await asyncio.to_thread(maker.make, number, raw)
            else:
                item = maker.make(number, raw)
            if item.fault and terms.is_rejecting and not writer.invalid:
                await writer.drop()
            if writer.add(item):
                await writer.write()
                maker.use(await self.live_fleet.current())
            if slices.is_used_up:
                await slices.give_way()
        await writer.renew()

    def _deadline_ms(self, terms: BatchTerms) -> int:
        limits = self.settings.limits
        seconds = terms.deadline_seconds or limits.batch_deadline_seconds
        return int(min(seconds, limits.deadline_seconds_max) * 1000)


# What is scanned of a document in one step.
_SCAN_BYTES: Final = 1_024


@contextlib.contextmanager
def _in_files() -> Iterator[None]:
    """Refuse for now what the disk has no room for: names, and the items of a document."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        logs.logger().error("an upload cannot be kept in a temporary file", reason=str(error))
        raise UnavailableError("The server has no room for this upload.") from error


def _replay(head: UploadHead, known: BatchKnown | None, fingerprint: str) -> BatchReceipt:
    if known is None or known.fingerprint != fingerprint:
        raise rejections.idempotency_mismatch()
    if known.state is None:
        raise UnavailableError("The batch of this Idempotency-Key was just deleted.")
    note_replayed(head.caller)
    return BatchReceipt(
        batch=known.batch,
        state=known.state,
        total=known.total + known.copies,
        invalid=known.invalid,
        errors=msgspec.json.decode(known.errors or b"[]", type=tuple[InvalidItem, ...]),
        rate=None,
        is_replayed=True,
    )


async def _once(items: Iterable[NumberedLine]) -> AsyncGenerator[Iterable[NumberedLine], None]:
    yield items


async def _abandon(writer: ChunkWriter) -> None:
    """Delete what is stored; what cannot be deleted now is left to a chore."""
    try:
        await writer.drop()
    except PolluxError as error:
        logs.logger().warning("an upload could not be deleted", reason=error.message)


def _check_items(writer: ChunkWriter, terms: BatchTerms) -> None:
    """Raise RequestError for a batch without items, or where an invalid one refuses the whole."""
    if not writer.total:
        raise RequestError("The body has no items.", Code.MISSING_FIELDS)
    if terms.is_rejecting and writer.invalid:
        raise RequestError(
            f"{writer.invalid:,} of {writer.total:,} items are invalid, so nothing is stored.",
            Code.INVALID_FIELDS,
            details={"invalid": writer.invalid, "errors": writer.errors},
        )
