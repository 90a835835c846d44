"""A key that something else has overwritten stops its partition only, until it is mended."""

from contextlib import suppress
from typing import Final

import pytest
from structlog.testing import capture_logs

from shared.clock import SystemClock
from shared.errors import WrongTypeError
from shared.redis import functions, keys, types
from shared.redis.client import Redis
from shared.redis.functions import Accepted, Claimed
from shared.redis.watch import Watch
from shared.settings import RedisSettings, Settings
from shared.stores.mending import Mending
from shared.wire.account import Account
from shared.wire.submission import Lane
from tests.support.desk import Desk, Ticket
from worker.apart import Apart

pytestmark = pytest.mark.each_once

# What all of a partition share: none of it may be lost, and nothing is done by halves meanwhile.
_SHARED: Final = (
    keys.LEASES,
    keys.DEADLINES,
    keys.DEFERRED,
    keys.SUSPECTS,
    keys.CLOCKS,
    keys.DEAD,
    keys.RECOUNT,
    keys.DAMAGED,
)
_SETTLED_IN: Final = (keys.LEASES, keys.DEADLINES, keys.CLOCKS)
_LANES: Final = ("interactive", "batch")


async def _put(desk: Desk, name: str, kind: str = "string") -> None:
    await desk.redis.call("DEL", name)
    if kind == "string":
        await desk.redis.call("SET", name, "x")
    else:
        await desk.redis.call("HSET", name, "f", "x")


async def _state(desk: Desk) -> dict[bytes, bytes]:
    """Return all that is stored, as Redis writes it down, but for the rate of submissions."""
    names = await desk.redis.call("KEYS", f"{desk.root}*")
    own = [name for name in names if b":submissions:" not in name]
    return {name: await desk.redis.call("DUMP", name) for name in own}


def _named(error: WrongTypeError) -> list[tuple[str, str, str]]:
    return [(key.name, key.expected, key.found) for key in error.keys]


async def _refused_or_untouched(
    desk: Desk, name: str, expected: str, kind: str, ticket: Ticket
) -> None:
    """Do everything: what the key matters to is refused by its name, and changes nothing."""
    for work in (
        desk.reap,
        lambda: desk.cancel(ticket),
        lambda: desk.delete_session(ticket.account, ticket.session),
    ):
        held = await _state(desk)
        with pytest.raises(WrongTypeError) as refused:
            await work()
        assert _named(refused.value) == [(name, expected, kind)]
        assert await _state(desk) == held
    books = await desk.books()
    claimed = await _claim(desk)
    assert (claimed is None) is (await desk.stage(ticket) == "queued")
    accepted = await _accept(desk)
    assert (await desk.books()).held == books.held + (10 if accepted else 0)
    if claimed is not None:
        await _settle_refused_or_whole(desk, claimed)


async def _accept(desk: Desk) -> bool:
    try:
        return isinstance(await desk.accept("ann", hold=10), Accepted)
    except WrongTypeError:
        return False


async def _claim(desk: Desk) -> Claimed | None:
    try:
        return await desk.claim_one()
    except WrongTypeError:
        return None


async def _settle_refused_or_whole(desk: Desk, claimed: Claimed) -> None:
    before = await desk.books()
    await desk.append(claimed, 1, "Hi")
    try:
        await desk.settle(claimed, seq=2, cost=4, text="Hi")
    except WrongTypeError:
        assert await desk.books() == before
    else:
        books = await desk.books()
        assert (books.held, books.settled) == (before.held - 10, before.settled + 4)


@pytest.mark.parametrize("kind", ["string", "hash"])
@pytest.mark.parametrize("key", _SHARED, ids=lambda key: key.pattern)
async def test_shared_key_of_another_type_is_named_and_nothing_is_done_by_halves(
    desk: Desk, settings: Settings, key: keys.Key, kind: str
) -> None:
    if key.type == kind:
        kind = "string"
    await desk.grant(100)
    ticket = await desk.submit(hold=10)
    name = key(desk.root)
    await _put(desk, name, kind)
    await _refused_or_untouched(desk, name, key.type, kind, ticket)
    await desk.redis.call("DEL", name)
    await _all_answered(desk, settings, 2)


