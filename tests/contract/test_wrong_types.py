"""An overwritten key stops only its own partition, until it is repaired."""

from contextlib import suppress
from typing import Final

import pytest
from structlog.testing import capture_logs

from shared.clock import SystemClock
from shared.errors import WrongTypeError
from shared.redis import functions, key_types, keys
from shared.redis.client import Redis
from shared.redis.functions import Accepted, Claimed
from shared.redis.server_watch import ServerWatch
from shared.settings import RedisSettings, Settings
from shared.stores.key_repair import KeyRepair
from shared.wire.account import Account
from shared.wire.submission import LANES, Lane
from tests.support.clocks import ManualClock
from tests.support.redis_functions import RedisFunctions, Ticket
from worker.partition_guard import PartitionGuard

# Keys that a whole partition shares: nothing in them may be lost, and no write is half done.
_SHARED: Final = (
    keys.LEASES,
    keys.DEADLINES,
    keys.DEFERRED,
    keys.SUSPECTS,
    keys.CLOCKS,
    keys.DEAD_LETTERS,
    keys.RECOUNT,
    keys.DAMAGED,
)
_SETTLED_IN: Final = (keys.LEASES, keys.DEADLINES, keys.CLOCKS)


async def _put(queue: RedisFunctions, name: str, kind: str = "string") -> None:
    await queue.redis.call("DEL", name)
    if kind == "string":
        await queue.redis.call("SET", name, "x")
    else:
        await queue.redis.call("HSET", name, "f", "x")


async def _state(queue: RedisFunctions) -> dict[bytes, bytes]:
    """Return a dump of all keys, except the submission rate's."""
    names = await queue.redis.call("KEYS", f"{queue.root}*")
    own = [name for name in names if b":submissions:" not in name]
    return {name: await queue.redis.call("DUMP", name) for name in own}


def _named(error: WrongTypeError) -> list[tuple[str, str, str]]:
    return [(key.name, key.expected, key.found) for key in error.keys]


async def _refused_or_untouched(
    queue: RedisFunctions, name: str, expected: str, kind: str, ticket: Ticket
) -> None:
    """Call everything: calls that need the key are refused with its name and change nothing."""
    for work in (
        queue.reap,
        lambda: queue.cancel(ticket),
        lambda: queue.delete_session(ticket.account, ticket.session),
    ):
        held = await _state(queue)
        with pytest.raises(WrongTypeError) as refused:
            await work()
        assert _named(refused.value) == [(name, expected, kind)]
        assert await _state(queue) == held
    credit_totals = await queue.credit_totals()
    claimed = await _claim(queue)
    assert (claimed is None) is (await queue.stage(ticket) == "queued")
    accepted = await _accept(queue)
    assert (await queue.credit_totals()).held == credit_totals.held + (10 if accepted else 0)
    if claimed is not None:
        await _settle_refused_or_whole(queue, claimed)


async def _accept(queue: RedisFunctions) -> bool:
    try:
        return isinstance(await queue.accept("ann", hold=10), Accepted)
    except WrongTypeError:
        return False


async def _claim(queue: RedisFunctions) -> Claimed | None:
    try:
        return await queue.claim_one()
    except WrongTypeError:
        return None


async def _settle_refused_or_whole(queue: RedisFunctions, claimed: Claimed) -> None:
    before = await queue.credit_totals()
    await queue.append(claimed, 1, "Hi")
    try:
        await queue.settle(claimed, seq=2, cost=4, text="Hi")
    except WrongTypeError:
        assert await queue.credit_totals() == before
    else:
        credit_totals = await queue.credit_totals()
        assert (credit_totals.held, credit_totals.settled) == (before.held - 10, before.settled + 4)


@pytest.mark.parametrize("kind", ["string", "hash"])
@pytest.mark.parametrize("key", _SHARED, ids=lambda key: key.pattern)
async def test_shared_key_of_another_type_is_named_and_nothing_is_half_written(
    queue: RedisFunctions, settings: Settings, key: keys.Key, kind: str
) -> None:
    if key.type == kind:
        kind = "string"
    await queue.grant(100)
    ticket = await queue.submit(hold=10)
    name = key(queue.root)
    await _put(queue, name, kind)
    await _refused_or_untouched(queue, name, key.type, kind, ticket)
    await queue.redis.call("DEL", name)
    await _all_answered(queue, settings, 2)


