"""An explicit conversation is sent as it stands; calls of the caller's tools are the answer."""

from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
import pytest

from shared.routing import price
from shared.settings import EgressSettings
from shared.wire import event as events, submission as submissions
from shared.wire.conversation import (
    CallPart,
    ImagePart,
    Message,
    OpaquePart,
    TextPart,
    ToolChoice,
    ToolDefinition,
)
from shared.wire.generation import Generation
from shared.wire.submission import Submission
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider, context_error
from tests.worker.front import Front
from tests.worker.providers import openai
from tests.worker.providers.upstream import Upstream, whole
from tests.worker.search_scenes import SEARCH, engine_fixture, searching_fixture
from tests.worker.single_attempts import Attempts

__all__ = ["engine_fixture", "searching_fixture"]

_PNG: Final = b"\x89PNG\r\n\x1a\n" + b"p" * 40
_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
_TOOL: Final = ToolDefinition(name="clock", description="Tells the time.")


def _message(role: Any, *parts: Any, **fields: Any) -> Message:  # noqa: ANN401  of any type
    texts = (TextPart(part) if isinstance(part, str) else part for part in parts)
    return Message(role=role, parts=tuple(texts), **fields)


async def _answered(
    attempts: Attempts,
    front: Front,
    *messages: Message,
    **fields: Any,  # noqa: ANN401  of any type
) -> Generation:
    """Submit a conversation, make one attempt, and return the generation, which must have ended."""
    asked = Submission(
        session=None, max_output_tokens=64, conversation=messages, holds_history=True, **fields
    )
    ticket = await front.submit("", blob=submissions.encode(asked))
    await attempts.run(ticket)
    found = await front.poll(ticket)
    assert found.is_final, found.stage
    return found


def _code(ended: Generation) -> str | None:
    assert ended.assistant is not None
    return ended.assistant.failure.code if ended.assistant.failure is not None else None


async def test_conversation_is_sent_whole_and_as_it_stands(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    attempts.change_models(capabilities=("tools",), context_window=100_000)
    ended = await _answered(
        attempts,
        front,
        _message("system", "Be brief."),
        _message("user", " hlep pls "),
        _message("assistant", "One moment.", CallPart("c1", "clock", '{"zone": "UTC"}')),
        _message("tool", "noon", call_id="c1"),
        _message("system", "Be kind."),
        _message("user", "So?"),
        companion=attempts.settings.companions[0].type,
        tools=(_TOOL,),
        tool_choice=ToolChoice("none"),
    )
    assert (ended.stage, _code(ended)) == ("completed", None)
    call = {"name": "clock", "arguments": '{"zone": "UTC"}'}
    (request,) = provider.requests
    assert request.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " hlep pls "},
        {
            "role": "assistant",
            "content": "One moment.",
            "tool_calls": [{"id": "c1", "type": "function", "function": call}],
        },
        {"role": "tool", "content": "noon", "tool_call_id": "c1"},
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "So?"},
    ]
    assert ended.assistant is not None
    assert ended.assistant.enhancement is None


