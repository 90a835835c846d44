"""Finished rounds: what is kept for a later attempt, what followers see of it, what it costs."""

import msgspec
import pytest

from shared.errors import StoreError
from shared.lifecycle import Stage
from shared.redis import functions, keys
from shared.redis.functions import Claimed, Kept
from shared.wire import event as events
from shared.wire.message import decode_assistant
from tests.support.redis_functions import CHANNELS, KEEP, RedisFunctions, Ticket
from tests.support.text_follower import text_after

# One, two, three and four bytes a code point.
FIRST, SECOND = "a\xe4\u20ac\U0001f600", "\U0001f680z"


async def _begun(queue: RedisFunctions, hold: int = 50) -> tuple[Ticket, Claimed]:
    await queue.grant(100)
    ticket = await queue.submit(hold=hold)
    return ticket, await queue.claim_one()


async def _field(queue: RedisFunctions, ticket: Ticket, name: str) -> str | None:
    return (await queue.status(ticket)).record.get(name)


async def _check_followers(queue: RedisFunctions, ticket: Ticket, text: str) -> None:
    """A follower, one that comes now, and a poll have the same text."""
    status = await queue.status(ticket)
    assert (status.body or b"").decode() == text
    assert text_after(event for _, event in await queue.events(ticket)) == text


async def _crash(queue: RedisFunctions, ticket: Ticket) -> None:
    where = keys.LEASES(queue.root)
    await queue.redis.call("ZADD", where, "XX", 1, f"{ticket.account}:{ticket.id}")
    reaped = await queue.reap()
    assert [what for _, _, what in reaped.done] == ["crashed"]


async def test_rounds_come_back_with_the_next_claim(queue: RedisFunctions) -> None:
    ticket, claimed = await _begun(queue)
    assert claimed.kept is None
    await queue.append(claimed, 1, FIRST)
    await queue.finish_round(claimed, 2, SECOND, shown=FIRST + SECOND, entries=["1", "2"], cost=7)
    await queue.append(claimed, 3, "unfinished")
    await _check_followers(queue, ticket, FIRST + SECOND + "unfinished")
    await _crash(queue, ticket)
    again = await queue.claim_one()
    assert again.kept == Kept(2, 15, 6, "1 7 10 20 0 0 0 alpha")
    assert await queue.rounds(ticket) == ["1", "2"]
    await _check_followers(queue, ticket, FIRST + SECOND)
    assert (await queue.events(ticket))[-1] == ("2-1", '{"type":"reset","keep":6}')
    await queue.finish_round(again, 2, "three", entries=["3"], cost=9)
    await _check_followers(queue, ticket, FIRST + SECOND + "three")
    await queue.release(again)
    third = await queue.claim_one()
    assert third.kept == Kept(3, 20, 11, "2 9 10 20 0 0 0 alpha")
    await _check_followers(queue, ticket, FIRST + SECOND + "three")
    await queue.settle(third, seq=2, stage="failed", text="")
    assert await queue.rounds(ticket) == []
    record = (await queue.status(ticket)).record
    assert not {"kept", "finer_stage", "bill"} & record.keys()


async def test_a_repeated_append_stores_no_round_twice(queue: RedisFunctions) -> None:
    ticket, claimed = await _begun(queue)
    for _ in range(3):
        assert await queue.finish_round(claimed, 1, "Hi", entries=["1", "2"]) == "appended"
    assert await queue.rounds(ticket) == ["1", "2"]
    await _check_followers(queue, ticket, "Hi")
    await queue.release(claimed)
    again = await queue.claim_one()
    assert await queue.finish_round(claimed, 2, "late", entries=["3"]) == "refused"
    assert again.kept is not None
    assert again.kept.rounds == 2


async def test_a_round_without_text_keeps_nothing_of_it(queue: RedisFunctions) -> None:
    ticket, claimed = await _begun(queue)
    await queue.finish_round(claimed, 1, "")
    await queue.append(claimed, 2, "unfinished")
    await queue.release(claimed, delay_ms=1)
    where = keys.DEFERRED(queue.root)
    await queue.redis.call("ZADD", where, "XX", 1, f"{ticket.account}:{ticket.id}")
    await queue.reap()
    again = await queue.claim_one()
    assert again.kept == Kept(1, 0, 0, "1 0 10 20 0 0 0 alpha")
    await _check_followers(queue, ticket, "")