@pytest.mark.parametrize("lane", LANES)
async def test_lane_of_another_type_is_named_and_nothing_is_half_written(
    queue: RedisFunctions, settings: Settings, lane: str
) -> None:
    await queue.grant(100)
    ticket = await queue.submit(hold=10)
    name = keys.LANE(queue.root, lane)
    await _put(queue, name)
    await _refused_or_untouched(queue, name, "zset", "string", ticket)
    await queue.redis.call("DEL", name)
    await _all_answered(queue, settings, 2)


async def _all_answered(queue: RedisFunctions, settings: Settings, most: int) -> None:
    """Rebuild the queues; check that all that is unfinished is answered and no hold is left."""
    name = keys.SUSPECTS(queue.root)
    await queue.redis.call("SET", name, "theirs") if not await queue.redis.call(
        "EXISTS", name
    ) else 0
    ann = Account(id="ann", tier="pro", partition=_partition(queue), created=1)
    repaired = await KeyRepair(queue.redis, settings, [ann], SystemClock()).repair()
    await queue.redis.call("UNLINK", *repaired.set_aside)
    for _ in range(2 * most):
        for lease in await queue.redis.call("ZRANGE", keys.LEASES(queue.root), 0, -1):
            await queue.redis.call("ZADD", keys.LEASES(queue.root), "XX", 1, lease)
        await queue.reap()
        for claimed in await queue.claim(10):
            await queue.append(claimed, 2, "Hi")
            assert await queue.settle(claimed, seq=3, cost=4) is not None
    credit_totals = await queue.credit_totals()
    assert (credit_totals.held, credit_totals.balance + credit_totals.settled) == (0, 100)
    assert await queue.redis.call("ZCARD", keys.DEADLINES(queue.root)) == 0


async def _bring_back(queue: RedisFunctions, name: str, kept: bytes | None) -> None:
    await queue.redis.call("DEL", name)
    if kept is not None:
        await queue.redis.call("RESTORE", name, 0, kept)


@pytest.mark.parametrize("key", _SETTLED_IN, ids=lambda key: key.pattern)
async def test_answer_is_settled_once_however_long_the_key_stays_so(
    queue: RedisFunctions, key: keys.Key
) -> None:
    await queue.grant(100)
    await queue.submit(hold=10)
    claimed = await queue.claim_one()
    await queue.append(claimed, 1, "Hi")
    name = key(queue.root)
    kept = await queue.redis.call("DUMP", name)
    await _put(queue, name)
    for _ in range(2):
        with pytest.raises(WrongTypeError):
            await queue.settle(claimed, seq=2, cost=4, text="Hi")
    credit_totals = await queue.credit_totals()
    assert (credit_totals.balance, credit_totals.held, credit_totals.settled) == (90, 10, 0)
    await _bring_back(queue, name, kept)
    assert await queue.settle(claimed, seq=2, cost=4, text="Hi") is not None
    credit_totals = await queue.credit_totals()
    assert (credit_totals.balance, credit_totals.held, credit_totals.settled) == (96, 0, 4)


async def test_settlement_needs_no_set_of_parked_queues(queue: RedisFunctions) -> None:
    await queue.grant(100)
    await queue.submit(hold=10)
    claimed = await queue.claim_one()
    await queue.append(claimed, 1, "Hi")
    await queue.redis.call("SET", keys.PARKED_QUEUES(queue.root), "x")
    assert await queue.settle(claimed, seq=2, cost=4, text="Hi") is not None
    credit_totals = await queue.credit_totals()
    assert (credit_totals.balance, credit_totals.held, credit_totals.settled) == (96, 0, 4)
    await queue.submit()
    with pytest.raises(WrongTypeError):
        await queue.claim_one()
    await queue.complete(await queue.claim_one())


@pytest.mark.parametrize("lane", LANES)
async def test_wakeup_list_of_another_type_is_replaced(queue: RedisFunctions, lane: Lane) -> None:
    bell = keys.WAKEUP(queue.root, lane)
    await queue.redis.call("SET", bell, "x")
    await queue.submit(lane=lane)
    assert await queue.redis.call("TYPE", bell) == b"list"
    await queue.complete(await queue.claim_one())


