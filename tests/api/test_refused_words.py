"""A caller reads what the provider says of a bad request; logs and dead letters do not have it."""

import json
from typing import Final

import pytest

from tests.api.kombify_client import CHAT
from tests.support.api_client import ApiClient
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.system import System

pytestmark = pytest.mark.usefixtures("worker")

_WORDS: Final = "Invalid value for `temperature`: must be at most 2."
_SAID: Final = f"{_WORDS} Your key sk-live-Rk29sPq81 of org-Xk29s is fine."
_READ: Final = f'Scripted refused the request: "{_WORDS}".'


async def test_the_provider_s_words_reach_the_caller_and_nobody_else(
    api: ApiClient, system: System, provider: ScriptedProvider
) -> None:
    provider.answer = lambda _: ScriptedAnswer(status=400, message=_SAID)
    status = await api.submit_and_wait("hello")
    assert (status["state"], status["error"]) == ("failed", _READ)
    assert status["failure"]["message"] == _READ
    assert (status["failure"]["code"], status["failure"]["provider"]) == (
        "REFUSED_REQUEST",
        "scripted",
    )
    events = (await api.get(f"/api/v1/generate/{status['generation_id']}/events")).text
    assert json.dumps(_READ) in events
    refusal = await api.post(CHAT, json={"message": "hello"})
    assert refusal.json()["message"] == _READ
    assert "temperature" not in json.dumps(system.lines, default=str)
    assert "sk-live" not in json.dumps(system.lines, default=str) + refusal.text + events
    assert await api.credits() == {"total": 1000.0, "available": 1000.0, "held": 0.0}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            ScriptedAnswer(status=401, message="Incorrect API key: sk-live-Rk29sPq81"),
            "The provider refused the deployment's credentials.",
        ),
        (
            ScriptedAnswer(status=400, message="Your account has no credits. Buy some."),
            "The deployment's account with the provider has no credit left.",
        ),
        (
            ScriptedAnswer(status=403, message="Not from here: 203.0.113.7"),
            "The provider refused the request.",
        ),
        (
            ScriptedAnswer(status=400, message="prompt is too long: 99 tokens > 9 maximum"),
            "The conversation is too long for the model: "
            '"prompt is too long: 99 tokens > 9 maximum".',
        ),
        (
            ScriptedAnswer(status=400, code="content_policy_violation", message="Not this."),
            'Scripted\'s content policy forbids the answer: "Not this.".',
        ),
    ],
)
async def test_what_is_not_the_request_s_fault_is_not_quoted(
    api: ApiClient, provider: ScriptedProvider, answer: ScriptedAnswer, expected: str
) -> None:
    provider.answer = lambda _: answer
    status = await api.submit_and_wait("hello", model="alpha")
    assert (status["state"], status["error"]) == ("failed", expected)
