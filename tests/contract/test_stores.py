"""The stores: conversations as they are paged and read back, generations, and the fleet."""

from collections.abc import Mapping

import msgspec

from shared.errors import CANCELLED
from shared.redis import keys
from shared.redis.client import Redis
from shared.redis.functions import Accepted
from shared.settings import RedisSettings
from shared.stores import answer_durations, fleet, generations, sessions
from shared.stores.fleet import CallReport
from shared.wire.fleet import WorkerReport
from shared.wire.generation import Generation, QueuePosition
from tests.support.redis_functions import RedisFunctions, Ticket


async def _talk(queue: RedisFunctions, turns: int) -> Ticket:
    ticket = await queue.submit(content="question 1", system_prompt="Be brief.")
    for turn in range(1, turns + 1):
        if turn > 1:
            await queue.submit("ann", ticket.session, content=f"question {turn}")
        await queue.complete(await queue.claim_one(), f"answer {turn}")
    return ticket


async def test_history_is_all_completed_turns_before_one(queue: RedisFunctions) -> None:
    ticket = await _talk(queue, 35)
    turns = await sessions.history(
        queue.redis, queue.root, "ann", ticket.session, 35, bytes_max=10_000
    )
    assert [turn.number for turn in turns] == list(range(1, 35))
    assert [turn.user.content for turn in turns] == [f"question {n}" for n in range(1, 35)]
    assert [turn.assistant and turn.assistant.content for turn in turns] == [
        f"answer {n}" for n in range(1, 35)
    ]


async def test_history_leaves_out_what_failed_or_was_cancelled(queue: RedisFunctions) -> None:
    ticket = await _talk(queue, 1)
    await queue.submit("ann", ticket.session)
    await queue.settle(await queue.claim_one(), stage="failed")
    cancelled = await queue.submit("ann", ticket.session)
    await queue.cancel(Ticket("ann", ticket.session, cancelled.id))
    await queue.submit("ann", ticket.session)
    turns = await sessions.history(
        queue.redis, queue.root, "ann", ticket.session, 4, bytes_max=10_000
    )
    assert [turn.number for turn in turns] == [1]


async def test_history_of_a_first_turn_is_empty(queue: RedisFunctions) -> None:
    ticket = await queue.submit()
    found = await sessions.history(
        queue.redis, queue.root, "ann", ticket.session, 1, bytes_max=10_000
    )
    assert found == []


async def test_no_more_of_a_long_conversation_is_read_than_fits(
    queue: RedisFunctions,
) -> None:
    ticket = await _talk(queue, 80)
    for bytes_max, first in ((0, 80), (1, 48), (700, 16), (10_000, 1)):
        turns = await sessions.history(
            queue.redis, queue.root, "ann", ticket.session, 80, bytes_max=bytes_max
        )
        assert [turn.number for turn in turns] == list(range(first, 80))


async def test_turns_are_read_across_chunks_with_their_states(queue: RedisFunctions) -> None:
    ticket = await _talk(queue, 17)
    running = await queue.submit("ann", ticket.session)
    await queue.claim_one()
    waiting = await queue.submit("ann", ticket.session)
    await queue.cancel(waiting)
    turns = await sessions.turns(queue.redis, queue.root, "ann", ticket.session, first=15, last=30)
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


async def test_sessions_are_paged_by_their_last_activity(queue: RedisFunctions) -> None:
    tickets = [await queue.submit(name=f"talk {n}") for n in range(5)]
    for age, ticket in enumerate(tickets):
        await queue.redis.call("ZADD", keys.SESSIONS(queue.root, "ann"), age, ticket.session)
    await queue.submit("bob")
    page, total = await sessions.page(queue.redis, queue.root, "ann", offset=1, limit=2)
    assert total == 5
    assert [session.name for session in page] == ["talk 3", "talk 2"]
    assert await sessions.page(queue.redis, queue.root, "eve", offset=0, limit=9) == ([], 0)


async def test_session_is_found_by_its_owner_only(queue: RedisFunctions) -> None:
    ticket = await queue.submit(name="Mine")
    found = await sessions.find(queue.redis, queue.root, "ann", ticket.session)
    assert found is not None
    assert (found.name, found.turns) == ("Mine", 1)
    assert await sessions.find(queue.redis, queue.root, "bob", ticket.session) is None
    assert await sessions.rename(queue.redis, queue.root, "ann", ticket.session, "Other")
    assert not await sessions.rename(queue.redis, queue.root, "bob", ticket.session, "Stolen")