async def test_claiming_workers_and_queues_of_parked_turns_are_rebuilt(
    queue: RedisFunctions,
) -> None:
    tickets = [await queue.submit() for _ in range(2)]
    for each in await queue.claim(2):
        await queue.release(each, delay_ms=60_000, parked="shop", is_elsewhere=True)
    parked = keys.PARKED(queue.root, "interactive", "shop")
    for name in (parked, keys.CLAIMING_WORKERS(queue.root)):
        await queue.redis.call("DEL", name)
        await queue.redis.call("SET", name, "x")
    for _ in range(2):
        with suppress(WrongTypeError):
            assert await queue.claim(2, room={"shop": 5}) == []
    for ticket in tickets:
        name = f"ann:{ticket.id}"
        await queue.redis.call("ZADD", keys.DEFERRED(queue.root), "XX", 1, name)
    for _ in range(2):
        with suppress(WrongTypeError):
            await queue.reap()
    claimed = await queue.claim(2, room={"shop": 5})
    assert {each.id for each in claimed} == {ticket.id for ticket in tickets}


@pytest.mark.parametrize(
    "key", [keys.ACCOUNT_TOTALS, keys.SESSIONS, keys.SUBMISSIONS], ids=lambda key: key.pattern
)
async def test_key_of_one_account_stops_that_account_only(
    queue: RedisFunctions, key: keys.Key
) -> None:
    other = await queue.submit("bob")
    name = key(queue.root, "ann")
    kind = "string" if key.type != "string" else "hash"
    await _put(queue, name, kind)
    if key in keys.REBUILDABLE:
        await queue.submit("ann")
    else:
        with pytest.raises(WrongTypeError) as refused:
            await queue.accept("ann")
        assert _named(refused.value) == [(name, key.type, kind)]
    assert other.id in {each.id for each in await queue.claim(2)}
    await queue.redis.call("DEL", name)


async def test_every_stored_key_has_the_type_of_its_family(
    queue: RedisFunctions,
) -> None:
    await queue.grant(100)
    ticket = await queue.submit(hold=10, idempotency="once")
    await queue.submit("ann", ticket.session)
    claimed = await queue.claim_one()
    await queue.append(claimed, 1, "Hi")
    await queue.reap()
    for name in await queue.redis.call("KEYS", f"{queue.root}*"):
        family = keys.family_of(queue.root, name.decode())
        assert family is not None, name
        assert await queue.redis.call("TYPE", name) == family.type.encode()


async def test_watch_reports_what_is_wrong_until_it_is_repaired(
    redis: Redis, redis_settings: RedisSettings, queue: RedisFunctions
) -> None:
    name = keys.DEFERRED(queue.root)
    await queue.redis.call("SET", name, "x")
    server_watch = ServerWatch(redis, redis_settings)
    with capture_logs() as lines:
        for _ in range(3):
            await server_watch.inspect()
    fault = f"{name} is a string where a zset should be"
    assert [key.name for key in server_watch.wrong_keys] == [name]
    assert any(fault in each and "pollux redis mend" in each for each in server_watch.faults)
    assert sum(fault in str(line) for line in lines) == 1
    await queue.redis.call("DEL", name)
    await server_watch.inspect()
    assert server_watch.wrong_keys == ()


async def test_rebuildable_key_of_another_type_is_removed(
    redis: Redis, redis_settings: RedisSettings
) -> None:
    root = keys.system_root(redis_settings)
    for key in (keys.REPORT_TIMES, keys.SERVED_MODELS, keys.WORKER_REPORTS, keys.THROTTLES):
        await redis.call("SET", key(root), "x")
    ask = key_types.ask(key_types.of_root(root))
    found = await functions.check_types(redis, root, ask)
    assert {key.name for key in found} == {
        key(root)
        for key in (keys.REPORT_TIMES, keys.SERVED_MODELS, keys.WORKER_REPORTS, keys.THROTTLES)
    }
    assert all(key.is_removed for key in found)
    assert await functions.check_types(redis, root, ask) == ()


