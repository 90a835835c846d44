"""A generation without a session: its two messages stand beside its record and end with it.

After each test `tests/support/redis_invariants.py` checks that they expire, and that nothing is
left. A process that knows only sessions is one whose function library finds none without.
"""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from typing_extensions import override

from shared.errors import DAMAGED, Failure
from shared.redis import functions, keys, library
from shared.redis.client import Argument, Redis, Reply
from shared.redis.functions import (
    Accepted,
    AlreadyEnded,
    Cancelled,
    RecountAsk,
    Rejected,
    Replayed,
    RestoreAsk,
    Retried,
    RetryRefused,
)
from shared.settings import RedisSettings
from shared.stores import generations, idempotency_records
from shared.wire.message import decode_assistant, decode_user
from shared.wire.submission import FEATURES_WIRE
from tests.support.redis_functions import KEEP, LONG_MS, RedisFunctions, Ticket

_DOWN = Failure(
    message="The provider is down.", category="provider_error", code="UPSTREAM_500", retryable=True
)
_HOLD = 40
_GRANT = 100
_OLDER = f"{library.NAME}older"
_FINDS_SESSIONLESS = "function has_no_session(id, generation) return generation.session == id"


@pytest.fixture
async def queue(queue: RedisFunctions) -> RedisFunctions:
    """Return the functions of a partition in which ann has credits."""
    await queue.grant(_GRANT)
    return queue


class _OlderRedis(Redis):
    """A connection of a process whose functions know no generation without a session."""

    @override
    async def call(self, *command: Argument, repeat: bool = True) -> Reply:
        verb, name, *rest = command
        if str(verb).startswith("FCALL"):
            command = (verb, str(name).replace(library.NAME, _OLDER), *rest)
        return await super().call(*command, repeat=repeat)


@pytest.fixture
async def older(
    queue: RedisFunctions, redis_settings: RedisSettings
) -> AsyncIterator[RedisFunctions]:
    """Return the functions of a process that knows only sessions."""
    text = library.TEXT.replace(library.NAME, _OLDER)
    assert text.count(_FINDS_SESSIONLESS) == 1
    text = text.replace(
        _FINDS_SESSIONLESS, _FINDS_SESSIONLESS.replace("generation.session == id", "false")
    )
    await queue.redis.call("FUNCTION", "LOAD", "REPLACE", text)
    redis = _OlderRedis(redis_settings)
    yield RedisFunctions(redis, redis_settings, redis_settings.partitions - 1)
    await redis.close()
    await queue.redis.call("FUNCTION", "DELETE", _OLDER)


def _turn(queue: RedisFunctions, ticket: Ticket) -> str:
    return keys.TURNS(queue.root, ticket.account, ticket.id, 0)


async def _families(queue: RedisFunctions) -> set[str]:
    names: list[bytes] = await queue.redis.call("KEYS", f"{queue.root}*")
    return {name.decode().removeprefix(queue.root).partition(":")[0] for name in names}


async def _expire(queue: RedisFunctions, ticket: Ticket) -> None:
    name = f"{ticket.account}:{ticket.id}"
    await queue.redis.call("ZADD", keys.DEADLINES(queue.root), "XX", 1, name)
    assert (await queue.reap()).done == [(ticket.account, ticket.id, "expired")]


async def test_a_generation_without_a_session_writes_nothing_of_sessions(
    queue: RedisFunctions,
) -> None:
    ticket = await queue.submit_alone(hold=_HOLD, content="Why?")
    assert not await _families(queue) & {"session", "sessions", "waiting", "recount"}
    status = await queue.status(ticket)
    assert status.user_message is not None
    assert decode_user(status.user_message).content == "Why?"
    assert (status.record["turn"], status.rank, status.is_behind_head) == ("1", 0, False)
    found = await generations.find(queue.redis, queue.root, "ann", ticket.id)
    assert found is not None
    assert found.session is None
    claimed = await queue.claim_one()
    assert decode_user(claimed.user_message).content == "Why?"
    assert (claimed.turn, claimed.system_prompt, claimed.companion) == (1, None, None)
    await queue.complete(claimed, "Because.", cost=30)
    assert not await _families(queue) & {"session", "sessions", "waiting", "recount"}
    answer = (await queue.status(ticket)).body
    assert answer is not None
    assert decode_assistant(answer).content == "Because."
    credit_totals = await queue.credit_totals()
    assert (credit_totals.balance, credit_totals.held, credit_totals.settled) == (70, 0, 30)


