"""The stores: conversations as they are paged and read back, generations, and the fleet."""

from collections.abc import Mapping

import msgspec

from shared.errors import CANCELLED
from shared.redis import keys
from shared.redis.client import Redis
from shared.redis.functions import Accepted
from shared.settings import RedisSettings
from shared.stores import fleet, generations, pace, sessions
from shared.stores.fleet import Calls
from shared.wire.fleet import WorkerReport
from shared.wire.generation import Generation, Line
from tests.support.desk import Desk, Ticket


async def _talk(desk: Desk, turns: int) -> Ticket:
    ticket = await desk.submit(content="question 1", system_prompt="Be brief.")
    for turn in range(1, turns + 1):
        if turn > 1:
            await desk.submit("ann", ticket.session, content=f"question {turn}")
        await desk.complete(await desk.claim_one(), f"answer {turn}")
    return ticket


async def test_history_is_all_completed_turns_before_one(desk: Desk) -> None:
    ticket = await _talk(desk, 35)
    turns = await sessions.history(
        desk.redis, desk.root, "ann", ticket.session, 35, bytes_max=10_000
    )
    assert [turn.number for turn in turns] == list(range(1, 35))
    assert [turn.user.content for turn in turns] == [f"question {n}" for n in range(1, 35)]
    assert [turn.assistant and turn.assistant.content for turn in turns] == [
        f"answer {n}" for n in range(1, 35)
    ]


async def test_history_leaves_out_what_failed_or_was_cancelled(desk: Desk) -> None:
    ticket = await _talk(desk, 1)
    await desk.submit("ann", ticket.session)
    await desk.settle(await desk.claim_one(), stage="failed")
    cancelled = await desk.submit("ann", ticket.session)
    await desk.cancel(Ticket("ann", ticket.session, cancelled.id))
    await desk.submit("ann", ticket.session)
    turns = await sessions.history(
        desk.redis, desk.root, "ann", ticket.session, 4, bytes_max=10_000
    )
    assert [turn.number for turn in turns] == [1]


async def test_history_of_a_first_turn_is_empty(desk: Desk) -> None:
    ticket = await desk.submit()
    found = await sessions.history(
        desk.redis, desk.root, "ann", ticket.session, 1, bytes_max=10_000
    )
    assert found == []


async def test_of_a_long_conversation_no_more_is_read_than_anybody_needs(desk: Desk) -> None:
    ticket = await _talk(desk, 80)
    for bytes_max, first in ((0, 80), (1, 48), (700, 16), (10_000, 1)):
        turns = await sessions.history(
            desk.redis, desk.root, "ann", ticket.session, 80, bytes_max=bytes_max
        )
        assert [turn.number for turn in turns] == list(range(first, 80))


async def test_turns_are_read_across_chunks_with_their_states(desk: Desk) -> None:
    ticket = await _talk(desk, 17)
    running = await desk.submit("ann", ticket.session)
    await desk.claim_one()
    waiting = await desk.submit("ann", ticket.session)
    await desk.cancel(waiting)
    turns = await sessions.turns(desk.redis, desk.root, "ann", ticket.session, first=15, last=30)
    assert [(turn.number, turn.state) for turn in turns] == [
        (15, "completed"),
        (16, "completed"),
        (17, "completed"),
        (18, "processing"),
        (19, "cancelled"),
    ]
    assert turns[3].assistant is None
    assert turns[3].user.generation == running.id
    assert turns[4].assistant is not None
    assert turns[4].assistant.failure == CANCELLED


async def test_sessions_are_paged_by_their_last_activity(desk: Desk) -> None:
    tickets = [await desk.submit(name=f"talk {n}") for n in range(5)]
    for age, ticket in enumerate(tickets):
        await desk.redis.call("ZADD", keys.SESSIONS(desk.root, "ann"), age, ticket.session)
    await desk.submit("bob")
    page, total = await sessions.page(desk.redis, desk.root, "ann", offset=1, limit=2)
    assert total == 5
    assert [session.name for session in page] == ["talk 3", "talk 2"]
    assert await sessions.page(desk.redis, desk.root, "eve", offset=0, limit=9) == ([], 0)


async def test_session_is_found_by_its_owner_only(desk: Desk) -> None:
    ticket = await desk.submit(name="Mine")
    found = await sessions.find(desk.redis, desk.root, "ann", ticket.session)
    assert found is not None
    assert (found.name, found.turns) == ("Mine", 1)
    assert await sessions.find(desk.redis, desk.root, "bob", ticket.session) is None
    assert await sessions.rename(desk.redis, desk.root, "ann", ticket.session, "Other")
    assert not await sessions.rename(desk.redis, desk.root, "bob", ticket.session, "Stolen")


