"""A tool that waits for a person: the worker lets go, and a later attempt asks the tool again."""

import asyncio
from typing import NoReturn

from shared.redis import functions
from shared.redis.functions import ResumeAsk
from shared.wire import event as events
from shared.wire.event import ApprovalRequired
from tests.support.scripted_provider import ScriptedProvider
from tests.support.waiting import until
from tests.worker.front import HOLD, Front, Ticket, text_of
from tests.worker.round_scenes import ToolScene, check_whole
from tests.worker.scripted_tools import output
from tests.worker.single_attempts import Attempts
from worker.tools.contract import Suspend

_EVENT = ApprovalRequired("approval-1", "order", {"what": "umbrella"}, "2026-12-01T00:00:00Z")
_LONG_MS = 86_400_000


async def _suspended(attempts: Attempts, front: Front, scene: ToolScene) -> Ticket:
    """Return a generation that waits for a person, after one of its two calls has a result."""
    now = int((await front.redis.call("TIME"))[0]) * 1000
    scene.order.script.append(Suspend(until_ms=now + _LONG_MS, event=_EVENT))
    ticket = await front.submit()
    await attempts.run(ticket)
    return ticket


async def _resume(front: Front, ticket: Ticket) -> None:
    ask = ResumeAsk(account=ticket.account, id=ticket.id)
    assert await functions.resume(front.redis, ticket.root, ask) == "resumed"


async def test_call_that_waits_for_a_person_suspends_the_generation(
    attempts: Attempts, front: Front, scene: ToolScene
) -> None:
    ticket = await _suspended(attempts, front, scene)
    found = await front.poll(ticket)
    assert (found.stage, found.text) == ("awaiting_approval", "Let me look.")
    credit_totals = await front.credit_totals()
    assert (credit_totals.held, credit_totals.settled) == (HOLD, 0)
    shown = [each.event for each in await front.stream_events(ticket)]
    assert shown[-3:] == [
        events.ToolResult("call-1", ok=True, summary="It said weather of {'city': ."),
        _EVENT,
        events.StageChanged("awaiting_approval"),
    ]


async def test_resumed_generation_asks_the_tool_again_and_answers(
    attempts: Attempts, front: Front, provider: ScriptedProvider, scene: ToolScene
) -> None:
    ticket = await _suspended(attempts, front, scene)
    await _resume(front, ticket)
    scene.order.script.append(output("approved and ordered"))
    await attempts.run(ticket)
    await check_whole(front, ticket)
    assert (len(scene.weather.calls), len(scene.order.calls)) == (1, 2)
    assert [context.call_id for _, context in scene.order.calls] == ["call-2"] * 2
    assert provider.requests[-1].messages[-1]["content"] == "approved and ordered"
    assert len(provider.requests) == 2


async def test_wait_that_ends_by_itself_asks_the_tool_again(
    attempts: Attempts, front: Front, scene: ToolScene
) -> None:
    ticket = await _suspended(attempts, front, scene)
    await front.hasten(ticket)
    scene.order.script.append(output("nobody approved", is_error=True))
    await attempts.run(ticket)
    await check_whole(front, ticket)


async def test_call_may_wait_again(attempts: Attempts, front: Front, scene: ToolScene) -> None:
    ticket = await _suspended(attempts, front, scene)
    for _ in range(2):
        await _resume(front, ticket)
        scene.order.script.append(Suspend(until_ms=_LONG_MS * 100_000, event=_EVENT))
        await attempts.run(ticket)
        assert (await front.poll(ticket)).stage == "awaiting_approval"
    await _resume(front, ticket)
    await attempts.run(ticket)
    await check_whole(front, ticket)


async def test_crash_of_the_resumed_call_leaves_its_effect_unknown(
    attempts: Attempts, front: Front, provider: ScriptedProvider, scene: ToolScene
) -> None:
    ticket = await _suspended(attempts, front, scene)
    await _resume(front, ticket)

    async def forever(_arguments: object, _context: object) -> NoReturn:
        await asyncio.Event().wait()
        raise AssertionError

    scene.order.script.append(forever)
    attempt = attempts.begin(ticket)
    await until(lambda: scene.order.running)
    attempts.stop_signal.trigger("lost")
    await attempt
    await front.requeue_crashed(ticket)
    await attempts.run(ticket)
    await check_whole(front, ticket)
    assert len(scene.order.calls) == 2
    assert provider.requests[-1].messages[-1]["content"].endswith("its effect is unknown.")


async def test_cancel_while_it_waits_charges_the_finished_rounds(
    attempts: Attempts, front: Front, scene: ToolScene
) -> None:
    ticket = await _suspended(attempts, front, scene)
    await front.cancel(ticket)
    ended = await front.poll(ticket)
    assert (ended.stage, ended.text) == ("cancelled", "Let me look.")
    assert text_of(await front.stream_events(ticket)) == "Let me look."
    assert ended.assistant is not None
    assert ended.assistant.usage is not None
    assert ended.captured == ended.assistant.usage.cost > 0
    assert (await front.credit_totals()).held == 0
