"""Repair of damaged keys: a second repair completes a broken off one; a check changes nothing."""

from typing import Final

import pytest

from shared.clock import SystemClock
from shared.errors import Failure, UnavailableError, WrongKey
from shared.redis import functions, keys
from shared.redis.functions import TakeDeliveriesAsk
from shared.settings import RedisSettings, Settings, WebhookSettings
from shared.stores import fleet
from shared.stores.accounts import Accounts
from shared.stores.key_repair import KeyRepair
from shared.wire.account import Account
from shared.wire.fleet import WorkerReport
from tests.support import stored_batches
from tests.support.redis_functions import RedisFunctions

_NAMED: Final = {"account": "ann", "lane": "interactive"}
_LINES: Final = (keys.LANE, keys.READY, keys.UNFINISHED, keys.DEADLINES, keys.LEASES)
_DOWN: Final = Failure(message="Down.", category="provider_error", code="DOWN", provider="one")


@pytest.fixture
def key_repair(queue: RedisFunctions, redis_settings: RedisSettings) -> KeyRepair:
    """Return the repair of the keys of the queue's partition, which is ann's."""
    ann = Account(id="ann", tier="pro", partition=queue.settings.partitions - 1, created=1)
    return KeyRepair(queue.redis, Settings(redis=redis_settings), [ann], SystemClock())


async def _overwrite(queue: RedisFunctions, name: str) -> None:
    await queue.redis.call("DEL", name)
    await queue.redis.call("SET", name, "theirs")


async def _no_restore(*_: object) -> int:
    raise UnavailableError("Redis is away.")


@pytest.mark.parametrize("key", _LINES, ids=lambda key: key.pattern)
async def test_interrupted_repair_is_completed_by_the_next(
    queue: RedisFunctions, key_repair: KeyRepair, monkeypatch: pytest.MonkeyPatch, key: keys.Key
) -> None:
    await queue.grant(100)
    tickets = [await queue.submit(hold=10) for _ in range(3)]
    held = await queue.claim_one()
    name = key(queue.root, *(_NAMED[part] for part in key.parts))
    await _overwrite(queue, name)
    noted: dict[str, WrongKey] = {}
    with monkeypatch.context() as cut:
        cut.setattr(functions, "restore", _no_restore)
        with pytest.raises(UnavailableError):
            await key_repair.repair(noted.__setitem__)
    [(aside, wrong)] = noted.items()
    assert (wrong.name, await queue.redis.call("GET", aside)) == (name, b"theirs")
    repaired = await key_repair.repair()
    assert (repaired.set_aside, repaired.left, repaired.restored > 0) == ({}, [], True)
    assert await key_repair.repair() == ({}, [], 0)
    answered = [held, *await queue.claim(3)]
    for claimed in answered:
        assert await queue.beat(claimed) == []
        await queue.append(claimed, 1, "Hi")
        assert await queue.settle(claimed, seq=2, cost=4) is not None
    assert {claimed.id for claimed in answered} == {ticket.id for ticket in tickets}
    credit_totals = await queue.credit_totals()
    assert (credit_totals.held, credit_totals.settled) == (0, 12)
    await queue.redis.call("UNLINK", aside)


async def test_rebuilt_lane_is_counted(queue: RedisFunctions, key_repair: KeyRepair) -> None:
    await queue.submit()
    await _overwrite(queue, keys.LANE(queue.root, "interactive"))
    repaired = await key_repair.repair()
    assert repaired.restored == 1
    await queue.complete(await queue.claim_one())
    await queue.redis.call("UNLINK", *repaired.set_aside)


