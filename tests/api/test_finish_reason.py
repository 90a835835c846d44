"""`finish_reason` is wherever the answer is: one that was cut off does not look complete."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

import msgspec
import pytest

from api.accept.accept import Idempotency, Receipt, Submissions
from api.accept.intent import Intent
from api.guards.identify import Caller
from shared.wire.conversation import CallPart, ToolDefinition
from shared.wire.message import AssistantMessage, decode_assistant, encode_assistant
from tests.api.kombify_client import CHAT, SESSIONS, chat, payload
from tests.support import waiting
from tests.support.api_client import ApiClient, Json, body
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.stream_reader import read_events
from tests.support.system import System
from worker.providers.contract import ChatRequest, Ended, Part
from worker.providers.registry import Registry

_REASONS: Final = [
    ("stop", "stop"),
    ("length", "length"),
    ("content_filter", "content_filter"),
    ("tool_calls", "tool_calls"),
    ("a reason of tomorrow", "stop"),
]


_TOOL: Final = ToolDefinition(name="clock", parameters={"type": "object", "properties": {}})


class _Caller:
    """A provider whose model writes nothing and calls a tool."""

    async def stream(self, _: ChatRequest) -> AsyncGenerator[Part, None]:
        yield CallPart("1", "clock", '{"zone":"UTC"}')
        yield Ended("tool_calls")


async def _listed(api: ApiClient, session: str) -> list[tuple[str, str | None]]:
    """Return the state and the finish reason of a session's only answer, as both dialects list it.

    A user's message has no such field.
    """
    whole = payload(await api.get(f"{SESSIONS}/{session}"))["messages"]
    lists = (await api.messages(session), whole)
    assert ["finish_reason" in asked for asked, _ in lists] == [False, False]
    return [(answered["status"], answered["finish_reason"]) for _, answered in lists]


@pytest.mark.parametrize(("upstream", "expected"), _REASONS)
@pytest.mark.usefixtures("worker")
async def test_every_form_of_an_answer_has_its_finish_reason(
    api: ApiClient, provider: ScriptedProvider, upstream: str, expected: str
) -> None:
    provider.answer = lambda _: ScriptedAnswer(text="one two", finish_reason=upstream)
    replied = await chat(api, "count")
    assert replied["message"]["finish_reason"] == expected
    status = body(await api.get(f"/api/v1/generate/{replied['id']}/status"))
    assert (status["state"], status["result"]["finish_reason"]) == ("completed", expected)
    assert await _listed(api, replied["session_id"]) == [("completed", expected)] * 2
    streamed = read_events(
        (await api.post(CHAT, json={"message": "count", "stream": True})).content
    )
    assert streamed[-1].name == "completed"
    assert streamed[-1].payload["message"]["finish_reason"] == expected


@pytest.mark.usefixtures("worker")
async def test_an_answer_that_failed_has_no_finish_reason(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    provider.answer = lambda _: ScriptedAnswer(status=422)
    status = await api.submit_and_wait("hello")
    assert (status["state"], status["result"]["finish_reason"]) == ("failed", None)
    assert await _listed(api, status["session_id"]) == [("failed", None)] * 2


@pytest.mark.usefixtures("worker")
async def test_an_answer_has_no_finish_reason_before_it_is_whole_nor_once_it_is_cancelled(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    provider.answer = lambda _: ScriptedAnswer(gate=asyncio.Event(), gate_after=1)
    receipt = await api.submit("hello")

    async def begun() -> Json | None:
        found = await api.poll(receipt)
        return found if found["result"]["content"] else None

    status = await waiting.until(begun)
    assert (status["state"], status["result"]["finish_reason"]) == ("processing", None)
    assert await _listed(api, receipt["session_id"]) == [("processing", None)] * 2
    body(await api.post(receipt["cancel_url"]))
    status = await api.wait_for_end(receipt)
    assert (status["state"], status["result"]["finish_reason"]) == ("cancelled", None)
    assert await _listed(api, receipt["session_id"]) == [("cancelled", None)] * 2


@pytest.fixture
def _offered(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offer a tool with every message, as no public route does yet, to models that may call it."""
    models = tuple(
        msgspec.structs.replace(model, capabilities=("tools",)) for model in system.settings.models
    )
    system.settings = msgspec.structs.replace(system.settings, models=models)
    original = Submissions.accept

    async def accept(
        submissions: Submissions,
        caller: Caller,
        intent: Intent,
        idempotency: Idempotency | None,
        request_id: str,
        *,
        origin: str | None = None,
    ) -> Receipt:
        offering = msgspec.structs.replace(intent, tools=(_TOOL,))
        return await original(submissions, caller, offering, idempotency, request_id, origin=origin)

    monkeypatch.setattr(Submissions, "accept", accept)


@pytest.mark.usefixtures("_offered", "worker")
async def test_calls_of_tools_alone_are_an_answer(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Registry, "provider_of", lambda *_: _Caller())
    status = await api.submit_and_wait("What time is it?")
    assert status["state"] == "completed"
    assert (status["result"]["content"], status["result"]["finish_reason"]) == ("", "tool_calls")
    assert await _listed(api, status["session_id"]) == [("completed", "tool_calls")] * 2


def test_a_record_has_a_finish_reason_only_if_the_model_did_not_stop_by_itself() -> None:
    whole = AssistantMessage(status="completed", content="Two", created=1)
    assert "finish_reason" not in msgspec.msgpack.decode(encode_assistant(whole))
    # An earlier version's worker writes every answer so.
    assert decode_assistant(encode_assistant(whole)).visible_finish_reason == "stop"
    cut = msgspec.structs.replace(whole, finish_reason="length")
    assert decode_assistant(encode_assistant(cut)).visible_finish_reason == "length"
    cancelled = msgspec.structs.replace(whole, status="cancelled")
    assert cancelled.visible_finish_reason is None
