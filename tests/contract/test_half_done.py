"""Where a key that a whole partition shares is of another type, no end is done by halves.

Each call is made again, as its caller would, and the credits are counted after that.
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
from shared.stores.mending import Mending
from tests.support.desk import KEEP, Desk, Ticket

pytestmark = pytest.mark.each_once

_LEFT_BY_ENDS: Final = (keys.LEASES, keys.DEFERRED, keys.SUSPECTS, keys.DEAD)
_LEFT: Final = pytest.mark.parametrize("key", _LEFT_BY_ENDS, ids=lambda key: key.pattern)
# Redis' commands that read several sorted sets at once take a set for one.
_KINDS: Final = pytest.mark.parametrize("kind", ["string", "set"])


async def _credits(desk: Desk) -> tuple[int, int, int]:
    books = await desk.books()
    return books.balance, books.held, books.settled


async def _overwrite(desk: Desk, name: str, kind: str = "string") -> bytes | None:
    """Put something else in a key's place; return what was there."""
    kept: bytes | None = await desk.redis.call("DUMP", name)
    await desk.redis.call("DEL", name)
    await (desk.redis.call("SET", name, "x") if kind == "string" else _add(desk, name))
    return kept


async def _add(desk: Desk, name: str) -> None:
    await desk.redis.call("SADD", name, "x")


async def _bring_back(desk: Desk, name: str, kept: bytes | None) -> None:
    await desk.redis.call("DEL", name)
    if kept is not None:
        await desk.redis.call("RESTORE", name, 0, kept)


async def _begun(desk: Desk, running_max: int = 1_000) -> tuple[Ticket, Claimed]:
    await desk.grant(100)
    ticket = await desk.submit(hold=10, running_max=running_max)
    claimed = await desk.claim_one()
    await desk.append(claimed, 1, "Hi")
    return ticket, claimed


async def _refused_twice(work: Callable[[], Awaitable[object]]) -> None:
    for _ in range(2):
        with pytest.raises(WrongTypeError):
            await work()


@_KINDS
@_LEFT
async def test_expired_turn_is_no_source_of_credits_for_who_claims(
    desk: Desk, key: keys.Key, kind: str
) -> None:
    await desk.grant(100)
    ticket = await desk.submit(hold=10)
    # Its time is over, as its record says.
    await desk.redis.call("HSET", keys.GENERATION(desk.root, "ann", ticket.id), "deadline", "1")
    name = key(desk.root)
    kept = await _overwrite(desk, name, kind)
    await _refused_twice(desk.claim)
    assert await _credits(desk) == (90, 10, 0)
    await _bring_back(desk, name, kept)
    assert await desk.claim() == []
    assert await desk.stage(ticket) == "failed"
    assert await _credits(desk) == (100, 0, 0)


@_KINDS
@_LEFT
async def test_waiting_turn_is_no_source_of_credits_for_who_cancels(
    desk: Desk, key: keys.Key, kind: str
) -> None:
    await desk.grant(100)
    ticket = await desk.submit(hold=10)
    name = key(desk.root)
    kept = await _overwrite(desk, name, kind)
    await _refused_twice(lambda: desk.cancel(ticket))
    assert await _credits(desk) == (90, 10, 0)
    await _bring_back(desk, name, kept)
    await desk.cancel(ticket)
    assert await _credits(desk) == (100, 0, 0)


@_KINDS
async def test_failure_is_settled_once_and_the_session_goes_on(desk: Desk, kind: str) -> None:
    ticket, claimed = await _begun(desk)
    name = keys.DEAD(desk.root)
    kept = await _overwrite(desk, name, kind)

    async def settle() -> functions.Settled | None:
        return await desk.settle(claimed, seq=2, stage="failed", failure=CRASHED)

    await _refused_twice(settle)
    assert await _credits(desk) == (90, 10, 0)
    await _bring_back(desk, name, kept)
    assert await settle() is not None
    assert await _credits(desk) == (100, 0, 0)
    following = await desk.submit("ann", ticket.session)
    assert (await desk.claim_one()).id == following.id
    await desk.cancel(following)


