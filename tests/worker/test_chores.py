"""Chores: through arq's own queue, once a slot in the whole fleet, and nothing in pickle."""

import asyncio
import os
import pickletools
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from arq.connections import RedisSettings as ArqSettings
from arq.typing import WorkerCoroutine
from arq.worker import async_check_health, func
from typing_extensions import override

from shared import chore_queue
from shared.clock import SystemClock
from shared.media.files import MediaFiles
from shared.media.formats import PNG
from shared.redis import functions, keys, library
from shared.redis.client import Redis
from shared.redis.functions import (
    DeleteBatchAsk,
    DeleteBatchPiecesAsk,
    DeleteSessionAsk,
    StopBatchAsk,
)
from shared.settings import RedisSettings
from tests.support import stored_batches
from tests.support.proxy import Proxy
from tests.support.redis_functions import CHANNELS, KEEP, RedisFunctions
from tests.support.redis_server import RawClient, Server
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.system import System
from tests.support.waiting import until
from tests.worker.front import Front
from tests.worker.running_workers import running_worker, started
from worker.chores import forget, schedule, trim
from worker.consumer.arq_worker import PolluxWorker

_PNG = b"\x89PNG\r\n\x1a\n"
_STALE = "pollux_000000000000"
_DAY_MS = trim.UNUSED_MS


async def _load(redis: Redis, name: str) -> None:
    body = f"redis.register_function('{name}_f', function() return 1 end)"
    await redis.call("FUNCTION", "LOAD", "REPLACE", f"#!lua name={name}\n{body}")


async def _is_loaded(redis: Redis, name: str) -> bool:
    return bool(await redis.call("FUNCTION", "LIST", "LIBRARYNAME", name))


def _due_now(worker: PolluxWorker) -> None:
    """Let the worker's periodic chore be due, as its clock would."""
    for chore in worker.cron_jobs:
        chore.next_run = datetime.now(tz=UTC)


async def test_libraries_unused_for_a_day_are_forgotten_and_no_others(
    redis: Redis, redis_settings: RedisSettings
) -> None:
    used = keys.LIBRARIES(keys.system_root(redis_settings))
    now_ms = 10 * _DAY_MS
    fresh = "pollux_111111111111"
    for name, age_ms in ((_STALE, _DAY_MS + 1), (fresh, _DAY_MS - 1), ("pollux_gone", 2 * _DAY_MS)):
        await redis.call("ZADD", used, now_ms - age_ms, name)
    await _load(redis, _STALE)
    await _load(redis, fresh)
    assert sorted(await trim.trim(redis, redis_settings, now_ms)) == [_STALE, "pollux_gone"]
    assert not await _is_loaded(redis, _STALE)
    assert await _is_loaded(redis, fresh)
    assert await _is_loaded(redis, library.NAME)
    assert await redis.call("ZRANGE", used, 0, -1) == [fresh.encode(), library.NAME.encode()]
    assert await trim.trim(redis, redis_settings, now_ms) == []
    await redis.call("FUNCTION", "DELETE", fresh)


async def test_worker_marks_its_library_as_used_when_it_starts(
    system: System, front: Front
) -> None:
    async with running_worker(system):
        used = keys.LIBRARIES(keys.system_root(system.settings.redis))
        assert await front.redis.call("ZSCORE", used, library.NAME)


async def test_chore_runs_once_a_slot_in_the_whole_fleet(system: System, front: Front) -> None:
    root = keys.system_root(system.settings.redis)
    await front.redis.call("ZADD", keys.LIBRARIES(root), 1, _STALE)
    await _load(front.redis, _STALE)
    async with running_worker(system) as one, running_worker(system) as two:
        for worker in (one, two):
            _due_now(worker)

        async def is_gone() -> bool:
            return not await _is_loaded(front.redis, _STALE)

        await until(is_gone)
        await until(lambda: not one.tasks and not two.tasks)
    ran = [line for line in system.lines if line["event"] == "trimmed function libraries"]
    # The end of a slot may fall into the test: then there are two.
    slots = await front.redis.call("KEYS", keys.CHORE_SLOT(root, "trim", "*"))
    assert len(ran) == len(slots) <= 2
    assert sum(line["count"] for line in ran) == 1