async def test_messages_expire_with_the_record_and_not_before(queue: RedisFunctions) -> None:
    ticket = await queue.submit_alone()
    before = await queue.redis.call("PTTL", _turn(queue, ticket))
    assert before > LONG_MS + KEEP.record_ms
    await queue.complete(await queue.claim_one())
    record = keys.GENERATION(queue.root, "ann", ticket.id)
    left = [await queue.redis.call("PTTL", name) for name in (record, _turn(queue, ticket))]
    assert all(0 < ms <= KEEP.record_ms for ms in left)


async def test_messages_of_one_that_waits_for_a_person_stay_as_long_as_it_may(
    queue: RedisFunctions,
) -> None:
    ticket = await queue.submit_alone(hold=_HOLD)
    wait_ms = 30 * 86_400_000
    claimed = await queue.claim_one()
    assert await queue.suspend(claimed, 1, wait_ms, text="May I?", cost=7) == "suspended"
    assert await queue.redis.call("PTTL", _turn(queue, ticket)) > wait_ms
    assert await queue.resume(ticket) == "resumed"
    await queue.complete(await queue.claim_one())
    assert await queue.stage(ticket) == "completed"
    assert 0 < await queue.redis.call("PTTL", _turn(queue, ticket)) <= KEEP.record_ms


async def test_each_is_its_own_head(queue: RedisFunctions) -> None:
    tickets = [await queue.submit_alone() for _ in range(3)]
    claimed = await queue.claim(9)
    assert [one.id for one in claimed] == [ticket.id for ticket in tickets]


async def test_one_that_is_handed_back_is_claimed_again(queue: RedisFunctions) -> None:
    ticket = await queue.submit_alone(hold=_HOLD)
    claimed = await queue.claim_one()
    await queue.append(claimed, 1, "So")
    assert await queue.release(claimed) == "released"
    [again] = await queue.claim(number=7)
    # The reply of that claim was lost.
    [third] = await queue.claim(number=8, unacknowledged=(7,))
    assert [one.attempt for one in (claimed, again, third)] == [1, 2, 3]
    assert await queue.release(third, delay_ms=LONG_MS) == "released"
    await queue.redis.call("ZADD", keys.DEFERRED(queue.root), "XX", 1, f"ann:{ticket.id}")
    await queue.reap()
    await queue.complete(await queue.claim_one(), "So it is.")
    assert await queue.stage(ticket) == "completed"


async def _cancelled(queue: RedisFunctions, ticket: Ticket) -> None:
    assert await queue.cancel(ticket) == Cancelled(_HOLD)


async def _buried(queue: RedisFunctions, ticket: Ticket) -> None:
    await queue.claim_one(lease_ms=0)
    await queue.reap(crashes_max=0)
    assert await queue.stage(ticket) == "failed"


@pytest.mark.parametrize("end", [_cancelled, _expire, _buried])
async def test_an_end_without_a_worker_is_stored_with_the_text_so_far(
    queue: RedisFunctions, end: Callable[[RedisFunctions, Ticket], Awaitable[None]]
) -> None:
    ticket = await queue.submit_alone(hold=_HOLD)
    if end is not _buried:
        claimed = await queue.claim_one()
        await queue.append(claimed, 1, "So far")
        await queue.release(claimed)
    await end(queue, ticket)
    status = await queue.status(ticket)
    assert status.body is not None
    answer = decode_assistant(status.body)
    assert answer.status == status.record["stage"]
    assert answer.content == ("" if end is _buried else "So far")
    assert (await queue.credit_totals()).balance == _GRANT


