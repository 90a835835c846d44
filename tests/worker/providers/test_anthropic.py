"""What only Anthropic's messages have: whole exchanges, odd events, and rules of a conversation."""

import json
from typing import Any, Final

import msgspec
import pytest

from shared.settings import ModelSettings
from shared.wire.conversation import CallPart
from tests.worker.providers import anthropic
from tests.worker.providers.anthropic import begun, closed, ended, grown, said, started
from tests.worker.providers.calls import Call
from tests.worker.providers.dialect_row import MODEL, event
from tests.worker.providers.messages import calling, result
from tests.worker.providers.upstream import whole
from worker.providers.anthropic import Anthropic
from worker.providers.contract import (
    ChatMessage,
    ChatRequest,
    Ended,
    Image,
    Part,
    Reasoning,
    ReportedUsage,
    Text,
    text_message,
)
from worker.providers.conversation import EMPTY_MESSAGE_TEXT

_MALFORMED: Final = ("provider_error", "MALFORMED_STREAM", "backoff")
_FAILED: Final = ("provider_error", "PROVIDER_FAILED", "backoff")


@pytest.fixture
def dialect() -> object:
    """Return the one dialect that is looked at here."""
    return anthropic.ROW


async def test_whole_exchange(call: Call) -> None:
    answer = (
        started(input_tokens=20, cache_read_input_tokens=100, output_tokens=1),
        begun(0, type="thinking", thinking="", signature=""),
        said("ping"),
        grown("thinking_delta", 0, thinking="Bears: "),
        grown("thinking_delta", 0, thinking="two."),
        grown("signature_delta", 0, signature="ErUBabc=="),
        closed(0),
        begun(1, type="redacted_thinking", data="EmwKAhgB"),
        closed(1),
        begun(2, type="text", text=""),
        grown("text_delta", 2, text="I look "),
        grown("citations_delta", 2, citation={"type": "char_location", "cited_text": "x"}),
        grown("text_delta", 2, text="out."),
        closed(2),
        begun(3, type="tool_use", id="toolu_1", name="look", input={}),
        grown("input_json_delta", 3, partial_json=""),
        grown("input_json_delta", 3, partial_json='{"where": "out'),
        grown("input_json_delta", 3, partial_json='side"}'),
        closed(3),
        ended("tool_calls", output_tokens=41),
        said("message_stop"),
    )
    received = await call(whole(*answer))
    assert received.error is None
    assert received.parts == [
        Reasoning("Bears: "),
        Reasoning("two."),
        Text("I look "),
        Text("out."),
        CallPart("toolu_1", "look", '{"where": "outside"}'),
        Ended("tool_calls"),
        ReportedUsage(120, 41, cached_input_tokens=100),
    ]
    head, _, body = call.upstream.line.request.partition(b"\r\n\r\n")
    assert b"\r\nanthropic-version: 2023-06-01\r\n" in head
    assert json.loads(body) == {
        "model": "upstream-m",
        "max_tokens": 64,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "How many bears?"}]}],
        "stream": True,
    }


def test_version_goes_out_also_without_a_key() -> None:
    assert Anthropic().headers(None) == {"anthropic-version": "2023-06-01"}