async def test_files_of_a_deleted_session_go_also_those_that_come_late(
    redis: Redis, redis_settings: RedisSettings, tmp_path: Path
) -> None:
    files = MediaFiles(str(tmp_path))
    noted = keys.FILES_TO_DELETE(keys.partition_root(redis_settings, redis_settings.partitions - 1))
    for content in (_PNG, _PNG + b"2"):
        files.save("ann", "gone", content, PNG)
    kept = files.find(files.save("ann", "kept", _PNG, PNG))
    await redis.call("ZADD", noted, 1_000, "ann:gone")

    async def is_forgotten(now_ms: int) -> bool:
        assert await forget.forget(redis, redis_settings, files, now_ms) == 1
        return not (tmp_path / "ann" / "gone").exists()

    assert await is_forgotten(1_000)
    # An attempt that did not know was still writing.
    files.save("ann", "gone", _PNG, PNG)
    assert await is_forgotten(1_000 + forget.LATE_MS)
    assert await is_forgotten(1_001 + forget.LATE_MS)
    assert await forget.forget(redis, redis_settings, files, 10**9) == 0
    assert await redis.call("EXISTS", noted) == 0
    assert kept is not None
    assert kept[0].exists()


async def test_one_run_forgets_all_there_is_however_many_were_deleted(
    redis: Redis, redis_settings: RedisSettings, tmp_path: Path
) -> None:
    files, noted = (
        MediaFiles(str(tmp_path)),
        keys.FILES_TO_DELETE(keys.partition_root(redis_settings, 0)),
    )
    now_ms = 10 * forget.LATE_MS
    # Young ones between old ones, and more of both than one piece takes.
    for first in range(0, 2_400, 300):
        pairs = [(now_ms if n % 2 else n, f"ann:s{n}") for n in range(first, first + 300)]
        await redis.call("ZADD", noted, *(word for pair in pairs for word in pair))
    assert await forget.forget(redis, redis_settings, files, now_ms) == 2_400
    assert await redis.call("ZCARD", noted) == 1_200
    late_ms = now_ms + forget.LATE_MS + 1
    assert await forget.forget(redis, redis_settings, files, late_ms) == 1_200
    assert await redis.call("EXISTS", noted) == 0


async def test_files_of_a_generation_without_a_session_go_with_its_record(
    redis: Redis, redis_settings: RedisSettings, tmp_path: Path
) -> None:
    queue = RedisFunctions(redis, redis_settings, redis_settings.partitions - 1)
    files, noted = MediaFiles(str(tmp_path)), keys.EXPIRING_FILES(queue.root)
    ticket = await queue.submit_alone()
    path = files.save("ann", ticket.id, _PNG, PNG)
    await redis.call("ZADD", noted, 1_000, f"ann:{ticket.id}")

    async def forgotten(now_ms: int) -> int:
        count = await forget.forget(redis, redis_settings, files, now_ms)
        found = files.find(path)
        assert found is not None
        assert found[0].exists() is not bool(count)
        return count

    assert await forgotten(999) == 0
    assert await redis.call("ZSCORE", noted, f"ann:{ticket.id}") == 1_000
    # Its deadline has passed, but nobody has ended it yet.
    assert await forgotten(1_000) == 0
    await queue.complete(await queue.claim_one())
    assert await forgotten(10**9) == 0
    await redis.call("DEL", keys.GENERATION(queue.root, "ann", ticket.id))
    assert await forgotten(10**9) == 0
    assert await forgotten(10**10) == 1
    assert await redis.call("EXISTS", noted) == 0
    await redis.call("DEL", keys.TURNS(queue.root, "ann", ticket.id, 0))