@pytest.mark.parametrize("lane", _LANES)
async def test_lane_of_another_type_is_named_and_nothing_is_done_by_halves(
    desk: Desk, settings: Settings, lane: str
) -> None:
    await desk.grant(100)
    ticket = await desk.submit(hold=10)
    name = keys.LANE(desk.root, lane)
    await _put(desk, name)
    await _refused_or_untouched(desk, name, "zset", "string", ticket)
    await desk.redis.call("DEL", name)
    await _all_answered(desk, settings, 2)


async def _all_answered(desk: Desk, settings: Settings, most: int) -> None:
    """Make the lines anew, and see all that is unfinished answered and nothing held."""
    name = keys.SUSPECTS(desk.root)
    await desk.redis.call("SET", name, "theirs") if not await desk.redis.call("EXISTS", name) else 0
    ann = Account(id="ann", tier="pro", partition=_partition(desk), created=1)
    mended = await Mending(desk.redis, settings, [ann], SystemClock()).mend()
    await desk.redis.call("UNLINK", *mended.set_aside)
    for _ in range(2 * most):
        for lease in await desk.redis.call("ZRANGE", keys.LEASES(desk.root), 0, -1):
            await desk.redis.call("ZADD", keys.LEASES(desk.root), "XX", 1, lease)
        await desk.reap()
        for claimed in await desk.claim(10):
            await desk.append(claimed, 2, "Hi")
            assert await desk.settle(claimed, seq=3, cost=4) is not None
    books = await desk.books()
    assert (books.held, books.balance + books.settled) == (0, 100)
    assert await desk.redis.call("ZCARD", keys.DEADLINES(desk.root)) == 0


async def _bring_back(desk: Desk, name: str, kept: bytes | None) -> None:
    await desk.redis.call("DEL", name)
    if kept is not None:
        await desk.redis.call("RESTORE", name, 0, kept)


@pytest.mark.parametrize("key", _SETTLED_IN, ids=lambda key: key.pattern)
async def test_answer_is_settled_once_however_long_the_key_stays_so(
    desk: Desk, key: keys.Key
) -> None:
    await desk.grant(100)
    await desk.submit(hold=10)
    claimed = await desk.claim_one()
    await desk.append(claimed, 1, "Hi")
    name = key(desk.root)
    kept = await desk.redis.call("DUMP", name)
    await _put(desk, name)
    for _ in range(2):
        with pytest.raises(WrongTypeError):
            await desk.settle(claimed, seq=2, cost=4, text="Hi")
    books = await desk.books()
    assert (books.balance, books.held, books.settled) == (90, 10, 0)
    await _bring_back(desk, name, kept)
    assert await desk.settle(claimed, seq=2, cost=4, text="Hi") is not None
    books = await desk.books()
    assert (books.balance, books.held, books.settled) == (96, 0, 4)


async def test_settlement_needs_no_list_of_parked_lines(desk: Desk) -> None:
    await desk.grant(100)
    await desk.submit(hold=10)
    claimed = await desk.claim_one()
    await desk.append(claimed, 1, "Hi")
    await desk.redis.call("SET", keys.PARKED_LINES(desk.root), "x")
    assert await desk.settle(claimed, seq=2, cost=4, text="Hi") is not None
    books = await desk.books()
    assert (books.balance, books.held, books.settled) == (96, 0, 4)
    await desk.submit()
    with pytest.raises(WrongTypeError):
        await desk.claim_one()
    await desk.complete(await desk.claim_one())


@pytest.mark.parametrize("lane", _LANES)
async def test_bell_of_another_type_is_replaced(desk: Desk, lane: Lane) -> None:
    bell = keys.BELL(desk.root, lane)
    await desk.redis.call("SET", bell, "x")
    await desk.submit(lane=lane)
    assert await desk.redis.call("TYPE", bell) == b"list"
    await desk.complete(await desk.claim_one())


