"""A message's hold covers its conversation: the history is sent whole."""

import asyncio
from typing import Any, Final

import pytest

from shared.redis import keys
from shared.routing import price
from tests.support.api_client import ApiClient
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.system import System

_LONG: Final = "word " * 600
# The model's microcredits a token, and its longest answer.
_INPUT, _OUTPUT, _LONGEST = 100, 200, 256


def _sent_tokens(provider: ScriptedProvider, number: int = -1) -> int:
    """Return the estimated tokens that an upstream was sent."""
    messages: list[dict[str, Any]] = provider.requests[number].body["messages"]
    return sum(price.tokens_in(message["content"]) for message in messages)


async def _held(api: ApiClient) -> int:
    held: float = (await api.credits())["held"]
    return round(held * 1_000_000)


async def _session(system: System, session: str) -> dict[bytes, bytes]:
    """Return the record of a session, whichever account it belongs to."""
    for partition in range(system.settings.redis.partitions):
        root = keys.partition_root(system.settings.redis, partition)
        name = keys.SESSION(root, "*", session)
        _, [*found] = await system.redis.call("SCAN", 0, "MATCH", name, "COUNT", 1_000_000)
        if found:
            fields: dict[bytes, bytes] = await system.redis.call("HGETALL", found[0])
            return {b"key": found[0]} | fields
    raise AssertionError(session)


@pytest.mark.usefixtures("worker")
async def test_hold_is_the_price_of_what_is_sent_and_of_the_longest_answer(
    api: ApiClient, system: System, provider: ScriptedProvider
) -> None:
    first = await api.submit(_LONG, model="alpha")
    await api.wait_for_end(first)
    provider.script.append(ScriptedAnswer(text="So.", gate=(gate := asyncio.Event())))
    receipt = await api.submit("and?", model="alpha", session_id=first["session_id"])
    held = await _held(api)
    gate.set()
    await api.wait_for_end(receipt)
    assert len(provider.requests[-1].body["messages"]) == 3
    assert held == _sent_tokens(provider) * _INPUT + _LONGEST * _OUTPUT
    assert provider.requests[-1].body["max_tokens"] == _LONGEST
    assert await _held(api) == 0
    # The count covers what the next turn will send, and nothing is pending.
    stored = await _session(system, receipt["session_id"])
    await api.submit_and_wait("next", model="alpha", session_id=receipt["session_id"])
    assert int(stored[b"tokens"]) == _sent_tokens(provider) - price.tokens_in("next")
    assert b"pending" not in stored


@pytest.mark.usefixtures("worker")
async def test_budget_below_the_price_of_the_conversation_is_refused_with_both_figures(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    receipt = await api.submit(_LONG, model="alpha")
    await api.wait_for_end(receipt)
    before, calls = await api.credits(), len(provider.requests)
    asked = {
        "message": "hi",
        "model": "alpha",
        "max_credits": 0.01,
        "session_id": receipt["session_id"],
    }
    answer = await api.post("/api/v1/chat", json=asked)
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_FIELDS")
    sentence = answer.json()["error"]
    assert "`max_credits` is 0.01," in sentence
    needed = float(sentence.rpartition("at least ")[2].partition(":")[0])
    assert await api.credits() == before
    status = await api.submit_and_wait(**(asked | {"max_credits": needed}))
    assert status["state"] == "completed"
    assert len(provider.requests) == calls + 1
    assert len(provider.requests[-1].body["messages"]) == 3
    assert 0 < status["credits_used"] <= needed
    assert provider.requests[-1].body["max_tokens"] >= 16


async def test_turns_that_wait_hold_for_the_answers_before_them(
    api: ApiClient, system: System, provider: ScriptedProvider
) -> None:
    first = await api.submit("one [tokens=200]", model="alpha")
    alone = await _held(api)
    second = await api.submit("two", model="alpha", session_id=first["session_id"])
    held = await _held(api) - alone
    await system.worker()
    await api.wait_for_end(first)
    await api.wait_for_end(second)
    assert len(provider.requests[-1].body["messages"]) == 3
    paid_for = _sent_tokens(provider) * _INPUT + _LONGEST * _OUTPUT
    most = price.tokens_in("one [tokens=200]") + price.tokens_of_answer(_LONGEST)
    assert paid_for <= held <= paid_for + most * _INPUT


@pytest.mark.usefixtures("worker")
async def test_session_without_a_count_is_guessed_high_and_counted_by_its_next_answer(
    api: ApiClient, system: System, provider: ScriptedProvider
) -> None:
    receipt = await api.submit(_LONG, model="alpha")
    await api.wait_for_end(receipt)
    stored = await _session(system, receipt["session_id"])
    await system.redis.call("HDEL", stored[b"key"], "tokens")
    provider.script.append(ScriptedAnswer(text="So.", gate=(gate := asyncio.Event())))
    again = await api.submit("and?", model="alpha", session_id=receipt["session_id"])
    held = await _held(api)
    gate.set()
    await api.wait_for_end(again)
    paid_for = _sent_tokens(provider) * _INPUT + _LONGEST * _OUTPUT
    assert paid_for <= held <= paid_for * 1.5
    before = _sent_tokens(provider)
    stored = await _session(system, receipt["session_id"])
    await api.submit_and_wait("next", model="alpha", session_id=receipt["session_id"])
    assert int(stored[b"tokens"]) == _sent_tokens(provider) - price.tokens_in("next") > before


@pytest.mark.usefixtures("worker")
async def test_history_beyond_the_window_is_not_held_for(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    receipt = await api.submit(_LONG, model="alpha")
    await api.wait_for_end(receipt)
    held = 0
    for _ in range(4):
        provider.script.append(ScriptedAnswer(text="So.", gate=(gate := asyncio.Event())))
        again = await api.submit(_LONG, model="alpha", session_id=receipt["session_id"])
        held = await _held(api)
        gate.set()
        await api.wait_for_end(again)
    assert _sent_tokens(provider) * _INPUT + _LONGEST * _OUTPUT <= held <= 4096 * _OUTPUT
    assert held <= (4096 - _LONGEST) * _INPUT + _LONGEST * _OUTPUT