async def test_generation_is_told_from_queue_to_end(desk: Desk) -> None:
    await desk.grant(100)
    first = await desk.submit(content="Hello", hold=30, model="m1")
    second = await desk.submit("ann", first.session)

    async def look(ticket: Ticket) -> Generation:
        found = await generations.find(desk.redis, desk.root, "ann", ticket.id)
        assert found is not None
        return found

    queued = await look(second)
    assert (queued.state, queued.stage, queued.ahead, queued.turn) == ("processing", "queued", 1, 2)
    claimed = await desk.claim_one()
    await desk.append(claimed, 1, "Hel", "lo")
    running = await look(first)
    assert (running.stage, running.text, running.last_event) == ("generating", "Hello", "1-2")
    assert (running.ahead, running.hold, running.model) == (None, 30, "m1")
    assert (await look(second)).ahead == 0
    await desk.settle(claimed, seq=3, cost=7, text="Hello")
    ended = await look(first)
    assert ended.is_final
    assert (ended.state, ended.text, ended.captured) == ("completed", "Hello", 7)
    assert ended.last_event == "1-3"
    assert ended.started is not None
    assert ended.finished is not None
    assert ended.accepted <= ended.started <= ended.finished
    assert ended.user is not None
    assert ended.user.content == "Hello"
    assert await generations.find(desk.redis, desk.root, "bob", first.id) is None
    assert len(await pace.durations_ms(desk.redis, desk.root, "m1")) == 1


async def test_average_lengths_of_a_models_answers_are_heard_by_all_who_serve_it(
    redis: Redis, redis_settings: RedisSettings
) -> None:
    async def report(
        worker: str, made_ms: int, *lengths: tuple[str, int, int]
    ) -> Mapping[str, int]:
        models = ("a", "b") if worker == "w1" else ("b", "c")
        pulse = WorkerReport(
            id=worker, concurrency=1, running=0, models=models, wire=1, made_ms=made_ms
        )
        told = await fleet.report(redis, redis_settings, pulse, Calls(lengths=lengths))
        return told.lengths

    assert await report("w1", 1) == {}
    assert await report("w1", 2, ("a", 2, 300), ("b", 1, 1_000)) == {"a": 150, "b": 1_000}
    # One that is sent again is counted once.
    assert await report("w1", 2, ("a", 2, 300), ("b", 1, 1_000)) == {"a": 150, "b": 1_000}
    assert await report("w2", 1) == {"b": 1_000}
    # The newest of many weighs a little, and a hundred of them nearly all.
    assert (await report("w2", 2, ("b", 1, 2_000)))["b"] == 1_050
    assert 1_990 < (await report("w1", 3, ("b", 100, 200_000)))["b"] <= 2_000


async def test_line_before_a_turn_is_told_as_it_is_and_as_it_was(desk: Desk) -> None:
    async def look(ticket: Ticket) -> Generation:
        found = await generations.find(desk.redis, desk.root, "ann", ticket.id)
        assert found is not None
        return found

    tickets = [await desk.submit("ann", running_max=7) for _ in range(3)]
    first, _, third = [(await look(ticket)) for ticket in tickets]
    assert first.line == Line(most=7)
    assert first.line_at_first is None
    assert third.line == third.line_at_first == Line(ahead=2, most=7)
    await desk.claim_one()
    third = await look(tickets[2])
    assert third.line is not None
    assert third.line_at_first == Line(ahead=2, most=7)
    assert (third.line.ahead, third.line.running) == (1, 1)
    assert third.line.front_seconds is not None
    assert (await look(tickets[0])).line is None


async def test_line_of_a_turn_is_that_of_its_session(desk: Desk) -> None:
    async def look(ticket: Ticket) -> Generation:
        found = await generations.find(desk.redis, desk.root, "ann", ticket.id)
        assert found is not None
        return found

    tickets = [await desk.submit("ann")]
    tickets += [await desk.submit("ann", tickets[0].session) for _ in range(2)]
    last = await look(tickets[2])
    assert last.line is not None
    assert (last.line.follows, last.line.behind, last.line.front_seconds) == (True, 1, None)
    claimed = await desk.claim_one()
    accepted = await desk.accept("ann", tickets[0].session)
    assert isinstance(accepted, Accepted)
    assert (accepted.follows, accepted.behind, accepted.running) == (True, 2, 1)
    assert accepted.front_ms >= 0
    last = await look(tickets[2])
    assert last.line is not None
    assert last.line.front_seconds is not None
    assert last.line_at_first is not None
    assert (last.line_at_first.follows, last.line_at_first.behind) == (True, 1)
    await desk.complete(claimed, "one")
    last = await look(tickets[2])
    assert last.line is not None
    assert (last.line.follows, last.line.behind, last.line.front_seconds) == (True, 0, None)
    for _ in range(3):
        await desk.complete(await desk.claim_one(), "more")
    record = (await desk.status(tickets[2])).record
    assert "before" not in record


