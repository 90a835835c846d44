"""The account's log: one event for each end, whoever ends it, and its end by age."""

from typing import Final

import pytest

from shared.errors import CANCELLED, Failure
from shared.redis import keys
from shared.redis.functions import Retried
from shared.stores import account_log
from shared.wire import account_event
from shared.wire.account_event import AccountEvent
from tests.support.redis_functions import RedisFunctions, Ticket

_DAY_MS: Final = 86_400_000
_FAILED: Final = Failure(message="No.", category="provider_error", code="BROKEN")


async def _log(queue: RedisFunctions, account: str = "ann") -> list[AccountEvent]:
    found = await account_log.page(queue.redis, queue.root, account, after=None, limit=1_000)
    return found.events


async def _ends(queue: RedisFunctions, account: str = "ann") -> list[tuple[str, str]]:
    return [(each.type, each.subject) for each in await _log(queue, account)]


async def test_every_end_is_one_event_whoever_ends_it(queue: RedisFunctions) -> None:
    await queue.grant(1_000)
    settled, failed, cancelled = [await queue.submit(hold=10) for _ in range(3)]
    by_id = {each.id: each for each in await queue.claim(3)}
    await queue.complete(by_id[settled.id], cost=5)
    assert await queue.fail(by_id[failed.id], _FAILED)
    await queue.settle(by_id[cancelled.id], stage="cancelled", failure=CANCELLED)
    crashed = await queue.submit()
    await queue.claim_one(lease_ms=0)
    await queue.reap(crashes_max=0)
    late = await queue.submit(deadline_ms=0)
    await queue.reap()
    waiting = await queue.submit()
    await queue.cancel(waiting)
    deleted = await queue.submit()
    await queue.delete_session(deleted.account, deleted.session)
    ends = await _ends(queue)
    assert ends == [
        ("generation.completed", settled.id),
        ("generation.failed", failed.id),
        ("generation.cancelled", cancelled.id),
        ("generation.failed", crashed.id),
        ("generation.failed", late.id),
        ("generation.cancelled", waiting.id),
        ("generation.cancelled", deleted.id),
    ]


async def test_an_event_names_the_key_the_time_and_where_to_read(queue: RedisFunctions) -> None:
    ticket = await queue.submit()
    before = await queue.now_ms()
    await queue.complete(await queue.claim_one())
    [event] = await _log(queue)
    assert (event.actor, event.more) == ("key-1", {})
    assert before <= event.created <= await queue.now_ms()
    assert event.path == f"/api/v1/generate/{ticket.id}/status"


async def test_an_end_that_is_repeated_or_refused_writes_no_second_event(
    queue: RedisFunctions,
) -> None:
    await queue.submit()
    claimed = await queue.claim_one()
    await queue.complete(claimed)
    assert await queue.settle(claimed, seq=2, text="Hi") is not None
    assert await queue.settle(claimed, seq=7, text="Hi") is None
    assert len(await _log(queue)) == 1


async def test_the_url_of_a_request_goes_into_its_event_and_its_retry(
    queue: RedisFunctions,
) -> None:
    url = "https://example.com/hook?a=%20b"
    first = await queue.submit(webhook=url)
    await queue.fail(await queue.claim_one(), _FAILED)
    assert isinstance(await queue.revive(first), Retried)
    again = await queue.claim_one()
    await queue.complete(again)
    assert [(each.subject, each.more) for each in await _log(queue)] == [
        (first.id, {"webhook_url": url}),
        (again.id, {"webhook_url": url}),
    ]


async def test_a_damaged_generation_ends_with_an_event(queue: RedisFunctions) -> None:
    ticket = await queue.submit()
    await queue.redis.call(
        "HDEL", keys.GENERATION(queue.root, ticket.account, ticket.id), "deadline"
    )
    await queue.claim()
    assert await _ends(queue) == [("generation.failed", ticket.id)]


@pytest.mark.parametrize("command", [("SET", "x"), ("HSET", "f", "x")])
async def test_what_has_replaced_the_log_fails_no_end(
    queue: RedisFunctions, command: tuple[str, ...]
) -> None:
    name = keys.ACCOUNT_LOG(queue.root, "ann")
    await queue.redis.call(command[0], name, *command[1:])
    ticket = await queue.submit()
    await queue.complete(await queue.claim_one())
    assert await queue.stage(ticket) == "completed"
    assert await _ends(queue) == [("generation.completed", ticket.id)]
    assert await queue.redis.call("PTTL", name) > 0


