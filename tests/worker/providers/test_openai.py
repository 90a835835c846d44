"""What only chat completions have: their request, their chunks, their errors in many shapes."""

import json
from typing import Any

import msgspec
import pytest

from shared.settings import ModelSettings, ProviderSettings, Secret
from tests.worker.providers.calls import Call, listen
from tests.worker.providers.dialects import DIALECTS, event
from tests.worker.providers.upstream import Upstream, whole
from worker.providers.contract import (
    ChatMessage,
    ChatRequest,
    Ended,
    Part,
    Reasoning,
    Text,
    Used,
)
from worker.providers.openai import OpenAI
from worker.providers.upstream import Upstream as Provider


@pytest.fixture
def dialect() -> object:
    """Return the one dialect that is looked at here."""
    return DIALECTS[0]


def _chunk(*choices: dict[str, Any], **fields: object) -> bytes:
    return event({"id": "c", "object": "chat.completion.chunk", "choices": choices, **fields})


_STOP = _chunk({"index": 0, "delta": {}, "finish_reason": "stop"})


async def test_request_is_what_such_servers_expect(call: Call) -> None:
    await call(whole(call.dialect.answer("Two")))
    head, _, body = call.upstream.line.request.partition(b"\r\n\r\n")
    fields = {
        name.lower(): value
        for name, _, value in (line.partition(": ") for line in head.decode().split("\r\n")[1:])
    }
    assert fields["authorization"] == "Bearer sk-wholly-secret"
    assert fields["content-type"] == "application/json"
    assert fields["accept-encoding"] == "identity"
    assert json.loads(body) == {
        "model": "upstream-m",
        "messages": [{"role": "user", "content": "How many bears?"}],
        "max_tokens": 64,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_conversation_is_sent_in_order_and_letter_by_letter(upstream: Upstream) -> None:
    upstream.script = whole(_STOP)
    messages = [
        ChatMessage("system", 'Say "no".\n'),
        ChatMessage("user", "Bär\u2028\x00🐻"),
        ChatMessage("assistant", ""),
        ChatMessage("user", "\\"),
    ]
    settings = ProviderSettings(name="up", base_url=upstream.url + "/")
    provider = Provider(OpenAI(), settings, None)
    model = ModelSettings(identifier="m", provider="up", upstream="org/model:free")
    async for _ in provider.stream(ChatRequest(model=model, messages=messages, max_tokens=1)):
        pass
    await provider.close()
    head, _, body = upstream.line.request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert b"authorization" not in head.lower()
    sent = json.loads(body)
    assert sent["model"] == "org/model:free"
    assert sent["messages"] == [msgspec.to_builtins(message) for message in messages]


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (_chunk({"index": 0, "delta": {"role": "assistant", "content": ""}}), []),
        (_chunk({"index": 0, "delta": {"content": None}, "finish_reason": None}), []),
        (_chunk({"index": 0, "delta": None}), []),
        (_chunk({"index": 0}), []),
        (_chunk(), []),
        (event({"choices": None}), []),
        (event({}), []),
        (_chunk({"index": 0, "delta": {"content": "b"}, "finish_reason": ""}), [Text("b")]),
        (_chunk({"delta": {"content": "b"}, "logprobs": {"content": []}, "x": 1}), [Text("b")]),
        (_chunk({"delta": {"reasoning_content": "hm", "tool_calls": []}}), [Reasoning("hm")]),
        (_chunk({"delta": {"reasoning": "hm", "content": ""}}), [Reasoning("hm")]),
        (_chunk({"delta": {"reasoning": "hm", "reasoning_content": "hm"}}), [Reasoning("hm")]),
        (_chunk({"delta": {"reasoning": "hm", "content": "b"}}), [Reasoning("hm"), Text("b")]),
        (_chunk({"delta": {"reasoning_content": "", "reasoning": None, "content": None}}), []),
        (_chunk({"delta": {"reasoning": {"text": "hm"}, "content": "b"}}), [Text("b")]),
        (_chunk({"delta": {"reasoning_content": 7, "content": "b"}}), [Text("b")]),
        (_chunk({"delta": {"content": "b"}}, {"delta": {"content": "c"}}), [Text("b")]),
        (_chunk({"delta": {"content": "b"}}, error=None, usage=None), [Text("b")]),
        (_chunk(usage={"prompt_tokens": 5}), []),
        (_chunk(usage={"prompt_tokens": 5, "completion_tokens": None}), []),
        (_chunk(usage={"prompt_tokens": 5, "completion_tokens": 6}), [Used(5, 6)]),
        (
            _chunk(
                usage={
                    "prompt_tokens": 5,
                    "completion_tokens": 6,
                    "completion_tokens_details": {"reasoning_tokens": 4},
                    "prompt_tokens_details": {"cached_tokens": 1},
                }
            ),
            [Used(5, 6, 4)],
        ),
        (
            _chunk(
                usage={
                    "prompt_tokens": 5,
                    "completion_tokens": 6,
                    "completion_tokens_details": {"reasoning_tokens": None},
                }
            ),
            [Used(5, 6)],
        ),
    ],
    ids=str,
)
async def test_chunks_of_every_server(call: Call, data: bytes, parts: list[Part]) -> None:
    heard = await call(whole(_chunk({"delta": {"content": "a"}}), data, _STOP))
    assert heard.error is None
    assert heard.parts == [Text("a"), *parts, Ended("stop")]


async def test_an_empty_reason_is_no_end(call: Call) -> None:
    heard = await call(whole(_chunk({"delta": {"content": "a"}, "finish_reason": ""})))
    assert heard.fault == ("provider_error", "STREAM_CUT", "backoff")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("went wrong", ("provider_error", "PROVIDER_FAILED", "backoff")),
        ({}, ("provider_error", "PROVIDER_FAILED", "backoff")),
        ({"code": "rate_limit_exceeded"}, ("provider_error", "PROVIDER_FAILED", "backoff")),
        ({"code": 429}, ("rate_limit", "PROVIDER_RATE_LIMITED", "backoff")),
        ({"code": True}, ("provider_error", "PROVIDER_FAILED", "backoff")),
        ({"code": [429]}, ("provider_error", "PROVIDER_FAILED", "backoff")),
        ({"code": "context_length_exceeded"}, ("invalid_request", "CONTEXT_TOO_LONG", "never")),
        ({"message": "content_policy"}, ("content_policy", "CONTENT_POLICY", "never")),
        ([1, [2, [3]]], ("provider_error", "PROVIDER_FAILED", "backoff")),
        (5, ("provider_error", "PROVIDER_FAILED", "backoff")),
    ],
    ids=str,
)
async def test_error_event_in_every_shape(
    call: Call, error: object, expected: tuple[str, str, str]
) -> None:
    assert (await call(whole(event({"error": error})))).fault == expected


async def test_key_is_nowhere_but_in_the_request(upstream: Upstream) -> None:
    upstream.script = whole(status=401)
    settings = ProviderSettings(name="up", base_url=upstream.url)
    provider = Provider(OpenAI(), settings, Secret("sk-wholly-secret"))
    heard = await listen(provider)
    await provider.close()
    assert heard.error is not None
    assert "secret" not in repr(vars(provider)) + repr(heard.error) + repr(provider._headers)
