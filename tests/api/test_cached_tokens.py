"""Cached tokens are charged at their own rates, from the provider's count to the ledger."""

from typing import Final

import msgspec
import pytest

from shared.redis import keys
from shared.stores import ledger
from tests.support.api_client import ApiClient, Json, body
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.system import System

# Dollars per million tokens, as of a model that reads its cache at a twentieth of the input rate.
_RATES: Final = {
    "input_rate": 2.0,
    "cached_input_rate": 0.1,
    "cache_write_rate": 2.5,
    "output_rate": 10.0,
}


@pytest.fixture(name="caching")
async def _caching(system: System) -> ApiClient:
    """Return a customer of a deployment whose first model has rates for cached tokens."""
    alpha, *others = system.settings.models
    alpha = msgspec.structs.replace(
        alpha, context_window=400_000, max_output_tokens=50_000, **_RATES
    )
    system.settings = msgspec.structs.replace(system.settings, models=(alpha, *others))
    await system.front()
    await system.worker()
    return await system.customer()


def _lines(status: Json) -> dict[str, tuple[int, int]]:
    """Return the quantity and the microcredits of each line, which add up to the charge."""
    lines = {
        line["item"]: (line["quantity"], round(line["credits"] * 1_000_000))
        for line in status["credits_breakdown"]
    }
    assert sum(credits_ for _, credits_ in lines.values()) == _charged(status)
    return lines


def _charged(status: Json) -> int:
    credits_used: float = status["credits_used"]
    return round(credits_used * 1_000_000)


async def _charge(system: System) -> ledger.Entry:
    """Return the only charge in the ledger."""
    settings = system.settings.redis
    [charge] = [
        line.entry
        for number in range(settings.partitions)
        for line in await ledger.last(system.redis, keys.partition_root(settings, number), "one", 9)
        if line.entry.kind == "charge"
    ]
    return charge


async def test_of_a_conversation_that_was_cached_only_the_rest_is_charged_in_full(
    caching: ApiClient, system: System, provider: ScriptedProvider
) -> None:
    """A conversation of which 99,000 of 100,000 tokens were cached costs a tenth of its price."""
    provider.script.append(
        ScriptedAnswer(text="one two", prompt_tokens=100_000, cached_tokens=99_000)
    )
    status = await caching.submit_and_wait("And then?", model="alpha")
    assert _lines(status) == {
        "input": (1_000, 200_000),
        "cached_input": (99_000, 990_000),
        "output": (2, 2_000),
    }
    # In full it would be 20,002,000 microcredits.
    assert _charged(status) == 1_192_000
    assert status["usage"] == {
        "input_tokens": 100_000,
        "cached_input_tokens": 99_000,
        "cache_write_tokens": 0,
        "output_tokens": 2,
        "reasoning_tokens": 0,
    }
    charge = await _charge(system)
    assert (charge.amount, charge.overrun) == (1_192_000, 0)
    assert (await caching.credits())["total"] == 1000.0 - status["credits_used"]
    totals = body(await caching.get("/api/v1/account/usage"))["usage"]["total"]
    assert (totals["input_tokens"], totals["cached_input_tokens"]) == (100_000, 99_000)
    assert totals["credits"] == status["credits_used"]


async def test_what_was_written_to_a_cache_costs_more_and_the_hold_covers_it(
    caching: ApiClient, system: System, provider: ScriptedProvider
) -> None:
    provider.script.append(
        ScriptedAnswer(
            text="one two",
            reasoning="Let me see.",
            prompt_tokens=10_000,
            cached_tokens=1_000,
            cache_write_tokens=8_000,
        )
    )
    status = await caching.submit_and_wait("Read this.", model="alpha")
    assert _lines(status) == {
        "input": (1_000, 200_000),
        "cached_input": (1_000, 10_000),
        "cache_write": (8_000, 2_000_000),
        "output": (2, 2_000),
        "reasoning": (3, 3_000),
    }
    charge = await _charge(system)
    assert (charge.amount, charge.overrun) == (_charged(status), 0)
    totals = body(await caching.get("/api/v1/account/usage"))["usage"]["total"]
    assert totals["cache_write_tokens"] == 8_000


async def test_a_message_that_is_written_to_a_cache_as_a_whole_costs_no_more_than_its_hold(
    caching: ApiClient, system: System, provider: ScriptedProvider
) -> None:
    message = "word " * 3_000
    provider.script.append(
        ScriptedAnswer(text="one", prompt_tokens=5_008, cache_write_tokens=5_008)
    )
    status = await caching.submit_and_wait(message, model="alpha", max_credits=1.268)
    assert _charged(status) == 5_008 * 250 + 1_000
    charge = await _charge(system)
    assert charge.overrun == 0


async def test_the_answer_of_a_chat_tells_what_was_cached(
    caching: ApiClient, provider: ScriptedProvider
) -> None:
    provider.script.append(ScriptedAnswer(text="one two", prompt_tokens=90, cached_tokens=80))
    answer = await caching.post("/v1/ai/chat", json={"message": "And?", "model": "alpha"})
    assert answer.json()["usage"] == {
        "input_tokens": 90,
        "cached_input_tokens": 80,
        "cache_write_tokens": 0,
        "output_tokens": 2,
        "reasoning_tokens": 0,
        "credits": 0.0048,
        "estimated": False,
    }
