"""`find_turns`: which turns a session has, and how many of them are read at once."""

from collections.abc import Mapping

from shared.redis import functions, keys
from shared.redis.functions import FindTurnsAsk, FoundTurns
from tests.support.redis_functions import RedisFunctions, Ticket

_CHARACTERS = 1_000
# A record takes a little more than its text.
_TWO_TURNS = 5_000


async def _talk(queue: RedisFunctions, turns: int) -> Ticket:
    ticket = await queue.submit(content="x" * _CHARACTERS, name="talk")
    for turn in range(1, turns + 1):
        if turn > 1:
            await queue.submit("ann", ticket.session, content="x" * _CHARACTERS)
        await queue.complete(await queue.claim_one(), "y" * _CHARACTERS)
    return ticket


async def _found(
    queue: RedisFunctions, ticket: Ticket, bytes_max: int, **wanted: int
) -> FoundTurns | None:
    ask: Mapping[str, int] = {"last": 10**12, **wanted}
    where = FindTurnsAsk(account=ticket.account, id=ticket.session, bytes_max=bytes_max, **ask)
    return await functions.find_turns(queue.redis, queue.root, where)


async def _span(
    queue: RedisFunctions, ticket: Ticket, bytes_max: int, **wanted: int
) -> tuple[int, int, int]:
    found = await _found(queue, ticket, bytes_max, **wanted)
    assert found is not None
    return found[:3]


async def test_as_many_turns_fit_as_have_so_many_bytes(queue: RedisFunctions) -> None:
    ticket = await _talk(queue, 20)
    assert await _span(queue, ticket, _TWO_TURNS, first=1) == (1, 20, 2)
    assert await _span(queue, ticket, _TWO_TURNS, first=15, last=18) == (15, 18, 16)
    assert await _span(queue, ticket, _TWO_TURNS, count=3) == (18, 20, 19)
    assert await _span(queue, ticket, _TWO_TURNS, count=50, last=2) == (1, 2, 2)
    assert await _span(queue, ticket, 10**6, first=1) == (1, 20, 20)
    # A turn is never split, however long it is.
    assert await _span(queue, ticket, 1, first=7) == (7, 20, 7)


async def test_turns_that_do_not_exist_are_not_found(queue: RedisFunctions) -> None:
    ticket = await _talk(queue, 2)
    assert await _span(queue, ticket, 1, first=3) == (3, 2, 2)
    assert await _span(queue, ticket, 1, count=5, last=0) == (1, 0, 0)
    assert await _found(queue, ticket._replace(account="bob"), 1, first=1) is None
    assert await _found(queue, Ticket("ann", "nobody", "none"), 1, first=1) is None


async def test_session_without_a_count_is_measured(queue: RedisFunctions) -> None:
    ticket = await _talk(queue, 4)
    where = keys.SESSION(queue.root, "ann", ticket.session)
    bytes_ = await queue.redis.call("HGET", where, "bytes")
    await queue.redis.call("HDEL", where, "bytes")
    assert await _span(queue, ticket, _TWO_TURNS, first=1) == (1, 4, 2)
    await queue.redis.call("HSET", where, "bytes", bytes_)


async def test_session_is_returned_with_its_turns(queue: RedisFunctions) -> None:
    ticket = await _talk(queue, 1)
    found = await _found(queue, ticket, 1, first=1)
    assert found is not None
    name, created, active, companion, metadata, turns = found.session
    assert (name, companion, metadata, turns) == (b"talk", None, None, b"1")
    assert int(created or 0) <= int(active or 0)
