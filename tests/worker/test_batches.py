"""Batches in real workers: they feed the queue, pack what has ended, and look after the rest."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import pytest

from shared.redis import functions, keys
from shared.redis.functions import GrantAsk, RetryBatchAsk, StopBatchAsk
from shared.wire.batch import BatchItem, ItemResult, unpack_results
from shared.wire.message import decode_assistant
from tests.support import stored_batches
from tests.support.chat_completions import Request, ScriptedAnswer
from tests.support.scripted_provider import ScriptedProvider
from tests.support.stored_batches import in_chunks, items
from tests.support.system import System
from tests.support.waiting import until
from tests.worker.front import GRANT, Front
from tests.worker.running_workers import running_worker
from worker.chores import batches as chore
from worker.consumer import arq_worker

_ACCOUNT = "mill"


class Rig:
    """Batches of one account in a deployment."""

    def __init__(self, system: System, front: Front) -> None:
        self.redis = system.redis
        self.root = front.root_of(_ACCOUNT)

    async def store(self, chunks: Sequence[Sequence[BatchItem]]) -> str:
        await functions.grant(self.redis, self.root, GrantAsk(account=_ACCOUNT, amount=GRANT))
        return await stored_batches.store(self.redis, self.root, chunks, account=_ACCOUNT)

    async def record(self, batch: str) -> dict[str, str]:
        stored = await self.redis.call("HGETALL", keys.BATCH(self.root, _ACCOUNT, batch))
        return {name.decode(): value.decode() for name, value in stored.items()}

    def has(self, batch: str, state: str) -> Callable[[], Awaitable[bool]]:
        async def has_state() -> bool:
            return (await self.record(batch))["state"] == state

        return has_state

    def is_packed(self, batch: str, chunks: int) -> Callable[[], Awaitable[bool]]:
        async def are_packed() -> bool:
            waiting = [keys.BATCH_ITEMS(self.root, _ACCOUNT, batch, each) for each in range(chunks)]
            return not await self.redis.call("EXISTS", *waiting)

        return are_packed

    async def results(self, batch: str, chunks: int) -> list[ItemResult | None]:
        names = [keys.BATCH_RESULTS(self.root, _ACCOUNT, batch, each) for each in range(chunks)]
        return [one for stored in [await self.redis.call("GET", name) for name in names]
                for one in unpack_results(stored)]  # fmt: skip


async def test_a_batch_runs_in_workers_until_all_is_packed(
    system: System, front: Front, provider: ScriptedProvider
) -> None:
    provider.answer = lambda request: ScriptedAnswer(text=f"Re: {request.last}")
    rig = Rig(system, front)
    batch = await rig.store(in_chunks(items(200, hold=100_000), 40))
    async with running_worker(system) as worker:
        await worker.ctx["dependencies"].batch_work.feeder.feed(rig.root, _ACCOUNT)
        await until(rig.has(batch, "completed"), 20)
        await until(rig.is_packed(batch, 5))
    record = await rig.record(batch)
    assert [record[name] for name in ("completed", "open", "seq", "unbooked")] == [
        "200", "0", "200", "0",
    ]  # fmt: skip
    found = await rig.results(batch, 5)
    assert [one and decode_assistant(one.answer).content for one in found] == [
        f"Re: prompt {line}" for line in range(1, 201)
    ]
    assert sum(one.captured for one in found if one) == int(record["used"]) > 0
    left: list[bytes] = await rig.redis.call("KEYS", f"{rig.root}*{batch}-*")
    assert left == []


async def test_the_chore_begins_a_batch_that_nobody_feeds(
    system: System, front: Front, provider: ScriptedProvider
) -> None:
    provider.answer = lambda _: ScriptedAnswer(text="Yes")
    rig = Rig(system, front)
    batch = await rig.store([items(3)])
    async with running_worker(system) as worker:
        work = worker.ctx["dependencies"].batch_work
        now_ms = 10 * int((await rig.redis.call("TIME"))[0]) * 1000
        assert await chore.look_after(rig.redis, system.settings.redis, work, now_ms) == 1
        await until(rig.has(batch, "completed"))
        await until(rig.is_packed(batch, 1))


async def test_an_idle_worker_begins_a_batch_that_nobody_feeds(
    system: System, front: Front, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arq_worker, "_BATCHES_SECONDS", 0.02)
    provider.answer = lambda _: ScriptedAnswer(text="Yes")
    rig = Rig(system, front)
    batch = await rig.store([items(3)])
    await rig.redis.call("ZADD", keys.BATCH_WORK(rig.root), 0, f"{_ACCOUNT}:{batch}")
    async with running_worker(system):
        await until(rig.has(batch, "completed"))


async def test_a_stop_ends_running_items_and_names_what_never_ran(
    system: System, front: Front, provider: ScriptedProvider
) -> None:
    gate = asyncio.Event()
    provider.answer = lambda _: ScriptedAnswer(text="Never", gate=gate)
    rig = Rig(system, front)
    batch = await rig.store(in_chunks(items(400), 50))
    async with running_worker(system) as worker:
        work = worker.ctx["dependencies"].batch_work
        await work.feeder.feed(rig.root, _ACCOUNT)
        await until(lambda: len(provider.requests) > 0)
        ask = StopBatchAsk(account=_ACCOUNT, batch=batch, stop="cancelled")
        stopped = await functions.stop_batch(rig.redis, rig.root, ask)
        assert stopped is not None
        assert stopped.is_stopping
        await work.advance(rig.root, _ACCOUNT, batch)
        await until(rig.has(batch, "cancelled"))
        await work.advance(rig.root, _ACCOUNT, batch)
        await until(rig.is_packed(batch, 8))
    gate.set()
    found = await rig.results(batch, 8)
    assert [(one.custom_id, one.state) for one in found if one] == [
        (f"c{line}", "cancelled") for line in range(1, 401)
    ]
    assert (await rig.record(batch))["cancelled"] == "400"


async def test_failures_run_again(system: System, front: Front, provider: ScriptedProvider) -> None:
    is_down = True

    def answer(request: Request) -> ScriptedAnswer:
        return ScriptedAnswer(status=400) if is_down and "7" in request.last else ScriptedAnswer()

    provider.answer = answer
    rig = Rig(system, front)
    given = {"metadata": {"team": "b"}, "project": "p-1"}
    asked = [msgspec.structs.replace(each, **given) for each in items(20)]
    batch = await rig.store(in_chunks(asked, 6))
    async with running_worker(system) as worker:
        work = worker.ctx["dependencies"].batch_work
        await work.feeder.feed(rig.root, _ACCOUNT)
        await until(rig.has(batch, "completed"))
        await until(rig.is_packed(batch, 4))
        assert (await rig.record(batch))["failed"] == "2"
        is_down = False
        ask = RetryBatchAsk(account=_ACCOUNT, batch=batch, open_max=9)
        assert await functions.retry_batch(rig.redis, rig.root, ask) == "running"
        await work.advance(rig.root, _ACCOUNT, batch)
        await until(rig.has(batch, "completed"))

        async def are_all_packed() -> bool:
            return not await rig.redis.call("EXISTS", keys.BATCH_CHUNKS_TO_PACK(rig.root))

        await until(are_all_packed)
    assert (await rig.record(batch))["completed"] == "20"
    results = [one for one in await rig.results(batch, 4) if one]
    assert [one.state for one in results] == ["completed"] * 20
    assert {(one.project, str(one.metadata)) for one in results} == {("p-1", "{'team': 'b'}")}