async def test_files_of_an_item_go_with_its_batch(
    redis: Redis, redis_settings: RedisSettings, tmp_path: Path
) -> None:
    root = keys.partition_root(redis_settings, redis_settings.partitions - 1)
    files, noted = MediaFiles(str(tmp_path)), keys.EXPIRING_FILES(root)
    batch = await stored_batches.store(redis, root, [stored_batches.items(1)])
    path = files.save("ann", f"{batch}-0", _PNG, PNG)
    await redis.call("ZADD", noted, 1_000, f"ann:{batch}-0")
    # Its record was packed.
    assert await forget.forget(redis, redis_settings, files, 1_000) == 0
    stop = StopBatchAsk(account="ann", batch=batch, stop="cancelled")
    await functions.stop_batch(redis, root, stop)
    delete = DeleteBatchAsk(account="ann", batch=batch)
    assert await functions.delete_batch(redis, root, delete) == "deleting"
    pieces = DeleteBatchPiecesAsk(account="ann", batch=batch)
    assert await functions.delete_batch_pieces(redis, root, pieces) == 0
    assert await forget.forget(redis, redis_settings, files, 10**10) == 1
    found = files.find(path)
    assert found is None or not found[0].exists()


async def test_turns_that_nobody_lived_to_forget_are_forgotten(
    redis: Redis, redis_settings: RedisSettings, tmp_path: Path
) -> None:
    desk = RedisFunctions(redis, redis_settings, redis_settings.partitions - 1)
    ticket = await desk.submit()
    await desk.complete(await desk.claim_one())
    ask = DeleteSessionAsk(account="ann", id=ticket.session, keep=KEEP, channels=CHANNELS)
    await library.invoke(redis, "delete_session", desk.root, ask)
    assert await desk.find("ann", ticket.id) is not None
    await forget.forget(redis, redis_settings, MediaFiles(str(tmp_path)), 0)
    assert await redis.call("KEYS", f"{desk.root}*:ann:*") == []
    assert await redis.call("EXISTS", keys.TURNS_TO_DELETE(desk.root)) == 0


async def test_files_that_cannot_be_deleted_are_in_nobody_s_way(
    redis: Redis, redis_settings: RedisSettings, tmp_path: Path
) -> None:
    class UndeletableFiles(MediaFiles):
        @override
        def delete_session(self, account: str, session: str) -> None:
            if session == "stuck":
                raise PermissionError("not yours")
            super().delete_session(account, session)

    files = UndeletableFiles(str(tmp_path))
    noted = keys.FILES_TO_DELETE(keys.partition_root(redis_settings, 0))
    files.save("ann", "gone", _PNG, PNG)
    await redis.call("ZADD", noted, 1, "ann:stuck", 2, "ann:gone")
    await forget.forget(redis, redis_settings, files, 10**9)
    assert not (tmp_path / "ann" / "gone").exists()
    assert await redis.call("ZRANGE", noted, 0, -1) == [b"ann:stuck"]


async def test_old_files_are_swept_by_the_fleet(system: System) -> None:
    files = MediaFiles(system.settings.media.folder)
    paths = []
    for content, age in ((_PNG, 31 * 86_400), (_PNG + b"2", 29 * 86_400)):
        found = files.find(files.save("ann", "s1", content, PNG))
        assert found is not None
        at = SystemClock().now_ms() / 1_000 - age
        os.utime(found[0], (at, at))
        paths.append(found[0])
    async with running_worker(system) as worker:
        _due_now(worker)
        await until(lambda: not paths[0].exists())
    assert paths[1].exists()