async def test_fleet_is_who_reported_lately(redis: Redis, redis_settings: RedisSettings) -> None:
    pulse = WorkerReport(id="w1", concurrency=4, running=1, models=("a", "b"), wire=1)
    other = msgspec.structs.replace(pulse, id="w2", concurrency=8, models=("b", "c"))
    silent = msgspec.structs.replace(pulse, id="w3", models=("d",))
    heard = [await fleet.report(redis, redis_settings, each) for each in (pulse, silent, other)]
    assert [each.workers for each in heard] == [1, 2, 3]
    assert [sorted(each.configured) for each in heard] == [
        ["a", "b"],
        ["a", "b", "d"],
        ["a", "b", "c", "d"],
    ]
    await _falls_silent(redis, redis_settings, "w3", 4_000)
    view = await fleet.view(redis, redis_settings)
    assert (view.workers, view.slots, sorted(view.models)) == (2, 12, ["a", "b", "c"])
    assert view.configured == {"a", "b", "c", "d"}
    await fleet.leave(redis, redis_settings, "w2")
    assert (await fleet.view(redis, redis_settings)).models == {"a", "b"}


async def test_fleet_forgets_who_fell_silent(redis: Redis, redis_settings: RedisSettings) -> None:
    pulse = WorkerReport(id="w1", concurrency=4, running=0, models=(), wire=1)
    await fleet.report(redis, redis_settings, pulse)
    await _falls_silent(redis, redis_settings, "w1", 70_000)
    assert (await fleet.view(redis, redis_settings)).workers == 0
    other = msgspec.structs.replace(pulse, id="w2")
    assert (await fleet.report(redis, redis_settings, other)).workers == 1
    reports = await redis.call("HKEYS", keys.WORKERS(keys.system_root(redis_settings)))
    assert reports == [b"w2"]


async def test_worker_is_new_until_it_was_forgotten(
    redis: Redis, redis_settings: RedisSettings
) -> None:
    pulse = WorkerReport(id="w1", concurrency=4, running=0, models=(), wire=1)
    heard = [await fleet.report(redis, redis_settings, pulse) for _ in range(2)]
    assert [each.is_new for each in heard] == [True, False]
    await redis.call("DEL", keys.PULSES(keys.system_root(redis_settings)))
    assert (await fleet.report(redis, redis_settings, pulse)).is_new


async def test_what_was_served_outlives_a_time_in_which_nobody_could_report(
    redis: Redis, redis_settings: RedisSettings
) -> None:
    """The first who comes back must not forget what the others are about to say again."""
    root = keys.system_root(redis_settings)
    pulse = WorkerReport(id="w1", concurrency=4, running=0, models=("a",), wire=1)
    other = msgspec.structs.replace(pulse, id="w2", models=("b",))
    for each in (pulse, other):
        await fleet.report(redis, redis_settings, each)
        await _falls_silent(redis, redis_settings, each.id, 120_000)
        await redis.call("ZINCRBY", keys.SERVED(root), -120_000, *each.models)
    assert (await fleet.report(redis, redis_settings, pulse)).configured == {"a", "b"}
    await redis.call("ZINCRBY", keys.SERVED(root), -120_000, "b")
    assert (await fleet.report(redis, redis_settings, pulse)).configured == {"a"}


async def _falls_silent(redis: Redis, settings: RedisSettings, worker: str, ago_ms: int) -> None:
    """As if a worker had reported so long ago for the last time."""
    pulses = keys.PULSES(keys.system_root(settings))
    assert await redis.call("ZINCRBY", pulses, -ago_ms, worker)


async def test_history_behind_many_cancelled_turns_is_not_read_without_end(desk: Desk) -> None:
    ticket = await desk.submit()
    await desk.complete(await desk.claim_one(), "kept")
    for _ in range(100):
        await desk.cancel(await desk.submit("ann", ticket.session, content="x" * 30_000))
    place = (desk.redis, desk.root, "ann", ticket.session, 102)
    bounded = await sessions.history(*place, bytes_max=1_000)
    assert (list(bounded), bounded.is_whole) == ([], False)
    whole = await sessions.history(*place, bytes_max=1_000_000)
    assert ([turn.number for turn in whole], whole.is_whole) == ([1], True)