async def test_holders_and_lines_of_parked_turns_are_made_again(desk: Desk) -> None:
    tickets = [await desk.submit() for _ in range(2)]
    for each in await desk.claim(2):
        await desk.release(each, delay_ms=60_000, parked="shop", is_elsewhere=True)
    parked = keys.PARKED(desk.root, "interactive", "shop")
    for name in (parked, keys.HOLDERS(desk.root)):
        await desk.redis.call("DEL", name)
        await desk.redis.call("SET", name, "x")
    for _ in range(2):
        with suppress(WrongTypeError):
            assert await desk.claim(2, room={"shop": 5}) == []
    for ticket in tickets:
        name = f"ann:{ticket.id}"
        await desk.redis.call("ZADD", keys.DEFERRED(desk.root), "XX", 1, name)
    for _ in range(2):
        with suppress(WrongTypeError):
            await desk.reap()
    claimed = await desk.claim(2, room={"shop": 5})
    assert {each.id for each in claimed} == {ticket.id for ticket in tickets}


@pytest.mark.parametrize(
    "key", [keys.BOOKS, keys.SESSIONS, keys.SUBMISSIONS], ids=lambda key: key.pattern
)
async def test_key_of_one_account_stops_that_account_only(desk: Desk, key: keys.Key) -> None:
    other = await desk.submit("bob")
    name = key(desk.root, "ann")
    kind = "string" if key.type != "string" else "hash"
    await _put(desk, name, kind)
    if key in keys.MADE_AGAIN:
        await desk.submit("ann")
    else:
        with pytest.raises(WrongTypeError) as refused:
            await desk.accept("ann")
        assert _named(refused.value) == [(name, key.type, kind)]
    assert other.id in {each.id for each in await desk.claim(2)}
    await desk.redis.call("DEL", name)


async def test_all_that_is_stored_is_of_the_type_that_its_family_says(desk: Desk) -> None:
    await desk.grant(100)
    ticket = await desk.submit(hold=10, idempotency="once")
    await desk.submit("ann", ticket.session)
    claimed = await desk.claim_one()
    await desk.append(claimed, 1, "Hi")
    await desk.reap()
    for name in await desk.redis.call("KEYS", f"{desk.root}*"):
        family = keys.family_of(desk.root, name.decode())
        assert family is not None, name
        assert await desk.redis.call("TYPE", name) == family.type.encode()


async def test_watch_tells_of_what_is_wrong_until_it_is_mended(
    redis: Redis, redis_settings: RedisSettings, desk: Desk
) -> None:
    name = keys.DEFERRED(desk.root)
    await desk.redis.call("SET", name, "x")
    watch = Watch(redis, redis_settings)
    with capture_logs() as lines:
        for _ in range(3):
            await watch.look()
    fault = f"{name} is a string where a zset should be"
    assert [key.name for key in watch.wrong_keys] == [name]
    assert any(fault in each and "pollux redis mend" in each for each in watch.faults)
    assert sum(fault in str(line) for line in lines) == 1
    await desk.redis.call("DEL", name)
    await watch.look()
    assert watch.wrong_keys == ()


async def test_what_is_made_again_is_removed_by_who_looks(
    redis: Redis, redis_settings: RedisSettings
) -> None:
    root = keys.system_root(redis_settings)
    for key in (keys.PULSES, keys.SERVED, keys.WORKERS, keys.THROTTLES):
        await redis.call("SET", key(root), "x")
    ask = types.ask(types.shared_by_all(root))
    found = await functions.check_types(redis, root, ask)
    assert {key.name for key in found} == {
        key(root) for key in (keys.PULSES, keys.SERVED, keys.WORKERS, keys.THROTTLES)
    }
    assert all(key.is_removed for key in found)
    assert await functions.check_types(redis, root, ask) == ()


