"""`deep_think`: a reasoning model answers; its reasoning is returned apart, and paid for."""

import pytest

from shared.redis import keys
from tests.api.kombify_client import chat
from tests.support.api_client import ApiClient, refused
from tests.support.scripted_provider import ScriptedProvider
from tests.support.system import System


@pytest.fixture
async def api(system: System) -> ApiClient:
    """Return a customer of a system whose second model reasons."""
    system.change_model("beta", capabilities=("reasoning",))
    await system.front()
    return await system.customer()


@pytest.mark.usefixtures("worker_like_api")
async def test_a_model_that_reasons_is_chosen_and_asked_to(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    status = await api.submit_and_wait("Why? [tokens=3 think=4]", deep_think=True)
    assert status["routing"]["chosen"] == "beta"
    bars = {each["model"]: each["excluded_by"] for each in status["routing"]["candidates"]}
    assert bars == {"alpha": "reasoning", "beta": None}
    assert provider.requests[0].body["reasoning_effort"] == "high"
    result = status["result"]
    assert result["content"]
    assert result["reasoning_content"]
    assert result["reasoning_content"] not in result["content"]
    assert status["credits_used"] > 0


@pytest.mark.usefixtures("worker_like_api")
async def test_the_other_dialect_has_it_too(api: ApiClient, provider: ScriptedProvider) -> None:
    said = await chat(api, "Why? [tokens=3 think=4]", deep_think=True)
    assert said["message"]["model"] == "beta"
    assert said["message"]["reasoning_content"]
    assert provider.requests[0].body["reasoning_effort"] == "high"


@pytest.mark.usefixtures("worker_like_api")
async def test_nobody_is_asked_to_think_who_was_not_told_to(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    await api.submit_and_wait("hello", model="beta", deep_think=False)
    assert "reasoning_effort" not in provider.requests[0].body


async def test_a_model_that_cannot_reason_is_refused_with_the_reason(api: ApiClient) -> None:
    answer = await api.post(
        "/api/v1/chat", json={"message": "Why?", "model": "alpha", "deep_think": True}
    )
    refusal = refused(answer, 400, "NO_SUITABLE_MODEL")
    [candidate] = refusal["routing"]["candidates"]
    assert (candidate["model"], candidate["excluded_by"]) == ("alpha", "reasoning")
    assert await api.credits() == {"total": 1000.0, "available": 1000.0, "held": 0.0}


async def test_an_older_worker_leaves_it_queued(api: ApiClient, system: System) -> None:
    plain = await api.submit("hello")
    deep = await api.submit("Why?", deep_think=True)
    account = await system.account()
    root = system.accounts.root_of(account)
    wires = [
        await system.redis.call(
            "HGET", keys.GENERATION(root, account.id, asked["message_id"]), "wire"
        )
        for asked in (plain, deep)
    ]
    assert wires == [b"1", b"3"]