async def _end_many(queue: RedisFunctions, count: int) -> list[Ticket]:
    tickets = [await queue.submit() for _ in range(count)]
    for claimed in await queue.claim(count):
        await queue.complete(claimed)
    return tickets


async def test_the_log_expires_and_old_events_go_when_new_ones_come(
    queue: RedisFunctions,
) -> None:
    """Whole nodes of 100 events, once an hour; an account that is new to the function's memory."""
    name = keys.ACCOUNT_LOG(queue.root, "old")
    for number in range(250):
        await queue.redis.call("XADD", name, f"{number + 1}-0", "-", f"c old-{number}")
    ticket = await queue.submit("old")
    await queue.complete(await queue.claim_one())
    left = await _ends(queue, "old")
    assert len(left) < 150
    assert left[-1] == ("generation.completed", ticket.id)
    kept = await queue.redis.call("PTTL", name)
    assert 30 * _DAY_MS < kept <= 31 * _DAY_MS


async def test_the_log_is_trimmed_to_its_reach_however_fast_it_grew(
    queue: RedisFunctions,
) -> None:
    """One command of Redis removes ten thousand entries at most."""
    name, age_ms = keys.ACCOUNT_LOG(queue.root, "ann"), 40 * _DAY_MS
    fill = "for i = 1, 25000 do redis.call('XADD', KEYS[1], ARGV[1] .. '-' .. i, '-', 'c x') end"
    await queue.redis.call("EVAL", fill, 1, name, await queue.now_ms() - age_ms)
    await _end_many(queue, 4)
    assert await queue.redis.call("XLEN", name) < 200


async def test_a_type_without_a_code_is_read_by_its_name() -> None:
    event = account_event.parse(b"7-1", [b"-", b'approval.requested A-1 {"tool":"rm"}'])
    assert (event.type, event.subject, event.actor) == ("approval.requested", "A-1", None)
    assert (event.more, event.path, event.created) == ({"tool": "rm"}, None, 7)


async def test_codes_are_no_names_and_differ() -> None:
    assert len(set(account_event.CODES.values())) == len(account_event.CODES)
    assert all(len(code) == 1 for code in account_event.CODES.values())


async def test_a_reader_pages_through_the_log_by_cursor(queue: RedisFunctions) -> None:
    tickets = await _end_many(queue, 5)
    seen, cursor = [], None
    for _ in range(3):
        found = await account_log.page(queue.redis, queue.root, "ann", after=cursor, limit=2)
        seen += [each.subject for each in found.events]
        cursor = found.next_cursor
        assert found.has_more is (len(seen) < 5)
    assert set(seen) == {each.id for each in tickets}
    found = await account_log.page(queue.redis, queue.root, "ann", after=cursor, limit=2)
    assert (found.events, found.next_cursor, found.has_more) == ([], cursor, False)
    late = await queue.submit()
    await queue.cancel(late)
    found = await account_log.page(queue.redis, queue.root, "ann", after=cursor, limit=2)
    assert [each.subject for each in found.events] == [late.id]


async def test_events_of_one_type_are_found_among_others(
    queue: RedisFunctions, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _end_many(queue, 4)
    late = await queue.submit()
    await queue.cancel(late)
    monkeypatch.setattr(account_log, "_READ_AT_ONCE", 2)
    asked = (queue.redis, queue.root, "ann")
    found = await account_log.page(*asked, after=None, limit=1, type_name="generation.cancelled")
    assert [each.subject for each in found.events] == [late.id]
    assert not found.has_more
    monkeypatch.setattr(account_log, "SEARCHED_MAX", 2)
    found = await account_log.page(*asked, after=None, limit=1, type_name="generation.cancelled")
    assert (found.events, found.has_more) == ([], True)
    assert found.next_cursor is not None


async def test_a_cursor_older_than_the_log_says_that_events_may_be_missing(
    queue: RedisFunctions,
) -> None:
    await _end_many(queue, 1)
    now, asked = await queue.now_ms(), (queue.redis, queue.root, "ann")
    for after, expected in ((f"{now - 2 * _DAY_MS}-0", True), (f"{now - 1_000}-0", False)):
        found = await account_log.page(*asked, after=after, limit=9, oldest_kept_ms=now - _DAY_MS)
        assert (len(found.events), found.has_gap) == (1, expected)
    nothing = await account_log.page(
        queue.redis, queue.root, "nobody", after="5-0", limit=9, oldest_kept_ms=now - _DAY_MS
    )
    assert (nothing.events, nothing.next_cursor, nothing.has_gap) == ([], "5-0", True)
