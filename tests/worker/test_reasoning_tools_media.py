"""Reasoning, tools and media beside the text: streamed, stored, charged, never sent to a model."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from shared.errors import Failure, ProviderError
from shared.routing import price
from shared.wire import event as events
from shared.wire.conversation import CallPart
from shared.wire.event import ToolResult
from shared.wire.message import AssistantMessage, Media
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.waiting import until
from tests.worker.front import GRANT, Front, Ticket, text_of
from tests.worker.single_attempts import Attempts
from worker.providers.contract import (
    ChatRequest,
    Ended,
    GeneratedMedia,
    Part,
    Paused,
    Reasoning,
    Text,
)
from worker.providers.registry import Registry

_LOST = ProviderError(
    Failure(message="Lost.", category="provider_error", code="STREAM_CUT", retryable=True),
    retry="backoff",
)


class PartsProvider:
    """A provider that yields the parts it is given, and then raises the fault, if there is one."""

    def __init__(self, *parts: Part, fault: ProviderError | None = None) -> None:
        self.calls = 0
        self._parts = parts
        self._fault = fault

    async def stream(self, _: ChatRequest) -> AsyncGenerator[Part, None]:
        self.calls += 1
        for part in self._parts:
            yield part
        if self._fault is not None:
            raise self._fault

    async def close(self) -> None:
        """Nothing is open."""


def _use(monkeypatch: pytest.MonkeyPatch, provider: PartsProvider) -> PartsProvider:
    monkeypatch.setattr(Registry, "provider_of", lambda *_: provider)
    return provider


async def _kept(front: Front, ticket: Ticket) -> AssistantMessage:
    assistant = (await front.poll(ticket)).assistant
    assert assistant is not None
    return assistant


async def _thought(front: Front, ticket: Ticket) -> str:
    stream_events = await front.stream_events(ticket)
    return "".join(
        each.event.text for each in stream_events if isinstance(each.event, events.Reasoning)
    )


# Reasoning


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
async def test_reasoning_is_reported_before_the_answer_and_kept_beside_it(
    attempts: Attempts, front: Front, provider: ScriptedProvider, name: str
) -> None:
    provider.script.append(
        ScriptedAnswer(text="Two bears", reasoning="Hm, bears.", reasoning_as=name)
    )
    ticket = await front.submit("How many?")
    await attempts.run(ticket)
    ended, stream_events = await front.poll(ticket), await front.stream_events(ticket)
    assert (ended.stage, ended.text) == ("completed", "Two bears")
    assert (await _kept(front, ticket)).reasoning == "Hm, bears."
    kinds = [type(each.event) for each in stream_events]
    assert kinds.index(events.Reasoning) < kinds.index(events.Delta)
    assert await _thought(front, ticket) == "Hm, bears."
    assert text_of(stream_events) == "Two bears"


async def test_reasoning_is_paid_for_as_the_provider_counts_it(
    attempts: Attempts, front: Front
) -> None:
    ticket = await front.submit("hello [think=5 tokens=3]")
    await attempts.run(ticket)
    usage = (await _kept(front, ticket)).usage
    assert usage is not None
    assert (usage.output_tokens, usage.reasoning_tokens) == (8, 5)
    alpha = attempts.settings.models[0]
    assert (await front.poll(ticket)).captured == price.cost(alpha, usage.input_tokens, 8)


async def test_reasoning_that_is_not_counted_is_estimated_with_the_answer(
    attempts: Attempts, front: Front
) -> None:
    ticket = await front.submit("hello [think=5 tokens=3 no-usage]")
    await attempts.run(ticket)
    kept = await _kept(front, ticket)
    assert kept.usage is not None
    assert kept.usage.estimated
    assert kept.usage.reasoning_tokens == price.tokens_in(kept.reasoning)
    assert kept.usage.output_tokens == price.tokens_in(kept.content) + kept.usage.reasoning_tokens


async def test_reasoning_without_an_answer_is_an_empty_answer(
    attempts: Attempts, front: Front
) -> None:
    ticket = await front.submit("hello [think=5 empty]")
    await attempts.run(ticket)
    kept = await _kept(front, ticket)
    assert kept.failure is not None
    assert (kept.status, kept.failure.code, kept.content) == ("failed", "EMPTY_ANSWER", "")
    assert kept.reasoning == "thought0 thought1 thought2 thought3 thought4"
    # What was thought was shown, and is paid for.
    credit_totals = await front.credit_totals()
    assert (credit_totals.held, credit_totals.balance) == (0, GRANT - credit_totals.settled)
    assert credit_totals.settled > 0


_THOUGHT = (Reasoning("one two three"),)
_FILTERED = Failure(message="No.", category="content_policy", code="CONTENT_POLICY")
_UNPAYABLE = Failure(message="No.", category="invalid_request", code="REQUEST_UNAFFORDABLE")


@pytest.mark.parametrize(
    ("upstream", "code", "is_charged"),
    [
        (PartsProvider(*_THOUGHT, Ended("stop")), "EMPTY_ANSWER", True),
        (PartsProvider(*_THOUGHT, Ended("length")), "ANSWER_SPENT_ON_THINKING", True),
        (PartsProvider(*_THOUGHT, Ended("content_filter")), "CONTENT_POLICY", True),
        (PartsProvider(*_THOUGHT, Ended("tool_calls")), "EMPTY_ANSWER", True),
        (PartsProvider(*_THOUGHT), "EMPTY_ANSWER", True),
        (PartsProvider(*_THOUGHT, Paused(({"type": "thinking"},))), "PROVIDER_FAILED", True),
        (PartsProvider(*_THOUGHT, fault=ProviderError(_FILTERED)), "CONTENT_POLICY", True),
        (PartsProvider(*_THOUGHT, fault=ProviderError(_UNPAYABLE)), "REQUEST_UNAFFORDABLE", False),
        (PartsProvider(*_THOUGHT, fault=_LOST), "STREAM_CUT", False),
        (PartsProvider(Text("one"), fault=ProviderError(_FILTERED)), "CONTENT_POLICY", False),
        (PartsProvider(Ended("content_filter")), "CONTENT_POLICY", False),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
async def test_a_model_that_only_thinks_is_charged_unless_its_provider_breaks_down(
    attempts: Attempts,
    front: Front,
    monkeypatch: pytest.MonkeyPatch,
    upstream: PartsProvider,
    code: str,
    is_charged: bool,
) -> None:
    _use(monkeypatch, upstream)
    ended = await attempts.ended()
    kept = ended.assistant
    assert kept is not None
    assert kept.failure is not None
    assert (kept.status, kept.failure.code) == ("failed", code)
    assert (ended.captured > 0) is is_charged
    credit_totals = await front.credit_totals()
    assert (credit_totals.settled, credit_totals.balance) == (
        ended.captured,
        GRANT - ended.captured,
    )


async def test_reasoning_that_was_shown_is_not_retried_away(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    provider.script.append(ScriptedAnswer(reasoning="one two three", error_after=2))
    ticket = await front.submit()
    await attempts.run(ticket)
    kept = await _kept(front, ticket)
    assert kept.failure is not None
    assert (kept.failure.code, kept.reasoning) == ("PROVIDER_FAILED", "one two")
    assert len(provider.requests) == 1
    assert (await front.credit_totals()).balance == GRANT


async def test_silence_after_reasoning_is_no_late_beginning(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    attempts.change_providers(idle_seconds=0.1)
    attempts.change_models(first_token_seconds=10.0)
    provider.script.append(ScriptedAnswer(reasoning="one two", gate=asyncio.Event(), gate_after=2))
    ticket = await front.submit()
    await attempts.run(ticket)
    kept = await _kept(front, ticket)
    assert kept.failure is not None
    assert (kept.failure.code, kept.reasoning) == ("PROVIDER_SILENT", "one two")
    assert len(provider.requests) == 1


async def test_cancel_of_what_thinks_keeps_the_thoughts_and_takes_their_price(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    provider.script.append(ScriptedAnswer(reasoning="one two", gate=asyncio.Event(), gate_after=2))
    ticket = await front.submit()
    attempt = attempts.begin(ticket)

    async def has_thought() -> bool:
        return await _thought(front, ticket) == "one two"

    await until(has_thought)
    assert (await front.poll(ticket)).text == ""
    await front.cancel(ticket)
    attempts.stop_signal.trigger("cancel")
    await attempt
    kept = await _kept(front, ticket)
    assert (kept.status, kept.content, kept.reasoning) == ("cancelled", "", "one two")
    assert kept.usage is not None
    assert 0 < kept.usage.cost == (await front.poll(ticket)).captured


# Media and tools, as a provider that has them would give them


async def test_media_make_an_answer_without_a_word(
    attempts: Attempts, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture, song = Media("image", "https://example.org/1"), Media("audio", "https://example.org/2")
    _use(monkeypatch, PartsProvider(picture, song, Ended("stop")))
    ticket = await front.submit()
    await attempts.run(ticket)
    kept = await _kept(front, ticket)
    assert (kept.status, kept.content, kept.media) == ("completed", "", (picture, song))
    stream_events = [each.event for each in await front.stream_events(ticket)]
    assert [event for event in stream_events if isinstance(event, events.Media)] == [
        events.Media("image", "https://example.org/1"),
        events.Media("audio", "https://example.org/2"),
    ]
    assert isinstance(stream_events[-1], events.Completed)


async def test_tools_are_reported_in_order_with_the_words(
    attempts: Attempts, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = CallPart(call_id="1", tool="clock", arguments='{"zone":"UTC"}')
    result = ToolResult(call_id="1", ok=True, summary="It is noon.")
    _use(monkeypatch, PartsProvider(Text("Wait. "), call, result, Text("Noon."), Ended("stop")))
    ticket = await front.submit()
    await attempts.run(ticket)
    stream_events = [each.event for each in await front.stream_events(ticket)]
    shown = events.Delta | events.ToolCall | events.ToolResult
    assert [event for event in stream_events if isinstance(event, shown)] == [
        events.Delta("Wait. "),
        events.ToolCall(call_id="1", tool="clock", arguments={"zone": "UTC"}),
        result,
        events.Delta("Noon."),
    ]
    assert (await front.poll(ticket)).text == "Wait. Noon."


@pytest.mark.parametrize(
    "part",
    [
        CallPart(call_id="1", tool="clock", arguments="{}"),
        ToolResult(call_id="1", ok=False, summary="No."),
        Media("image", "https://example.org/1"),
    ],
    ids=lambda part: type(part).__name__,
)
async def test_call_that_fails_after_one_of_them_was_shown_is_not_made_again(
    attempts: Attempts, front: Front, monkeypatch: pytest.MonkeyPatch, part: Part
) -> None:
    provider = _use(monkeypatch, PartsProvider(part, fault=_LOST))
    ticket = await front.submit()
    await attempts.run(ticket)
    assert ((await _kept(front, ticket)).status, provider.calls) == ("failed", 1)


# What a model is sent


async def test_model_is_sent_neither_reasoning_nor_turns_without_a_word(
    attempts: Attempts, front: Front, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.script.append(ScriptedAnswer(text="Two bears", reasoning="Hm, bears."))
    ticket = await front.submit("one")
    await attempts.run(ticket)
    with monkeypatch.context() as patch:
        _use(patch, PartsProvider(Media("image", "https://example.org/1"), Ended("stop")))
        await attempts.run(await front.submit("draw", session=ticket.session))
    await attempts.run(await front.submit("three", session=ticket.session))
    assert [
        (message["role"], message["content"]) for message in provider.requests[-1].messages
    ] == [("user", "one"), ("assistant", "Two bears"), ("user", "three")]


async def test_an_answer_holds_so_many_images_and_no_more(
    attempts: Attempts, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = [GeneratedMedia("image", "image/png", b"\x89PNG\r\n\x1a\n%d" % n) for n in range(65)]
    _use(monkeypatch, PartsProvider(*pictures[:64], Ended("stop")))
    ticket = await front.submit()
    await attempts.run(ticket)
    assert len((await _kept(front, ticket)).media) == 64
    _use(monkeypatch, PartsProvider(*pictures, Ended("stop")))
    ticket = await front.submit()
    await attempts.run(ticket)
    kept = await _kept(front, ticket)
    assert kept.failure is not None
    assert (kept.failure.code, len(kept.media)) == ("RESPONSE_TOO_LARGE", 64)