async def test_settlement_that_was_refused_tells_the_rest_once(desk: Desk) -> None:
    ticket, claimed = await _begun(desk)
    name = keys.LANE(desk.root, "interactive")
    kept = await _overwrite(desk, name)
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
        return await functions.settle(desk.redis, desk.root, ask, b"\x80")

    await _refused_twice(settle)
    listed = await desk.redis.call("ZRANGE", keys.DEADLINES(desk.root), 0, -1)
    assert listed == [f"ann:{ticket.id}".encode()]
    await _bring_back(desk, name, kept)
    assert await settle() is not None
    assert [at for at, _ in await desk.events(ticket)] == ["1-1", "1-2", "1-3"]
    assert await _credits(desk) == (96, 0, 4)


@pytest.mark.parametrize("is_following", [True, False])
async def test_answer_is_settled_whatever_the_other_lane_is(
    desk: Desk, settings: Settings, is_following: bool
) -> None:
    ticket, claimed = await _begun(desk)
    session = ticket.session if is_following else None
    batch = await desk.submit("ann", session, lane="batch")
    await _overwrite(desk, keys.LANE(desk.root, "batch"))
    assert await desk.settle(claimed, seq=2, cost=4, text="Hi") is not None
    assert await _credits(desk) == (96, 0, 4)
    mended = await Mending(desk.redis, settings, [], SystemClock()).mend()
    await desk.redis.call("UNLINK", *mended.set_aside)
    assert (await desk.claim_one()).id == batch.id
    await desk.cancel(batch)


async def _full_with_one_parked(desk: Desk) -> tuple[Ticket, Claimed]:
    """Have a turn parked for `shop`, and another that takes all that the account may run."""
    await desk.submit(running_max=1)
    await desk.release(await desk.claim_one(), delay_ms=60_000, parked="shop")
    return await _begun(desk, running_max=1)


async def test_settlement_needs_no_line_of_parked_turns(desk: Desk, settings: Settings) -> None:
    _, claimed = await _full_with_one_parked(desk)
    name = keys.PARKED(desk.root, "interactive", "shop")
    await _overwrite(desk, name)
    assert await desk.settle(claimed, seq=2, cost=4, text="Hi") is not None
    assert await _credits(desk) == (96, 0, 4)
    mending = Mending(desk.redis, settings, [], SystemClock())
    [(root, [wrong])] = (await mending.look()).items()
    assert (root, wrong.name, wrong.is_removed) == (desk.root, name, False)
    await mending.mend()
    assert await mending.look() == {}


async def test_parked_turn_is_cancelled_once_whatever_its_line_is(desk: Desk) -> None:
    await desk.grant(100)
    ticket = await desk.submit(hold=10)
    await desk.release(await desk.claim_one(), delay_ms=60_000, parked="shop")
    await _overwrite(desk, keys.PARKED_TURNS(desk.root, "ann", "interactive", "shop"))
    for _ in range(2):
        with suppress(WrongTypeError):
            await desk.cancel(ticket)
    assert await desk.stage(ticket) == "cancelled"
    assert await _credits(desk) == (100, 0, 0)


@pytest.mark.parametrize(
    "key", [keys.FORGOTTEN, keys.FORGETTING, keys.SESSIONS], ids=lambda key: key.pattern
)
async def test_session_is_deleted_whole_or_not_at_all(desk: Desk, key: keys.Key) -> None:
    ticket, _ = await _begun(desk)
    waiting = await desk.submit("ann", ticket.session, hold=10)
    name = key(desk.root, *("ann" for _ in key.parts))
    kept = await _overwrite(desk, name)
    await _refused_twice(lambda: desk.delete_session("ann", ticket.session))
    assert await desk.redis.call("HGET", keys.SESSION(desk.root, "ann", ticket.session), "turns")
    assert await desk.stage(waiting) == "queued"
    assert await _credits(desk) == (80, 20, 0)
    await _bring_back(desk, name, kept)
    assert await desk.delete_session("ann", ticket.session)
    assert await _credits(desk) == (100, 0, 0)


@pytest.fixture
def settings(redis_settings: RedisSettings) -> Settings:
    """Return settings of this server."""
    return Settings(redis=redis_settings)