async def test_lists_of_what_is_to_be_delivered_are_rebuilt(
    queue: RedisFunctions, key_repair: KeyRepair
) -> None:
    """One event that is a delivery already, and one that is only in the log."""
    settings, url = WebhookSettings(), "https://example.com/hook"

    async def take(count: int) -> list[str]:
        ask = TakeDeliveriesAsk.of(settings, count, {}, "whsec_AAAA")
        found = await functions.take_deliveries(queue.redis, queue.root, ask)
        return [each.subject for each in found.deliveries]

    tickets = [await queue.submit(webhook=url) for _ in range(2)]
    await queue.cancel(tickets[0])
    assert await take(0) == []
    await queue.cancel(tickets[1])
    lists = (keys.UNREAD_LOGS(queue.root), keys.DUE_TARGETS(queue.root))
    for name in lists:
        await _overwrite(queue, name)
    repaired = await key_repair.repair()
    assert {wrong.name for wrong in repaired.set_aside.values()} == set(lists)
    assert repaired.left == []
    assert await take(8) == [ticket.id for ticket in tickets]
    await queue.redis.call("UNLINK", *repaired.set_aside)


async def test_dead_letter_of_another_type_is_left_and_the_others_are_listed(
    queue: RedisFunctions, key_repair: KeyRepair
) -> None:
    tickets = [await queue.submit() for _ in range(3)]
    for _ in tickets:
        await queue.fail(await queue.claim_one(), _DOWN)
    await queue.redis.call("DEL", keys.DEAD_LETTERS(queue.root))
    damaged = keys.DEAD_LETTER(queue.root, "ann", tickets[1].id)
    await _overwrite(queue, damaged)
    for _ in range(2):
        assert await key_repair.find_wrong_keys() == {
            queue.root: [WrongKey(damaged, "hash", "string")]
        }
    assert await queue.redis.call("EXISTS", keys.DEAD_LETTERS(queue.root)) == 0
    assert (await key_repair.repair()).left == [WrongKey(damaged, "hash", "string")]
    listed = await queue.redis.call("ZRANGE", keys.DEAD_LETTERS(queue.root), 0, -1)
    assert set(listed) == {f"ann:{tickets[at].id}".encode() for at in (0, 2)}
    assert await queue.redis.call("GET", damaged) == b"theirs"
    await queue.redis.call("UNLINK", damaged)


async def test_all_queues_may_be_lost_at_once(queue: RedisFunctions, key_repair: KeyRepair) -> None:
    await queue.grant(100)
    tickets = [await queue.submit(hold=10) for _ in range(3)]
    tickets.append(await queue.submit("ann", tickets[2].session, hold=10))
    ended = await queue.claim_one()
    await queue.settle(ended, stage="failed")
    held = await queue.claim_one()
    lines = [
        key(queue.root, *(_NAMED[part] for part in key.parts)) for key in (*_LINES, keys.CLOCKS)
    ]
    await queue.redis.call("DEL", *lines)
    repaired = await key_repair.repair()
    assert (repaired.set_aside, repaired.left, repaired.restored > 0) == ({}, [], True)
    assert await key_repair.repair() == ({}, [], 0)
    done = {ended.id}
    for claimed in (held, *await queue.claim(3), *await queue.claim(3)):
        assert await queue.beat(claimed) == []
        await queue.complete(claimed)
        done.add(claimed.id)
        for following in await queue.claim(3):
            await queue.complete(following)
            done.add(following.id)
    assert done == {ticket.id for ticket in tickets}
    assert (await queue.credit_totals()).held == 0


@pytest.mark.parametrize(
    "key",
    [keys.ACCOUNT_KEYS, keys.KEY_EXPIRIES, keys.LISTED_KEYS_COUNT],
    ids=lambda key: key.pattern,
)
async def test_lists_of_api_keys_are_named_set_aside_and_rebuilt(
    queue: RedisFunctions, redis_settings: RedisSettings, key: keys.Key
) -> None:
    accounts = Accounts(queue.redis, redis_settings, b"pepper", SystemClock())
    acme = await accounts.create("acme", None)
    made = await accounts.create_key(acme, ("read",), expires_ms=SystemClock().now_ms() + 60_000)
    key_repair = KeyRepair(queue.redis, Settings(redis=redis_settings), [acme], SystemClock())
    system = keys.system_root(redis_settings)
    name = key(system, *("acme" for _ in key.parts))
    await queue.redis.call("DEL", name)
    await queue.redis.call("HSET", name, "f", "x")
    wrong = WrongKey(name, key.type, "hash")
    assert await key_repair.find_wrong_keys() == {system: [wrong]}
    repaired = await key_repair.repair()
    assert ([*repaired.set_aside.values()], repaired.left) == ([wrong], [])
    assert [each.id for each in await accounts.list_own_keys("acme")] == [made.key_id]
    ends = keys.KEY_EXPIRIES(system, "acme")
    assert await queue.redis.call("ZRANGE", ends, 0, -1) == [made.key_id.encode()]
    await queue.redis.call("UNLINK", *repaired.set_aside)


