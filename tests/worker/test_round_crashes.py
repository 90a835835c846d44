"""Crashes at every point of an answer with tools: nothing runs, shows or costs twice.

A worker that dies is an attempt that is lost at one of its appends, before or after Redis has it,
in a tool, or in the second call of the model. The reaper then returns the generation to the queue.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Literal, NoReturn

import pytest

from shared.errors import StoreError
from shared.redis.client import Argument, Connection, Reply
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.system import System
from tests.support.waiting import until
from tests.worker.front import Front, Ticket, text_of
from tests.worker.round_scenes import CALLS, ToolScene, check_whole
from tests.worker.scripted_tools import output
from tests.worker.single_attempts import Attempts
from worker.outcome import StopReason
from worker.tools.contract import ToolOutput

When = Literal["before", "after"]


@pytest.fixture(autouse=True)
def _many_appends(system: System, attempts: Attempts) -> None:
    """Append often; an append of a dead worker fails."""
    system.expected |= {"an append failed"}
    attempts.change_worker(flush_seconds=0.001)


class CrashingRedis:
    """A connection of a worker that dies at its append number `at`."""

    def __init__(self, redis: Connection, at: int, when: When, die: Callable[[], None]) -> None:
        self.has_crashed = False
        self._redis = redis
        self._left = at
        self._when = when
        self._die = die

    async def call(self, *command: Argument, repeat: bool = True) -> Reply:
        """Send a command, or die."""
        if self.has_crashed:
            raise StoreError("the worker is dead")
        is_append = str(command[0]).startswith("FCALL") and str(command[1]).endswith("_append")
        self._left -= is_append
        if not is_append or self._left:
            return await self._redis.call(*command, repeat=repeat)
        if self._when == "after":
            await self._redis.call(*command, repeat=repeat)
        self.has_crashed = True
        self._die()
        raise StoreError("the worker is dead")

    def send(self, *command: Argument) -> None:
        """Send a command whose reply nobody needs."""
        self._redis.send(*command)


async def _attempt_that_dies(
    attempts: Attempts, front: Front, ticket: Ticket, at: int, when: When
) -> bool:
    """Make an attempt that dies at an append; tell whether it did."""
    redis = CrashingRedis(front.redis, at, when, lambda: attempts.stop_signal.trigger("lost"))
    attempts.redis = redis
    with suppress(StoreError):
        await attempts.run(ticket)
    attempts.redis = front.redis
    return redis.has_crashed


async def _check_recovered(front: Front, ticket: Ticket, what: str) -> None:
    try:
        await check_whole(front, ticket)
    except AssertionError as error:
        raise AssertionError(what) from error


async def test_call_that_waits_for_a_slot_has_not_begun(
    attempts: Attempts, front: Front, provider: ScriptedProvider, scene: ToolScene
) -> None:
    is_one_done = asyncio.Event()

    async def forever(_arguments: object, _context: object) -> NoReturn:
        await asyncio.Event().wait()
        raise AssertionError

    async def first(_arguments: object, _context: object) -> ToolOutput:
        await is_one_done.wait()
        return output("Done.")

    calls = tuple((f"call-{n}", "order", f'{{"n": {n}}}') for n in range(11))
    provider.script.append(ScriptedAnswer(text="", calls=calls))
    scene.order.script.extend([first, *[forever] * 8])
    ticket = await front.submit()
    attempt = attempts.begin(ticket)
    await until(lambda: len(scene.order.calls) == 8)
    is_one_done.set()
    # The slot of the first call goes to another.
    await until(lambda: len(scene.order.calls) == 9)
    attempts.stop_signal.trigger("lost")
    await attempt
    await front.requeue_crashed(ticket)
    await attempts.run(ticket)
    # The two that had not begun run now, and only these.
    assert sorted(each["n"] for each, _ in scene.order.calls) == list(range(11))
    read = [each["content"] for each in provider.requests[1].messages if each["role"] == "tool"]
    unknown = [n for n, content in enumerate(read) if content.endswith("its effect is unknown.")]
    assert (len(read), unknown) == (11, list(range(1, 9)))


@pytest.mark.parametrize("when", ["before", "after"])
async def test_crash_at_any_append_repeats_nothing(
    attempts: Attempts, front: Front, scene: ToolScene, when: When
) -> None:
    for at in range(1, 50):
        ordered = len(scene.order.calls)
        ticket = await front.submit(account=f"account-{at}")
        if not await _attempt_that_dies(attempts, front, ticket, at, when):
            break
        await front.requeue_crashed(ticket)
        await attempts.run(ticket)
        await _check_recovered(front, ticket, f"after a crash at append {at}")
        assert len(scene.order.calls) - ordered <= 1
    # The calls are kept with the first append that a crash can hit, and their results with another.
    assert at > 2


async def test_two_crashes_at_any_two_appends_repeat_nothing(
    attempts: Attempts, front: Front, scene: ToolScene
) -> None:
    for first in range(1, 5):
        for second in range(1, 4):
            ordered = len(scene.order.calls)
            ticket = await front.submit(account=f"account-{first}-{second}")
            has_crashed = True
            for at in (first, second):
                has_crashed = has_crashed and await _attempt_that_dies(
                    attempts, front, ticket, at, "after"
                )
                if has_crashed:
                    await front.requeue_crashed(ticket)
            if has_crashed:
                await attempts.run(ticket)
            await _check_recovered(front, ticket, f"after crashes at {first} and {second}")
            assert len(scene.order.calls) - ordered <= 1


async def test_crash_in_a_tool_runs_only_that_again_which_may_run_twice(
    attempts: Attempts, front: Front, provider: ScriptedProvider, scene: ToolScene
) -> None:
    async def forever(_arguments: object, _context: object) -> NoReturn:
        await asyncio.Event().wait()
        raise AssertionError

    scene.weather.script.append(forever)
    scene.order.script.append(forever)
    ticket = await front.submit()
    attempt = attempts.begin(ticket)
    await until(lambda: scene.weather.calls and scene.order.calls)
    attempts.stop_signal.trigger("lost")
    await attempt
    await front.requeue_crashed(ticket)
    await attempts.run(ticket)
    await check_whole(front, ticket)
    assert (len(scene.weather.calls), len(scene.order.calls)) == (2, 1)
    read = {
        each["tool_call_id"]: each["content"]
        for each in provider.requests[-1].messages
        if each["role"] == "tool"
    }
    assert read["call-1"] == "weather of {'city': 'Bonn'}"
    assert read["call-2"].endswith("its effect is unknown.")


@pytest.mark.parametrize("why", ["lost", "drain"])
async def test_end_of_a_worker_in_the_second_call_keeps_the_results(
    attempts: Attempts, front: Front, provider: ScriptedProvider, scene: ToolScene, why: StopReason
) -> None:
    provider.script.append(ScriptedAnswer(text="Let me look.", calls=CALLS))
    provider.script.append(ScriptedAnswer(text="It snows.", gate=asyncio.Event(), gate_after=1))
    ticket = await front.submit()
    attempt = attempts.begin(ticket)
    await front.seen(ticket, lambda found: found.text.endswith("It"))
    attempts.stop_signal.trigger(why)
    await attempt
    if why == "lost":
        await front.requeue_crashed(ticket)
    await attempts.run(ticket)
    await check_whole(front, ticket)
    assert (len(scene.weather.calls), len(scene.order.calls)) == (1, 1)
    assert len(provider.requests) == 3


async def test_result_that_was_not_stored_when_its_worker_drains_is_stored_before_the_release(
    attempts: Attempts, front: Front, scene: ToolScene
) -> None:
    attempts.change_worker(flush_seconds=30.0)
    is_waiting = asyncio.Event()

    async def forever(_arguments: object, _context: object) -> NoReturn:
        is_waiting.set()
        await asyncio.Event().wait()
        raise AssertionError

    scene.weather.script.append(forever)
    ticket = await front.submit()
    attempt = attempts.begin(ticket)
    await until(lambda: is_waiting.is_set() and scene.order.calls and not scene.order.running)
    attempts.stop_signal.trigger("drain")
    await attempt
    await attempts.run(ticket)
    await check_whole(front, ticket)
    assert (len(scene.weather.calls), len(scene.order.calls)) == (2, 1)


async def test_cancel_before_a_later_attempt_has_read_its_rounds_keeps_and_charges_them(
    attempts: Attempts, front: Front, provider: ScriptedProvider, scene: ToolScene
) -> None:
    provider.script.append(ScriptedAnswer(text="Let me look.", calls=CALLS))
    provider.script.append(ScriptedAnswer(text="It snows.", gate=asyncio.Event(), gate_after=1))
    ticket = await front.submit()
    attempt = attempts.begin(ticket)
    await front.seen(ticket, lambda found: found.text.endswith("It"))
    attempts.stop_signal.trigger("lost")
    await attempt
    await front.requeue_crashed(ticket)
    await attempts.stopped_early(ticket, "cancel")
    ended = await front.poll(ticket)
    message = ended.assistant
    assert message is not None
    assert (ended.stage, ended.text) == ("cancelled", "Let me look.")
    assert text_of(await front.stream_events(ticket)) == "Let me look."
    assert message.usage is not None
    assert ended.captured == message.usage.cost > 0
    assert len(message.rounds) == 3
    assert scene.order.calls