async def test_generation_is_read_from_queue_to_end(queue: RedisFunctions) -> None:
    await queue.grant(100)
    first = await queue.submit(content="Hello", hold=30, model="m1")
    second = await queue.submit("ann", first.session)

    async def found(ticket: Ticket) -> Generation:
        found = await generations.find(queue.redis, queue.root, "ann", ticket.id)
        assert found is not None
        return found

    queued = await found(second)
    assert (queued.state, queued.stage, queued.ahead, queued.turn) == ("processing", "queued", 1, 2)
    claimed = await queue.claim_one()
    await queue.append(claimed, 1, "Hel", "lo")
    running = await found(first)
    assert (running.stage, running.text, running.last_event) == ("generating", "Hello", "1-2")
    assert (running.ahead, running.hold, running.model) == (None, 30, "m1")
    assert (await found(second)).ahead == 0
    await queue.settle(claimed, seq=3, cost=7, text="Hello")
    ended = await found(first)
    assert ended.is_final
    assert (ended.state, ended.text, ended.captured) == ("completed", "Hello", 7)
    assert ended.last_event == "1-3"
    assert ended.started is not None
    assert ended.finished is not None
    assert ended.accepted <= ended.started <= ended.finished
    assert ended.user is not None
    assert ended.user.content == "Hello"
    assert await generations.find(queue.redis, queue.root, "bob", first.id) is None
    assert len(await answer_durations.durations_ms(queue.redis, queue.root, "m1")) == 1


async def test_average_lengths_of_answers_reach_all_workers_of_a_model(
    redis: Redis, redis_settings: RedisSettings
) -> None:
    async def report(
        worker: str, made_ms: int, *lengths: tuple[str, int, int]
    ) -> Mapping[str, int]:
        models = ("a", "b") if worker == "w1" else ("b", "c")
        worker_report = WorkerReport(
            id=worker, concurrency=1, running=0, models=models, wire=1, made_ms=made_ms
        )
        report = await fleet.report(
            redis, redis_settings, worker_report, CallReport(lengths=lengths)
        )
        return report.lengths

    assert await report("w1", 1) == {}
    assert await report("w1", 2, ("a", 2, 300), ("b", 1, 1_000)) == {"a": 150, "b": 1_000}
    # A report that is sent again counts once.
    assert await report("w1", 2, ("a", 2, 300), ("b", 1, 1_000)) == {"a": 150, "b": 1_000}
    assert await report("w2", 1) == {"b": 1_000}
    # One new answer has little weight, a hundred of them nearly all.
    assert (await report("w2", 2, ("b", 1, 2_000)))["b"] == 1_050
    assert 1_990 < (await report("w1", 3, ("b", 100, 200_000)))["b"] <= 2_000


async def test_position_of_a_turn_is_returned_as_it_is_and_as_it_was(queue: RedisFunctions) -> None:
    async def found(ticket: Ticket) -> Generation:
        found = await generations.find(queue.redis, queue.root, "ann", ticket.id)
        assert found is not None
        return found

    tickets = [await queue.submit("ann", running_max=7) for _ in range(3)]
    first, _, third = [(await found(ticket)) for ticket in tickets]
    assert first.position == QueuePosition(running_max=7)
    assert first.position_when_accepted is None
    assert third.position == third.position_when_accepted == QueuePosition(ahead=2, running_max=7)
    await queue.claim_one()
    third = await found(tickets[2])
    assert third.position is not None
    assert third.position_when_accepted == QueuePosition(ahead=2, running_max=7)
    assert (third.position.ahead, third.position.running) == (1, 1)
    assert third.position.first_age_seconds is not None
    assert (await found(tickets[0])).position is None


async def test_position_of_a_turn_includes_its_session(queue: RedisFunctions) -> None:
    async def found(ticket: Ticket) -> Generation:
        found = await generations.find(queue.redis, queue.root, "ann", ticket.id)
        assert found is not None
        return found

    tickets = [await queue.submit("ann")]
    tickets += [await queue.submit("ann", tickets[0].session) for _ in range(2)]
    last = await found(tickets[2])
    assert last.position is not None
    assert (
        last.position.is_behind_head,
        last.position.session_turns_before,
        last.position.first_age_seconds,
    ) == (True, 1, None)
    claimed = await queue.claim_one()
    accepted = await queue.accept("ann", tickets[0].session)
    assert isinstance(accepted, Accepted)
    assert (accepted.is_behind_head, accepted.session_turns_before, accepted.running) == (
        True,
        2,
        1,
    )
    assert accepted.first_age_ms >= 0
    last = await found(tickets[2])
    assert last.position is not None
    assert last.position.first_age_seconds is not None
    assert last.position_when_accepted is not None
    assert (
        last.position_when_accepted.is_behind_head,
        last.position_when_accepted.session_turns_before,
    ) == (True, 1)
    await queue.complete(claimed, "one")
    last = await found(tickets[2])
    assert last.position is not None
    assert (
        last.position.is_behind_head,
        last.position.session_turns_before,
        last.position.first_age_seconds,
    ) == (True, 0, None)
    for _ in range(3):
        await queue.complete(await queue.claim_one(), "more")
    record = (await queue.status(tickets[2])).record
    assert "before" not in record


