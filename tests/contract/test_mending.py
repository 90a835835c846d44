"""Mending damaged keys: a repeat completes what was cut short, and looking changes nothing."""

from typing import Final

import pytest

from shared.clock import SystemClock
from shared.errors import Failure, UnavailableError, WrongKey
from shared.redis import functions, keys
from shared.settings import RedisSettings, Settings
from shared.stores import fleet
from shared.stores.accounts import Accounts
from shared.stores.mending import Mending
from shared.wire.account import Account
from shared.wire.fleet import WorkerReport
from tests.support.desk import Desk

pytestmark = pytest.mark.each_once

_NAMED: Final = {"account": "ann", "lane": "interactive"}
_LINES: Final = (keys.LANE, keys.READY, keys.UNFINISHED, keys.DEADLINES, keys.LEASES)
_DOWN: Final = Failure(message="Down.", category="provider_error", code="DOWN", provider="one")


@pytest.fixture
def mending(desk: Desk, redis_settings: RedisSettings) -> Mending:
    """Return what mends the keys of the desk's partition, where ann is."""
    ann = Account(id="ann", tier="pro", partition=desk.settings.partitions - 1, created=1)
    return Mending(desk.redis, Settings(redis=redis_settings), [ann], SystemClock())


async def _overwrite(desk: Desk, name: str) -> None:
    await desk.redis.call("DEL", name)
    await desk.redis.call("SET", name, "theirs")


async def _no_restore(*_: object) -> int:
    raise UnavailableError("Redis is away.")


@pytest.mark.parametrize("key", _LINES, ids=lambda key: key.pattern)
async def test_mending_that_was_cut_short_is_completed_by_the_next(
    desk: Desk, mending: Mending, monkeypatch: pytest.MonkeyPatch, key: keys.Key
) -> None:
    await desk.grant(100)
    tickets = [await desk.submit(hold=10) for _ in range(3)]
    held = await desk.claim_one()
    name = key(desk.root, *(_NAMED[part] for part in key.parts))
    await _overwrite(desk, name)
    noted: dict[str, WrongKey] = {}
    with monkeypatch.context() as cut:
        cut.setattr(functions, "restore", _no_restore)
        with pytest.raises(UnavailableError):
            await mending.mend(noted.__setitem__)
    [(aside, wrong)] = noted.items()
    assert (wrong.name, await desk.redis.call("GET", aside)) == (name, b"theirs")
    mended = await mending.mend()
    assert (mended.set_aside, mended.left, mended.restored > 0) == ({}, [], True)
    assert await mending.mend() == ({}, [], 0)
    answered = [held, *await desk.claim(3)]
    for claimed in answered:
        assert await desk.beat(claimed) == []
        await desk.append(claimed, 1, "Hi")
        assert await desk.settle(claimed, seq=2, cost=4) is not None
    assert {claimed.id for claimed in answered} == {ticket.id for ticket in tickets}
    books = await desk.books()
    assert (books.held, books.settled) == (0, 12)
    await desk.redis.call("UNLINK", aside)


async def test_lane_made_anew_is_counted(desk: Desk, mending: Mending) -> None:
    await desk.submit()
    await _overwrite(desk, keys.LANE(desk.root, "interactive"))
    mended = await mending.mend()
    assert mended.restored == 1
    await desk.complete(await desk.claim_one())
    await desk.redis.call("UNLINK", *mended.set_aside)


async def test_dead_letter_of_another_type_is_left_and_the_others_are_listed(
    desk: Desk, mending: Mending
) -> None:
    tickets = [await desk.submit() for _ in range(3)]
    for _ in tickets:
        await desk.fail(await desk.claim_one(), _DOWN)
    await desk.redis.call("DEL", keys.DEAD(desk.root))
    damaged = keys.LETTER(desk.root, "ann", tickets[1].id)
    await _overwrite(desk, damaged)
    for _ in range(2):
        assert await mending.look() == {desk.root: [WrongKey(damaged, "hash", "string")]}
    assert await desk.redis.call("EXISTS", keys.DEAD(desk.root)) == 0
    assert (await mending.mend()).left == [WrongKey(damaged, "hash", "string")]
    listed = await desk.redis.call("ZRANGE", keys.DEAD(desk.root), 0, -1)
    assert set(listed) == {f"ann:{tickets[at].id}".encode() for at in (0, 2)}
    assert await desk.redis.call("GET", damaged) == b"theirs"
    await desk.redis.call("UNLINK", damaged)


