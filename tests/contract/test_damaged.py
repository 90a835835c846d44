"""A damaged generation is set aside; the rest of its account and partition goes on."""

from typing import Final

import pytest

from shared.errors import WrongTypeError
from shared.redis import keys
from shared.redis.functions import AlreadyEnded
from tests.support.redis_functions import RedisFunctions, Ticket

_FIELDS: Final = (
    *("stage", "session", "turn", "lane", "model", "wire", "number"),
    *("accepted", "deadline", "hold", "attempt"),
)
_KEYS: Final = ("generation", "submission", "turns", "session", "waiting", "ready", "unfinished")
_HOLD: Final = 40
_CALLS: Final = 4


def _key(queue: RedisFunctions, ticket: Ticket, family: str) -> str:
    own, session = (ticket.account, ticket.id), (ticket.account, ticket.session)
    return {
        "generation": keys.GENERATION(queue.root, *own),
        "submission": keys.SUBMISSION(queue.root, *own),
        "events": keys.EVENTS(queue.root, *own),
        "turns": keys.TURNS(queue.root, *session, 0),
        "session": keys.SESSION(queue.root, *session),
        "waiting": keys.WAITING(queue.root, *session),
        "ready": keys.READY(queue.root, ticket.account, "interactive"),
        "unfinished": keys.UNFINISHED(queue.root, ticket.account, "interactive"),
    }[family]


async def _damage_field(
    queue: RedisFunctions, ticket: Ticket, field: str, value: str | None
) -> None:
    name = keys.GENERATION(queue.root, ticket.account, ticket.id)
    if value is None:
        await queue.redis.call("HDEL", name, field)
    else:
        await queue.redis.call("HSET", name, field, value)


async def _replace(queue: RedisFunctions, name: str) -> None:
    """Replace a key by one of another type."""
    is_list = await queue.redis.call("TYPE", name) == b"list"
    await queue.redis.call("DEL", name)
    if is_list:
        await queue.redis.call("SET", name, "x")
    else:
        await queue.redis.call("RPUSH", name, "x")


async def _sweep(queue: RedisFunctions) -> None:
    """Delete what damage leaves behind and nothing can repair: the test has checked it."""
    names = await queue.redis.call("KEYS", f"{queue.root}*")
    await queue.redis.call("UNLINK", *names)


async def _damaged(queue: RedisFunctions) -> list[str]:
    return [
        name.decode() for name in await queue.redis.call("ZRANGE", keys.DAMAGED(queue.root), 0, -1)
    ]


async def _go_on(queue: RedisFunctions, *expected: Ticket) -> list[str]:
    """Reap, claim and complete a few times. Return what the reaps reported as damaged."""
    completed, reported = set(), []
    for _ in range(_CALLS):
        reported += [each.name for each in (await queue.reap()).damaged]
        for claimed in await queue.claim(10):
            if await queue.append(claimed, 2, "Hi") != "appended":
                continue
            if await queue.settle(claimed, seq=3) is not None:
                completed.add(claimed.id)
    reported += [each.name for each in (await queue.reap()).damaged]
    assert {ticket.id for ticket in expected} <= completed
    return reported


async def _is_out_of_all_lines(queue: RedisFunctions, ticket: Ticket) -> None:
    name = f"{ticket.account}:{ticket.id}"
    for line in (keys.LEASES, keys.DEADLINES, keys.DEFERRED, keys.SUSPECTS):
        assert await queue.redis.call("ZSCORE", line(queue.root), name) is None
    ready = keys.READY(queue.root, ticket.account, "interactive")
    assert await queue.redis.call("ZSCORE", ready, ticket.id) is None


@pytest.mark.parametrize("value", [None, "x", ""])
@pytest.mark.parametrize("field", _FIELDS)
@pytest.mark.parametrize("where", ["ready", "leased", "deferred", "suspect", "late", "parked"])
async def test_a_damaged_field_stops_no_neighbour(
    queue: RedisFunctions, where: str, field: str, value: str | None
) -> None:
    await queue.grant(1_000)
    if value == "x" and field in {"session", "model"}:
        # Any text is a valid one.
        return
    broken = await _placed(queue, where)
    own, other = await queue.submit(), await queue.submit("bob")
    next_turn = await queue.submit("ann", broken.session)
    await _damage_field(queue, broken, field, value)
    await _fall_due(queue, broken, where)
    reported = await _go_on(queue, own, other, next_turn)
    assert reported == await _damaged(queue) == [f"ann:{broken.id}"]
    await _is_out_of_all_lines(queue, broken)
    credit_totals = await queue.credit_totals()
    is_lost = field == "hold"
    assert (credit_totals.held, credit_totals.balance) == ((40, 960) if is_lost else (0, 1_000))
    running = await queue.redis.call(
        "HGET", keys.ACCOUNT_TOTALS(queue.root, "ann"), "running_interactive"
    )
    assert int(running or 0) == 0
    assert await queue.stage(broken) == "failed"
    if is_lost:
        await _sweep(queue)


async def _placed(queue: RedisFunctions, where: str) -> Ticket:
    """Submit the generation that is to be damaged, and bring it to its stage."""
    ticket = await queue.submit(hold=_HOLD)
    if where in {"leased", "suspect"}:
        claimed = await queue.claim_one(worker="w", lease_ms=0 if where == "suspect" else 60_000)
        await queue.append(claimed, 1, "Half")
        if where == "suspect":
            await queue.reap()
    elif where == "deferred":
        await queue.release(await queue.claim_one(), delay_ms=60_000)
    elif where == "parked":
        await queue.release(await queue.claim_one(), delay_ms=60_000, parked="shop")
    return ticket