async def test_fleet_has_the_workers_that_reported_lately(
    redis: Redis, redis_settings: RedisSettings
) -> None:
    worker_report = WorkerReport(id="w1", concurrency=4, running=1, models=("a", "b"), wire=1)
    other = msgspec.structs.replace(worker_report, id="w2", concurrency=8, models=("b", "c"))
    silent = msgspec.structs.replace(worker_report, id="w3", models=("d",))
    reports = [
        await fleet.report(redis, redis_settings, each) for each in (worker_report, silent, other)
    ]
    assert [each.workers for each in reports] == [1, 2, 3]
    assert [sorted(each.configured) for each in reports] == [
        ["a", "b"],
        ["a", "b", "d"],
        ["a", "b", "c", "d"],
    ]
    await _falls_silent(redis, redis_settings, "w3", 4_000)
    view = await fleet.load(redis, redis_settings)
    assert (view.workers, view.slots, sorted(view.models)) == (2, 12, ["a", "b", "c"])
    assert view.configured == {"a", "b", "c", "d"}
    await fleet.leave(redis, redis_settings, "w2")
    assert (await fleet.load(redis, redis_settings)).models == {"a", "b"}


async def test_fleet_removes_workers_that_stopped_reporting(
    redis: Redis, redis_settings: RedisSettings
) -> None:
    worker_report = WorkerReport(id="w1", concurrency=4, running=0, models=(), wire=1)
    await fleet.report(redis, redis_settings, worker_report)
    await _falls_silent(redis, redis_settings, "w1", 70_000)
    assert (await fleet.load(redis, redis_settings)).workers == 0
    other = msgspec.structs.replace(worker_report, id="w2")
    assert (await fleet.report(redis, redis_settings, other)).workers == 1
    reports = await redis.call("HKEYS", keys.WORKER_REPORTS(keys.system_root(redis_settings)))
    assert reports == [b"w2"]


async def test_worker_is_new_once_it_was_removed(
    redis: Redis, redis_settings: RedisSettings
) -> None:
    worker_report = WorkerReport(id="w1", concurrency=4, running=0, models=(), wire=1)
    reports = [await fleet.report(redis, redis_settings, worker_report) for _ in range(2)]
    assert [each.is_new for each in reports] == [True, False]
    await redis.call("DEL", keys.REPORT_TIMES(keys.system_root(redis_settings)))
    assert (await fleet.report(redis, redis_settings, worker_report)).is_new


async def test_served_models_outlive_a_time_in_which_no_worker_could_report(
    redis: Redis, redis_settings: RedisSettings
) -> None:
    """The first worker that reports after an outage does not remove the models of the others."""
    root = keys.system_root(redis_settings)
    worker_report = WorkerReport(id="w1", concurrency=4, running=0, models=("a",), wire=1)
    other = msgspec.structs.replace(worker_report, id="w2", models=("b",))
    for each in (worker_report, other):
        await fleet.report(redis, redis_settings, each)
        await _falls_silent(redis, redis_settings, each.id, 120_000)
        await redis.call("ZINCRBY", keys.SERVED_MODELS(root), -120_000, *each.models)
    assert (await fleet.report(redis, redis_settings, worker_report)).configured == {"a", "b"}
    await redis.call("ZINCRBY", keys.SERVED_MODELS(root), -120_000, "b")
    assert (await fleet.report(redis, redis_settings, worker_report)).configured == {"a"}


async def _falls_silent(redis: Redis, settings: RedisSettings, worker: str, ago_ms: int) -> None:
    """Set a worker's last report to so long ago."""
    worker_reports = keys.REPORT_TIMES(keys.system_root(settings))
    assert await redis.call("ZINCRBY", worker_reports, -ago_ms, worker)


async def test_history_behind_many_cancelled_turns_is_not_read_without_end(
    queue: RedisFunctions,
) -> None:
    ticket = await queue.submit()
    await queue.complete(await queue.claim_one(), "kept")
    for _ in range(100):
        await queue.cancel(await queue.submit("ann", ticket.session, content="x" * 30_000))
    place = (queue.redis, queue.root, "ann", ticket.session, 102)
    bounded = await sessions.history(*place, bytes_max=1_000)
    assert (list(bounded), bounded.is_whole) == ([], False)
    whole = await sessions.history(*place, bytes_max=1_000_000)
    assert ([turn.number for turn in whole], whole.is_whole) == ([1], True)