async def test_all_lines_may_be_lost_at_once(desk: Desk, mending: Mending) -> None:
    await desk.grant(100)
    tickets = [await desk.submit(hold=10) for _ in range(3)]
    tickets.append(await desk.submit("ann", tickets[2].session, hold=10))
    ended = await desk.claim_one()
    await desk.settle(ended, stage="failed")
    held = await desk.claim_one()
    lines = [
        key(desk.root, *(_NAMED[part] for part in key.parts)) for key in (*_LINES, keys.CLOCKS)
    ]
    await desk.redis.call("DEL", *lines)
    mended = await mending.mend()
    assert (mended.set_aside, mended.left, mended.restored > 0) == ({}, [], True)
    assert await mending.mend() == ({}, [], 0)
    done = {ended.id}
    for claimed in (held, *await desk.claim(3), *await desk.claim(3)):
        assert await desk.beat(claimed) == []
        await desk.complete(claimed)
        done.add(claimed.id)
        for following in await desk.claim(3):
            await desk.complete(following)
            done.add(following.id)
    assert done == {ticket.id for ticket in tickets}
    assert (await desk.books()).held == 0


@pytest.mark.parametrize(
    "key", [keys.ACCOUNT_KEYS, keys.KEY_ENDS, keys.KEYS_LISTED], ids=lambda key: key.pattern
)
async def test_lists_of_api_keys_are_named_set_aside_and_made_anew(
    desk: Desk, redis_settings: RedisSettings, key: keys.Key
) -> None:
    accounts = Accounts(desk.redis, redis_settings, b"pepper", SystemClock())
    acme = await accounts.create("acme", None)
    made = await accounts.create_key(acme, ("read",), expires_ms=SystemClock().now_ms() + 60_000)
    mending = Mending(desk.redis, Settings(redis=redis_settings), [acme], SystemClock())
    system = keys.system_root(redis_settings)
    name = key(system, *("acme" for _ in key.parts))
    await desk.redis.call("DEL", name)
    await desk.redis.call("HSET", name, "f", "x")
    wrong = WrongKey(name, key.type, "hash")
    assert await mending.look() == {system: [wrong]}
    mended = await mending.mend()
    assert ([*mended.set_aside.values()], mended.left) == ([wrong], [])
    assert [each.id for each in await accounts.list_own_keys("acme")] == [made.key_id]
    ends = keys.KEY_ENDS(system, "acme")
    assert await desk.redis.call("ZRANGE", ends, 0, -1) == [made.key_id.encode()]
    await desk.redis.call("UNLINK", *mended.set_aside)


async def test_workers_are_in_the_way_of_leases_only(
    desk: Desk, mending: Mending, redis_settings: RedisSettings
) -> None:
    report = WorkerReport(id="w1", concurrency=1, running=0, models=(), wire=1)
    await fleet.report(desk.redis, redis_settings, report)
    assert await mending.count_workers_in_the_way() == 0
    leases = keys.LEASES(desk.root)
    await _overwrite(desk, leases)
    assert await mending.count_workers_in_the_way() == 1
    await fleet.leave(desk.redis, redis_settings, "w1")
    assert await mending.count_workers_in_the_way() == 0
    # Nothing tells who lives.
    await _overwrite(desk, keys.PULSES(keys.system_root(redis_settings)))
    assert await mending.count_workers_in_the_way() == 1
    await desk.redis.call("UNLINK", leases, keys.PULSES(keys.system_root(redis_settings)))


@pytest.mark.parametrize("key", [keys.HOLDERS, keys.BELL, keys.LEASES], ids=lambda key: key.pattern)
async def test_looking_names_what_is_wrong_and_changes_nothing(
    desk: Desk, mending: Mending, key: keys.Key
) -> None:
    name = key(desk.root, *(_NAMED[part] for part in key.parts))
    await _overwrite(desk, name)
    for _ in range(2):
        assert await mending.look() == {desk.root: [WrongKey(name, key.type, "string")]}
    assert await desk.redis.call("GET", name) == b"theirs"
    await desk.redis.call("UNLINK", name)