async def _fall_due(queue: RedisFunctions, ticket: Ticket, where: str) -> None:
    line = {
        "leased": keys.LEASES,
        "deferred": keys.DEFERRED,
        "parked": keys.DEFERRED,
        "late": keys.DEADLINES,
    }.get(where)
    if line is not None:
        await queue.redis.call("ZADD", line(queue.root), "XX", 1, f"{ticket.account}:{ticket.id}")


@pytest.mark.parametrize("is_deleted", [True, False])
@pytest.mark.parametrize("family", _KEYS)
@pytest.mark.parametrize("where", ["ready", "leased", "deferred", "suspect", "late"])
async def test_a_damaged_key_stops_no_neighbour(
    queue: RedisFunctions, where: str, family: str, is_deleted: bool
) -> None:
    await queue.grant(1_000)
    broken = await _placed(queue, where)
    own, other = await queue.submit(), await queue.submit("bob")
    name = _key(queue, broken, family)
    if is_deleted:
        await queue.redis.call("DEL", name)
    else:
        await _replace(queue, name)
    await _fall_due(queue, broken, where)
    # Ready turns are rebuilt from the account's unfinished ones: if those are lost, they cannot be.
    shared = family == "unfinished" or (family == "ready" and is_deleted)
    await _go_on(queue, *([other] if shared else [own, other]))
    if family in {"generation", "submission", "turns"} and where != "late":
        assert await _damaged(queue) == [f"ann:{broken.id}"]
        await _is_out_of_all_lines(queue, broken)
    await _sweep(queue)


async def test_lost_ready_turns_are_rebuilt(queue: RedisFunctions) -> None:
    tickets = [await queue.submit() for _ in range(3)]
    await queue.redis.call("DEL", keys.READY(queue.root, "ann", "interactive"))
    await _go_on(queue, *tickets)
    assert await _damaged(queue) == []


async def test_an_error_that_proves_no_damage_sets_nothing_aside(queue: RedisFunctions) -> None:
    ticket = await queue.submit()
    name = keys.LEASES(queue.root)
    await queue.redis.call("SET", name, "x")
    with pytest.raises(WrongTypeError, match="leases is a string where a zset should be"):
        await queue.claim_one()
    await queue.redis.call("DEL", name)
    assert await _damaged(queue) == []
    assert await queue.stage(ticket) == "queued"
    assert (await queue.claim_one()).id == ticket.id


async def test_a_damaged_record_can_be_cancelled_and_its_session_goes_on(
    queue: RedisFunctions,
) -> None:
    await queue.grant(100)
    broken = await queue.submit(hold=_HOLD)
    following = await queue.submit("ann", broken.session)
    await _damage_field(queue, broken, "deadline", "x")
    assert await queue.cancel(broken) == AlreadyEnded("failed")
    assert (await queue.credit_totals()).balance == 100
    assert (await queue.claim_one()).id == following.id


async def test_a_damaged_next_turn_leaves_its_place_to_the_one_after(queue: RedisFunctions) -> None:
    first = await queue.submit()
    broken, last = [await queue.submit("ann", first.session) for _ in range(2)]
    await queue.redis.call("DEL", keys.GENERATION(queue.root, "ann", broken.id))
    await queue.complete(await queue.claim_one())
    assert (await queue.claim_one()).id == last.id
    assert await _damaged(queue) == [f"ann:{broken.id}"]


async def test_damaged_lease_does_not_stop_the_renewal_of_others(queue: RedisFunctions) -> None:
    broken, sound = await queue.submit(), await queue.submit()
    held = await queue.claim(2)
    await _replace(queue, _key(queue, broken, "generation"))
    assert [(stop.id, stop.why) for stop in await queue.beat(*held)] == [(broken.id, "lost")]
    assert await queue.stage(sound) == "routing"
    await _sweep(queue)


async def test_turns_of_an_unacknowledged_claim_are_requeued_beside_a_damaged_one(
    queue: RedisFunctions,
) -> None:
    broken, sound = await queue.submit(), await queue.submit()
    await queue.claim(2, number=7)
    await _replace(queue, _key(queue, broken, "generation"))
    [claimed] = await queue.claim(2, number=8, unacknowledged=[7])
    assert claimed.id == sound.id
    assert await _damaged(queue) == [f"ann:{broken.id}"]


async def test_list_of_damaged_generations_is_bounded(queue: RedisFunctions) -> None:
    noted = keys.DAMAGED(queue.root)
    old = [word for number in range(1_000) for word in (number, f"old:{number}")]
    await queue.redis.call("ZADD", noted, *old)
    broken = await queue.submit()
    await _damage_field(queue, broken, "number", "x")
    assert await queue.claim(1) == []
    assert await queue.redis.call("ZCARD", noted) == 1_000
    assert await queue.redis.call("ZSCORE", noted, f"ann:{broken.id}") is not None
    assert await queue.redis.call("PTTL", noted) > 0


async def test_an_attempt_that_died_while_it_called_counts_as_one_call(
    queue: RedisFunctions,
) -> None:
    await queue.submit()
    await queue.claim_one(lease_ms=0)
    await queue.reap()
    before = await queue.claim_one(lease_ms=0)
    assert before.calls == 0
    await queue.append(before, 2, "Half")
    await queue.reap()
    assert (await queue.claim_one()).calls == 1
