"""What only chat completions have: their request, their chunks, their errors in many shapes."""

import json
from typing import Any, Final

import pytest

from shared.settings import ModelSettings, ProviderSettings, Secret
from shared.wire.conversation import CallPart
from tests.worker.providers import openai
from tests.worker.providers.calls import Call, listen
from tests.worker.providers.dialect_row import event
from tests.worker.providers.openai import chunk as _chunk
from tests.worker.providers.upstream import Upstream, whole
from worker.providers.contract import (
    ChatRequest,
    Ended,
    Part,
    Reasoning,
    ReportedUsage,
    Text,
    text_message,
)
from worker.providers.http_provider import HttpProvider as Provider
from worker.providers.openai import OpenAI


@pytest.fixture
def dialect() -> object:
    """Return the one dialect that is looked at here."""
    return openai.ROW


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


async def test_conversation_is_sent_in_order_and_verbatim(upstream: Upstream) -> None:
    upstream.script = whole(_STOP)
    messages = [
        text_message("system", 'Say "no".\n'),
        text_message("user", "Bär\u2028\x00🐻"),
        text_message("assistant", ""),
        text_message("user", "\\"),
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
    assert sent["messages"] == [
        {"role": message.role, "content": message.text} for message in messages
    ]


# What servers report of their caches beside 50 tokens of a prompt and 6 of an answer: the fields,
# then the whole input, what was read and what was written.
CACHE_COUNTS: Final[list[tuple[dict[str, Any], int, int, int]]] = [
    # OpenAI since GPT-5.6, and OpenRouter.
    ({"prompt_tokens_details": {"cached_tokens": 20, "cache_write_tokens": 25}}, 50, 20, 25),
    # DeepSeek, whose second field is the rest of the prompt.
    ({"prompt_cache_hit_tokens": 20, "prompt_cache_miss_tokens": 30}, 50, 20, 0),
    ({"prompt_cache_hit_tokens": 20, "prompt_tokens_details": {"cached_tokens": 20}}, 50, 20, 0),
    # Moonshot.
    ({"cached_tokens": 20}, 50, 20, 0),
    # LiteLLM.
    ({"cache_read_input_tokens": 20, "cache_creation_input_tokens": 25}, 50, 20, 25),
    ({"prompt_tokens_details": {"cached_tokens": 0, "cache_creation_tokens": 25}}, 50, 0, 25),
    # A gateway that counts cached tokens beside the prompt.
    (
        {"cache_read_input_tokens": 200, "cache_creation_input_tokens": 25, "total_tokens": 281},
        275,
        200,
        25,
    ),
    # Impossible counts are ignored.
    ({"cached_tokens": 51}, 50, 0, 0),
    ({"cached_tokens": 40, "cache_creation_input_tokens": 11}, 50, 40, 0),
    ({"cached_tokens": -1, "cache_creation_input_tokens": -1, "total_tokens": 54}, 50, 0, 0),
]


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
        (_chunk(usage={"prompt_tokens": 5, "completion_tokens": 6}), [ReportedUsage(5, 6)]),
        (
            _chunk(
                usage={
                    "prompt_tokens": 5,
                    "completion_tokens": 6,
                    "completion_tokens_details": {"reasoning_tokens": 4},
                    "prompt_tokens_details": {"cached_tokens": 1},
                }
            ),
            [ReportedUsage(5, 6, 4, cached_input_tokens=1)],
        ),
        *(
            (
                _chunk(usage={"prompt_tokens": 50, "completion_tokens": 6, **fields}),
                [ReportedUsage(asked, 6, cached_input_tokens=read, cache_write_tokens=written)],
            )
            for fields, asked, read, written in CACHE_COUNTS
        ),
        (
            _chunk(
                usage={
                    "prompt_tokens": 5,
                    "completion_tokens": 6,
                    "completion_tokens_details": {"reasoning_tokens": None},
                }
            ),
            [ReportedUsage(5, 6)],
        ),
    ],
    ids=str,
)
async def test_chunks_of_every_server(call: Call, data: bytes, parts: list[Part]) -> None:
    received = await call(whole(_chunk({"delta": {"content": "a"}}), data, _STOP))
    assert received.error is None
    assert received.parts == [Text("a"), *parts, Ended("stop")]


async def test_an_empty_reason_is_no_end(call: Call) -> None:
    received = await call(whole(_chunk({"delta": {"content": "a"}, "finish_reason": ""})))
    assert received.fault == ("provider_error", "STREAM_CUT", "backoff")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("went wrong", ("provider_error", "PROVIDER_FAILED", "backoff")),
        ({}, ("provider_error", "PROVIDER_FAILED", "backoff")),
        ({"code": "rate_limit_exceeded"}, ("rate_limit", "PROVIDER_RATE_LIMITED", "backoff")),
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


def _piece(index: int | None = None, call_id: str | None = None, **function: str) -> bytes:
    """Return a chunk with a piece of a call, as odd servers send it."""
    piece: dict[str, object] = {"function": function}
    piece |= {"index": index} if index is not None else {}
    piece |= {"id": call_id} if call_id is not None else {}
    return _chunk({"delta": {"tool_calls": [piece]}})