def test_partition_that_fails_by_a_key_is_logged_once_a_minute_and_the_next_has_its_turn() -> None:
    class Clock:
        at = 0.0

        def monotonic(self) -> float:
            return self.at

        def now_ms(self) -> int:
            return 0

        async def sleep(self, seconds: float) -> None:
            raise AssertionError(seconds)

    clock, done = Clock(), []
    apart = Apart(clock)
    with capture_logs() as lines:
        for clock.at in (0.0, 1.0, 59.0, 61.0):
            for partition in range(3):
                with apart("claim", partition):
                    if partition == 1:
                        raise WrongTypeError("leases is a string where a zset should be")
                    done.append(partition)
    assert done == [0, 2] * 4
    assert [line["event"] for line in lines] == ["a key is of another type"] * 2


_NAMED: Final = {"account": "ann", "lane": "interactive"}
_LINES: Final = (*_SHARED[:6], keys.LANE, keys.READY, keys.UNFINISHED)


async def _crowd(desk: Desk) -> tuple[list[Ticket], Claimed]:
    """Have generations in every line: leased, deferred, suspect, ready, waiting, of a batch."""
    await desk.grant(1_000)
    first = [await desk.submit(hold=10) for _ in range(4)]
    claimed = [await desk.claim_one(worker=f"w{number}") for number in range(3)]
    await desk.release(claimed[1], delay_ms=60_000)
    name = f"ann:{claimed[2].id}"
    await desk.redis.call("ZADD", keys.LEASES(desk.root), 1, name)
    await desk.reap()
    rest = [
        await desk.submit("ann", first[3].session, hold=10),
        await desk.submit("bob", lane="batch"),
    ]
    return [*first, *rest], claimed[0]


@pytest.mark.parametrize("key", _LINES, ids=lambda key: key.pattern)
async def test_lines_are_made_anew_and_everything_is_answered_once(
    desk: Desk, settings: Settings, key: keys.Key
) -> None:
    tickets, held = await _crowd(desk)
    name = key(desk.root, *(_NAMED[part] for part in key.parts))
    await desk.redis.call("DEL", name)
    await desk.redis.call("SET", name, "theirs")
    accounts = [
        Account(id=each, tier="pro", partition=_partition(desk), created=1)
        for each in ("ann", "bob")
    ]
    mending = Mending(desk.redis, settings, accounts, SystemClock())
    mended = await mending.mend()
    [(aside, wrong)] = mended.set_aside.items()
    assert (wrong.name, mended.left) == (name, [])
    assert await desk.redis.call("GET", aside) == b"theirs"
    assert (await mending.mend()).set_aside == {}
    assert await desk.beat(held) == []
    await desk.append(held, 1, "Hi")
    assert await desk.settle(held, seq=2, cost=4) is not None
    done = {held.id}
    for _ in range(12):
        for name in await desk.redis.call("ZRANGE", keys.DEFERRED(desk.root), 0, -1):
            await desk.redis.call("ZADD", keys.DEFERRED(desk.root), "XX", 1, name)
        await desk.reap()
        for claimed in await desk.claim(1):
            await desk.append(claimed, 2, "Hi")
            assert await desk.settle(claimed, seq=3, cost=4) is not None
            done.add(claimed.id)
    assert done == {ticket.id for ticket in tickets}
    books = await desk.books()
    assert (books.balance, books.held, books.settled) == (980, 0, 20)
    await desk.redis.call("UNLINK", aside)


def _partition(desk: Desk) -> int:
    return desk.settings.partitions - 1


async def test_what_holds_money_is_told_of_and_left(desk: Desk, settings: Settings) -> None:
    name = keys.BOOKS(desk.root, "ann")
    await desk.redis.call("SET", name, "theirs")
    ann = Account(id="ann", tier="pro", partition=_partition(desk), created=1)
    mended = await Mending(desk.redis, settings, [ann], SystemClock()).mend()
    assert ([key.name for key in mended.left], mended.set_aside) == ([name], {})
    assert await desk.redis.call("GET", name) == b"theirs"
    await desk.redis.call("DEL", name)


@pytest.fixture
def settings(redis_settings: RedisSettings) -> Settings:
    """Return settings of this server."""
    return Settings(redis=redis_settings)