async def test_a_failure_leaves_a_dead_letter_that_is_retried_without_a_session(
    queue: RedisFunctions,
) -> None:
    ticket = await queue.submit_alone(hold=_HOLD, content="Why?", metadata={"a": "b"})
    await queue.fail(await queue.claim_one(), _DOWN)
    [letter] = await queue.dead()
    assert generations.session_of(letter.id, letter.record["session"].decode()) is None
    poor = await queue.submit_alone(hold=_GRANT)
    assert await queue.revive(ticket) == RetryRefused("poor", 0)
    await queue.cancel(poor)
    retried = await queue.revive(ticket)
    assert isinstance(retried, Retried)
    assert await queue.revive(ticket) == retried
    claimed = await queue.claim_one()
    message = decode_user(claimed.user_message)
    assert (claimed.id, claimed.turn, message.content) == (retried.generation, 1, "Why?")
    assert (message.generation, message.metadata) == (claimed.id, {"a": "b"})
    again = Ticket("ann", claimed.id, claimed.id)
    assert (await queue.status(again)).record["session"] == claimed.id
    await queue.fail(claimed, _DOWN)
    assert isinstance(await queue.revive(again), Retried)
    await queue.complete(await queue.claim_one())
    assert not await _families(queue) & {"session", "sessions", "waiting"}


async def test_a_retry_is_bound_by_the_quota_of_stored_bytes(queue: RedisFunctions) -> None:
    ticket = await queue.submit_alone()
    await queue.fail(await queue.claim_one(), _DOWN)
    assert await queue.revive(ticket, stored_bytes_max=1) == RetryRefused("quota")
    # It waits behind nothing.
    assert isinstance(await queue.revive(ticket, waiting_max=0), Retried)


async def test_a_repeated_request_gets_the_same_generation(queue: RedisFunctions) -> None:
    ticket = await queue.submit_alone(idempotency="key", hold=_HOLD)
    for generation in ("another", ticket.id):
        again = await queue.accept(
            is_sessionless=True, generation=generation, idempotency="key", hold=_HOLD
        )
        assert again == Replayed(ticket.id, None)
    other = await queue.accept(is_sessionless=True, idempotency="key", fingerprint="other")
    assert other == Rejected("mismatch")
    record = await idempotency_records.find(queue.redis, queue.root, "ann", "key")
    assert record is not None
    assert (record.generation, record.session) == (ticket.id, None)
    assert (await queue.credit_totals()).held == _HOLD


async def test_quotas_bound_it_and_count_nothing_of_it(queue: RedisFunctions) -> None:
    assert isinstance(await queue.accept(is_sessionless=True, sessions_max=0), Accepted)
    await queue.complete(await queue.claim_one(), "y" * 500)
    refused = await queue.accept(is_sessionless=True, content="x" * 500, stored_bytes_max=500)
    assert isinstance(refused, Rejected)
    assert (refused.reason, refused.about, refused.used) == ("quota", "stored_bytes", 0)
    counted = await functions.recount(queue.redis, queue.root, RecountAsk(account="ann"))
    assert (counted.corrected_bytes, counted.gone_bytes, counted.next) == (0, 0, None)


async def test_its_id_names_no_session(queue: RedisFunctions) -> None:
    ticket = await queue.submit_alone()
    assert not await queue.delete_session("ann", ticket.id)
    refused = await queue.accept("ann", ticket.id, is_new=False)
    assert refused == Rejected("no_session")
    assert await queue.stage(ticket) == "queued"


@pytest.mark.parametrize("lost", [keys.DEADLINES, keys.READY, keys.UNFINISHED, keys.LANE])
async def test_restore_puts_it_back_into_the_queue_that_lost_it(
    queue: RedisFunctions, lost: keys.Key
) -> None:
    ticket = await queue.submit_alone()
    parts = {"account": "ann", "lane": "interactive"}
    await queue.redis.call("DEL", lost(queue.root, *(parts[part] for part in lost.parts)))
    ask = RestoreAsk(names=[("ann", ticket.id)], lease_ms=LONG_MS)
    assert await functions.restore(queue.redis, queue.root, ask) == 1
    assert [one.id for one in await queue.claim()] == [ticket.id]