_A: Final = CallPart("a", "f", '{"x":1}')
_B: Final = CallPart("b", "g", "{}")


@pytest.mark.parametrize(
    ("pieces", "calls"),
    [
        (
            [
                _piece(0, "a", name="f"),
                _piece(1, "b", name="g", arguments="{"),
                _piece(0, arguments='{"x":'),
                _piece(1, arguments="}"),
                _piece(0, arguments="1}"),
            ],
            [_A, _B],
        ),
        ([_piece(0, "a", name="f", arguments='{"x":1}'), _piece(0, "b", name="g")], [_A, _B]),
        ([_piece(None, "a", name="f", arguments='{"x":1}'), _piece(None, "b", name="g")], [_A, _B]),
        (
            [_piece(0, "a", name="f", arguments='{"x"'), _piece(0, "a", name="f", arguments=":1}")],
            [_A],
        ),
        ([_piece(0, arguments='{"x":1}'), _piece(0, "a", name="f")], [_A]),
        ([_piece(7, "b", name="g", arguments="")], [_B]),
        ([_chunk({"delta": {"tool_calls": []}}), _chunk({"delta": {"tool_calls": None}})], []),
    ],
    ids=["interleaved", "one index", "no index", "all repeated", "id at last", "gaps", "none"],
)
async def test_pieces_of_calls_as_every_server_sends_them(
    call: Call, pieces: list[bytes], calls: list[CallPart]
) -> None:
    received = await call(whole(*pieces, _STOP))
    assert received.error is None
    assert received.called == calls


async def test_whole_exchange(call: Call) -> None:
    def step(**delta: object) -> bytes:
        return _chunk({"index": 0, "delta": delta, "logprobs": None, "finish_reason": None})

    first = {"index": 0, "id": "call_1", "type": "function"}
    counts = {"prompt_tokens": 20, "completion_tokens": 41, "total_tokens": 61}
    answer = (
        step(role="assistant", content="", refusal=None),
        step(reasoning_content="Bears: two."),
        step(content="I look "),
        step(content="out."),
        step(tool_calls=[{**first, "function": {"name": "look", "arguments": ""}}]),
        step(tool_calls=[{"index": 0, "function": {"arguments": '{"where": "out'}}]),
        step(tool_calls=[{"index": 0, "function": {"arguments": 'side"}'}}]),
        _chunk({"index": 0, "delta": {}, "logprobs": None, "finish_reason": "tool_calls"}),
        _chunk(usage={**counts, "completion_tokens_details": {"reasoning_tokens": 30}}),
        openai.DONE,
    )
    received = await call(whole(*answer))
    assert received.error is None
    assert received.parts == [
        Reasoning("Bears: two."),
        Text("I look "),
        Text("out."),
        CallPart("call_1", "look", '{"where": "outside"}'),
        Ended("tool_calls"),
        ReportedUsage(20, 41, 30),
    ]


async def test_call_in_the_chunk_of_the_end_is_reported(call: Call) -> None:
    piece = {"index": 0, "id": "b", "function": {"name": "g", "arguments": "{}"}}
    final = _chunk({"delta": {"tool_calls": [piece]}, "finish_reason": "tool_calls"})
    received = await call(whole(final))
    assert received.parts == [_B, Ended("tool_calls")]


async def test_call_is_not_reported_again_with_a_second_end(call: Call) -> None:
    received = await call(whole(_piece(0, "b", name="g"), _STOP, _STOP))
    assert received.parts == [_B, Ended("tool_calls")]


async def test_call_after_the_end_takes_nothing_from_the_answer(call: Call) -> None:
    received = await call(whole(_STOP, _piece(0, "b", name="g")))
    assert (received.parts, received.error) == ([Ended("stop")], None)


@pytest.mark.parametrize(
    ("upstream_name", "field"),
    [
        ("gpt-4o", "max_tokens"),
        ("gpt-oss-120b", "max_tokens"),
        ("deepseek-reasoner", "max_tokens"),
        ("org/model:free", "max_tokens"),
        ("phi-o3", "max_tokens"),
        ("o1", "max_completion_tokens"),
        ("o4-mini", "max_completion_tokens"),
        ("gpt-5", "max_completion_tokens"),
        ("gpt-5.2-pro", "max_completion_tokens"),
        ("openai/gpt-5-mini", "max_completion_tokens"),
    ],
)
def test_name_of_a_model_tells_how_its_answer_is_bounded(upstream_name: str, field: str) -> None:
    model = ModelSettings(identifier="m", provider="up", upstream=upstream_name)
    request = ChatRequest(model=model, messages=[text_message("user", "Two?")], max_tokens=9)
    sent = json.loads(OpenAI().body(request))
    assert [name for name in sent if name.startswith("max_")] == [field]
    assert sent[field] == 9


async def test_key_is_nowhere_but_in_the_request(upstream: Upstream) -> None:
    upstream.script = whole(status=401)
    settings = ProviderSettings(name="up", base_url=upstream.url)
    provider = Provider(OpenAI(), settings, Secret("sk-wholly-secret"))
    received = await listen(provider)
    await provider.close()
    assert received.error is not None
    assert "secret" not in repr(vars(provider)) + repr(received.error) + repr(provider._headers)
