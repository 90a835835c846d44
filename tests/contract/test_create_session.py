"""`create_session`: a session without a turn, its place in the list, its idempotency record."""

from shared import ids
from shared.redis import functions, keys
from shared.redis.functions import Accepted, CreateSessionAsk, NewSession, Rejected
from shared.stores import sessions
from tests.support.redis_functions import LONG_MS, RedisFunctions


async def _create(
    queue: RedisFunctions,
    id_: str,
    *,
    idempotency: str | None = None,
    fingerprint: str = "same",
    per_minute: int = 1_000,
    sessions_max: int = 1_000,
    stored_bytes_max: int = 1_000_000,
) -> NewSession | Rejected:
    ask = CreateSessionAsk(
        account="ann",
        id=id_,
        name="A talk",
        per_minute=per_minute,
        sessions_max=sessions_max,
        stored_bytes_max=stored_bytes_max,
        companion="work",
        metadata={"küche": "🏠"},
        idempotency=idempotency,
        fingerprint=fingerprint,
        idempotency_ms=LONG_MS,
    )
    return await functions.create_session(queue.redis, queue.root, ask)


async def test_a_session_begins_empty_and_in_the_list(queue: RedisFunctions) -> None:
    id_ = ids.new_id()
    made = await _create(queue, id_)
    assert isinstance(made, NewSession)
    assert (made.id, made.is_replayed) == (id_, False)
    found = await sessions.find(queue.redis, queue.root, "ann", id_)
    assert found is not None
    assert (found.name, found.companion, found.turns) == ("A talk", "work", 0)
    assert found.metadata == {"küche": "🏠"}
    assert found.created == found.active
    assert await sessions.page(queue.redis, queue.root, "ann", offset=0, limit=9) == ([found], 1)
    assert await sessions.find(queue.redis, queue.root, "bob", id_) is None


async def test_repeating_the_call_changes_nothing(queue: RedisFunctions) -> None:
    id_ = ids.new_id()
    await _create(queue, id_, idempotency="k")
    await queue.submit("ann", id_)
    assert await _create(queue, id_, idempotency="k") == NewSession(id_, is_replayed=False)
    found = await sessions.find(queue.redis, queue.root, "ann", id_)
    assert found is not None
    assert found.turns == 1


async def test_a_key_stands_for_one_session(queue: RedisFunctions) -> None:
    first = ids.new_id()
    await _create(queue, first, idempotency="k")
    again = await _create(queue, ids.new_id(), idempotency="k")
    assert again == NewSession(first, is_replayed=True)
    assert await _create(queue, ids.new_id(), idempotency="k", fingerprint="other") == Rejected(
        "mismatch"
    )
    assert await queue.redis.call("ZCARD", keys.SESSIONS(queue.root, "ann")) == 1
    receipt = keys.IDEMPOTENCY(queue.root, "ann", "k")
    assert 0 < await queue.redis.call("PTTL", receipt) <= LONG_MS
    assert await queue.delete_session("ann", first)
    assert not await queue.redis.call("EXISTS", receipt)


async def test_idempotency_key_that_was_used_again_is_left_alone(queue: RedisFunctions) -> None:
    first, second = ids.new_id(), ids.new_id()
    await _create(queue, first, idempotency="k")
    receipt = keys.IDEMPOTENCY(queue.root, "ann", "k")
    await queue.redis.call("DEL", receipt)
    await _create(queue, second, idempotency="k")
    await queue.delete_session("ann", first)
    assert await _create(queue, ids.new_id(), idempotency="k") == NewSession(
        second, is_replayed=True
    )


async def test_its_first_turn_is_turn_one(queue: RedisFunctions) -> None:
    id_ = ids.new_id()
    await _create(queue, id_)
    ticket = await queue.submit("ann", id_)
    behind = await queue.submit("ann", id_)
    [claimed] = await queue.claim(wire=2)
    assert (claimed.id, claimed.turn, claimed.companion) == (ticket.id, 1, "work")
    await queue.complete(claimed)
    [claimed] = await queue.claim(wire=2)
    assert (claimed.id, claimed.turn) == (behind.id, 2)
    await queue.complete(claimed)


async def test_an_empty_session_is_deleted_without_a_trace(queue: RedisFunctions) -> None:
    id_ = ids.new_id()
    await _create(queue, id_)
    assert await queue.rename_session("ann", id_, "Other")
    assert await queue.delete_session("ann", id_)
    assert not await queue.delete_session("ann", id_)
    assert await queue.redis.call("KEYS", f"*{id_}*") == []


async def test_sessions_and_messages_share_one_limit(queue: RedisFunctions) -> None:
    made = await _create(queue, ids.new_id(), per_minute=3)
    assert isinstance(made, NewSession)
    assert made.rate is not None
    assert (made.rate.limit, made.rate.remaining, made.rate.retry_ms) == (3, 2, 0)
    assert isinstance(await queue.accept(per_minute=3), Accepted)
    last = await _create(queue, ids.new_id(), idempotency="k", per_minute=3)
    assert isinstance(last, NewSession)
    # The next would be allowed a third of a minute after the first.
    assert last.rate is not None
    assert 19_000 < last.rate.retry_ms <= 20_000
    for refused in (
        await _create(queue, ids.new_id(), per_minute=3),
        await queue.accept(per_minute=3),
    ):
        assert isinstance(refused, Rejected)
        assert refused.reason == "limited"
        assert refused.rate is not None
        assert refused.rate.remaining == 0
        assert 19_000 < refused.rate.retry_ms <= 20_000
    assert await queue.redis.call("ZCARD", keys.SESSIONS(queue.root, "ann")) == 3
    # A session that was created before is returned again, whatever the limit.
    again = await _create(queue, ids.new_id(), idempotency="k", per_minute=3)
    assert again == NewSession(last.id, is_replayed=True)
