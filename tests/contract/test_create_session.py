"""`create_session`: a session without a turn, its place in the list, and its receipt."""

from shared import ids
from shared.redis import functions, keys
from shared.redis.functions import Accepted, CreateSessionAsk, NewSession, NotAccepted
from shared.stores import sessions
from tests.support.desk import LONG_MS, Desk


async def _create(
    desk: Desk,
    id_: str,
    *,
    idempotency: str | None = None,
    fingerprint: str = "same",
    per_minute: int = 1_000,
    sessions_max: int = 1_000,
    stored_bytes_max: int = 1_000_000,
) -> NewSession | NotAccepted:
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
    return await functions.create_session(desk.redis, desk.root, ask)


async def test_a_session_begins_empty_and_in_the_list(desk: Desk) -> None:
    id_ = ids.new_id()
    made = await _create(desk, id_)
    assert isinstance(made, NewSession)
    assert (made.id, made.is_replayed) == (id_, False)
    found = await sessions.find(desk.redis, desk.root, "ann", id_)
    assert found is not None
    assert (found.name, found.companion, found.turns) == ("A talk", "work", 0)
    assert found.metadata == {"küche": "🏠"}
    assert found.created == found.active
    assert await sessions.page(desk.redis, desk.root, "ann", offset=0, limit=9) == ([found], 1)
    assert await sessions.find(desk.redis, desk.root, "bob", id_) is None


async def test_repeating_the_call_changes_nothing(desk: Desk) -> None:
    id_ = ids.new_id()
    await _create(desk, id_, idempotency="k")
    await desk.submit("ann", id_)
    assert await _create(desk, id_, idempotency="k") == NewSession(id_, is_replayed=False)
    found = await sessions.find(desk.redis, desk.root, "ann", id_)
    assert found is not None
    assert found.turns == 1


async def test_a_key_stands_for_one_session(desk: Desk) -> None:
    first = ids.new_id()
    await _create(desk, first, idempotency="k")
    again = await _create(desk, ids.new_id(), idempotency="k")
    assert again == NewSession(first, is_replayed=True)
    assert await _create(desk, ids.new_id(), idempotency="k", fingerprint="other") == NotAccepted(
        "mismatch"
    )
    assert await desk.redis.call("ZCARD", keys.SESSIONS(desk.root, "ann")) == 1
    receipt = keys.IDEMPOTENCY(desk.root, "ann", "k")
    assert 0 < await desk.redis.call("PTTL", receipt) <= LONG_MS
    assert await desk.delete_session("ann", first)
    assert not await desk.redis.call("EXISTS", receipt)


async def test_a_key_that_came_to_stand_for_another_is_left_alone(desk: Desk) -> None:
    first, second = ids.new_id(), ids.new_id()
    await _create(desk, first, idempotency="k")
    receipt = keys.IDEMPOTENCY(desk.root, "ann", "k")
    await desk.redis.call("DEL", receipt)
    await _create(desk, second, idempotency="k")
    await desk.delete_session("ann", first)
    assert await _create(desk, ids.new_id(), idempotency="k") == NewSession(
        second, is_replayed=True
    )


async def test_its_first_turn_is_turn_one(desk: Desk) -> None:
    id_ = ids.new_id()
    await _create(desk, id_)
    ticket = await desk.submit("ann", id_)
    behind = await desk.submit("ann", id_)
    [claimed] = await desk.claim(wire=2)
    assert (claimed.id, claimed.turn, claimed.companion) == (ticket.id, 1, "work")
    await desk.complete(claimed)
    [claimed] = await desk.claim(wire=2)
    assert (claimed.id, claimed.turn) == (behind.id, 2)
    await desk.complete(claimed)


async def test_an_empty_session_is_deleted_without_a_trace(desk: Desk) -> None:
    id_ = ids.new_id()
    await _create(desk, id_)
    assert await desk.rename_session("ann", id_, "Other")
    assert await desk.delete_session("ann", id_)
    assert not await desk.delete_session("ann", id_)
    assert await desk.redis.call("KEYS", f"*{id_}*") == []


async def test_sessions_and_messages_share_one_limit(desk: Desk) -> None:
    made = await _create(desk, ids.new_id(), per_minute=3)
    assert isinstance(made, NewSession)
    assert made.rate is not None
    assert (made.rate.limit, made.rate.remaining, made.rate.retry_ms) == (3, 2, 0)
    assert isinstance(await desk.accept(per_minute=3), Accepted)
    last = await _create(desk, ids.new_id(), idempotency="k", per_minute=3)
    assert isinstance(last, NewSession)
    # The next would be let through a third of a minute after the first.
    assert last.rate is not None
    assert 19_000 < last.rate.retry_ms <= 20_000
    for refused in (
        await _create(desk, ids.new_id(), per_minute=3),
        await desk.accept(per_minute=3),
    ):
        assert isinstance(refused, NotAccepted)
        assert refused.reason == "limited"
        assert refused.rate is not None
        assert refused.rate.remaining == 0
        assert 19_000 < refused.rate.retry_ms <= 20_000
    assert await desk.redis.call("ZCARD", keys.SESSIONS(desk.root, "ann")) == 3
    # What was made before is told again, whatever the limit.
    again = await _create(desk, ids.new_id(), idempotency="k", per_minute=3)
    assert again == NewSession(last.id, is_replayed=True)
