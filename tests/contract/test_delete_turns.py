"""`delete_turns`: the turns of a deleted session are deleted piece by piece, by any process."""

from shared.redis import keys, library
from shared.redis.functions import DeleteSessionAsk, DeleteTurnsAsk
from tests.support.redis_functions import CHANNELS, KEEP, RedisFunctions, Ticket

_LONG = "x" * 300_000


async def _turns(queue: RedisFunctions, count: int, text: str) -> list[Ticket]:
    """Return the turns of one session, each with an answer of that length."""
    tickets: list[Ticket] = []
    for _ in range(count):
        tickets.append(await queue.submit("ann", tickets[0].session if tickets else None))
        await queue.complete(await queue.claim_one(), text=text)
    return tickets


async def _delete_and_die(queue: RedisFunctions, session: str) -> str:
    """Delete a session without its turns, like a process that is killed in between."""
    ask = DeleteSessionAsk(account="ann", id=session, keep=KEEP, channels=CHANNELS)
    answer: bytes = await library.invoke(queue.redis, "delete_session", queue.root, ask)
    return answer.decode()


async def _chunks(queue: RedisFunctions) -> int:
    return len(await queue.redis.call("KEYS", f"{queue.root}turns:*"))


async def test_many_turns_are_deleted_in_several_calls_the_last_first(
    queue: RedisFunctions,
) -> None:
    first, *_, last = await _turns(queue, 33, _LONG)
    assert await _delete_and_die(queue, first.session) == "deleted"
    ask = DeleteTurnsAsk(account="ann", id=first.session)
    left = [await _chunks(queue)]
    while await library.invoke(queue.redis, "delete_turns", queue.root, ask):
        left.append(await _chunks(queue))
        assert await queue.find("ann", last.id) is None
        assert await queue.find("ann", first.id) is not None
    # Of 9.9 MB, one call deletes 4 MiB and the rest of a turn.
    assert left == [3, 2, 1]
    assert await queue.redis.call("KEYS", f"{queue.root}*:ann:*") == []
    assert await queue.redis.call("EXISTS", keys.TURNS_TO_DELETE(queue.root)) == 0


async def test_repeated_deletion_continues_with_the_rest(queue: RedisFunctions) -> None:
    first, last = await _turns(queue, 2, "Hi")
    assert await _delete_and_die(queue, first.session) == "deleted"
    assert await queue.find("ann", last.id) is not None
    assert await queue.delete_session("ann", first.session)
    assert await queue.find("ann", last.id) is None
    assert not await queue.delete_session("ann", first.session)


async def test_session_that_is_being_deleted_takes_no_message(queue: RedisFunctions) -> None:
    [ticket] = await _turns(queue, 1, "Hi")
    await _delete_and_die(queue, ticket.session)
    answer = await queue.accept("ann", ticket.session, is_new=False)
    assert getattr(answer, "reason", None) == "no_session"
