"""What the turns of a deleted session left is forgotten piece by piece, by whoever is there."""

from shared.redis import keys, library
from shared.redis.functions import DeleteSessionAsk, ForgetTurnsAsk
from tests.support.desk import CHANNELS, KEEP, Desk, Ticket

_LONG = "x" * 300_000


async def _turns(desk: Desk, count: int, text: str) -> list[Ticket]:
    """Return the turns of one session, each with so long an answer."""
    tickets: list[Ticket] = []
    for _ in range(count):
        tickets.append(await desk.submit("ann", tickets[0].session if tickets else None))
        await desk.complete(await desk.claim_one(), text=text)
    return tickets


async def _delete_and_die(desk: Desk, session: str) -> str:
    """Delete a session and do nothing after that, as who is killed in between."""
    ask = DeleteSessionAsk(account="ann", id=session, keep=KEEP, channels=CHANNELS)
    answer: bytes = await library.invoke(desk.redis, "delete_session", desk.root, ask)
    return answer.decode()


async def _chunks(desk: Desk) -> int:
    return len(await desk.redis.call("KEYS", f"{desk.root}turns:*"))


async def test_much_is_forgotten_in_several_calls_last_turns_first(desk: Desk) -> None:
    first, *_, last = await _turns(desk, 33, _LONG)
    assert await _delete_and_die(desk, first.session) == "deleted"
    ask = ForgetTurnsAsk(account="ann", id=first.session)
    left = [await _chunks(desk)]
    while await library.invoke(desk.redis, "forget_turns", desk.root, ask):
        left.append(await _chunks(desk))
        assert await desk.find("ann", last.id) is None
        assert await desk.find("ann", first.id) is not None
    # Of 9.9 MB, 4 MiB and the rest of a turn at once; the first turns are in the last chunk.
    assert left == [3, 2, 1]
    assert await desk.redis.call("KEYS", f"{desk.root}*:ann:*") == []
    assert await desk.redis.call("EXISTS", keys.FORGETTING(desk.root)) == 0


async def test_deleting_again_goes_on_with_what_was_left(desk: Desk) -> None:
    first, last = await _turns(desk, 2, "Hi")
    assert await _delete_and_die(desk, first.session) == "deleted"
    assert await desk.find("ann", last.id) is not None
    assert await desk.delete_session("ann", first.session)
    assert await desk.find("ann", last.id) is None
    assert not await desk.delete_session("ann", first.session)


async def test_session_that_is_being_forgotten_takes_no_message(desk: Desk) -> None:
    [ticket] = await _turns(desk, 1, "Hi")
    await _delete_and_die(desk, ticket.session)
    answer = await desk.accept("ann", ticket.session, is_new=False)
    assert getattr(answer, "reason", None) == "no_session"
