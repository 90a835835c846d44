"""`web_search`, from the request to the bill: refused, priced, and cited in both dialects."""

import json
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
import pytest

from shared.routing import price
from shared.search_settings import SearchSettings
from tests.api.kombify_client import CHAT as ASK, SESSIONS, chat, payload
from tests.support.api_client import ApiClient, Json, refused
from tests.support.chat_completions import ScriptedAnswer
from tests.support.scripted_provider import ScriptedProvider
from tests.support.system import System
from tests.worker.providers.upstream import Upstream, whole
from tests.worker.web_search.search_apis import found, settings

CHAT: Final = "/api/v1/chat"
RATE: Final = 2.5
_PAGES: Final = (("https://a.example", "A", "one"), ("https://b.example", "B", "two"))
_CITED: Final = [
    {"url": "https://a.example", "title": "A"},
    {"url": "https://b.example", "title": "B"},
]


@pytest.fixture(name="engine")
async def _engine() -> AsyncIterator[Upstream]:
    async with Upstream() as listening:
        listening.script = found("searxng", *_PAGES)
        yield listening


def _use(system: System, search: SearchSettings) -> None:
    system.settings = msgspec.structs.replace(system.settings, search=search)


def _change(system: System, place: int, **fields: Any) -> None:  # noqa: ANN401  of any field's type
    models = list(system.settings.models)
    models[place] = msgspec.structs.replace(models[place], **fields)
    system.settings = msgspec.structs.replace(system.settings, models=tuple(models))


@pytest.fixture(name="searching")
async def _searching(system: System, engine: Upstream) -> ApiClient:
    """Return a customer of a deployment with a search service."""
    _use(system, settings("searxng", engine, rate=RATE))
    await system.front()
    await system.worker()
    return await system.customer()


def _credits_of(status: Json) -> dict[str, tuple[int, int]]:
    """Return each line's quantity and microcredits; they must add up to what was charged."""
    lines = {
        line["item"]: (line["quantity"], round(line["credits"] * 1_000_000))
        for line in status["credits_breakdown"]
    }
    charged = round(status["credits_used"] * 1_000_000)
    assert sum(microcredits for _, microcredits in lines.values()) == charged
    return lines


async def test_a_deployment_that_cannot_search_says_so(api: ApiClient) -> None:
    for model in (None, "alpha"):
        asked = {"message": "hello", "web_search": True, "model": model}
        refusal = refused(await api.post(CHAT, json=asked), 400, "FEATURE_UNAVAILABLE")
        assert "`web_search`" in refusal["error"]
    assert (await api.credits())["held"] == 0.0


async def test_a_model_that_cannot_search_is_told_among_the_candidates(system: System) -> None:
    _change(system, 1, capabilities=("web_search",))
    await system.front()
    api = await system.customer()
    asked = {"message": "hello", "web_search": True, "model": "alpha"}
    refusal = refused(await api.post(CHAT, json=asked), 400, "NO_SUITABLE_MODEL")
    (candidate,) = refusal["routing"]["candidates"]
    assert candidate["excluded_by"] == "web_search"
    assert await api.submit("hello", web_search=True)


async def test_pages_are_cited_and_the_search_is_a_line_of_the_bill(searching: ApiClient) -> None:
    status = await searching.submit_and_wait("How many bears?", web_search=True)
    assert status["state"] == "completed"
    assert status["result"]["citations"] == _CITED
    lines = _credits_of(status)
    assert lines.keys() == {"input", "output", "web_search"}
    assert lines["web_search"] == (1, 250_000)
    plain = await searching.submit_and_wait("How many bears?")
    assert plain["result"]["citations"] == []
    assert _credits_of(plain).keys() == {"input", "output"}