async def test_chores_sent_by_others_are_run(system: System) -> None:
    pool = chore_queue.pool(system.settings.redis)
    ran = asyncio.Event()

    async def errand(_: object, *words: object) -> None:
        assert words == ("now",)
        ran.set()

    async with started(system) as (worker, _):
        worker.functions["errand"] = func(cast("WorkerCoroutine", errand), name="errand")
        await pool.enqueue_job("errand", "now")
        await asyncio.wait_for(ran.wait(), 20)
        await until(lambda: worker.jobs_complete >= 1)
    await pool.aclose(close_connection_pool=True)


async def test_chores_of_another_version_are_left_to_its_workers(system: System) -> None:
    """A worker drops a chore that it does not know, so it must not take it."""
    assert tuple(name for name, *_ in schedule.CHORES) == chore_queue.CHORES
    other = keys.CHORES(keys.system_root(system.settings.redis), "other")
    pool = chore_queue.pool(system.settings.redis)
    async with started(system) as (worker, _):
        await pool.enqueue_job("unknown here", _queue_name=other)
        await pool.enqueue_job("unknown here as well")
        await until(lambda: worker.jobs_failed)
        assert worker.jobs_failed == 1
        assert await pool.zcard(other) == 1
    await pool.aclose(close_connection_pool=True)


async def test_chore_that_raises_costs_nothing_else(system: System, front: Front) -> None:
    pool = chore_queue.pool(system.settings.redis)

    async def broken(_: object) -> None:
        raise ZeroDivisionError

    async with running_worker(system) as worker:
        worker.functions["broken"] = func(cast("WorkerCoroutine", broken), name="broken")
        await pool.enqueue_job("broken")
        await pool.enqueue_job("no such chore")
        await until(lambda: worker.jobs_failed >= 2)
        assert (await front.end(await front.submit())).stage == "completed"
    await pool.aclose(close_connection_pool=True)


async def test_connection_of_the_queue_that_leads_nowhere_is_given_up(
    own_settings: RedisSettings, own_server: Server
) -> None:
    """A firewall may drop a connection without a word to either end; chores waited on it."""
    async with Proxy(own_server.socket) as proxy:
        settings = msgspec.structs.replace(own_settings, url=proxy.url, timeout_seconds=0.2)
        pool = chore_queue.pool(settings)
        name = chore_queue.name(keys.system_root(settings))
        assert await pool.zcard(name) == 0
        proxy.drop_packets()
        with pytest.raises(chore_queue.QUEUE_ERRORS):
            await pool.zcard(name)
        assert await pool.zcard(name) == 0
        await pool.aclose(close_connection_pool=True)


