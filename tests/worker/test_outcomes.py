"""Every way in which an attempt can end, and what is then streamed, stored and charged."""

import asyncio
from typing import Any

import msgspec
import pytest

from shared.routing import price
from shared.wire import event as events
from shared.wire.generation import Generation
from shared.wire.submission import Lane, Submission, encode
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider, context_error
from tests.worker.front import GRANT, HOLD, Front, text_of
from tests.worker.single_attempts import Attempts
from worker import pipeline
from worker.outcome import Outcome
from worker.run import Run


def _fault(ended: Generation) -> tuple[str, str]:
    """Return why a generation failed; a failure costs nothing."""
    assert ended.stage == "failed"
    assert ended.assistant is not None
    assert ended.assistant.failure is not None
    assert ended.captured == 0
    return ended.assistant.failure.category, ended.assistant.failure.code


async def _is_free(front: Front) -> bool:
    credit_totals = await front.credit_totals()
    return (credit_totals.balance, credit_totals.held, credit_totals.settled) == (GRANT, 0, 0)


# Completed


async def test_answer_is_reported_kept_and_charged(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    ticket = await front.submit("How are you?")
    await attempts.run(ticket)
    ended, stream_events = await front.poll(ticket), await front.stream_events(ticket)
    assert (ended.stage, ended.text) == ("completed", "You said: How are you?")
    alpha = attempts.settings.models[0]
    cost = price.cost(alpha, 3, 5)
    assert ended.assistant is not None
    assert ended.assistant.usage is not None
    assert (ended.assistant.usage.input_tokens, ended.assistant.usage.output_tokens) == (3, 5)
    assert (ended.assistant.usage.cost, ended.captured) == (cost, cost)
    assert not ended.assistant.usage.estimated
    assert ended.assistant.model is None
    assert ended.assistant.routing is not None
    assert ended.assistant.routing.chosen == "alpha"
    assert text_of(stream_events) == ended.text
    assert [each.seq for each in stream_events] == list(range(1, len(stream_events) + 1))
    assert isinstance(stream_events[0].event, events.Routed)
    assert isinstance(stream_events[-1].event, events.Completed)
    assert stream_events[-1].event.message == ticket.id
    credit_totals = await front.credit_totals()
    assert (credit_totals.balance, credit_totals.held, credit_totals.settled) == (
        GRANT - cost,
        0,
        cost,
    )
    (request,) = provider.requests
    assert request.body["model"] == "upstream-alpha"
    assert request.body["max_tokens"] == 64


async def test_requested_model_is_named_as_it_was_asked_for(
    attempts: Attempts, provider: ScriptedProvider
) -> None:
    ended = await attempts.ended(model="beta")
    assert ended.assistant is not None
    assert ended.assistant.model is not None
    assert ended.assistant.model.identifier == "beta"
    assert ended.assistant.model.provider == "Scripted"
    assert provider.requests[0].body["model"] == "upstream-beta"


async def test_usage_that_is_not_reported_is_estimated_and_says_so(attempts: Attempts) -> None:
    ended = await attempts.ended("hello [tokens=30 no-usage]")
    assert ended.stage == "completed"
    assert ended.assistant is not None
    assert ended.assistant.usage is not None
    assert ended.assistant.usage.estimated
    assert ended.assistant.usage.output_tokens == price.tokens_in(ended.text)
    assert 0 < ended.captured <= HOLD


async def test_usage_of_a_call_that_failed_is_not_that_of_the_next(
    attempts: Attempts, provider: ScriptedProvider
) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    usage = b'data: {"usage":{"prompt_tokens":9000,"completion_tokens":9000}}\n\n'
    provider.script.extend(
        [ScriptedAnswer(raw=head + usage), ScriptedAnswer(text="Two", has_usage=False)]
    )
    ended = await attempts.ended()
    assert ended.stage == "completed"
    assert ended.assistant is not None
    assert ended.assistant.usage is not None
    assert ended.assistant.usage.estimated
    assert ended.assistant.usage.output_tokens < 100


async def test_cost_above_the_hold_is_recorded_and_not_taken(
    attempts: Attempts, front: Front
) -> None:
    ended = await attempts.ended("hello [tokens=40]", hold=100)
    credit_totals = await front.credit_totals()
    assert ended.stage == "completed"
    assert (ended.captured, credit_totals.settled, credit_totals.balance) == (100, 100, GRANT - 100)
    assert ended.assistant is not None
    assert ended.assistant.usage is not None
    assert credit_totals.overrun == ended.assistant.usage.cost - 100 > 0


@pytest.mark.parametrize("usage", ["-5", "1e300", str(10**30), '"12"'])
async def test_implausible_usage_does_no_harm_to_the_ledger(
    attempts: Attempts, front: Front, provider: ScriptedProvider, usage: str
) -> None:
    head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    chunk = '{"choices":[{"delta":{"content":"Two bears"},"finish_reason":"stop"}]}'
    used = f'{{"usage":{{"prompt_tokens":{usage},"completion_tokens":{usage}}}}}'
    provider.script.append(ScriptedAnswer(raw=f"{head}data: {chunk}\n\ndata: {used}\n\n".encode()))
    await attempts.ended()
    credit_totals = await front.credit_totals()
    assert credit_totals.granted == credit_totals.balance + credit_totals.settled
    assert 0 <= credit_totals.settled <= HOLD
    assert credit_totals.overrun == 0


async def test_answer_that_ended_counts_whatever_becomes_of_the_connection(
    attempts: Attempts, provider: ScriptedProvider
) -> None:
    provider.script.append(ScriptedAnswer(text="Two bears", has_done=False, has_usage=False))
    ended = await attempts.ended()
    assert (ended.stage, ended.text) == ("completed", "Two bears")


# The provider fails

_REFUSALS: list[tuple[dict[str, Any], tuple[str, str], int]] = [
    ({"status": 401}, ("auth", "BAD_CREDENTIALS"), 1),
    ({"status": 404}, ("invalid_request", "UNKNOWN_UPSTREAM_MODEL"), 1),
    ({"status": 400, "code": "content_filter"}, ("content_policy", "CONTENT_POLICY"), 1),
    (
        {"status": 400, "code": "context_length_exceeded"},
        ("invalid_request", "CONTEXT_TOO_LONG"),
        1,
    ),
    # Longer than the deadline leaves: nobody gains by waiting for it.
    (
        {"status": 429, "headers": {"retry-after": "3600"}},
        ("rate_limit", "PROVIDER_RATE_LIMITED"),
        1,
    ),
    ({"huge_bytes": 2_000_000}, ("provider_error", "RESPONSE_TOO_LARGE"), 1),
    ({"text": ""}, ("provider_error", "EMPTY_ANSWER"), 2),
    ({"text": "", "finish_reason": "content_filter"}, ("content_policy", "CONTENT_POLICY"), 1),
]


@pytest.mark.parametrize(("answer", "fault", "calls"), _REFUSALS, ids=str)
async def test_failure_before_the_first_token_that_no_time_repairs_ends_the_message(
    attempts: Attempts,
    front: Front,
    provider: ScriptedProvider,
    answer: dict[str, Any],
    fault: tuple[str, str],
    calls: int,
) -> None:
    provider.answer = lambda _: ScriptedAnswer(**answer)
    ended = await attempts.ended(model="alpha")
    assert _fault(ended) == fault
    assert len(provider.requests) == calls
    assert await _is_free(front)
    assert ended.text == ""


async def test_call_that_succeeds_after_others_failed_is_the_answer(
    attempts: Attempts, provider: ScriptedProvider
) -> None:
    provider.script.extend([ScriptedAnswer(cut_bytes=100), ScriptedAnswer(text="Two")])
    ended = await attempts.ended()
    assert (ended.stage, ended.text) == ("completed", "Two")
    assert len(provider.requests) == 2


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ({"cut_bytes": 1200}, "STREAM_CUT"),
        ({"error_after": 5}, "PROVIDER_FAILED"),
    ],
)
async def test_failure_after_the_first_token_is_never_retried_away(
    attempts: Attempts, front: Front, provider: ScriptedProvider, answer: dict[str, Any], code: str
) -> None:
    provider.script.append(ScriptedAnswer(text="word " * 30, **answer))
    ticket = await front.submit()
    await attempts.run(ticket)
    ended = await front.poll(ticket)
    assert _fault(ended) == ("provider_error", code)
    assert len(provider.requests) == 1
    assert ended.text.startswith("word word")
    assert text_of(await front.stream_events(ticket)) == ended.text
    assert await _is_free(front)


