"""What only Gemini's generateContent has: whole exchanges, odd chunks, rules of a conversation."""

import json
from typing import Any, Final

import msgspec
import pytest

from shared.settings import ModelSettings
from shared.wire.conversation import CallPart
from tests.worker.providers import gemini
from tests.worker.providers.calls import Call
from tests.worker.providers.dialect_row import MODEL, event
from tests.worker.providers.gemini import chunk, used
from tests.worker.providers.messages import calling, result
from tests.worker.providers.upstream import chunked, whole
from worker.providers.contract import (
    ChatMessage,
    ChatRequest,
    Ended,
    GeneratedMedia,
    Part,
    Reasoning,
    ReportedUsage,
    Text,
    text_message,
)
from worker.providers.conversation import EMPTY_MESSAGE_TEXT
from worker.providers.gemini import Gemini


@pytest.fixture
def dialect() -> object:
    """Return the one dialect that is looked at here."""
    return gemini.ROW


async def test_whole_exchange(call: Call) -> None:
    called = {"functionCall": {"name": "look", "args": {"where": "outside"}, "id": "fc_1"}}
    answer = (
        chunk({"text": "Bears: two.", "thought": True}, usageMetadata=used(20, 0)),
        chunk({"text": "I look "}, usageMetadata=used(20, 3, thoughtsTokenCount=30)),
        chunk({"text": "out."}, called | {"thoughtSignature": "CpcB"}),
        chunk(
            {"text": "", "thoughtSignature": "CpcC"},
            reason="STOP",
            usageMetadata=used(20, 11, thoughtsTokenCount=30),
        ),
    )
    data = b"".join(answer).replace(b"\n", b"\r\n")
    received = await call(chunked(data))
    assert received.error is None
    assert received.parts == [
        Reasoning("Bears: two."),
        Text("I look "),
        Text("out."),
        CallPart("fc_1", "look", '{"where": "outside"}'),
        Ended("tool_calls"),
        ReportedUsage(20, 41, 30),
    ]
    body = call.upstream.line.request.partition(b"\r\n\r\n")[2]
    assert json.loads(body) == {
        "contents": [{"role": "user", "parts": [{"text": "How many bears?"}]}],
        "generationConfig": {"maxOutputTokens": 64},
    }


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (event({}), []),
        (event({"candidates": None, "usageMetadata": None, "promptFeedback": None}), []),
        (event({"candidates": []}), []),
        (event({"candidates": [{}]}), []),
        (event({"candidates": [{"content": {"role": "model"}}]}), []),
        (event({"candidates": [{"content": {"parts": None}, "finishReason": None}]}), []),
        (chunk({"text": ""}), []),
        (chunk({"text": "b", "thought": False}, {"text": "c"}), [Text("b"), Text("c")]),
        (
            chunk({"inlineData": {"mimeType": "image/png", "data": "iVBORw=="}}),
            [GeneratedMedia("image", "image/png", b"\x89PNG")],
        ),
        (chunk({"executableCode": {"language": "PYTHON", "code": "1"}}), []),
        (event({"candidates": [{"index": 0}, {"content": {"parts": [{"text": "b"}]}}]}), []),
        (event({"promptFeedback": {"safetyRatings": []}}), []),
        (chunk({"text": "b"}, usageMetadata={"promptTokenCount": 5}), [Text("b")]),
    ],
    ids=str,
)
async def test_chunks_of_every_kind(call: Call, data: bytes, parts: list[Part]) -> None:
    received = await call(whole(chunk({"text": "a"}), data, chunk(reason="STOP")))
    assert received.error is None
    assert [part for part in received.parts if not isinstance(part, ReportedUsage)] == [
        Text("a"),
        *parts,
        Ended("stop"),
    ]


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("BLOCKLIST", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"),
        ("SPII", "content_filter"),
        ("IMAGE_SAFETY", "content_filter"),
        ("A_NEW_ONE", "stop"),
    ],
)
async def test_every_finish_reason_is_translated(call: Call, word: str, reason: str) -> None:
    received = await call(whole(chunk(reason=word)))
    assert (received.reasons, received.error) == ([reason], None)


async def test_blocked_prompt_is_an_end_by_the_filter(call: Call) -> None:
    feedback = {"blockReason": "PROHIBITED_CONTENT"}
    received = await call(whole(event({"promptFeedback": feedback, "usageMetadata": used(7, 0)})))
    assert received.error is None
    assert received.parts == [Ended("content_filter"), ReportedUsage(7, 0)]


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (None, used(5, 6), [ReportedUsage(5, 6)]),
        (used(5, 2), None, [ReportedUsage(5, 2)]),
        (used(5, 2), used(5, 6, thoughtsTokenCount=4), [ReportedUsage(5, 10, 4)]),
        (None, used(5, 6, cachedContentTokenCount=3), [ReportedUsage(5, 6, cached_input_tokens=3)]),
        # More than went in cannot have come from a cache.
        (None, used(5, 6, cachedContentTokenCount=9), [ReportedUsage(5, 6)]),
        (None, {"promptTokenCount": 5}, [ReportedUsage(5, 0)]),
        (None, {"candidatesTokenCount": 5}, []),
    ],
)
async def test_usage_is_reported_once_with_the_end(
    call: Call, before: object, after: object, told: list[Part]
) -> None:
    first = chunk({"text": "a"}, usageMetadata=before)
    received = await call(whole(first, chunk(reason="STOP", usageMetadata=after)))
    assert received.parts == [Text("a"), Ended("stop"), *told]


