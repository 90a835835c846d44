"""Random calls of the functions of batches on a real server, and what must hold after each.

Batches are stored, fed, claimed, answered, failed, cancelled, crashed, paused, stopped, run again,
packed and deleted in any order, calls are repeated as after a lost reply, and feeders and packers
work with what they read earlier. After every step the counts, the window, the order, the bytes and
the credits add up (`redis_invariants`). At the end of a walk all is brought to an end: each item
has one result, that of its last run, and what it cost is in the ledger once.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any, Final, Literal, TypeVar, cast

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from typing_extensions import override

from api.resources import batch_results
from api.resources.batch_results import ResultsWanted
from shared import ids
from shared.batches.feed import BatchFeeder
from shared.clock import SystemClock
from shared.errors import Failure
from shared.redis import functions, keys, library
from shared.redis.client import Redis
from shared.redis.functions import Claimed, EndedChunk, Enqueued
from shared.settings import RedisSettings, Settings
from shared.stores import batches
from shared.stores.batches import BatchRef, BatchResults
from shared.tiers import LimitSettings
from shared.wire.batch import ItemResult, unpack_results
from shared.wire.batch_copies import Copy
from shared.wire.message import decode_assistant
from tests.support import redis_invariants, stored_batches
from tests.support.redis_functions import CHANNELS, KEEP, RedisFunctions, Ticket
from tests.support.redis_server import Server
from tests.support.stored_batches import in_chunks, item
from worker.batches import packer
from worker.batches.work import BatchWork
from worker.chores import batches as chore

T = TypeVar("T")
_ANN: Final = "ann"
_ENDED: Final = {"completed", "failed", "cancelled", "expired"}
_DOWN: Final = Failure(
    message="The provider is down.", category="provider_error", code="UPSTREAM_500", retryable=True
)
_WINDOW: Final = 6
_PLENTY: Final = 1_000_000
_HOUR_MS: Final = 3_600_000
# Everything that is not kept for days is due.
_SOON_MS: Final = 60_000


class BatchWalk(RuleBasedStateMachine):
    """One walk, under a prefix of its own; `operations` counts those of all walks of a class."""

    server: Server
    redis_settings: RedisSettings
    operations = 0

    def __init__(self) -> None:
        super().__init__()
        prefix = f"b{ids.new_id()}"
        self.settings = Settings(
            redis=msgspec.structs.replace(self.redis_settings, prefix=prefix),
            limits=LimitSettings(
                free=msgspec.structs.replace(LimitSettings().free, unfinished_max=2 * _WINDOW)
            ),
        )
        self.loop = asyncio.new_event_loop()
        self.redis = Redis(self.settings.redis)
        self.queue = RedisFunctions(
            self.redis, self.settings.redis, self.settings.redis.partitions - 1
        )
        self.root = self.queue.root
        self.raw_client = self.server.raw_client()
        self.batches: dict[str, list[bool]] = {}
        self.copies: dict[str, list[int]] = {}
        self.claims: list[Claimed] = []
        self.answers: dict[str, str] = {}
        self.costs = 0
        self.granted = 0
        self.made = 0
        self.stale: list[tuple[functions.EnqueueItemsAsk, bytes]] = []
        self.read: list[tuple[functions.PackChunkAsk, bytes]] = []
        # What a client that reads in the order of finishing has: up to where, and by line.
        self.cursors: Counter[str] = Counter()
        self.delivered: defaultdict[str, dict[int, ItemResult]] = defaultdict(dict)
        self.run(library.load(self.redis))

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(call)

    def act(self, call: Coroutine[Any, Any, T]) -> T:
        """Carry out an operation and count it."""
        type(self).operations += 1
        return self.run(call)

    def feeder(self) -> BatchFeeder:
        return BatchFeeder(self.redis, self.settings, SystemClock())

    @initialize(credit=st.integers(0, 400))
    def create_account(self, credit: int) -> None:
        self.grant(credit + 1)
        self.store([True, True, False, True, True], 2, None, [0, 3, 3])

    @rule(amount=st.integers(1, 200))
    def grant(self, amount: int) -> None:
        self.act(self.queue.grant(amount, _ANN))
        self.granted += amount

    @precondition(lambda self: len(self.batches) < 4)
    @rule(
        lines=st.lists(st.sampled_from([True, True, True, False]), max_size=9),
        size=st.integers(1, 4),
        max_credits=st.sampled_from([None, None, 35]),
        copied=st.lists(st.integers(0, 8), max_size=4),
    )
    def store(
        self, lines: list[bool], size: int, max_credits: int | None, copied: list[int]
    ) -> None:
        self.made += 1
        stored = [
            item(line, hold=10, fault="" if is_right else "no")
            for line, is_right in enumerate(lines, 1)
        ]
        originals = [index for index in copied if index < len(lines) and lines[index]]
        copies = [
            Copy(f"copy-{number}", len(lines) + number, index)
            for number, index in enumerate(originals, 1)
        ]
        batch = self.act(
            stored_batches.store(
                self.redis,
                self.root,
                in_chunks(stored, size),
                max_credits=max_credits,
                id_=f"{self.made:023}",
                copies=copies,
            )
        )
        self.copies[batch] = originals
        self.batches[batch] = lines

    @rule()
    def feed(self) -> None:
        self.act(self.feeder().feed(self.root, _ANN))

    @rule(count=st.integers(1, 3), is_kept=st.booleans())
    def enqueue(self, count: int, *, is_kept: bool) -> None:
        """Enqueue some items, or read them only and enqueue them later."""
        found = self.run(self._read_plan(count))
        if found is None:
            return
        if is_kept:
            self.stale.append(found)
            return
        first = self.act(functions.enqueue_items(self.redis, self.root, *found))
        again = self.act(functions.enqueue_items(self.redis, self.root, *found))
        # An empty chunk of a retry, or the end of a batch of nothing, moves as far as it did.
        assert (
            not isinstance(again, Enqueued)
            or first == again
            or again.count == 0
            or (isinstance(first, Enqueued) and first.position == found[0].position)
        )

    async def _read_plan(self, count: int) -> tuple[functions.EnqueueItemsAsk, bytes] | None:
        ask = functions.PlanFeedAsk(account=_ANN)
        plan = await functions.plan_feed(self.redis, self.root, ask)
        if not isinstance(plan, functions.FeedPlan):
            return None
        feeder = self.feeder()
        waiting = await feeder._entries(_ANN, plan)
        terms = await feeder._terms(self.root, _ANN, plan)
        taken = waiting[:count]
        is_last = len(taken) == len(waiting)
        enqueue = msgspec.structs.replace(
            terms,
            next=plan.end if is_last else waiting[count].entry.index,
            entries=[each.entry for each in taken],
        )
        return enqueue, b"".join(each.submission for each in taken)

    @precondition(lambda self: self.stale)
    @rule(data=st.data())
    def enqueue_what_was_read_earlier(self, data: st.DataObject) -> None:
        found = data.draw(st.sampled_from(self.stale))
        self.act(functions.enqueue_items(self.redis, self.root, *found))

    @rule(count=st.integers(1, 4))
    def claim(self, count: int) -> None:
        self.claims += self.act(self.queue.claim(count))

    @precondition(lambda self: self.claims)
    @rule(
        data=st.data(), is_success=st.booleans(), cost=st.integers(0, 14), is_repeat=st.booleans()
    )
    def settle(self, data: st.DataObject, *, is_success: bool, cost: int, is_repeat: bool) -> None:
        claimed = data.draw(st.sampled_from(self.claims))
        self.claims.remove(claimed)
        for _ in range(1 + is_repeat):
            self._settle(claimed, cost, is_success=is_success)

    def _settle(self, claimed: Claimed, cost: int, *, is_success: bool) -> None:
        first = 1 if claimed.attempt == 1 else 2
        if not is_success:
            self.act(self.queue.fail(claimed, _DOWN))
            return
        text = f"{claimed.id} {claimed.attempt}"
        was_known = claimed.id in self.answers
        self.act(self.queue.append(claimed, first, text))
        settled = self.act(self.queue.settle(claimed, seq=first + 1, cost=cost, text=text))
        if settled is not None and not was_known:
            self.answers[claimed.id] = text
            self.costs += settled.captured

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        claimed = data.draw(st.sampled_from(self.claims))
        self.claims.remove(claimed)
        self.act(self.queue.release(claimed))

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        """A worker dies; the attempt's writes that come later are refused."""
        claimed = data.draw(st.sampled_from(self.claims))
        self._move_to_past(keys.LEASES, claimed.id)
        self.act(self.queue.reap(crashes_max=2))

    @precondition(lambda self: self.batches)
    @rule(data=st.data(), index=st.integers(0, 8))
    def cancel_item(self, data: st.DataObject, index: int) -> None:
        batch = data.draw(st.sampled_from(sorted(self.batches)))
        id_ = f"{batch}-{index}"
        self.act(self.queue.cancel(Ticket(_ANN, id_, id_)))

    @precondition(lambda self: self.batches)
    @rule(data=st.data(), index=st.integers(0, 8))
    def expire_item(self, data: st.DataObject, index: int) -> None:
        batch = data.draw(st.sampled_from(sorted(self.batches)))
        self._move_to_past(keys.DEADLINES, f"{batch}-{index}")
        self.act(self.queue.reap(crashes_max=2))

    @precondition(lambda self: self.batches)
    @rule(
        data=st.data(),
        act=st.sampled_from(["pause", "resume", "retry", "adopt", "cancel", "end"]),
    )
    def change(
        self,
        data: st.DataObject,
        act: Literal["pause", "resume", "retry", "adopt", "cancel", "end"],
    ) -> None:
        self._change(data.draw(st.sampled_from(sorted(self.batches))), act)

    def _change(self, batch: str, act: str) -> None:
        redis, root = self.redis, self.root
        if act == "pause":
            self.act(
                functions.pause_batch(
                    redis, root, functions.PauseBatchAsk(account=_ANN, batch=batch)
                )
            )
        elif act == "resume":
            ask = functions.ResumeBatchAsk(account=_ANN, batch=batch, max_credits=_PLENTY)
            self.act(functions.resume_batch(redis, root, ask))
        elif act == "retry":
            retry = functions.RetryBatchAsk(account=_ANN, batch=batch, open_max=9)
            self.act(functions.retry_batch(redis, root, retry))
        elif act == "adopt":
            adopt = functions.AdoptItemsAsk(account=_ANN, batch=batch, cursor="0")
            self.act(functions.adopt_items(redis, root, adopt))
        elif act == "cancel":
            stop = functions.StopBatchAsk(account=_ANN, batch=batch, stop="cancelled")
            self.act(functions.stop_batch(redis, root, stop))
        else:
            end = functions.EndOpenItemsAsk(
                account=_ANN, batch=batch, cursor="0", keep=KEEP, channels=CHANNELS
            )
            self.act(functions.end_open_items(redis, root, end))

    @rule()
    def feed_without_memory(self) -> None:
        """Redis is short of memory for batches: they pause, until the next feeder finds memory."""
        found = self.run(self._read_plan(3))
        if found is not None:
            ask = msgspec.structs.replace(found[0], is_memory_short=True)
            self.act(functions.enqueue_items(self.redis, self.root, ask, found[1]))

    @precondition(lambda self: self.batches)
    @rule(data=st.data())
    def limit(self, data: st.DataObject) -> None:
        """A batch may spend no more than it has, and goes on until it finds that."""
        batch = data.draw(st.sampled_from(sorted(self.batches)))
        ask = functions.ResumeBatchAsk(account=_ANN, batch=batch, max_credits=1)
        self.act(functions.resume_batch(self.redis, self.root, ask))

    @precondition(lambda self: self.batches)
    @rule(data=st.data())
    def pass_deadline(self, data: st.DataObject) -> None:
        """A batch's time is over: the chore stops it, and its items with it."""
        batch = data.draw(st.sampled_from(sorted(self.batches)))
        name = keys.BATCH(self.root, _ANN, batch)
        state = self.run(self.redis.call("HGET", name, "state"))
        if state.decode() in _ENDED:
            return
        self.run(self.redis.call("HSET", name, "deadline", 1))
        stop = functions.StopBatchAsk(account=_ANN, batch=batch, stop="expired")
        self.act(functions.stop_batch(self.redis, self.root, stop))

    @rule()
    def look_after(self) -> None:
        """The chore does all that is due, whatever else is under way."""
        work = BatchWork(self.redis, self.settings, SystemClock())
        soon = SystemClock().now_ms() + _SOON_MS
        self.act(chore.look_after(self.redis, self.settings.redis, work, soon))

    @rule(ms=st.sampled_from([-_HOUR_MS, _HOUR_MS]))
    def step_clock(self, ms: int) -> None:
        """The clock is set forward, or back: all times stored before are that much ahead."""
        for key in (keys.BATCH_WORK, keys.BATCH_CHUNKS_TO_PACK, keys.LEASES, keys.DEFERRED):
            name = key(self.root)
            for member in self.run(self.redis.call("ZRANGE", name, 0, -1)):
                self.run(self.redis.call("ZINCRBY", name, ms, member))
        totals = keys.ACCOUNT_TOTALS(self.root, _ANN)
        if self.run(self.redis.call("HEXISTS", totals, "batch_feeding")):
            self.run(self.redis.call("HINCRBY", totals, "batch_feeding", ms))
        self.run(self.redis.call("HINCRBY", keys.CLOCKS(self.root), "reaped", ms))
        self.act(self.queue.reap(crashes_max=2, gap_ms=1_000))

    @precondition(lambda self: self.batches)
    @rule(data=st.data())
    def read_in_order_of_finishing(self, data: st.DataObject) -> None:
        """A client reads on from the last end that it has."""
        batch = data.draw(st.sampled_from(sorted(self.batches)))
        self.act(self._read_on(batch))

    async def _read_on(self, batch: str) -> None:
        ref = BatchRef(self.root, _ANN, batch)
        found = await batches.find(self.redis, ref)
        assert found is not None
        wanted = ResultsWanted("finished", self.cursors[batch], False, None, False)
        state = SimpleNamespace(redis=self.redis, batch_results=BatchResults(self.redis))
        context = cast("Any", SimpleNamespace(state=state))
        download = batch_results._Download(context, ref, wanted, lambda *_: b"")
        async for ended in download._items_by_finishing(found, self.cursors[batch]):
            for one in ended:
                assert one.seq is not None
                assert one.seq > self.cursors[batch]
                self.cursors[batch] = one.seq
                self.delivered[batch][one.result.line] = one.result

    @rule(is_kept=st.booleans(), is_repeat=st.booleans())
    def pack(self, *, is_kept: bool, is_repeat: bool) -> None:
        """Pack chunks whose items have ended, or only read them and pack them later."""
        ask = functions.TakeEndedChunksAsk(count=2, lease_ms=0)
        chunks = self.act(functions.take_ended_chunks(self.redis, self.root, ask))
        chunks += self.run(self._unfed())
        for chunk in chunks:
            found = self.run(self._read_chunk(chunk))
            if found is not None and is_kept:
                self.read.append(found)
            elif found is not None:
                for _ in range(1 + is_repeat):
                    self.act(functions.pack_chunk(self.redis, self.root, *found))

    @precondition(lambda self: self.read)
    @rule(data=st.data())
    def pack_what_was_read_earlier(self, data: st.DataObject) -> None:
        found = data.draw(st.sampled_from(self.read))
        self.act(functions.pack_chunk(self.redis, self.root, *found))

    async def _unfed(self) -> list[EndedChunk]:
        found = []
        for batch in self.batches:
            unfed = await self.redis.call("HGET", keys.BATCH(self.root, _ANN, batch), "unfed")
            if unfed is not None:
                found.append(EndedChunk(_ANN, batch, int(unfed)))
        return found

    async def _read_chunk(self, chunk: EndedChunk) -> tuple[functions.PackChunkAsk, bytes] | None:
        stored = await packer._read(self.redis, self.root, chunk)
        if stored is None:
            return None
        ask = functions.PackChunkAsk(
            account=chunk.account,
            batch=chunk.batch,
            chunk=chunk.chunk,
            seqs=[(each.index, each.seq) for each in stored.ended],
        )
        return ask, packer._pack(chunk, stored)

    @precondition(lambda self: self.batches)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        batch = data.draw(st.sampled_from(sorted(self.batches)))
        ask = functions.DeleteBatchAsk(account=_ANN, batch=batch)
        if self.act(functions.delete_batch(self.redis, self.root, ask)) == "deleting":
            self._delete_pieces(batch)
            self._forget(batch)

    def _forget(self, batch: str) -> None:
        for known in (self.batches, self.cursors, self.delivered):
            known.pop(batch, None)

    def _delete_pieces(self, batch: str) -> None:
        ask = functions.DeleteBatchPiecesAsk(account=_ANN, batch=batch)
        while self.act(functions.delete_batch_pieces(self.redis, self.root, ask)):
            pass

    def _move_to_past(self, family: keys.Key, id_: str) -> None:
        self.run(self.redis.call("ZADD", family(self.root), "XX", 1, f"{_ANN}:{id_}"))

    @invariant()
    def all_adds_up(self) -> None:
        # Many worker deaths in a row would begin a storm, in which none counts.
        self.run(self.redis.call("HDEL", keys.CLOCKS(self.root), "storm"))
        assert redis_invariants.faults(self.raw_client, self.settings.redis) == []
        totals = self.run(self.queue.credit_totals(_ANN))
        assert (totals.granted, totals.settled) == (self.granted, self.costs)

    @override
    def teardown(self) -> None:
        try:
            self._bring_to_an_end()
        finally:
            with self.raw_client as raw_client:
                redis_invariants.sweep(raw_client, self.settings.redis)
            self.run(self.redis.close())
            self.loop.close()

    def _bring_to_an_end(self) -> None:
        self.grant(_PLENTY)
        for batch in self.batches:
            self._change(batch, "resume")
        for _ in range(200):
            self.feed()
            self._move_suspects()
            self.claim(4)
            for claimed in self.claims:
                self._settle(claimed, 5, is_success=True)
            self.claims.clear()
            for batch in self.batches:
                self._change(batch, "end")
            self.pack(is_kept=False, is_repeat=True)
            if self.run(self._is_over()):
                break
        self.all_adds_up()
        for batch, lines in self.batches.items():
            self.run(self._check_results(batch, lines))
        left: list[bytes] = self.run(self.redis.call("KEYS", keys.GENERATION(self.root, _ANN, "*")))
        assert left == []

    def _move_suspects(self) -> None:
        self.act(self.queue.reap(crashes_max=2))

    async def _is_over(self) -> bool:
        for batch in self.batches:
            state, unfed = await self.redis.call(
                "HMGET", keys.BATCH(self.root, _ANN, batch), "state", "unfed"
            )
            if state.decode() not in _ENDED or unfed is not None:
                return False
        return not await self.redis.call("EXISTS", keys.BATCH_CHUNKS_TO_PACK(self.root))

    async def _check_results(self, batch: str, lines: list[bool]) -> None:
        record: dict[bytes, bytes] = await self.redis.call(
            "HGETALL", keys.BATCH(self.root, _ANN, batch)
        )
        assert int(record.get(b"unbooked", b"0")) == 0
        found: list[ItemResult | None] = []
        for chunk in range(int(record[b"chunks"])):
            stored = await self.redis.call("GET", keys.BATCH_RESULTS(self.root, _ANN, batch, chunk))
            assert stored is not None, f"chunk {chunk} of {record}"
            found += unpack_results(stored)
        assert [one and one.line for one in found] == list(range(1, len(lines) + 1))
        states = Counter(one.state for one in found if one)
        assert states == {
            state: int(record.get(state.encode(), b"0"))
            for state in _ENDED
            if int(record.get(state.encode(), b"0"))
        }, record
        shown = await batches.find(self.redis, batches.BatchRef(self.root, _ANN, batch))
        assert shown is not None
        counts = shown.counts_with_copies()._asdict()
        copied = Counter(one.state for index in self.copies[batch] if (one := found[index]))
        assert {state: counts[state] for state in _ENDED} == dict.fromkeys(_ENDED, 0) | dict(
            states + copied
        ), record
        await self._read_on(batch)
        # Whenever the client read, it has each item's last end.
        assert {line: one.seq for line, one in self.delivered[batch].items()} == {
            one.line: one.seq for one in found if one
        }
        for one, is_right in zip(found, lines, strict=True):
            assert one is not None
            if one.state == "completed":
                text = decode_assistant(one.answer).content
                assert self.answers[text.split(" ")[0]] == text
            assert is_right or one.state in {"failed", "cancelled", "expired"}