async def test_conversation_that_does_not_fit_is_refused_and_never_cut(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    long = [_message("user", "x" * 3_000), _message("assistant", "Yes."), _message("user", "So?")]
    attempts.change_models(context_window=900)
    assert _code(await _answered(attempts, front, *long)) == "CONTEXT_TOO_LONG"
    assert provider.requests == []


async def test_conversation_that_the_provider_finds_too_long_is_not_cut(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    provider.script.extend([context_error(8)] * 2)
    turns = [_message("user", "So?"), _message("assistant", "Yes."), _message("user", "And?")]
    assert _code(await _answered(attempts, front, *turns)) == "CONTEXT_TOO_LONG"
    assert len(provider.requests) == 1


async def test_model_without_tools_or_sight_is_not_chosen(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    asked = _message("user", "So?")
    assert _code(await _answered(attempts, front, asked, tools=(_TOOL,))) == "NO_SUITABLE_MODEL"
    seen = _message("user", "What is it?", ImagePart("https://example.org/a"))
    assert _code(await _answered(attempts, front, seen)) == "NO_SUITABLE_MODEL"
    called = _message("assistant", CallPart("c", "clock", "{}")), _message("tool", call_id="c")
    assert _code(await _answered(attempts, front, asked, *called)) == "NO_SUITABLE_MODEL"
    assert provider.requests == []


@pytest.fixture
async def image_server(attempts: Attempts) -> AsyncIterator[Upstream]:
    """Return a server of one picture that an operator allows, for models that see."""
    async with Upstream() as listening:
        listening.script = whole(_PNG, content_type="image/png")
        attempts.change_models(capabilities=("vision", "tools"), context_window=100_000)
        egress = EgressSettings(allow=("127.0.0.1",), ports=(listening.port,))
        attempts.settings = msgspec.structs.replace(attempts.settings, egress=egress)
        yield listening


async def test_images_of_all_messages_are_fetched_and_keep_their_places(
    attempts: Attempts, front: Front, provider: ScriptedProvider, image_server: Upstream
) -> None:
    provider.script.append(ScriptedAnswer(text="Two."))
    image = ImagePart(f"http://127.0.0.1:{image_server.port}/a")
    ended = await _answered(
        attempts,
        front,
        _message("user", "This:", image, "or this:", image, "?"),
        _message("assistant", CallPart("c", "clock", "{}")),
        _message("tool", "see", image, call_id="c"),
        _message("user", "So?"),
    )
    assert (ended.stage, _code(ended)) == ("completed", None)
    first, _, result, shown, _ = provider.requests[0].messages
    assert _kinds(first) == ["text", "image_url", "text", "image_url", "text"]
    assert result["content"] == "see"
    assert (shown["role"], _kinds(shown)) == ("user", ["text", "image_url"])


def _kinds(message: dict[str, Any]) -> list[str]:
    return [part["type"] for part in message["content"]]


async def test_image_that_cannot_be_fetched_is_named_by_its_place(
    attempts: Attempts, front: Front, provider: ScriptedProvider, image_server: Upstream
) -> None:
    image_server.script = whole(b"no picture")
    image = ImagePart(f"http://127.0.0.1:{image_server.port}/a")
    ended = await _answered(
        attempts, front, _message("user", "Look."), _message("user", "Now:", image)
    )
    assert _code(ended) == "MEDIA_TYPE"
    assert ended.assistant is not None
    assert ended.assistant.failure is not None
    assert "`messages[1].parts[1]`" in ended.assistant.failure.message
    assert provider.requests == []


async def test_search_service_is_not_asked_for_an_explicit_conversation(
    searching: Attempts, front: Front, provider: ScriptedProvider, engine: Upstream
) -> None:
    ended = await _answered(searching, front, _message("user", "So?"), features=SEARCH)
    assert _code(ended) == "NO_SUITABLE_MODEL"
    assert provider.requests == []
    assert engine.lines == []


async def test_calls_of_the_callers_tools_are_the_answer(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    attempts.change_models(capabilities=("tools",), context_window=100_000)
    first, second = ("c1", "clock", '{"zone": "UTC"}'), ("c2", "clock", '{"zone":')
    provider.script.append(
        ScriptedAnswer(text="I look.", reasoning="Hm.", calls=(first, second), has_usage=False)
    )
    ended = await _answered(attempts, front, _message("user", "Noon?"), tools=(_TOOL,))
    assert (ended.stage, _code(ended)) == ("completed", None)
    kept = ended.assistant
    assert kept is not None
    assert (kept.content, kept.finish_reason, kept.rounds) == ("I look.", "tool_calls", ())
    reasoning = OpaquePart("openai", {"reasoning_content": "Hm."}, "scripted")
    assert kept.parts == (
        TextPart("I look."),
        reasoning,
        CallPart(*first),
        CallPart(*second),
    )
    # Nobody ran them, and the model was not asked again.
    assert len(provider.requests) == 1
    assert kept.usage is not None
    text_and_reasoning = price.tokens_in("I look.") + price.tokens_in("Hm.")
    assert kept.usage.output_tokens > text_and_reasoning


@pytest.mark.parametrize(("reason", "arguments"), [("tool_calls", "{}"), ("length", '{"zone":')])
async def test_answer_of_calls_alone_is_completed(
    attempts: Attempts, front: Front, provider: ScriptedProvider, reason: str, arguments: str
) -> None:
    attempts.change_models(capabilities=("tools",))
    piece = {"index": 0, "id": "c1", "function": {"name": "clock", "arguments": arguments}}
    ending = openai.chunk({"delta": {"tool_calls": [piece]}, "finish_reason": reason})
    provider.script.append(ScriptedAnswer(raw=_HEAD + ending + openai.DONE))
    ended = await _answered(attempts, front, _message("user", "Noon?"), tools=(_TOOL,))
    assert (ended.stage, _code(ended)) == ("completed", None)
    assert ended.assistant is not None
    assert (ended.assistant.content, ended.assistant.finish_reason) == ("", reason)
    assert ended.assistant.parts == (CallPart("c1", "clock", arguments),)


@pytest.mark.parametrize("tools", [(), (_TOOL,)], ids=["no tools", "another tool"])
async def test_answer_of_calls_that_nobody_offered_is_empty(
    attempts: Attempts,
    front: Front,
    provider: ScriptedProvider,
    tools: tuple[ToolDefinition, ...],
) -> None:
    attempts.change_models(capabilities=("tools",))
    provider.script.append(ScriptedAnswer(text="", calls=(("c1", "radio", "{}"),)))
    ended = await _answered(attempts, front, _message("user", "Noon?"), tools=tools)
    assert (ended.stage, _code(ended)) == ("failed", "EMPTY_ANSWER")


async def test_plain_answer_keeps_no_parts(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    attempts.change_models(capabilities=("tools",), context_window=100_000)
    provider.script.append(ScriptedAnswer(text="Noon.", reasoning="Hm."))
    ended = await _answered(attempts, front, _message("user", "Noon?"), tools=(_TOOL,))
    assert ended.assistant is not None
    assert (ended.assistant.content, ended.assistant.parts) == ("Noon.", ())


async def test_follower_sees_arguments_that_are_no_object_as_they_were_written(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    attempts.change_models(capabilities=("tools",), context_window=100_000)
    calls = (("c1", "clock", '{"zone": "UTC"}'), ("c2", "clock", "[1]"))
    provider.script.append(ScriptedAnswer(text="", calls=calls))
    asked = Submission(session=None, conversation=(_message("user", "Noon?"),), tools=(_TOOL,))
    ticket = await front.submit("", blob=submissions.encode(asked))
    await attempts.run(ticket)
    shown = [each.event for each in await front.stream_events(ticket)]
    assert [event for event in shown if isinstance(event, events.ToolCall)] == [
        events.ToolCall("c1", "clock", {"zone": "UTC"}),
        events.ToolCall("c2", "clock", {}, "[1]"),
    ]