_SEARCH: Final = (
    begun(5, type="server_tool_use", id="srvtoolu_1", name="web_search", input={})
    + grown("input_json_delta", 5, partial_json='{"query"')
    + closed(5)
)


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (event({}), []),
        (event({"type": "a_new_one", "delta": {"type": "text_delta"}}), []),
        (grown("a_new_delta", text="x"), []),
        (grown("text_delta"), []),
        (grown("thinking_delta", thinking=""), []),
        (said("content_block_delta", index=0), []),
        (begun(0, type="text", text="b"), [Text("b")]),
        (begun(0, type="thinking", thinking="hm"), [Reasoning("hm")]),
        (said("content_block_start", index=0), []),
        (closed(99), []),
        (said("message_delta", delta={"stop_reason": None}), []),
        (said("message_start"), []),
        (_SEARCH, []),
        (
            begun(3, type="tool_use", id="a", name="f", input={"x": 1}) + closed(3),
            [CallPart("a", "f", '{"x":1}')],
        ),
        (
            said("message_delta", delta={}, usage={"input_tokens": 5, "output_tokens": 6}),
            [ReportedUsage(5, 6)],
        ),
        (
            said(
                "message_delta",
                delta={},
                usage={
                    "input_tokens": 5,
                    "cache_creation_input_tokens": 30,
                    "cache_read_input_tokens": 200,
                    "output_tokens": 6,
                    "output_tokens_details": {"thinking_tokens": 4},
                },
            ),
            [ReportedUsage(235, 6, 4, cached_input_tokens=200, cache_write_tokens=30)],
        ),
        (
            said(
                "message_delta",
                delta={},
                usage={
                    "input_tokens": 5,
                    "cache_creation_input_tokens": 30,
                    "cache_creation": {
                        "ephemeral_5m_input_tokens": 10,
                        "ephemeral_1h_input_tokens": 20,
                    },
                    "output_tokens": 6,
                },
            ),
            [ReportedUsage(35, 6, cache_write_tokens=30)],
        ),
        (
            said(
                "message_delta",
                delta={},
                usage={
                    "input_tokens": 5,
                    "cache_creation": {
                        "ephemeral_5m_input_tokens": 10,
                        "ephemeral_1h_input_tokens": None,
                    },
                    "output_tokens": 6,
                },
            ),
            [ReportedUsage(15, 6, cache_write_tokens=10)],
        ),
        (said("message_delta", delta={}, usage={"output_tokens": 6}), []),
        (said("message_delta", delta={}, usage={"input_tokens": 5}), []),
    ],
    ids=str,
)
async def test_events_of_every_server(call: Call, data: bytes, parts: list[Part]) -> None:
    received = await call(whole(grown("text_delta", text="a"), data, ended("stop")))
    assert received.error is None
    assert received.parts == [
        Text("a"),
        *parts,
        Ended("stop" if not received.called else "tool_calls"),
    ]


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("tool_use", "tool_calls"),
        ("a new one", "stop"),
    ],
)
async def test_every_stop_reason_is_translated(call: Call, word: str, reason: str) -> None:
    received = await call(whole(said("message_delta", delta={"stop_reason": word})))
    assert (received.reasons, received.error) == ([reason], None)


_BEGUN: Final = begun(1, type="tool_use", id="a", name="f", input={})


@pytest.mark.parametrize(
    "data",
    [
        _BEGUN + ended("tool_calls"),
        _BEGUN + said("message_stop"),
        _BEGUN + _BEGUN,
        grown("input_json_delta", 1, partial_json="{}"),
        _BEGUN + closed(1) + grown("input_json_delta", 1, partial_json="{}"),
    ],
    ids=["end", "last word", "twice", "no call", "closed"],
)
async def test_calls_that_no_upstream_makes_are_errors(call: Call, data: bytes) -> None:
    received = await call(whole(data, ended("stop"), said("message_stop")))
    assert (received.fault, [*received.called]) == (_MALFORMED, received.called[:1])


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"type": "invalid_request_error"}, ("invalid_request", "REFUSED_REQUEST", "never")),
        ({"type": "authentication_error"}, ("auth", "BAD_CREDENTIALS", "never")),
        ({"type": "billing_error"}, ("auth", "PROVIDER_UNPAID", "never")),
        ({"type": "permission_error"}, ("auth", "PROVIDER_FORBIDS", "never")),
        ({"type": "not_found_error"}, ("invalid_request", "UNKNOWN_UPSTREAM_MODEL", "never")),
        ({"type": "request_too_large"}, ("invalid_request", "CONTEXT_TOO_LONG", "never")),
        ({"type": "rate_limit_error"}, ("rate_limit", "PROVIDER_RATE_LIMITED", "backoff")),
        ({"type": "timeout_error"}, ("timeout", "PROVIDER_TIMEOUT", "backoff")),
        ({"type": "api_error"}, _FAILED),
        ({"type": "overloaded_error"}, ("overloaded", "PROVIDER_OVERLOADED", "backoff")),
        (
            {
                "type": "invalid_request_error",
                "message": "prompt is too long: 9 tokens > 8 maximum",
            },
            ("invalid_request", "CONTEXT_TOO_LONG", "never"),
        ),
        (
            {
                "type": "invalid_request_error",
                "message": "Output blocked by content filtering policy",
            },
            ("content_policy", "CONTENT_POLICY", "never"),
        ),
        ({"type": ["rate_limit_error"]}, _FAILED),
        ({}, _FAILED),
        ("went wrong", _FAILED),
        (None, _FAILED),
    ],
    ids=str,
)
async def test_error_event_of_every_type(
    call: Call, error: object, expected: tuple[str, str, str]
) -> None:
    assert (await call(whole(said("error", error=error)))).fault == expected