@pytest.mark.parametrize("header", ["7", "59"])
async def test_provider_that_asks_for_patience_is_waited_for_in_the_queue(
    attempts: Attempts, front: Front, provider: ScriptedProvider, header: str
) -> None:
    provider.script.append(ScriptedAnswer(status=429, headers={"retry-after": header}))
    ticket = await front.submit(model="alpha")
    await attempts.run(ticket)
    assert (await front.poll(ticket)).stage == "retrying"
    assert (await front.stream_events(ticket))[-1].event == events.StageChanged("retrying")
    assert len(provider.requests) == 1
    await front.cancel(ticket)


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 500},
        {"status": 503, "headers": {"retry-after": "0"}},
        {"status": 429, "headers": {"retry-after": "0"}},
        {"cut_bytes": 10},
        {"is_malformed": True},
        {"error_after": 0, "text": "Two bears"},
    ],
    ids=str,
)
async def test_failure_before_the_first_token_that_time_may_repair_waits_in_the_queue(
    attempts: Attempts, front: Front, provider: ScriptedProvider, answer: dict[str, Any]
) -> None:
    provider.answer = lambda _: ScriptedAnswer(**answer)
    ticket = await front.submit(model="alpha")
    await attempts.run(ticket)
    assert (await front.poll(ticket)).stage == "retrying"
    assert 1 <= len(provider.requests) <= 2
    await front.cancel(ticket)
    assert await _is_free(front)