async def test_usage_may_come_after_the_end(call: Call) -> None:
    received = await call(whole(chunk(reason="STOP"), event({"usageMetadata": used(5, 6)})))
    assert received.parts == [Ended("stop"), ReportedUsage(5, 6)]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"code": 400}, ("invalid_request", "REFUSED_REQUEST", "never")),
        ({"code": 403}, ("invalid_request", "REFUSED_REQUEST", "never")),
        ({"code": 404}, ("invalid_request", "UNKNOWN_UPSTREAM_MODEL", "never")),
        ({"code": 429}, ("rate_limit", "PROVIDER_RATE_LIMITED", "backoff")),
        ({"code": 500}, ("provider_error", "PROVIDER_FAILED", "backoff")),
        ({"code": 503}, ("overloaded", "PROVIDER_OVERLOADED", "backoff")),
        (
            {"code": 400, "message": "API key not valid.", "details": "API_KEY_INVALID"},
            ("auth", "BAD_CREDENTIALS", "never"),
        ),
        (
            {
                "code": 400,
                "message": "The input token count (9) exceeds the maximum number of tokens allowed",
            },
            ("invalid_request", "CONTEXT_TOO_LONG", "never"),
        ),
        ({"code": "429"}, ("rate_limit", "PROVIDER_RATE_LIMITED", "backoff")),
        ({}, ("provider_error", "PROVIDER_FAILED", "backoff")),
        ("went wrong", ("provider_error", "PROVIDER_FAILED", "backoff")),
    ],
    ids=str,
)
async def test_error_in_every_shape(
    call: Call, error: object, expected: tuple[str, str, str]
) -> None:
    assert (await call(whole(event({"error": error})))).fault == expected


async def test_key_that_is_not_known_is_no_wrong_request(call: Call) -> None:
    error = {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}
    details = [{"reason": "API_KEY_INVALID", "domain": "googleapis.com"}]
    body = json.dumps([{"error": {**error, "details": details}}]).encode()
    received = await call(whole(body, status=400, content_type="application/json"))
    assert received.fault == ("auth", "BAD_CREDENTIALS", "never")


def _body(*messages: ChatMessage, name: str = "gemini-3-pro", **fields: object) -> dict[str, Any]:
    model = msgspec.structs.replace(MODEL, upstream=name)
    request = ChatRequest(model=model, messages=list(messages), max_tokens=64)
    body: dict[str, Any] = json.loads(Gemini().body(msgspec.structs.replace(request, **fields)))
    return body


_USER: Final = text_message("user", "Two?")
_CALLS: Final = (CallPart("a", "f", "{}"), CallPart("b", "g", "{}"))


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([text_message("user", " \n")], [("user", [EMPTY_MESSAGE_TEXT])]),
        ([_USER, text_message("assistant", ""), _USER], [("user", ["Two?", "Two?"])]),
        (
            [text_message("assistant", "Hi."), _USER],
            [("user", [EMPTY_MESSAGE_TEXT]), ("model", ["Hi."]), ("user", ["Two?"])],
        ),
        ([], [("user", [EMPTY_MESSAGE_TEXT])]),
    ],
)
def test_lawful_conversation_is_one_of_theirs(
    messages: list[ChatMessage], said: list[tuple[str, list[str]]]
) -> None:
    contents = _body(*messages)["contents"]
    told = [(one["role"], [part["text"] for part in one["parts"]]) for one in contents]
    assert told == said


@pytest.mark.parametrize(("name", "is_signed"), [("gemini-2.5-pro", False), ("gemini-4", True)])
def test_first_call_of_a_turn_is_signed_where_that_is_the_law(
    name: str, *, is_signed: bool
) -> None:
    results = [result(call.call_id, "") for call in _CALLS]
    contents = _body(_USER, calling(*_CALLS), *results, _USER, name=name)["contents"]
    assert [content["role"] for content in contents] == ["user", "model", "user", "user"]
    signed = ["thoughtSignature" in part for part in contents[1]["parts"]]
    assert signed == [is_signed, False]
    answered = [part["functionResponse"]["name"] for part in contents[2]["parts"]]
    assert answered == ["f", "g"]


@pytest.mark.parametrize(
    ("name", "max_tokens", "control"),
    [
        ("gemini-2.5-flash", 8192, {"thinkingBudget": 4096}),
        ("gemini-2.5-pro", 65_536, {"thinkingBudget": 24_576}),
        ("gemini-2.5-flash-lite", 900, {}),
        ("gemini-3-pro-preview", 900, {"thinkingLevel": "high"}),
        ("gemini-flash-latest", 900, {"thinkingLevel": "high"}),
    ],
)
def test_name_of_a_model_tells_how_it_is_asked_to_think(
    name: str, max_tokens: int, control: dict[str, object]
) -> None:
    body = _body(_USER, name=name, max_tokens=max_tokens, deep_think=True)
    thinking = body["generationConfig"]["thinkingConfig"]
    assert thinking == {"includeThoughts": True, **control}


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("gemini-3-pro", "/models/gemini-3-pro:streamGenerateContent?alt=sse"),
        ("tunedModels/mine", "/tunedModels/mine:streamGenerateContent?alt=sse"),
        ("a?b#c d", "/models/a%3Fb%23c%20d:streamGenerateContent?alt=sse"),
    ],
)
def test_model_is_named_in_the_path(name: str, path: str) -> None:
    model = ModelSettings(identifier="m", provider="up", upstream=name)
    assert Gemini().path(model) == path
