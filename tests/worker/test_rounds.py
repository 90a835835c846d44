"""Rounds: the model calls tools, reads their results and answers; what is kept, shown and paid."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any, NoReturn

import msgspec
import pytest

from shared.errors import Failure, ProviderError
from shared.redis import keys
from shared.routing import price
from shared.stores import ledger
from shared.wire import event as events
from shared.wire.conversation import CallPart, Message, OpaquePart, TextPart
from shared.wire.message import AssistantMessage
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.system import System
from tests.worker.front import GRANT, Front, Ticket, text_of
from tests.worker.scripted_tools import ScriptedTool, output
from tests.worker.single_attempts import Attempts
from worker.providers.contract import ChatRequest, Ended, KeepAlive, Part, ReportedUsage, Text
from worker.providers.registry import Registry
from worker.tools.contract import ToolContext, ToolOutput
from worker.tools.registry import ToolRegistry

_OVERLOADED = ProviderError(
    Failure(message="Busy.", category="overloaded", code="PROVIDER_OVERLOADED", retryable=True),
    retry="backoff",
)
_CALL = ("call-1", "weather", '{"city": "Bonn"}')


@pytest.fixture
def weather(attempts: Attempts) -> ScriptedTool:
    """Offer a tool to models that can call one."""
    attempts.change_models(capabilities=("tools", "json"))
    tool = ScriptedTool("weather")
    attempts.tools = ToolRegistry([tool])
    return tool


async def _message(front: Front, ticket: Ticket) -> AssistantMessage:
    assistant = (await front.poll(ticket)).assistant
    assert assistant is not None
    return assistant


async def _shown(front: Front, ticket: Ticket) -> list[events.Event]:
    return [each.event for each in await front.stream_events(ticket)]


async def test_model_reads_the_result_of_the_tool_that_it_called(
    attempts: Attempts, front: Front, provider: ScriptedProvider, weather: ScriptedTool
) -> None:
    provider.script.append(ScriptedAnswer(text="Let me look.", calls=(_CALL,)))
    provider.script.append(ScriptedAnswer(text="It rains."))
    weather.script.append(output("rain"))
    ticket = await front.submit("How is it?")
    await attempts.run(ticket)
    ended = await front.poll(ticket)
    assert (ended.stage, ended.text) == ("completed", "Let me look.\n\nIt rains.")
    assert [arguments for arguments, _ in weather.calls] == [{"city": "Bonn"}]
    assert weather.calls[0][1].call_id == "call-1"
    first, second = provider.requests
    assert [tool["function"]["name"] for tool in first.body["tools"]] == ["weather"]
    assert second.messages[-2]["tool_calls"][0]["function"]["arguments"] == '{"city": "Bonn"}'
    assert second.messages[-2]["content"] == "Let me look."
    assert (second.messages[-1]["role"], second.messages[-1]["content"]) == ("tool", "rain")


async def test_callers_see_the_call_its_result_and_the_stage(
    attempts: Attempts, front: Front, provider: ScriptedProvider, weather: ScriptedTool
) -> None:
    provider.script.append(ScriptedAnswer(text="", calls=(_CALL,)))
    provider.script.append(ScriptedAnswer(text="It rains."))
    weather.script.append(output("rain"))
    ticket = await front.submit()
    await attempts.run(ticket)
    shown = [
        each
        for each in await _shown(front, ticket)
        if not isinstance(each, (events.Routed, events.Completed))
    ]
    assert shown == [
        events.StageChanged("generating"),
        events.ToolCall("call-1", "weather", {"city": "Bonn"}),
        events.StageChanged("calling_tool"),
        events.ToolResult("call-1", ok=True, summary="It said rain."),
        events.StageChanged("generating"),
        events.Delta("It rains."),
    ]


async def test_message_has_the_rounds_and_the_answers_own_parts(
    attempts: Attempts, front: Front, provider: ScriptedProvider, weather: ScriptedTool
) -> None:
    provider.script.append(ScriptedAnswer(text="Let me look.", calls=(_CALL,)))
    provider.script.append(ScriptedAnswer(text="It rains."))
    weather.script.append(output("rain"))
    ticket = await front.submit()
    await attempts.run(ticket)
    message = await _message(front, ticket)
    call = CallPart(*_CALL)
    assert message.rounds == (
        Message(role="assistant", parts=(TextPart("Let me look."), call)),
        Message(role="tool", parts=(TextPart("rain"),), call_id="call-1"),
    )
    assert message.parts == (TextPart("It rains."),)
    assert message.content == "Let me look.\n\nIt rains."
    assert message.finish_reason == "stop"
    rounds = keys.ROUNDS(ticket.root, ticket.account, ticket.id)
    assert await front.redis.call("EXISTS", rounds) == 0


async def test_each_call_is_charged_by_its_own_usage_and_the_charge_is_their_sum(
    attempts: Attempts, front: Front, provider: ScriptedProvider, weather: ScriptedTool
) -> None:
    provider.script.append(ScriptedAnswer(text="Let me look now.", calls=(_CALL,)))
    provider.script.append(ScriptedAnswer(text="It rains."))
    weather.script.append(output("rain and wind"))
    ticket = await front.submit()
    await attempts.run(ticket)
    message, ended = await _message(front, ticket), await front.poll(ticket)
    alpha = attempts.settings.models[0]
    assert [each.model for each in message.costs] == [alpha.identifier] * 2
    first, second = (each.usage for each in message.costs)
    assert (first.output_tokens, second.output_tokens) == (4, 2)
    assert second.input_tokens > first.input_tokens > 0
    assert first.cost == price.cost(alpha, first.input_tokens, first.output_tokens)
    assert message.usage is not None
    assert ended.captured == message.usage.cost == first.cost + second.cost
    assert message.usage.input_tokens == first.input_tokens + second.input_tokens
    credit_totals = await front.credit_totals()
    assert (credit_totals.held, credit_totals.balance) == (0, GRANT - ended.captured)


async def test_answer_of_one_call_stores_no_list(attempts: Attempts, front: Front) -> None:
    ticket = await front.submit()
    await attempts.run(ticket)
    message = await _message(front, ticket)
    assert (message.rounds, message.parts, message.costs) == ((), (), ())


async def test_calls_of_one_message_run_together_and_their_results_are_read_in_order(
    attempts: Attempts, front: Front, provider: ScriptedProvider, weather: ScriptedTool
) -> None:
    calls = tuple((f"call-{n}", "weather", f'{{"n": {n}}}') for n in range(12))
    provider.script.append(ScriptedAnswer(text="", calls=calls))
    provider.script.append(ScriptedAnswer(text="Done."))
    # The first call ends last.
    others_done = asyncio.Event()

    async def last(_arguments: dict[str, Any], _context: ToolContext) -> ToolOutput:
        await others_done.wait()
        return output("0")

    async def next_one(arguments: dict[str, Any], _context: ToolContext) -> ToolOutput:
        if len(weather.calls) == 12:
            others_done.set()
        return output(str(arguments["n"]))

    weather.script.append(last)
    weather.script.extend([next_one] * 11)
    ticket = await front.submit()
    await attempts.run(ticket)
    results = [each["content"] for each in provider.requests[1].messages if each["role"] == "tool"]
    assert results == [str(n) for n in range(12)]
    assert 1 < weather.running_max <= 8


@pytest.mark.parametrize(
    ("call", "reply", "expected"),
    [
        (("c", "whether", "{}"), None, "There is no tool whether."),
        (("c", "weather", "[1]"), None, "The arguments are not a JSON object."),
        (("c", "weather", '{"city": '), None, "The arguments are not a JSON object."),
        (("c", "weather", "{}"), ValueError("secret"), "The tool failed."),
        (("c", "weather", "{}"), asyncio.CancelledError(), "The tool was interrupted."),
        (("c", "weather", "{}"), output("no such city", is_error=True), "no such city"),
    ],
)
async def test_failure_of_a_call_is_a_result_that_the_model_reads(
    system: System,
    attempts: Attempts,
    front: Front,
    provider: ScriptedProvider,
    weather: ScriptedTool,
    call: tuple[str, str, str],
    reply: ValueError | None,
    expected: str,
) -> None:
    provider.script.append(ScriptedAnswer(text="", calls=(call,)))
    provider.script.append(ScriptedAnswer(text="Sorry."))
    system.expected.add("a tool failed")
    if reply is not None:
        weather.script.append(reply)
    ticket = await front.submit()
    await attempts.run(ticket)
    assert (await front.poll(ticket)).text == "Sorry."
    assert provider.requests[1].messages[-1]["content"].endswith(expected)
    [result] = [each for each in await _shown(front, ticket) if isinstance(each, events.ToolResult)]
    assert not result.ok
    assert (await _message(front, ticket)).rounds[1].is_error


async def test_tool_that_does_not_end_is_an_error_after_its_time(
    attempts: Attempts, front: Front, provider: ScriptedProvider, weather: ScriptedTool
) -> None:
    weather.timeout_seconds = 0.05

    async def forever(_arguments: object, _context: object) -> NoReturn:
        await asyncio.Event().wait()
        raise AssertionError

    weather.script.append(forever)
    provider.script.append(ScriptedAnswer(text="", calls=(_CALL,)))
    provider.script.append(ScriptedAnswer(text="Sorry."))
    ticket = await front.submit()
    await attempts.run(ticket)
    assert "did not end within" in provider.requests[1].messages[-1]["content"]


async def test_long_result_is_cut_between_two_characters(
    attempts: Attempts, front: Front, provider: ScriptedProvider, weather: ScriptedTool
) -> None:
    attempts.change_models(context_window=200_000)
    weather.script.append(output("x" + "é" * 40_000))
    provider.script.append(ScriptedAnswer(text="", calls=(_CALL,)))
    provider.script.append(ScriptedAnswer(text="Long."))
    ticket = await front.submit(hold=1_000_000_000)
    await attempts.run(ticket)
    sent = provider.requests[1].messages[-1]["content"]
    kept = sent.partition("\n")[0]
    assert 64 * 1024 - 2 < len(kept.encode()) <= 64 * 1024
    assert sent.endswith(f"it has {80_001 - len(kept.encode())} bytes more.]")


async def test_calls_of_the_callers_own_tools_are_the_answer(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    provider.script.append(ScriptedAnswer(text="I call.", calls=(_CALL,)))
    ticket = await front.submit()
    await attempts.run(ticket)
    message = await _message(front, ticket)
    assert (message.status, message.finish_reason) == ("completed", "tool_calls")
    assert message.parts == (TextPart("I call."), CallPart(*_CALL))
    assert (message.rounds, len(provider.requests)) == ((), 1)


async def test_model_without_the_capability_is_offered_no_tools(
    attempts: Attempts, front: Front, provider: ScriptedProvider, weather: ScriptedTool
) -> None:
    attempts.change_models(capabilities=("json",))
    ticket = await front.submit()
    await attempts.run(ticket)
    assert "tools" not in provider.requests[0].body
    assert weather.calls == []


# What bounds the rounds


def _calls_forever(text: str) -> Callable[[object], ScriptedAnswer]:
    numbers = iter(range(1_000))
    return lambda _: ScriptedAnswer(text=text, calls=((f"call-{next(numbers)}", "weather", "{}"),))


@pytest.mark.usefixtures("weather")
async def test_last_round_is_offered_no_tools_and_the_text_is_cut_off_if_it_calls_one(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    provider.answer = _calls_forever("And")
    ticket = await front.submit(hold=1_000_000_000)
    await attempts.run(ticket)
    message = await _message(front, ticket)
    assert (message.status, message.finish_reason) == ("completed", "length")
    assert len(provider.requests) == 17
    assert [request.body.get("tool_choice") for request in provider.requests[-2:]] == [
        None,
        "none",
    ]
    assert message.content == "\n\n".join(["And"] * 17)
    assert len(message.costs) == 17


@pytest.mark.usefixtures("weather")
async def test_rounds_end_where_the_hold_pays_for_no_further_call(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    provider.answer = _calls_forever("word " * 30)
    ticket = await front.submit(hold=100_000)
    await attempts.run(ticket)
    message, ended = await _message(front, ticket), await front.poll(ticket)
    assert (message.status, message.finish_reason) == ("completed", "length")
    assert 1 < len(provider.requests) < 16
    assert ended.captured == sum(each.usage.cost for each in message.costs) <= 100_000
    assert (await front.credit_totals()).overrun == 0


async def test_rounds_without_any_text_that_use_up_the_hold_fail_and_are_charged(
    attempts: Attempts, front: Front, provider: ScriptedProvider, weather: ScriptedTool
) -> None:
    provider.answer = _calls_forever("")
    weather.script.extend([output("x" * 900)] * 16)
    ticket = await front.submit(hold=100_000)
    await attempts.run(ticket)
    message, ended = await _message(front, ticket), await front.poll(ticket)
    assert message.failure is not None
    assert (message.status, message.failure.code) == ("failed", "ANSWER_SPENT_ON_TOOLS")
    assert ended.captured == sum(each.usage.cost for each in message.costs) > 0


# Failures of a later round


@pytest.mark.usefixtures("weather")
async def test_failed_later_round_costs_nothing(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    provider.script.append(ScriptedAnswer(text="Let me look.", calls=(_CALL,)))
    provider.script.append(ScriptedAnswer(text="It rains today.", cut_bytes=700))
    ticket = await front.submit()
    await attempts.run(ticket)
    ended = await front.poll(ticket)
    assert (ended.stage, ended.captured) == ("failed", 0)
    assert ended.text.startswith("Let me look.\n\nIt")
    assert text_of(await front.stream_events(ticket)) == ended.text


async def test_text_of_a_finished_round_bars_no_retry_of_the_next(
    attempts: Attempts, front: Front, provider: ScriptedProvider, weather: ScriptedTool
) -> None:
    provider.script.append(ScriptedAnswer(text="Let me look.", calls=(_CALL,)))
    provider.script.append(ScriptedAnswer(status=500))
    provider.script.append(ScriptedAnswer(text="It rains."))
    ticket = await front.submit()
    await attempts.run(ticket)
    ended = await front.poll(ticket)
    assert (ended.stage, ended.text) == ("completed", "Let me look.\n\nIt rains.")
    assert len(weather.calls) == 1


@pytest.mark.usefixtures("weather")
async def test_each_round_has_six_calls(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    for number in range(8):
        provider.script.append(ScriptedAnswer(status=500))
        provider.script.append(
            ScriptedAnswer(text="", calls=((f"call-{number}", "weather", "{}"),))
        )
    provider.script.append(ScriptedAnswer(text="It rains."))
    ticket = await front.submit(hold=1_000_000_000)
    await attempts.run(ticket)
    assert (await front.poll(ticket)).text == "It rains."
    assert len(provider.requests) == 17


# Another model in a later round


class _TwoModels:
    """A provider of two models: the first calls a tool and then fails, the second answers."""

    def __init__(self) -> None:
        self.requests: list[ChatRequest] = []

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Part, None]:
        self.requests.append(request)
        yield KeepAlive()
        if request.messages[-1].role != "tool":
            yield OpaquePart("openai", {"signature": "s"}, provider=request.model.provider)
            yield CallPart(*_CALL)
            yield ReportedUsage(input_tokens=100, output_tokens=10)
            yield Ended("tool_calls")
        elif request.model.identifier == "alpha":
            raise _OVERLOADED
        else:
            yield Text("It rains.")
            yield ReportedUsage(input_tokens=200, output_tokens=20)
            yield Ended("stop")

    async def close(self) -> None:
        """Nothing is open."""


async def test_another_model_reads_the_rounds_and_each_call_has_the_price_of_its_model(
    attempts: Attempts, front: Front, weather: ScriptedTool, monkeypatch: pytest.MonkeyPatch
) -> None:
    alpha, *_ = attempts.settings.models
    beta = msgspec.structs.replace(alpha, identifier="beta", input_rate=3.0, output_rate=7.0)
    attempts.settings = msgspec.structs.replace(attempts.settings, models=(alpha, beta))
    provider = _TwoModels()
    monkeypatch.setattr(Registry, "provider_of", lambda *_: provider)
    ticket = await front.submit()
    await attempts.run(ticket)
    message = await _message(front, ticket)
    assert (message.content, len(weather.calls)) == ("It rains.", 1)
    assert [request.model.identifier for request in provider.requests] == ["alpha", "alpha", "beta"]
    called, result = provider.requests[-1].messages[-2:]
    # The adapter of each upstream leaves out what another one wrote.
    assert called.parts == (
        OpaquePart("openai", {"signature": "s"}, provider="scripted"),
        CallPart(*_CALL),
    )
    assert result.text == "weather of {'city': 'Bonn'}"
    assert [each.model for each in message.costs] == ["alpha", "beta"]
    assert [each.usage.cost for each in message.costs] == [
        price.cost(alpha, 100, 10),
        price.cost(beta, 200, 20),
    ]
    assert (await front.poll(ticket)).captured == sum(each.usage.cost for each in message.costs)
    assert await _used(front, ticket) == {
        "alpha": (0, 100, 10, price.cost(alpha, 100, 10)),
        "beta": (1, 200, 20, price.cost(beta, 200, 20)),
    }


async def _used(front: Front, ticket: Ticket) -> dict[str, tuple[int, int, int, int]]:
    """Return today's usage by model, and yesterday's in case the day has just changed."""
    seconds, _ = await front.redis.call("TIME")
    today = int(seconds) // 86_400
    rows = await ledger.used(front.redis, ticket.root, ticket.account, range(today - 1, today + 1))
    return {row.model: (row.use.generations, *row.use[1:3], row.use.captured) for row in rows}


async def test_model_that_the_rest_of_the_hold_does_not_pay_for_is_left_out(
    attempts: Attempts, front: Front, weather: ScriptedTool, monkeypatch: pytest.MonkeyPatch
) -> None:
    alpha, *_ = attempts.settings.models
    beta = msgspec.structs.replace(alpha, identifier="beta", input_rate=3.0, output_rate=500.0)
    attempts.settings = msgspec.structs.replace(attempts.settings, models=(alpha, beta))
    provider = _TwoModels()
    monkeypatch.setattr(Registry, "provider_of", lambda *_: provider)
    # It pays for 16 tokens of the dear model, as long as nothing is spent.
    ticket = await front.submit(hold=price.cost(beta, 20, 16))
    await attempts.run(ticket)
    assert len(weather.calls) == 1
    assert {request.model.identifier for request in provider.requests} == {"alpha"}
    assert (await front.poll(ticket)).captured == 0


# What a later attempt shows again


async def test_later_attempt_shows_reasoning_and_calls_of_finished_rounds_again(
    attempts: Attempts, front: Front, provider: ScriptedProvider, weather: ScriptedTool
) -> None:
    gate = asyncio.Event()
    provider.script.append(
        ScriptedAnswer(text="Let me look.", reasoning="Which city?", calls=(_CALL,))
    )
    provider.script.append(ScriptedAnswer(text="It snows.", gate=gate, gate_after=1))
    provider.script.append(ScriptedAnswer(text="It rains.", reasoning="Wet."))
    ticket = await front.submit()
    attempt = attempts.begin(ticket)
    await front.seen(ticket, lambda found: found.text.endswith("It"))
    attempts.stop_signal.trigger("drain")
    await attempt
    await attempts.run(ticket)
    shown = [each.event for each in await front.stream_events(ticket) if each.epoch == 2]
    assert [each for each in shown if not isinstance(each, (events.Routed, events.Completed))] == [
        events.Reset(keep=len("Let me look.")),
        events.Reasoning("Which city?"),
        events.ToolCall("call-1", "weather", {"city": "Bonn"}),
        events.ToolResult("call-1", ok=True, summary="It said weather of {'city': ."),
        events.StageChanged("generating"),
        events.Reasoning("Wet."),
        events.Delta("\n\nIt rains."),
    ]
    message = await _message(front, ticket)
    assert message.reasoning == "Which city?Wet."
    assert len(weather.calls) == 1


async def test_two_calls_with_one_id_have_a_result_each(
    attempts: Attempts, front: Front, provider: ScriptedProvider, weather: ScriptedTool
) -> None:
    provider.script.append(ScriptedAnswer(text="", calls=(_CALL, _CALL)))
    provider.script.append(ScriptedAnswer(text="It rains."))
    ticket = await front.submit()
    await attempts.run(ticket)
    results = [each for each in provider.requests[1].messages if each["role"] == "tool"]
    assert len({each["tool_call_id"] for each in results}) == 2
    assert len(weather.calls) == 2


async def test_next_turn_reads_the_rounds_of_the_one_before(
    attempts: Attempts, front: Front, provider: ScriptedProvider, weather: ScriptedTool
) -> None:
    provider.script.append(ScriptedAnswer(text="Let me look.", calls=(_CALL,)))
    provider.script.append(ScriptedAnswer(text="It rains."))
    weather.script.append(output("rain"))
    first = await front.submit("How is it?")
    await attempts.run(first)
    second = await front.submit("And now?", session=first.session)
    await attempts.run(second)
    sent = [(each["role"], each["content"]) for each in provider.requests[2].messages]
    assert sent == [
        ("user", "How is it?"),
        ("assistant", "Let me look."),
        ("tool", "rain"),
        ("assistant", "It rains."),
        ("user", "And now?"),
    ]