async def test_text_may_be_cut_within_an_attempt(queue: RedisFunctions) -> None:
    ticket, claimed = await _begun(queue)
    first = functions.AppendAsk(
        account=claimed.account,
        id=claimed.id,
        attempt=claimed.attempt,
        seq=1,
        events=[events.encode(events.Delta(FIRST + SECOND))],
        text=FIRST + SECOND,
        stage="generating",
        bill="1 7 10 20 0 0 0 alpha",
    )
    await functions.append(queue.redis, queue.root, first)
    assert await _field(queue, ticket, "bill") is not None
    reset = events.encode(events.Reset(keep=len(FIRST)))
    ask = msgspec.structs.replace(
        first,
        seq=2,
        events=[reset, events.encode(events.Delta("new"))],
        text="new",
        text_bytes_kept=len(FIRST.encode()),
        bill=None,
    )
    for _ in range(2):
        assert await functions.append(queue.redis, queue.root, ask) == "appended"
        await _check_followers(queue, ticket, FIRST + "new")
    assert await _field(queue, ticket, "bill") is None
    none = msgspec.structs.replace(ask, seq=4, events=[reset], text=None, text_bytes_kept=0)
    await functions.append(queue.redis, queue.root, none)
    assert (await queue.status(ticket)).body is None


async def test_what_rounds_have_shown_is_charged_before_the_first_append(
    queue: RedisFunctions,
) -> None:
    ticket, claimed = await _begun(queue)
    await queue.finish_round(claimed, 1, FIRST, cost=7)
    await queue.append(claimed, 2, "unfinished")
    await _crash(queue, ticket)
    again = await queue.claim_one()
    await queue.cancel(ticket)
    await _crash_ends(queue, ticket)
    assert (await queue.credit_totals()).settled == 7
    status = await queue.status(ticket)
    answer = decode_assistant(status.body or b"")
    assert answer.content == FIRST
    assert answer.usage is not None
    assert answer.usage.cost == 7
    assert await queue.append(again, 2, "late") == "refused"


async def _crash_ends(queue: RedisFunctions, ticket: Ticket) -> None:
    where = keys.LEASES(queue.root)
    await queue.redis.call("ZADD", where, "XX", 1, f"{ticket.account}:{ticket.id}")
    assert [what for _, _, what in (await queue.reap()).done] == ["cancelled"]


async def test_a_deleted_session_charges_kept_rounds(queue: RedisFunctions) -> None:
    ticket, claimed = await _begun(queue)
    await queue.finish_round(claimed, 1, FIRST, cost=7)
    await queue.release(claimed)
    await queue.claim_one()
    ask = functions.DeleteSessionAsk(account="ann", id=ticket.session, keep=KEEP, channels=CHANNELS)
    assert await functions.delete_session(queue.redis, queue.root, ask)
    assert (await queue.credit_totals()).settled == 7
    assert await queue.rounds(ticket) == []


async def test_a_finished_round_sets_the_upstream_calls_back(queue: RedisFunctions) -> None:
    ticket, claimed = await _begun(queue)
    await queue.release(claimed, calls=4)
    again = await queue.claim_one()
    assert again.calls == 4
    await queue.finish_round(again, 2, "Hi")
    assert await _field(queue, ticket, "calls") == "0"
    await _crash(queue, ticket)
    # The call that was under way when the worker died counts for the present turn.
    assert (await queue.claim_one()).calls == 1


async def test_a_death_between_calls_counts_as_no_call(queue: RedisFunctions) -> None:
    ticket, claimed = await _begun(queue)
    await queue.finish_round(claimed, 1, "Hi")
    assert await _enter(queue, claimed, 2, "calling_tool") == "appended"
    assert await queue.shown_stage(ticket) == "calling_tool"
    await _crash(queue, ticket)
    assert await queue.shown_stage(ticket) == "retrying"
    again = await queue.claim_one()
    assert again.calls == 0
    assert await queue.shown_stage(ticket) == "routing"
    # The calls that the first attempt left come before a call of a model.
    assert await _enter(queue, again, 2, "calling_tool") == "appended"
    assert await _enter(queue, again, 3, "generating") == "appended"
    assert await queue.shown_stage(ticket) == "generating"
    assert await queue.settle(again, seq=4) is not None