# The conversation is too long


async def _talk(attempts: Attempts, front: Front, turns: int) -> str:
    """Return a session with so many completed turns."""
    session = None
    for turn in range(turns):
        ticket = await front.submit(f"turn {turn}", session=session)
        await attempts.run(ticket)
        session = ticket.session
    assert session is not None
    return session


async def test_conversation_that_is_too_long_after_all_is_trimmed_once_more(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    attempts.change_models(context_window=512, max_output_tokens=32)
    session = await _talk(attempts, front, 8)
    provider.requests.clear()
    provider.script.extend([context_error(100), ScriptedAnswer(text="Two")])
    ticket = await front.submit("and?", session=session)
    await attempts.run(ticket)
    assert (await front.poll(ticket)).text == "Two"
    first, second = (request.messages for request in provider.requests)
    assert 1 < len(second) < len(first)
    assert second == first[-len(second) :]
    assert second[0]["role"] == "user"


async def test_conversation_that_is_too_long_again_fails_as_that(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    session = await _talk(attempts, front, 2)
    provider.requests.clear()
    provider.script.extend([context_error(100), context_error(100)])
    ticket = await front.submit("and?", session=session)
    await attempts.run(ticket)
    assert _fault(await front.poll(ticket)) == ("invalid_request", "CONTEXT_TOO_LONG")
    assert len(provider.requests) == 2


async def test_last_call_s_failure_is_the_one_that_is_reported(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    session = await _talk(attempts, front, 2)
    provider.requests.clear()
    provider.script.extend([ScriptedAnswer(status=500), context_error(100)])
    ticket = await front.submit("and?", session=session)
    await attempts.run(ticket)
    assert _fault(await front.poll(ticket)) == ("invalid_request", "CONTEXT_TOO_LONG")
    assert len(provider.requests) == 2


async def test_message_that_fits_no_model_is_reported_before_any_call(
    attempts: Attempts, provider: ScriptedProvider
) -> None:
    ended = await attempts.ended("x" * 20_000)
    assert _fault(ended) == ("invalid_request", "CONTEXT_TOO_LONG")
    assert provider.requests == []


async def test_model_that_left_the_catalogue_is_reported(attempts: Attempts) -> None:
    ended = await attempts.ended(model="delta")
    assert _fault(ended) == ("invalid_request", "MODEL_NOT_FOUND")


# What a model is sent


async def test_completed_turns_are_sent_in_order_and_no_others(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    ticket = await front.submit("one", system_prompt="Be brief.")
    await attempts.run(ticket)
    provider.script.append(ScriptedAnswer(status=400))
    for message in ("two fails", "three"):
        await attempts.run(await front.submit(message, session=ticket.session, model="alpha"))
    await attempts.run(await front.submit("four", session=ticket.session))
    assert [
        (message["role"], message["content"]) for message in provider.requests[-1].messages
    ] == [
        ("system", "Be brief."),
        ("user", "one"),
        ("assistant", "You said: one"),
        ("user", "three"),
        ("assistant", "You said: three"),
        ("user", "four"),
    ]


async def test_a_provider_s_words_are_shown_without_what_the_deployment_has_sent(
    attempts: Attempts, provider: ScriptedProvider
) -> None:
    companion = attempts.settings.companions[0]
    providers = (msgspec.structs.replace(attempts.settings.providers[0], label="Acme"),)
    attempts.settings = msgspec.structs.replace(attempts.settings, providers=providers)
    said = f"Bad role. input_value='{companion.persona[:60]}...'. Of 'Be brief, please, today.'."
    provider.script.append(ScriptedAnswer(status=400, message=said))
    asked = encode(Submission(session=None, companion=companion.type))
    ended = await attempts.ended(blob=asked, system_prompt="Be brief, please, today.")
    assert companion.persona in provider.requests[0].messages[0]["content"]
    assert ended.assistant is not None
    assert ended.assistant.failure is not None
    # The system prompt is the caller's own.
    assert ended.assistant.failure.message == (
        "Acme refused the request: \"Bad role. Of 'Be brief, please, today.'.\"."
    )


async def test_answer_s_room_is_set_aside_first(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    attempts.change_models(context_window=512, max_output_tokens=128)
    session = await _talk(attempts, front, 12)
    ticket = await front.submit("and?", session=session, max_output_tokens=100)
    await attempts.run(ticket)
    request = provider.requests[-1]
    asked = sum(price.tokens_in(message["content"]) for message in request.messages)
    assert request.body["max_tokens"] == 100
    assert asked + 100 <= 512
    assert len(request.messages) > 5


async def test_batch_work_is_reported_in_few_pieces(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    provider.answer = lambda _: ScriptedAnswer(text=" ".join(["word"] * 12), gap_seconds=0.02)
    pieces = {}
    lanes: tuple[Lane, ...] = ("interactive", "batch")
    for lane in lanes:
        ticket = await front.submit(lane=lane)
        await attempts.run(ticket)
        stream_events = await front.stream_events(ticket)
        pieces[lane] = sum(isinstance(one.event, events.Delta) for one in stream_events)
    assert pieces["batch"] <= 3 < pieces["interactive"]


async def test_a_step_that_is_cancelled_by_nobody_is_a_failure(
    attempts: Attempts, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: Run) -> Outcome | None:
        raise asyncio.CancelledError

    monkeypatch.setattr(pipeline, "STEPS", (broken,))
    ticket = await front.submit()
    await attempts.run(ticket)
    assert _fault(await front.poll(ticket)) == ("internal", "INTERNAL")