async def test_worker_goes_though_a_library_swallows_that_it_should(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []

    async def deaf(_: PolluxWorker) -> None:
        heard.append("began")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            heard.append("swallowed")

    monkeypatch.setattr(PolluxWorker, "_do_chores", deaf)
    async with running_worker(system):
        await until(lambda: heard)
    assert heard == ["began", "swallowed"]


@pytest.mark.filterwarnings("ignore:Call to deprecated close")
async def test_arq_can_ask_whether_the_queue_is_looked_after(system: System) -> None:
    settings = ArqSettings.from_dsn(system.settings.redis.url)
    name = chore_queue.name(keys.system_root(system.settings.redis))
    assert await async_check_health(settings, queue_name=name) == 1
    async with running_worker(system):

        async def is_healthy() -> bool:
            return await async_check_health(settings, queue_name=name) == 0

        await until(is_healthy)


async def test_chores_leave_a_server_that_became_a_replica(
    own_system: System, own_server: Server, tmp_path: Path
) -> None:
    name = tmp_path / "s"
    name.symlink_to(own_server.socket)
    redis = msgspec.structs.replace(own_system.settings.redis, url=f"unix://{name}")
    own_system.settings = msgspec.structs.replace(own_system.settings, redis=redis)
    own_system.expected |= {"waiting for Redis", "a beat was missed", "this worker was forgotten"}
    own_system.expected |= {"Redis had lost its functions", "the listener is away"}
    own_system.expected.add("the listener is back")
    health = chore_queue.health_key(keys.system_root(redis))
    with (
        Server(own_server.kind) as other,
        own_server.raw_client() as raw_client,
        other.raw_client() as there,
    ):
        async with running_worker(own_system):
            await until(lambda: raw_client("EXISTS", health))
            raw_client("REPLICAOF", "127.0.0.1", 1)
            name.unlink()
            name.symlink_to(other.socket)
            await until(lambda: there("EXISTS", health), 15, what="arq on the new master")
        raw_client("REPLICAOF", "NO", "ONE")


async def test_arq_is_the_user_that_the_url_names(own_server: Server) -> None:
    with own_server.raw_client() as raw_client:
        raw_client("ACL", "SETUSER", "an:na", "on", ">p@ss/word%", "~*", "&*", "+@all")
        url = f"unix://an%3Ana:p%40ss%2Fword%25@{own_server.socket}?db=2"
        arqs = chore_queue.pool(RedisSettings(url=url))
        assert await arqs.client_setname("arqs")
        ours = Redis(RedisSettings(url=url))
        await ours.connect()
        clients: bytes = raw_client("CLIENT", "LIST")
        lines = [
            dict(re.findall(r"([\w-]+)=(\S*)", line)) for line in clients.decode().splitlines()
        ]
        users = {line["name"]: (line["user"], line["db"]) for line in lines}
        assert users["arqs"] == users["pollux"] == ("an:na", "2")
        await ours.close()
        await arqs.aclose(close_connection_pool=True)


async def test_nothing_in_redis_is_pickled(
    system: System, front: Front, provider: ScriptedProvider, server: Server
) -> None:
    gate = asyncio.Event()
    pool = chore_queue.pool(system.settings.redis)
    async with running_worker(system) as worker:
        _due_now(worker)
        await pool.enqueue_job("trim_libraries", "an argument", _defer_by=30)
        await front.end(await front.submit(system_prompt="Be brief."))
        provider.script.append(ScriptedAnswer(text="word " * 9, gate=gate, gate_after=4))
        held = await front.submit()
        await front.seen(held, lambda found: found.text)
        await until(lambda: _has_health(server))
        with server.raw_client() as raw_client:
            values = [
                value for name in raw_client.names("*") for value in _values(raw_client, name)
            ]
        gate.set()
        await front.end(held)
    await pool.aclose(close_connection_pool=True)
    assert len(values) > 20
    assert [value for value in values if _is_pickle(value)] == []


def _has_health(server: Server) -> bool:
    with server.raw_client() as raw_client:
        return bool(raw_client.names("*health-check"))


def _values(raw_client: RawClient, name: str) -> list[bytes]:
    """Return every value of a key, whatever its type."""
    readers: dict[bytes, tuple[str | int, ...]] = {
        b"string": ("GET", name),
        b"hash": ("HVALS", name),
        b"list": ("LRANGE", name, 0, -1),
        b"zset": ("ZRANGE", name, 0, -1),
        b"set": ("SMEMBERS", name),
        b"stream": ("XRANGE", name, "-", "+"),
        # It has expired since its name was listed.
        b"none": ("LRANGE", name, 0, -1),
    }
    kind = raw_client("TYPE", name)
    read = raw_client(*readers[kind])
    flat: list[Any] = [read] if isinstance(read, bytes) else list(read)
    if kind == b"stream":
        flat = [value for _, fields in flat for value in fields.values()]
    return [value for value in flat if isinstance(value, bytes)]


def _is_pickle(value: bytes) -> bool:
    """Tell whether these bytes are a pickle of a protocol that anybody writes."""
    if not value.startswith(b"\x80") or not value.endswith(b"."):
        return False
    try:
        list(pickletools.genops(value))
    except ValueError:
        return False
    return True


def test_pickles_would_be_found() -> None:
    assert _is_pickle(b"\x80\x04K\x01.")
    assert not _is_pickle(msgspec.msgpack.encode({"t": 1, "f": "x"}))
