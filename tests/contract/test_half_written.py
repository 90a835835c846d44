"""Where a key that a whole partition shares holds another type, no end is half written.

Each call is repeated, as its caller would do, and then the credits are checked.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import pytest

from shared.clock import SystemClock
from shared.errors import CRASHED, WrongTypeError
from shared.redis import functions, keys
from shared.redis.functions import Claimed
from shared.settings import RedisSettings, Settings
from shared.stores.key_repair import KeyRepair
from tests.support.redis_functions import KEEP, RedisFunctions, Ticket

_LEFT_BY_ENDS: Final = (keys.LEASES, keys.DEFERRED, keys.SUSPECTS, keys.DEAD_LETTERS)
_LEFT: Final = pytest.mark.parametrize("key", _LEFT_BY_ENDS, ids=lambda key: key.pattern)
# Redis' commands on several sorted sets accept a set as one.
_KINDS: Final = pytest.mark.parametrize("kind", ["string", "set"])


async def _credits(queue: RedisFunctions) -> tuple[int, int, int]:
    credit_totals = await queue.credit_totals()
    return credit_totals.balance, credit_totals.held, credit_totals.settled


async def _overwrite(queue: RedisFunctions, name: str, kind: str = "string") -> bytes | None:
    """Replace a key by something else; return what was there."""
    kept: bytes | None = await queue.redis.call("DUMP", name)
    await queue.redis.call("DEL", name)
    await (queue.redis.call("SET", name, "x") if kind == "string" else _add(queue, name))
    return kept


async def _add(queue: RedisFunctions, name: str) -> None:
    await queue.redis.call("SADD", name, "x")


async def _bring_back(queue: RedisFunctions, name: str, kept: bytes | None) -> None:
    await queue.redis.call("DEL", name)
    if kept is not None:
        await queue.redis.call("RESTORE", name, 0, kept)


async def _begun(queue: RedisFunctions, running_max: int = 1_000) -> tuple[Ticket, Claimed]:
    await queue.grant(100)
    ticket = await queue.submit(hold=10, running_max=running_max)
    claimed = await queue.claim_one()
    await queue.append(claimed, 1, "Hi")
    return ticket, claimed


async def _refused_twice(work: Callable[[], Awaitable[object]]) -> None:
    for _ in range(2):
        with pytest.raises(WrongTypeError):
            await work()


@_KINDS
@_LEFT
async def test_expired_turn_is_no_source_of_credits_for_who_claims(
    queue: RedisFunctions, key: keys.Key, kind: str
) -> None:
    await queue.grant(100)
    ticket = await queue.submit(hold=10)
    # Its deadline has passed, as its record says.
    await queue.redis.call("HSET", keys.GENERATION(queue.root, "ann", ticket.id), "deadline", "1")
    name = key(queue.root)
    kept = await _overwrite(queue, name, kind)
    await _refused_twice(queue.claim)
    assert await _credits(queue) == (90, 10, 0)
    await _bring_back(queue, name, kept)
    assert await queue.claim() == []
    assert await queue.stage(ticket) == "failed"
    assert await _credits(queue) == (100, 0, 0)


@_KINDS
@_LEFT
async def test_waiting_turn_is_no_source_of_credits_for_who_cancels(
    queue: RedisFunctions, key: keys.Key, kind: str
) -> None:
    await queue.grant(100)
    ticket = await queue.submit(hold=10)
    name = key(queue.root)
    kept = await _overwrite(queue, name, kind)
    await _refused_twice(lambda: queue.cancel(ticket))
    assert await _credits(queue) == (90, 10, 0)
    await _bring_back(queue, name, kept)
    await queue.cancel(ticket)
    assert await _credits(queue) == (100, 0, 0)


@_KINDS
async def test_failure_is_settled_once_and_the_session_goes_on(
    queue: RedisFunctions, kind: str
) -> None:
    ticket, claimed = await _begun(queue)
    name = keys.DEAD_LETTERS(queue.root)
    kept = await _overwrite(queue, name, kind)

    async def settle() -> functions.Settled | None:
        return await queue.settle(claimed, seq=2, stage="failed", failure=CRASHED)

    await _refused_twice(settle)
    assert await _credits(queue) == (90, 10, 0)
    await _bring_back(queue, name, kept)
    assert await settle() is not None
    assert await _credits(queue) == (100, 0, 0)
    following = await queue.submit("ann", ticket.session)
    assert (await queue.claim_one()).id == following.id
    await queue.cancel(following)


async def test_refused_settlement_appends_the_rest_once(queue: RedisFunctions) -> None:
    ticket, claimed = await _begun(queue)
    name = keys.LANE(queue.root, "interactive")
    kept = await _overwrite(queue, name)
    ask = functions.SettleAsk(
        account="ann",
        id=claimed.id,
        attempt=claimed.attempt,
        seq=3,
        stage="completed",
        event='{"type":"completed"}',
        events=['{"type":"delta","text":"!"}'],
        cost=4,
        keep=KEEP,
    )

    async def settle() -> functions.Settled | None:
        return await functions.settle(queue.redis, queue.root, ask, b"\x80")

    await _refused_twice(settle)
    listed = await queue.redis.call("ZRANGE", keys.DEADLINES(queue.root), 0, -1)
    assert listed == [f"ann:{ticket.id}".encode()]
    await _bring_back(queue, name, kept)
    assert await settle() is not None
    assert [at for at, _ in await queue.events(ticket)] == ["1-1", "1-2", "1-3"]
    assert await _credits(queue) == (96, 0, 4)


@pytest.mark.parametrize("is_following", [True, False])
async def test_answer_is_settled_whatever_the_other_lane_is(
    queue: RedisFunctions, settings: Settings, is_following: bool
) -> None:
    ticket, claimed = await _begun(queue)
    session = ticket.session if is_following else None
    batch = await queue.submit("ann", session, lane="batch")
    await _overwrite(queue, keys.LANE(queue.root, "batch"))
    assert await queue.settle(claimed, seq=2, cost=4, text="Hi") is not None
    assert await _credits(queue) == (96, 0, 4)
    repaired = await KeyRepair(queue.redis, settings, [], SystemClock()).repair()
    await queue.redis.call("UNLINK", *repaired.set_aside)
    assert (await queue.claim_one()).id == batch.id
    await queue.cancel(batch)


async def _full_with_one_parked(queue: RedisFunctions) -> tuple[Ticket, Claimed]:
    """Park a turn for `shop`, and run another that takes all that the account may run."""
    await queue.submit(running_max=1)
    await queue.release(await queue.claim_one(), delay_ms=60_000, parked="shop")
    return await _begun(queue, running_max=1)


async def test_settlement_needs_no_queue_of_parked_turns(
    queue: RedisFunctions, settings: Settings
) -> None:
    _, claimed = await _full_with_one_parked(queue)
    name = keys.PARKED(queue.root, "interactive", "shop")
    await _overwrite(queue, name)
    assert await queue.settle(claimed, seq=2, cost=4, text="Hi") is not None
    assert await _credits(queue) == (96, 0, 4)
    key_repair = KeyRepair(queue.redis, settings, [], SystemClock())
    [(root, [wrong])] = (await key_repair.find_wrong_keys()).items()
    assert (root, wrong.name, wrong.is_removed) == (queue.root, name, False)
    await key_repair.repair()
    assert await key_repair.find_wrong_keys() == {}


async def test_parked_turn_is_cancelled_once_whatever_its_queue_is(queue: RedisFunctions) -> None:
    await queue.grant(100)
    ticket = await queue.submit(hold=10)
    await queue.release(await queue.claim_one(), delay_ms=60_000, parked="shop")
    await _overwrite(queue, keys.PARKED_TURNS(queue.root, "ann", "interactive", "shop"))
    for _ in range(2):
        with suppress(WrongTypeError):
            await queue.cancel(ticket)
    assert await queue.stage(ticket) == "cancelled"
    assert await _credits(queue) == (100, 0, 0)


@pytest.mark.parametrize(
    "key", [keys.FILES_TO_DELETE, keys.TURNS_TO_DELETE, keys.SESSIONS], ids=lambda key: key.pattern
)
async def test_session_is_deleted_whole_or_not_at_all(queue: RedisFunctions, key: keys.Key) -> None:
    ticket, _ = await _begun(queue)
    waiting = await queue.submit("ann", ticket.session, hold=10)
    name = key(queue.root, *("ann" for _ in key.parts))
    kept = await _overwrite(queue, name)
    await _refused_twice(lambda: queue.delete_session("ann", ticket.session))
    assert await queue.redis.call("HGET", keys.SESSION(queue.root, "ann", ticket.session), "turns")
    assert await queue.stage(waiting) == "queued"
    assert await _credits(queue) == (80, 20, 0)
    await _bring_back(queue, name, kept)
    assert await queue.delete_session("ann", ticket.session)
    assert await _credits(queue) == (100, 0, 0)


@pytest.fixture
def settings(redis_settings: RedisSettings) -> Settings:
    """Return settings of this server."""
    return Settings(redis=redis_settings)