async def test_live_workers_prevent_only_the_repair_of_leases(
    queue: RedisFunctions, key_repair: KeyRepair, redis_settings: RedisSettings
) -> None:
    report = WorkerReport(id="w1", concurrency=1, running=0, models=(), wire=1)
    await fleet.report(queue.redis, redis_settings, report)
    assert await key_repair.count_workers_in_the_way() == 0
    leases = keys.LEASES(queue.root)
    await _overwrite(queue, leases)
    assert await key_repair.count_workers_in_the_way() == 1
    await fleet.leave(queue.redis, redis_settings, "w1")
    assert await key_repair.count_workers_in_the_way() == 0
    # Nothing shows which workers are alive.
    await _overwrite(queue, keys.REPORT_TIMES(keys.system_root(redis_settings)))
    assert await key_repair.count_workers_in_the_way() == 1
    await queue.redis.call("UNLINK", leases, keys.REPORT_TIMES(keys.system_root(redis_settings)))


@pytest.mark.parametrize(
    "key", [keys.CLAIMING_WORKERS, keys.WAKEUP, keys.LEASES], ids=lambda key: key.pattern
)
async def test_check_names_what_is_wrong_and_changes_nothing(
    queue: RedisFunctions, key_repair: KeyRepair, key: keys.Key
) -> None:
    name = key(queue.root, *(_NAMED[part] for part in key.parts))
    await _overwrite(queue, name)
    for _ in range(2):
        assert await key_repair.find_wrong_keys() == {
            queue.root: [WrongKey(name, key.type, "string")]
        }
    assert await queue.redis.call("GET", name) == b"theirs"
    await queue.redis.call("UNLINK", name)


_BATCH_LISTS: Final = (
    keys.BATCHES,
    keys.OPEN_BATCHES,
    keys.BATCH_WORK,
    keys.BATCH_CHUNKS_TO_PACK,
)


@pytest.mark.parametrize("key", _BATCH_LISTS, ids=lambda key: key.pattern)
async def test_lists_of_batches_are_rebuilt_from_their_records(
    queue: RedisFunctions, key_repair: KeyRepair, key: keys.Key
) -> None:
    batch = await stored_batches.store(queue.redis, queue.root, [stored_batches.items(1)])
    await queue.redis.call("HSET", keys.BATCH_CHUNK(queue.root, "ann", batch, 0), "left", 0)
    await key_repair.repair()
    name = key(queue.root, *(_NAMED[part] for part in key.parts))
    listed = await queue.redis.call("ZRANGE", name, 0, -1)
    assert len(listed) == 1
    assert batch.encode() in listed[0]
    await _overwrite(queue, name)
    [(_, [found])] = (await key_repair.find_wrong_keys()).items()
    assert found.name == name
    repaired = await key_repair.repair()
    assert [wrong.name for wrong in repaired.set_aside.values()] == [name]
    assert await queue.redis.call("ZRANGE", name, 0, -1) == listed
    assert await key_repair.find_wrong_keys() == {}


async def test_a_batch_of_another_type_is_reported(
    queue: RedisFunctions, key_repair: KeyRepair
) -> None:
    await queue.redis.call("SET", keys.BATCH(queue.root, "ann", "b" * 23), "theirs")
    left = (await key_repair.repair()).left
    assert [(wrong.expected, wrong.found) for wrong in left] == [("hash", "string")]
    await queue.redis.call("DEL", keys.BATCH(queue.root, "ann", "b" * 23))
