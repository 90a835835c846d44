"""One damaged record is set aside, and stops neither its account's nor its partition's others."""

from typing import Final

import pytest

from shared.errors import WrongTypeError
from shared.redis import keys
from shared.redis.functions import AlreadyEnded
from tests.support.desk import Desk, Ticket

_FIELDS: Final = (
    *("stage", "session", "turn", "lane", "model", "wire", "number"),
    *("accepted", "deadline", "hold", "attempt"),
)
_KEYS: Final = ("generation", "submission", "turns", "session", "waiting", "ready", "unfinished")
_HOLD: Final = 40
_CALLS: Final = 4

pytestmark = pytest.mark.each_once


def _key(desk: Desk, ticket: Ticket, family: str) -> str:
    own, session = (ticket.account, ticket.id), (ticket.account, ticket.session)
    return {
        "generation": keys.GENERATION(desk.root, *own),
        "submission": keys.SUBMISSION(desk.root, *own),
        "events": keys.EVENTS(desk.root, *own),
        "turns": keys.TURNS(desk.root, *session, 0),
        "session": keys.SESSION(desk.root, *session),
        "waiting": keys.WAITING(desk.root, *session),
        "ready": keys.READY(desk.root, ticket.account, "interactive"),
        "unfinished": keys.UNFINISHED(desk.root, ticket.account, "interactive"),
    }[family]


async def _damage_field(desk: Desk, ticket: Ticket, field: str, value: str | None) -> None:
    name = keys.GENERATION(desk.root, ticket.account, ticket.id)
    if value is None:
        await desk.redis.call("HDEL", name, field)
    else:
        await desk.redis.call("HSET", name, field, value)


async def _replace(desk: Desk, name: str) -> None:
    """Put a key of another type in the place of one."""
    is_list = await desk.redis.call("TYPE", name) == b"list"
    await desk.redis.call("DEL", name)
    if is_list:
        await desk.redis.call("SET", name, "x")
    else:
        await desk.redis.call("RPUSH", name, "x")


async def _sweep(desk: Desk) -> None:
    """Delete what damage leaves behind that nothing can put right: the test has looked at it."""
    names = await desk.redis.call("KEYS", f"{desk.root}*")
    await desk.redis.call("UNLINK", *names)


async def _damaged(desk: Desk) -> list[str]:
    return [
        name.decode() for name in await desk.redis.call("ZRANGE", keys.DAMAGED(desk.root), 0, -1)
    ]


async def _go_on(desk: Desk, *expected: Ticket) -> list[str]:
    """Reap and claim a few times; what is claimed is completed. Return what was told as damaged."""
    completed, told = set(), []
    for _ in range(_CALLS):
        told += [each.name for each in (await desk.reap()).damaged]
        for claimed in await desk.claim(10):
            if await desk.append(claimed, 2, "Hi") != "appended":
                continue
            if await desk.settle(claimed, seq=3) is not None:
                completed.add(claimed.id)
    told += [each.name for each in (await desk.reap()).damaged]
    assert {ticket.id for ticket in expected} <= completed
    return told


async def _is_out_of_all_lines(desk: Desk, ticket: Ticket) -> None:
    name = f"{ticket.account}:{ticket.id}"
    for line in (keys.LEASES, keys.DEADLINES, keys.DEFERRED, keys.SUSPECTS):
        assert await desk.redis.call("ZSCORE", line(desk.root), name) is None
    ready = keys.READY(desk.root, ticket.account, "interactive")
    assert await desk.redis.call("ZSCORE", ready, ticket.id) is None


@pytest.mark.parametrize("value", [None, "x", ""])
@pytest.mark.parametrize("field", _FIELDS)
@pytest.mark.parametrize("where", ["ready", "leased", "deferred", "suspect", "late", "parked"])
async def test_a_damaged_field_stops_no_neighbour(
    desk: Desk, where: str, field: str, value: str | None
) -> None:
    await desk.grant(1_000)
    if value == "x" and field in {"session", "model"}:
        # A text like any other.
        return
    broken = await _placed(desk, where)
    own, other = await desk.submit(), await desk.submit("bob")
    next_turn = await desk.submit("ann", broken.session)
    await _damage_field(desk, broken, field, value)
    await _fall_due(desk, broken, where)
    told = await _go_on(desk, own, other, next_turn)
    assert told == await _damaged(desk) == [f"ann:{broken.id}"]
    await _is_out_of_all_lines(desk, broken)
    books = await desk.books()
    is_lost = field == "hold"
    assert (books.held, books.balance) == ((40, 960) if is_lost else (0, 1_000))
    running = await desk.redis.call("HGET", keys.BOOKS(desk.root, "ann"), "running_interactive")
    assert int(running or 0) == 0
    assert await desk.stage(broken) == "failed"
    if is_lost:
        await _sweep(desk)


async def _placed(desk: Desk, where: str) -> Ticket:
    """Submit what is to be damaged, and bring it where it is to be found."""
    ticket = await desk.submit(hold=_HOLD)
    if where in {"leased", "suspect"}:
        claimed = await desk.claim_one(worker="w", lease_ms=0 if where == "suspect" else 60_000)
        await desk.append(claimed, 1, "Half")
        if where == "suspect":
            await desk.reap()
    elif where == "deferred":
        await desk.release(await desk.claim_one(), delay_ms=60_000)
    elif where == "parked":
        await desk.release(await desk.claim_one(), delay_ms=60_000, parked="shop")
    return ticket