async def test_upstream_that_is_not_paid_is_no_wrong_request(call: Call) -> None:
    words = "Your credit balance is too low to access the API."
    body = anthropic.ROW.refusal("invalid_request_error", words)
    received = await call(whole(body, status=400, content_type="application/json"))
    assert received.fault == ("auth", "PROVIDER_UNPAID", "never")


def _body(*messages: ChatMessage, max_tokens: int = 64, **fields: object) -> dict[str, Any]:
    request = ChatRequest(model=MODEL, messages=list(messages), max_tokens=max_tokens)
    body: dict[str, Any] = json.loads(Anthropic().body(msgspec.structs.replace(request, **fields)))
    return body


_USER: Final = text_message("user", "Two?")
_CALLING: Final = calling(CallPart("functions.f:0", "f", "{}"), text=" \n")


@pytest.mark.parametrize(
    ("messages", "expected_texts"),
    [
        ([_USER], [("user", ["Two?"])]),
        ([text_message("user", " \n")], [("user", [EMPTY_MESSAGE_TEXT])]),
        ([_USER, text_message("assistant", ""), _USER], [("user", ["Two?", "Two?"])]),
        (
            [text_message("assistant", "Hi."), _USER],
            [("user", [EMPTY_MESSAGE_TEXT]), ("assistant", ["Hi."]), ("user", ["Two?"])],
        ),
        (
            [text_message("user", ""), text_message("assistant", "Hi."), _USER],
            [("user", [EMPTY_MESSAGE_TEXT]), ("assistant", ["Hi."]), ("user", ["Two?"])],
        ),
        ([text_message("system", " "), _USER, _USER], [("user", ["Two?", "Two?"])]),
        ([], [("user", [EMPTY_MESSAGE_TEXT])]),
    ],
)
def test_lawful_conversation_is_one_of_theirs(
    messages: list[ChatMessage], expected_texts: list[tuple[str, list[str]]]
) -> None:
    body = _body(*messages)
    sent_texts = [
        (message["role"], [block["text"] for block in message["content"]])
        for message in body["messages"]
    ]
    assert sent_texts == expected_texts
    assert "system" not in body


def test_results_of_tools_and_what_follows_are_one_message() -> None:
    body = _body(_USER, _CALLING, result("functions.f:0", ""), _USER)
    assert body["messages"][1:] == [
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "functions_f_0", "name": "f", "input": {}}],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "functions_f_0"},
                {"type": "text", "text": "Two?"},
            ],
        },
    ]


def test_image_may_come_without_a_word() -> None:
    body = _body(text_message("user", "", [Image("image/gif", b"GIF")]))
    (block,) = body["messages"][0]["content"]
    assert block["source"] == {"type": "base64", "media_type": "image/gif", "data": "R0lG"}


@pytest.mark.parametrize(
    ("name", "max_tokens", "budget_tokens"),
    [
        ("claude-3-7-sonnet-20250219", 8192, 4096),
        ("claude-sonnet-4-20250514", 2048, 1024),
        ("claude-haiku-4-5-20251001", 64_000, 32_000),
        ("claude-opus-4-1", 2047, None),
        ("some-other-model", 4096, 2048),
        ("claude-opus-4-6", 64, "adaptive"),
        ("claude-sonnet-5", 64, "adaptive"),
        ("claude-opus-5-5", 64, "adaptive"),
        ("anthropic.claude-opus-4-7-v1:0", 64, "adaptive"),
    ],
)
def test_name_of_a_model_tells_how_it_is_asked_to_think(
    name: str, max_tokens: int, budget_tokens: object
) -> None:
    model = ModelSettings(identifier="m", provider="up", upstream=name)
    body = _body(_USER, model=model, max_tokens=max_tokens, deep_think=True)
    thinking = body.get("thinking", {})
    if budget_tokens == "adaptive":
        assert thinking == {"type": "adaptive", "display": "summarized"}
        assert body["output_config"] == {"effort": "high"}
    else:
        assert thinking.get("budget_tokens") == budget_tokens
        assert "output_config" not in body


def test_model_with_a_budget_does_not_think_on_between_calls() -> None:
    answered = result("functions.f:0", "done")
    body = _body(_USER, _CALLING, answered, max_tokens=9000, deep_think=True)
    assert "thinking" not in body
