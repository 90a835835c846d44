"""Failover: a failing provider is replaced by the next of the route, unless anything was shown."""

from typing import Any

import msgspec
import pytest

from shared.wire import event as events
from shared.wire.generation import Generation
from shared.wire.routing import Routing, StoredRouting
from tests.support.scripted_provider import Request, ScriptedAnswer, ScriptedProvider, by_words
from tests.worker.front import Front
from tests.worker.single_attempts import Attempts


def _routing(ended: Generation) -> Routing:
    assert ended.assistant is not None
    kept = ended.assistant.routing
    assert isinstance(kept, StoredRouting)
    return kept.restored()


def _asked(provider: ScriptedProvider) -> list[str]:
    return [str(request.body["model"]).removeprefix("upstream-") for request in provider.requests]


def _alpha_says(provider: ScriptedProvider, **answer: Any) -> None:  # noqa: ANN401  of any field
    """Let the first model of the route answer so, and the others well."""

    def say(request: Request) -> ScriptedAnswer:
        is_first = request.body["model"] == "upstream-alpha"
        return ScriptedAnswer(**answer) if is_first else by_words(request)

    provider.answer = say


@pytest.mark.parametrize(
    ("answer", "calls"),
    [
        ({"status": 500}, 2),
        ({"status": 401}, 1),
        ({"status": 404}, 1),
        ({"cut_bytes": 10}, 2),
        # Another one at once is better than this one later.
        ({"status": 429, "headers": {"retry-after": "30"}}, 1),
        ({"text": ""}, 2),
    ],
    ids=str,
)
async def test_next_model_answers_and_the_decision_says_why(
    attempts: Attempts, front: Front, provider: ScriptedProvider, answer: dict[str, Any], calls: int
) -> None:
    _alpha_says(provider, **answer)
    ticket = await front.submit("hello")
    await attempts.run(ticket)
    ended = await front.poll(ticket)
    assert (ended.stage, ended.text) == ("completed", "You said: hello")
    assert _asked(provider) == ["alpha"] * calls + ["beta"]
    routing = _routing(ended)
    assert routing.chosen == "beta"
    assert {each.model: each.excluded_by for each in routing.candidates} == {
        "alpha": "failed",
        "beta": None,
    }
    stream_events = [each.event for each in await front.stream_events(ticket)]
    chosen = [event.routing.chosen for event in stream_events if isinstance(event, events.Routed)]
    assert chosen == ["alpha", "beta"]


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 400, "code": "content_filter"},
        {"status": 422},
        {"text": "word " * 30, "error_after": 5},
        {"text": "word " * 30, "cut_bytes": 1200},
    ],
    ids=str,
)
async def test_what_is_the_message_s_fault_or_was_shown_is_not_passed_on(
    attempts: Attempts, provider: ScriptedProvider, answer: dict[str, Any]
) -> None:
    _alpha_says(provider, **answer)
    ended = await attempts.ended("hello")
    assert ended.stage == "failed"
    assert _asked(provider) == ["alpha"]


async def test_model_that_was_asked_for_by_name_is_not_replaced(
    attempts: Attempts, provider: ScriptedProvider
) -> None:
    _alpha_says(provider, status=401)
    ended = await attempts.ended("hello", model="alpha")
    assert ended.stage == "failed"
    assert _asked(provider) == ["alpha"]


async def test_upstreams_are_called_six_times_at_most(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    provider.answer = lambda _: ScriptedAnswer(status=500)
    ticket = await front.submit("hello")
    await attempts.run(ticket)
    assert _asked(provider) == ["alpha"] * 2 + ["beta"] * 2
    assert (await front.poll(ticket)).stage == "retrying"
    await front.hasten(ticket)
    await attempts.run(ticket)
    assert (await front.poll(ticket)).stage == "failed"
    assert _asked(provider)[4:] == ["alpha", "beta"]


async def test_calls_of_earlier_attempts_count(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    provider.answer = lambda _: ScriptedAnswer(status=500)
    ticket = await front.submit("hello", model="alpha")
    for calls in (2, 3, 4, 5):
        await attempts.run(ticket)
        assert (await front.record(ticket))["calls"] == str(calls)
        await front.hasten(ticket)
        await front.thaw(attempts.circuit_breaker)
    await attempts.run(ticket)
    assert (await front.poll(ticket)).stage == "failed"
    assert _asked(provider) == ["alpha"] * 6


@pytest.mark.parametrize("status", [429, 503])
async def test_calls_that_a_provider_did_not_take_on_do_not_count(
    attempts: Attempts, front: Front, provider: ScriptedProvider, status: int
) -> None:
    provider.script.extend(ScriptedAnswer(status=status) for _ in range(8))
    ticket = await front.submit("hello", model="alpha")
    for _ in range(20):
        await attempts.run(ticket)
        if (await front.poll(ticket)).is_final:
            break
        assert (await front.record(ticket))["calls"] == "0"
        await front.hasten(ticket)
        await front.thaw(attempts.circuit_breaker)
    assert (await front.poll(ticket)).stage == "completed"


async def test_calls_that_fail_within_an_answer_count_whatever_they_say(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    provider.answer = lambda _: ScriptedAnswer(error_after=0, code="overloaded_error")
    ticket = await front.submit("hello", model="alpha")
    for _ in range(12):
        await attempts.run(ticket)
        if (await front.poll(ticket)).is_final:
            break
        await front.hasten(ticket)
        await front.thaw(attempts.circuit_breaker)
    assert (await front.poll(ticket)).stage == "failed"
    assert len(provider.requests) == 6


async def test_model_that_the_hold_does_not_pay_for_is_not_tried(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    alpha, beta, *others = attempts.settings.models
    models = (
        msgspec.structs.replace(alpha, input_rate=0.01, output_rate=0.01),
        msgspec.structs.replace(beta, input_rate=1000.0, output_rate=1000.0),
        *others,
    )
    attempts.settings = msgspec.structs.replace(attempts.settings, models=models)
    _alpha_says(provider, status=401)
    ticket = await front.submit("hello", hold=100)
    await attempts.run(ticket)
    assert (await front.poll(ticket)).stage == "failed"
    assert _asked(provider) == ["alpha"]