async def _enter(queue: RedisFunctions, claimed: Claimed, seq: int, stage: Stage) -> str:
    ask = functions.AppendAsk(
        account=claimed.account,
        id=claimed.id,
        attempt=claimed.attempt,
        seq=seq,
        events=[f'{{"type":"stage","stage":"{stage}"}}'],
        stage=stage,
    )
    return await functions.append(queue.redis, queue.root, ask)


@pytest.mark.parametrize(
    ("entries", "text_bytes", "text_points", "bill"),
    [
        ([], 2, 2, "1 0 1 1 0 0 0 alpha"),
        (["1"], 3, 2, "1 0 1 1 0 0 0 alpha"),
        (["1"], 2, 3, "1 0 1 1 0 0 0 alpha"),
        (["1"], 2, 2, "2 0 1 1 0 0 0 alpha"),
        (["1"], 2, 2, ""),
    ],
)
async def test_rounds_that_do_not_add_up_are_refused_whole(
    queue: RedisFunctions, entries: list[str], text_bytes: int, text_points: int, bill: str
) -> None:
    ticket, claimed = await _begun(queue)
    ask = functions.AppendAsk(
        account="ann",
        id=ticket.id,
        attempt=1,
        seq=1,
        events=['{"type":"delta","text":"Hi"}'],
        text="Hi",
        stage="generating",
        rounds=functions.FinishedRounds(
            entries=entries, text_bytes=text_bytes, text_points=text_points, bill=bill
        ),
    )
    with pytest.raises(StoreError):
        await functions.append(queue.redis, queue.root, ask)
    assert await queue.events(ticket) == []
    assert await queue.rounds(ticket) == []
    assert await queue.shown_stage(ticket) == "routing"
    assert await queue.append(claimed, 1, "Hi") == "appended"


async def test_kept_text_never_shrinks(queue: RedisFunctions) -> None:
    _, claimed = await _begun(queue)
    await queue.finish_round(claimed, 1, FIRST)
    with pytest.raises(StoreError):
        await queue.finish_round(claimed, 2, "", shown=FIRST[:-1])


@pytest.mark.parametrize("damage", ["log", "text", "field"])
async def test_lost_rounds_set_a_generation_aside(queue: RedisFunctions, damage: str) -> None:
    ticket, claimed = await _begun(queue)
    await queue.finish_round(claimed, 1, FIRST)
    await queue.release(claimed)
    match damage:
        case "log":
            await queue.redis.call("RPOP", keys.ROUNDS(queue.root, "ann", ticket.id))
        case "text":
            await queue.redis.call("DEL", keys.TEXT(queue.root, "ann", ticket.id))
        case _:
            where = keys.GENERATION(queue.root, "ann", ticket.id)
            await queue.redis.call("HSET", where, "kept", "many")
    assert await queue.claim() == []
    assert await queue.stage(ticket) == "failed"
    assert (await queue.credit_totals()).held == 0


async def test_the_log_expires_by_itself_after_the_deadline(queue: RedisFunctions) -> None:
    """A process that knows no rounds deletes none when it ends a generation."""
    ticket, claimed = await _begun(queue)
    await queue.finish_round(claimed, 1, FIRST)
    left = await queue.redis.call("PTTL", keys.ROUNDS(queue.root, "ann", ticket.id))
    assert 3_600_000 < left <= 3_600_000 + 60_000


async def test_the_stream_keeps_what_rounds_have_shown(queue: RedisFunctions) -> None:
    """Attempts that finished no round leave the stream, those that did stay."""
    ticket, claimed = await _begun(queue)
    for number in range(1, 141):
        if number in {1, 70}:
            first = 1 if number == 1 else 2
            await queue.finish_round(claimed, first, f"<{number}>\u20ac")
            await queue.append(claimed, first + 1, "unfinished")
        await queue.release(claimed)
        claimed = await queue.claim_one()
        await _check_followers(queue, ticket, "<1>\u20ac" + ("<70>\u20ac" if number >= 70 else ""))
    epochs = {int(at.partition("-")[0]) for at, _ in await queue.events(ticket)}
    # The last 64 attempts stay, and of those before the ones that attempt 70 found.
    assert epochs == {1, *range(7, 71), *range(78, 142)}
