"""How answers with rounds end: cut off late, of another form, decided early, by a broken tool."""

from typing import Any

import pytest

from shared.redis import functions
from shared.wire import submission as submissions
from shared.wire.conversation import AnswerForm
from shared.wire.event import ApprovalRequired
from shared.wire.submission import TURN_WIRE, Submission
from tests.support.scripted_provider import Request, ScriptedAnswer, ScriptedProvider
from tests.support.system import System
from tests.worker.front import Front, Ticket, text_of
from tests.worker.scripted_tools import ScriptedTool
from tests.worker.single_attempts import Attempts
from worker import pipeline
from worker.outcome import Outcome
from worker.run import Run
from worker.tools.contract import Suspend, ToolContext
from worker.tools.registry import ToolRegistry

_CALL = ("call-1", "weather", '{"city": "Bonn"}')
_FORM = Submission(session="s", form=AnswerForm(kind="json_object"), max_output_tokens=64)
_EVENT = ApprovalRequired("approval-1", "weather", {}, "2030-01-01T00:00:00Z")
_DAY_MS = 86_400_000


@pytest.fixture
def weather(attempts: Attempts) -> ScriptedTool:
    """Return the one tool."""
    attempts.change_models(capabilities=("tools", "json"))
    tool = ScriptedTool("weather")
    attempts.tools = ToolRegistry([tool])
    return tool


def _scripted(provider: ScriptedProvider, *answers: str) -> None:
    """Call the tool first, then answer."""
    provider.script.append(ScriptedAnswer(text="Let me look.", calls=(_CALL,)))
    provider.script.extend(ScriptedAnswer(text=text) for text in answers)


@pytest.mark.usefixtures("weather")
async def test_cut_off_by_a_later_attempt_is_settled_and_paid(
    attempts: Attempts, front: Front, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = iter(range(1000))

    def call_for_ever(_: Request) -> ScriptedAnswer:
        call = (f"call-{next(numbers)}", "weather", "{}")
        return ScriptedAnswer(text="word " * 30, calls=(call,))

    async def die(run: Run, _: Outcome) -> None:
        await run.writer.close()

    provider.answer = call_for_ever
    ticket = await front.submit(hold=100_000)
    with monkeypatch.context() as dying:
        dying.setattr(pipeline, "settle", die)
        await attempts.run(ticket)
    await front.requeue_crashed(ticket)
    await attempts.run(ticket)
    ended = await front.poll(ticket)
    assert ended.assistant is not None
    assert (ended.stage, ended.assistant.finish_reason) == ("completed", "length")
    assert 0 < ended.captured == sum(each.usage.cost for each in ended.assistant.costs)


@pytest.mark.usefixtures("weather")
@pytest.mark.parametrize("first", ["no json at all", "no"])
async def test_answer_of_another_form_after_a_round_is_made_once_more(
    attempts: Attempts, front: Front, provider: ScriptedProvider, first: str
) -> None:
    _scripted(provider, first, '{ "rain": true}')
    ticket = await front.submit(blob=submissions.encode(_FORM))
    await attempts.run(ticket)
    ended = await front.poll(ticket)
    text = 'Let me look.\n\n{ "rain": true}'
    assert (ended.stage, ended.text) == ("completed", text)
    assert text_of(await front.stream_events(ticket)) == text
    assert len(provider.requests) == 3


async def test_decision_before_the_wait_begins_ends_it_at_once(
    attempts: Attempts, front: Front, provider: ScriptedProvider, weather: ScriptedTool
) -> None:
    tickets: list[Ticket] = []

    async def ask(_: dict[str, Any], __: ToolContext) -> Suspend:
        [ticket] = tickets
        wanted = functions.ResumeAsk(account=ticket.account, id=ticket.id)
        assert await functions.resume(front.redis, ticket.root, wanted) == "not_suspended"
        now = int((await front.redis.call("TIME"))[0]) * 1000
        return Suspend(until_ms=now + _DAY_MS, event=_EVENT)

    weather.script.append(ask)
    _scripted(provider, "It rains.")
    tickets.append(await front.submit())
    await attempts.run(tickets[0])
    assert (await front.poll(tickets[0])).stage == "queued"
    await attempts.run(tickets[0])
    ended = await front.poll(tickets[0])
    assert (ended.stage, ended.text) == ("completed", "Let me look.\n\nIt rains.")
    assert "resumed" not in await front.record(tickets[0])


async def test_tool_that_returns_nothing_fails_for_the_model_alone(
    attempts: Attempts,
    front: Front,
    provider: ScriptedProvider,
    weather: ScriptedTool,
    system: System,
) -> None:
    system.expected.add("a tool returned something else")

    async def nothing(_: dict[str, Any], __: ToolContext) -> Any:  # noqa: ANN401  what is no result
        return None

    weather.script.append(nothing)
    _scripted(provider, "It rains.")
    ticket = await front.submit()
    await attempts.run(ticket)
    assert (await front.poll(ticket)).stage == "completed"
    assert provider.requests[-1].messages[-1]["content"] == "Error: The tool failed."


async def test_turn_with_a_finished_round_is_for_workers_that_know_rounds(
    attempts: Attempts, front: Front, provider: ScriptedProvider, weather: ScriptedTool
) -> None:
    async def wait(_: dict[str, Any], __: ToolContext) -> Suspend:
        now = int((await front.redis.call("TIME"))[0]) * 1000
        return Suspend(until_ms=now + _DAY_MS, event=_EVENT)

    weather.script.append(wait)
    _scripted(provider, "It rains.")
    ticket = await front.submit(wire=1)
    await attempts.run(ticket)
    assert (await front.record(ticket))["wire"] == str(TURN_WIRE)