async def _fall_due(desk: Desk, ticket: Ticket, where: str) -> None:
    line = {
        "leased": keys.LEASES,
        "deferred": keys.DEFERRED,
        "parked": keys.DEFERRED,
        "late": keys.DEADLINES,
    }.get(where)
    if line is not None:
        await desk.redis.call("ZADD", line(desk.root), "XX", 1, f"{ticket.account}:{ticket.id}")


@pytest.mark.parametrize("is_deleted", [True, False])
@pytest.mark.parametrize("family", _KEYS)
@pytest.mark.parametrize("where", ["ready", "leased", "deferred", "suspect", "late"])
async def test_a_damaged_key_stops_no_neighbour(
    desk: Desk, where: str, family: str, is_deleted: bool
) -> None:
    await desk.grant(1_000)
    broken = await _placed(desk, where)
    own, other = await desk.submit(), await desk.submit("bob")
    name = _key(desk, broken, family)
    if is_deleted:
        await desk.redis.call("DEL", name)
    else:
        await _replace(desk, name)
    await _fall_due(desk, broken, where)
    # A line of the account is of all that it has: of one that is gone nothing can be made anew.
    shared = family == "unfinished" or (family == "ready" and is_deleted)
    await _go_on(desk, *([other] if shared else [own, other]))
    if family in {"generation", "submission", "turns"} and where != "late":
        assert await _damaged(desk) == [f"ann:{broken.id}"]
        await _is_out_of_all_lines(desk, broken)
    await _sweep(desk)


async def test_a_line_of_ready_turns_that_was_lost_is_made_anew(desk: Desk) -> None:
    tickets = [await desk.submit() for _ in range(3)]
    await desk.redis.call("DEL", keys.READY(desk.root, "ann", "interactive"))
    await _go_on(desk, *tickets)
    assert await _damaged(desk) == []


async def test_an_error_that_proves_no_damage_sets_nothing_aside(desk: Desk) -> None:
    ticket = await desk.submit()
    name = keys.LEASES(desk.root)
    await desk.redis.call("SET", name, "x")
    with pytest.raises(WrongTypeError, match="leases is a string where a zset should be"):
        await desk.claim_one()
    await desk.redis.call("DEL", name)
    assert await _damaged(desk) == []
    assert await desk.stage(ticket) == "queued"
    assert (await desk.claim_one()).id == ticket.id


async def test_a_damaged_record_can_be_cancelled_and_its_session_goes_on(desk: Desk) -> None:
    await desk.grant(100)
    broken = await desk.submit(hold=_HOLD)
    following = await desk.submit("ann", broken.session)
    await _damage_field(desk, broken, "deadline", "x")
    assert await desk.cancel(broken) == AlreadyEnded("failed")
    assert (await desk.books()).balance == 100
    assert (await desk.claim_one()).id == following.id


async def test_a_damaged_next_turn_leaves_its_place_to_the_one_after(desk: Desk) -> None:
    first = await desk.submit()
    broken, last = [await desk.submit("ann", first.session) for _ in range(2)]
    await desk.redis.call("DEL", keys.GENERATION(desk.root, "ann", broken.id))
    await desk.complete(await desk.claim_one())
    assert (await desk.claim_one()).id == last.id
    assert await _damaged(desk) == [f"ann:{broken.id}"]


async def test_a_damaged_lease_costs_no_other_its_beat(desk: Desk) -> None:
    broken, sound = await desk.submit(), await desk.submit()
    held = await desk.claim(2)
    await _replace(desk, _key(desk, broken, "generation"))
    assert [(stop.id, stop.why) for stop in await desk.beat(*held)] == [(broken.id, "lost")]
    assert await desk.stage(sound) == "routing"
    await _sweep(desk)


async def test_what_a_lost_reply_took_is_given_back_beside_a_damaged_one(desk: Desk) -> None:
    broken, sound = await desk.submit(), await desk.submit()
    await desk.claim(2, number=7)
    await _replace(desk, _key(desk, broken, "generation"))
    [claimed] = await desk.claim(2, number=8, unheard=[7])
    assert claimed.id == sound.id
    assert await _damaged(desk) == [f"ann:{broken.id}"]


async def test_only_so_many_are_noted(desk: Desk) -> None:
    noted = keys.DAMAGED(desk.root)
    old = [word for number in range(1_000) for word in (number, f"old:{number}")]
    await desk.redis.call("ZADD", noted, *old)
    broken = await desk.submit()
    await _damage_field(desk, broken, "number", "x")
    assert await desk.claim(1) == []
    assert await desk.redis.call("ZCARD", noted) == 1_000
    assert await desk.redis.call("ZSCORE", noted, f"ann:{broken.id}") is not None
    assert await desk.redis.call("PTTL", noted) > 0


async def test_an_attempt_that_died_while_it_called_counts_as_one_call(desk: Desk) -> None:
    await desk.submit()
    await desk.claim_one(lease_ms=0)
    await desk.reap()
    before = await desk.claim_one(lease_ms=0)
    assert before.calls == 0
    await desk.append(before, 2, "Half")
    await desk.reap()
    assert (await desk.claim_one()).calls == 1