async def test_a_claim_rebuilds_its_place_among_the_ready(queue: RedisFunctions) -> None:
    ticket = await queue.submit_alone()
    await queue.redis.call("DEL", keys.READY(queue.root, "ann", "interactive"))
    assert [one.id for one in await queue.claim()] == [ticket.id]


@pytest.mark.parametrize("family", ["submission", "turns", "turn"])
async def test_a_damaged_one_is_set_aside_with_an_answer(
    queue: RedisFunctions, family: str
) -> None:
    ticket = await queue.submit_alone(hold=_HOLD)
    record = keys.GENERATION(queue.root, "ann", ticket.id)
    if family == "submission":
        await queue.redis.call("DEL", keys.SUBMISSION(queue.root, "ann", ticket.id))
    elif family == "turns":
        await queue.redis.call("DEL", _turn(queue, ticket))
    else:
        await queue.redis.call("HSET", record, "turn", "x")
    sound = await queue.submit_alone()
    assert [one.id for one in await queue.claim(2)] == [sound.id]
    status = await queue.status(ticket)
    assert (status.record["stage"], status.record["session"]) == ("failed", ticket.id)
    assert status.body is not None
    failure = decode_assistant(status.body).failure
    assert failure == DAMAGED
    assert (await queue.credit_totals()).balance == _GRANT


async def test_a_process_that_knows_only_sessions_leaves_it_in_the_queue(
    queue: RedisFunctions, older: RedisFunctions
) -> None:
    ticket = await queue.submit_alone(hold=_HOLD, content="Why?")
    with_session = await queue.submit("bob")
    taken = await older.claim(9, wire=FEATURES_WIRE)
    assert [one.id for one in taken] == [with_session.id]
    await older.reap()
    status = await older.status(ticket)
    assert status.record["stage"] == "queued"
    assert status.user_message is not None
    assert decode_user(status.user_message).content == "Why?"
    await queue.complete(await queue.claim_one(), "Because.")
    answer = (await older.status(ticket)).body
    assert answer is not None
    assert decode_assistant(answer).content == "Because."


@pytest.mark.parametrize("end", [_cancelled, _expire])
async def test_an_end_by_a_process_that_knows_only_sessions_keeps_the_credits(
    queue: RedisFunctions,
    older: RedisFunctions,
    end: Callable[[RedisFunctions, Ticket], Awaitable[None]],
) -> None:
    """It stores no answer, and leaves the message to expire by itself."""
    ticket = await queue.submit_alone(hold=_HOLD)
    claimed = await queue.claim_one()
    await queue.append(claimed, 1, "So far")
    await queue.release(claimed)
    await end(older, ticket)
    assert isinstance(await queue.cancel(ticket), AlreadyEnded)
    found = await generations.find(queue.redis, queue.root, "ann", ticket.id)
    assert found is not None
    assert (found.is_final, found.assistant, found.session) == (True, None, None)
    assert (await queue.credit_totals()).balance == _GRANT
    assert not await _families(queue) & {"session", "sessions", "waiting"}
    assert await queue.redis.call("PTTL", _turn(queue, ticket)) > 0
    await queue.redis.call("UNLINK", _turn(queue, ticket))


async def test_restore_by_a_process_that_knows_only_sessions_leaves_nothing_in_the_end(
    queue: RedisFunctions, older: RedisFunctions
) -> None:
    ticket = await queue.submit_alone()
    await queue.redis.call("DEL", keys.READY(queue.root, "ann", "interactive"))
    await queue.redis.call("DEL", keys.LANE(queue.root, "interactive"))
    ask = RestoreAsk(names=[("ann", ticket.id)], lease_ms=LONG_MS)
    await functions.restore(older.redis, older.root, ask)
    assert await queue.claim() == []
    await functions.restore(queue.redis, queue.root, ask)
    await queue.complete(await queue.claim_one())
    assert "waiting" not in await _families(queue)


async def test_a_retry_by_a_process_that_knows_only_sessions_is_refused(
    queue: RedisFunctions, older: RedisFunctions
) -> None:
    ticket = await queue.submit_alone()
    await queue.fail(await queue.claim_one(), _DOWN)
    assert await older.revive(ticket) == RetryRefused("no_session")
    assert isinstance(await queue.revive(ticket), Retried)