def test_partition_that_fails_by_a_key_is_logged_once_a_minute_and_the_next_has_its_turn() -> None:
    clock, done = ManualClock(), []
    partition_guard = PartitionGuard(clock)
    with capture_logs() as lines:
        for clock.now in (0.0, 1.0, 59.0, 61.0):
            for partition in range(3):
                with partition_guard("claim", partition):
                    if partition == 1:
                        raise WrongTypeError("leases is a string where a zset should be")
                    done.append(partition)
    assert done == [0, 2] * 4
    assert [line["event"] for line in lines] == ["a key is of another type"] * 2


_NAMED: Final = {"account": "ann", "lane": "interactive"}
_LINES: Final = (*_SHARED[:6], keys.LANE, keys.READY, keys.UNFINISHED)


async def _crowd(queue: RedisFunctions) -> tuple[list[Ticket], Claimed]:
    """Have generations in every queue: leased, deferred, suspect, ready, waiting, in a batch."""
    await queue.grant(1_000)
    first = [await queue.submit(hold=10) for _ in range(4)]
    claimed = [await queue.claim_one(worker=f"w{number}") for number in range(3)]
    await queue.release(claimed[1], delay_ms=60_000)
    name = f"ann:{claimed[2].id}"
    await queue.redis.call("ZADD", keys.LEASES(queue.root), 1, name)
    await queue.reap()
    rest = [
        await queue.submit("ann", first[3].session, hold=10),
        await queue.submit("bob", lane="batch"),
    ]
    return [*first, *rest], claimed[0]


@pytest.mark.parametrize("key", _LINES, ids=lambda key: key.pattern)
async def test_queues_are_rebuilt_and_everything_is_answered_once(
    queue: RedisFunctions, settings: Settings, key: keys.Key
) -> None:
    tickets, held = await _crowd(queue)
    name = key(queue.root, *(_NAMED[part] for part in key.parts))
    await queue.redis.call("DEL", name)
    await queue.redis.call("SET", name, "theirs")
    accounts = [
        Account(id=each, tier="pro", partition=_partition(queue), created=1)
        for each in ("ann", "bob")
    ]
    key_repair = KeyRepair(queue.redis, settings, accounts, SystemClock())
    repaired = await key_repair.repair()
    [(aside, wrong)] = repaired.set_aside.items()
    assert (wrong.name, repaired.left) == (name, [])
    assert await queue.redis.call("GET", aside) == b"theirs"
    assert (await key_repair.repair()).set_aside == {}
    assert await queue.beat(held) == []
    await queue.append(held, 1, "Hi")
    assert await queue.settle(held, seq=2, cost=4) is not None
    done = {held.id}
    for _ in range(12):
        for name in await queue.redis.call("ZRANGE", keys.DEFERRED(queue.root), 0, -1):
            await queue.redis.call("ZADD", keys.DEFERRED(queue.root), "XX", 1, name)
        await queue.reap()
        for claimed in await queue.claim(1):
            await queue.append(claimed, 2, "Hi")
            assert await queue.settle(claimed, seq=3, cost=4) is not None
            done.add(claimed.id)
    assert done == {ticket.id for ticket in tickets}
    credit_totals = await queue.credit_totals()
    assert (credit_totals.balance, credit_totals.held, credit_totals.settled) == (980, 0, 20)
    await queue.redis.call("UNLINK", aside)


def _partition(queue: RedisFunctions) -> int:
    return queue.settings.partitions - 1


async def test_key_that_holds_credits_is_reported_and_left(
    queue: RedisFunctions, settings: Settings
) -> None:
    name = keys.ACCOUNT_TOTALS(queue.root, "ann")
    await queue.redis.call("SET", name, "theirs")
    ann = Account(id="ann", tier="pro", partition=_partition(queue), created=1)
    repaired = await KeyRepair(queue.redis, settings, [ann], SystemClock()).repair()
    assert ([key.name for key in repaired.left], repaired.set_aside) == ([name], {})
    assert await queue.redis.call("GET", name) == b"theirs"
    await queue.redis.call("DEL", name)


@pytest.fixture
def settings(redis_settings: RedisSettings) -> Settings:
    """Return settings of this server."""
    return Settings(redis=redis_settings)
