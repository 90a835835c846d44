"""An explicit conversation from its accept to its answer: checked, priced whole, without a session.

No public route takes one yet, so the tests put it in the place of a message as that is accepted.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import msgspec
import pytest

from api.accept.accept import Receipt, Submissions
from api.accept.intent import Intent
from shared.routing import price
from shared.settings import ModelSettings
from shared.wire.conversation import (
    CallPart,
    ImagePart,
    Message,
    TextPart,
    ToolChoice,
    ToolDefinition,
)
from tests.api.kombify_client import SESSIONS, payload
from tests.support.api_client import ApiClient, refused
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.system import System

_TOOL: Final = ToolDefinition(name="clock", parameters={"type": "object", "properties": {}})
_ASKED: Final = Message(role="user", parts=(TextPart("What time is it?"),))
_CALLED: Final = Message(
    role="assistant", parts=(TextPart("Well."), CallPart("c1", "clock", '{"zone": "UTC"}'))
)
_RESULT: Final = Message(role="tool", parts=(TextPart("noon"),), call_id="c1")
_INPUT, _OUTPUT, _LONGEST = 100, 200, 256

Replace = Callable[..., None]


@pytest.fixture(name="replace")
def _replace(monkeypatch: pytest.MonkeyPatch) -> Replace:
    """Return what puts a conversation in the place of every message that follows."""
    original = Submissions.accept

    def replace(*messages: Message, **fields: Any) -> None:  # noqa: ANN401  of any field's type
        async def accept(*asked: object, **more: object) -> Receipt:
            submitting, caller, intent, *others = asked
            assert isinstance(intent, Intent)
            explicit = msgspec.structs.replace(
                intent, message="", is_sessionless=True, conversation=messages, **fields
            )
            return await original(submitting, caller, explicit, *others, **more)  # type: ignore[arg-type]  # what it was asked

        monkeypatch.setattr(Submissions, "accept", accept)

    return replace


def _with_tools(settings: System) -> None:
    """Let every model of the catalogue call tools."""
    changed: tuple[ModelSettings, ...] = tuple(
        msgspec.structs.replace(model, capabilities=(*model.capabilities, "tools"))
        for model in settings.settings.models
    )
    settings.settings = msgspec.structs.replace(settings.settings, models=changed)


@pytest.fixture(name="calling")
def _calling(system: System) -> None:
    """Let every model call tools, before the API and the worker start."""
    _with_tools(system)


@pytest.mark.usefixtures("calling", "worker")
async def test_conversation_is_answered_without_a_session(
    api: ApiClient, provider: ScriptedProvider, replace: Replace
) -> None:
    provider.script.append(ScriptedAnswer(text="Noon."))
    replace(_ASKED, _CALLED, _RESULT, tools=(_TOOL,), tool_choice=ToolChoice("none"))
    status = await api.submit_and_wait("unused", model="alpha", system_prompt=None)
    assert (status["state"], status["session_id"]) == ("completed", None)
    assert status["result"]["content"] == "Noon."
    (request,) = provider.requests
    assert [message["role"] for message in request.messages] == ["user", "assistant", "tool"]
    assert request.body["tool_choice"] == "none"
    assert request.body["tools"][0]["function"]["name"] == "clock"
    assert payload(await api.get(SESSIONS))["items"] == []


@pytest.mark.usefixtures("calling", "worker")
async def test_hold_is_the_price_of_the_whole_conversation_and_its_tools(
    api: ApiClient, provider: ScriptedProvider, replace: Replace
) -> None:
    provider.script.append(ScriptedAnswer(text="So.", gate=(gate := asyncio.Event())))
    replace(_ASKED, _CALLED, _RESULT, tools=(_TOOL,))
    receipt = await api.submit("unused", model="alpha")
    held = round((await api.credits())["held"] * 1_000_000)
    gate.set()
    await api.wait_for_end(receipt)
    tokens = price.tokens_in_conversation([_ASKED, _CALLED, _RESULT], [_TOOL])
    assert held == tokens * _INPUT + _LONGEST * _OUTPUT
    assert provider.requests[-1].body["max_tokens"] == _LONGEST
    assert (await api.credits())["held"] == 0


@pytest.mark.usefixtures("calling")
async def test_fault_of_a_conversation_is_named_by_its_place(
    api: ApiClient, replace: Replace
) -> None:
    replace(_ASKED, _CALLED)
    answer = refused(await api.post("/api/v1/chat", json={"message": "x"}), 400, "INVALID_FIELDS")
    assert answer["error"].startswith("The field `messages[1].parts[1]` has no result")
    replace(Message(role="user", parts=(ImagePart("file:///etc/passwd"),)))
    answer = refused(await api.post("/api/v1/chat", json={"message": "x"}), 400, "INVALID_FIELDS")
    assert answer["error"].startswith("The field `messages[0].parts[0]` cannot be taken.")
    replace(_ASKED, tool_choice=ToolChoice("required"))
    answer = refused(await api.post("/api/v1/chat", json={"message": "x"}), 400, "INVALID_FIELDS")
    assert answer["error"].startswith("The field `tool_choice` ")


async def test_conversation_that_no_model_can_read_is_refused(
    api: ApiClient, replace: Replace
) -> None:
    replace(_ASKED, tools=(_TOOL,))
    asked = {"message": "x"}
    answer = refused(await api.post("/api/v1/chat", json=asked), 400, "FEATURE_UNAVAILABLE")
    assert "`tools`" in answer["error"]
    replace(Message(role="user", parts=(ImagePart("https://example.org/a"),)))
    answer = refused(await api.post("/api/v1/chat", json=asked), 400, "FEATURE_UNAVAILABLE")
    assert "`messages`" in answer["error"]
    replace(Message(role="user", parts=(TextPart("word " * 20_000),)))
    refused(await api.post("/api/v1/chat", json=asked), 400, "CONTEXT_TOO_LONG")
