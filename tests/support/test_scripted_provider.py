"""The scripted upstream itself, called by an HTTP client: other tests rely on it."""

import asyncio
import json

import httpx
import pytest
from httpx_sse import aconnect_sse

from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider, context_error
from tests.support.waiting import until


def _body(text: str, *, stream: bool = True) -> dict[str, object]:
    return {
        "model": "scripted",
        "stream": stream,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": text}],
    }


async def _events(provider: ScriptedProvider, text: str) -> list[str]:
    async with (
        httpx.AsyncClient() as client,
        aconnect_sse(
            client, "POST", f"{provider.url}/chat/completions", json=_body(text)
        ) as source,
    ):
        return [event.data async for event in source.aiter_sse()]


async def _post(provider: ScriptedProvider, text: str) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        url = f"{provider.url}/chat/completions"
        return await client.post(url, json=_body(text, stream=False))


async def test_stream_repeats_the_message_and_ends_with_usage(provider: ScriptedProvider) -> None:
    *chunks, usage, done = await _events(provider, "Hello there")
    deltas = [json.loads(chunk)["choices"][0]["delta"].get("content", "") for chunk in chunks]
    assert "".join(deltas) == "You said: Hello there"
    assert json.loads(usage)["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": 4,
        "total_tokens": 6,
    }
    assert done == "[DONE]"
    assert provider.requests[0].body["model"] == "scripted"
    assert provider.requests[0].answered_at is not None


async def test_reasoning_comes_before_the_answer_and_is_counted(provider: ScriptedProvider) -> None:
    *chunks, usage, _ = await _events(provider, "Hello [think=2 tokens=1]")
    deltas = [json.loads(chunk)["choices"][0]["delta"] for chunk in chunks]
    assert deltas[1:4] == [
        {"reasoning_content": "thought0"},
        {"reasoning_content": " thought1"},
        {"content": "word0"},
    ]
    usage_sent = json.loads(usage)["usage"]
    assert usage_sent["completion_tokens"] == 3
    assert usage_sent["completion_tokens_details"] == {"reasoning_tokens": 2}


async def test_whole_answer_and_script_come_in_order(provider: ScriptedProvider) -> None:
    provider.script.extend([ScriptedAnswer(text="one"), ScriptedAnswer(text="two")])
    contents = [
        (await _post(provider, "x")).json()["choices"][0]["message"]["content"] for _ in range(3)
    ]
    assert contents == ["one", "two", "You said: x"]


async def test_words_script_failures(provider: ScriptedProvider) -> None:
    refused = await _post(provider, "x [status=429 retry-after=7 code=rate_limit_exceeded]")
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "7"
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert "error" in json.loads((await _events(provider, "x [tokens=5 error-after=2]"))[-1])
    assert "content" in (await _events(provider, "x [malformed]"))[0]
    assert len((await _events(provider, "x [huge=100000]"))[0]) == 100_000
    with pytest.raises(httpx.RemoteProtocolError):
        await _events(provider, "x [tokens=50 cut=1000]")
    provider.script.append(context_error(100))
    assert (await _post(provider, "x")).json()["error"]["code"] == "context_length_exceeded"


async def test_gate_holds_the_rest_of_the_answer_back(provider: ScriptedProvider) -> None:
    gate = asyncio.Event()
    provider.script.append(ScriptedAnswer(text="a b c", gate=gate, gate_after=2))
    events_received: list[str] = []

    async def follow() -> None:
        async with (
            httpx.AsyncClient() as client,
            aconnect_sse(
                client, "POST", f"{provider.url}/chat/completions", json=_body("x")
            ) as source,
        ):
            events_received.extend([event.data async for event in source.aiter_sse()])

    following = asyncio.create_task(follow())
    await until(lambda: provider.requests and provider.requests[0].first_sent_at)
    assert not following.done()
    gate.set()
    await following
    assert events_received[-1] == "[DONE]"


async def test_client_that_goes_is_noticed(provider: ScriptedProvider) -> None:
    provider.script.append(ScriptedAnswer(gate=asyncio.Event()))
    asking = asyncio.create_task(_post(provider, "x"))
    await until(lambda: provider.requests)
    asking.cancel()
    await asyncio.wait_for(provider.requests[0].ended.wait(), 5)
    assert provider.requests[0].gone_at is not None
    assert provider.requests[0].answered_at is None