async def test_one_search_is_held_and_what_is_not_used_goes_back(
    system: System, engine: Upstream
) -> None:
    _use(system, settings("searxng", engine, rate=RATE))
    await system.front()
    api = await system.customer()
    alpha = system.settings.models[0]
    receipt = await api.submit("hello", web_search=True)
    tokens = price.tokens_in("hello") + 5 * 300 + 250
    hold = price.cost(alpha, tokens, alpha.max_output_tokens, price.Searches(1, RATE))
    assert (await api.credits())["held"] == hold / 1_000_000
    await system.worker()
    status = await api.wait_for_end(receipt)
    credits_ = await api.credits()
    assert credits_["held"] == 0.0
    assert credits_["total"] == pytest.approx(1000.0 - status["credits_used"])
    assert 0.25 < status["credits_used"] < hold / 1_000_000


async def test_a_budget_below_a_search_buys_none(searching: ApiClient) -> None:
    asked = {"message": "hello", "web_search": True, "max_credits": 0.2}
    refusal = refused(await searching.post(CHAT, json=asked), 400, "NO_SUITABLE_MODEL")
    bars = {each["model"]: each["excluded_by"] for each in refusal["routing"]["candidates"]}
    # The results do not fit into the second model's window.
    assert bars["alpha"] == "max_credits"
    assert bars["beta"] == "context_window"
    status = await searching.submit_and_wait("hello", web_search=True, max_credits=0.5)
    assert status["state"] == "completed"
    assert status["credits_used"] <= 0.5


async def test_a_model_that_searches_is_held_for_three_searches_and_billed_for_its_own(
    system: System, provider: ScriptedProvider
) -> None:
    _change(system, 0, capabilities=("web_search",), search_rate=10.0)
    await system.front()
    api = await system.customer()
    alpha = system.settings.models[0]
    receipt = await api.submit("hello", web_search=True)
    tokens = price.tokens_in("hello")
    hold = price.cost(alpha, tokens, alpha.max_output_tokens, price.Searches(3, 10.0))
    assert (await api.credits())["held"] == hold / 1_000_000
    provider.script.append(ScriptedAnswer(text="Two", pages=(("https://c.example", "C"),)))
    await system.worker()
    status = await api.wait_for_end(receipt)
    assert status["result"]["citations"] == [{"url": "https://c.example", "title": "C"}]
    assert _credits_of(status)["web_search"] == (1, 1_000_000)


async def test_a_failed_search_is_reported_and_refunded(
    searching: ApiClient, engine: Upstream, provider: ScriptedProvider
) -> None:
    engine.script = whole(status=429, retry_after="60")
    status = await searching.submit_and_wait("hello", web_search=True)
    assert status["state"] == "failed"
    assert status["failure"] == {
        "message": "The search service limits how often it may be asked.",
        "category": "rate_limit",
        "code": "SEARCH_FAILED",
        "retryable": True,
        "severity": "error",
        "provider": "searxng",
    }
    assert (status["credits_used"], status["credits_breakdown"]) == (0, [])
    assert (await searching.credits())["available"] == 1000.0
    assert provider.requests == []


async def test_the_other_dialect_cites_too(searching: ApiClient) -> None:
    answer = await chat(searching, "How many bears?", web_search=True)
    assert answer["message"]["citations"] == _CITED
    assert (await chat(searching, "How many bears?"))["message"]["citations"] == []


async def test_a_conversation_that_is_read_again_still_cites(searching: ApiClient) -> None:
    first = await searching.submit("How many bears?", web_search=True)
    await searching.wait_for_end(first)
    session = first["session_id"]
    await searching.submit_and_wait("How many wolves?", session_id=session)
    listed = await searching.messages(session)
    whole_ = payload(await searching.get(f"{SESSIONS}/{session}"))["messages"]
    for messages in (listed, whole_):
        assert [each.get("citations") for each in messages] == [None, _CITED, None, None]


async def test_the_end_of_a_stream_cites(searching: ApiClient) -> None:
    asked = {"message": "How many bears?", "web_search": True, "stream": True}
    said = (await searching.post(ASK, json=asked)).text
    events = [
        json.loads(line.removeprefix("data: "))
        for line in said.splitlines()
        if line.startswith("data: ")
    ]
    stages = [each["stage"] for each in events if each["type"] == "stage"]
    assert stages == ["searching", "generating"]
    assert events[-1]["type"] == "completed"
    assert events[-1]["message"]["citations"] == _CITED
