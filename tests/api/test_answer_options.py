"""Options of the answer: each reaches a model that takes it, or is refused by its name."""

from typing import Any

import msgspec
import pytest

from tests.api.kombify_client import chat
from tests.support.api_client import ApiClient, refused
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.stream_reader import read_events
from tests.support.system import System

_SCHEMA = {"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]}
_FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": _SCHEMA}}


@pytest.fixture
async def api(system: System) -> ApiClient:
    """Return a customer of a system whose first model is one of those that refuse sampling."""
    system.change_model("alpha", upstream="gpt-5", capabilities=("json",))
    await system.front()
    return await system.customer()


@pytest.mark.usefixtures("worker_like_api")
async def test_sampling_and_stop_texts_go_to_a_model_that_takes_them(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    status = await api.submit_and_wait(
        "Why? [tokens=3]", temperature=0, top_p=0.5, stop="END", max_output_tokens=40
    )
    assert status["routing"]["chosen"] == "beta"
    bars = {each["model"]: each["excluded_by"] for each in status["routing"]["candidates"]}
    assert bars == {"alpha": "temperature", "beta": None}
    sent = provider.requests[0].body
    assert {name: sent[name] for name in ("temperature", "top_p", "stop", "max_tokens")} == {
        "temperature": 0,
        "top_p": 0.5,
        "stop": ["END"],
        "max_tokens": 40,
    }


@pytest.mark.usefixtures("worker_like_api")
async def test_the_other_dialect_has_them_too(api: ApiClient, provider: ScriptedProvider) -> None:
    replied = await chat(api, "Why? [tokens=3]", temperature=1.5, stop=["a", "b"])
    assert replied["message"]["model"] == "beta"
    assert provider.requests[0].body["stop"] == ["a", "b"]


async def test_a_shorter_answer_holds_fewer_credits(api: ApiClient) -> None:
    held = []
    for longest in (None, 8):
        before = await api.credits()
        await api.submit("Why?", max_output_tokens=longest)
        held.append((await api.credits())["held"] - before["held"])
    assert 0 < held[1] < held[0]


@pytest.mark.parametrize(
    ("options", "code", "field"),
    [
        ({"temperature": 0.5, "model": "alpha"}, "NO_SUITABLE_MODEL", "No model"),
        ({"temperature": 2.1}, "INVALID_FIELDS", "temperature"),
        ({"temperature": True}, "INVALID_FIELDS", "temperature"),
        ({"top_p": 0}, "INVALID_FIELDS", "top_p"),
        ({"stop": ["a"] * 5}, "INVALID_FIELDS", "stop"),
        ({"stop": ""}, "INVALID_FIELDS", "stop"),
        ({"stop": [1]}, "INVALID_FIELDS", "stop"),
        ({"max_output_tokens": 0}, "INVALID_FIELDS", "max_output_tokens"),
        ({"response_format": "json"}, "INVALID_FIELDS", "response_format"),
        ({"response_format": {"type": "xml"}}, "INVALID_FIELDS", "response_format"),
        ({"response_format": {"type": "json_schema"}}, "MISSING_FIELDS", "json_schema"),
        (
            {"response_format": {"type": "json_object", "schema": {}}},
            "INVALID_FIELDS",
            "schema",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"$ref": "#"}},
                }
            },
            "INVALID_FIELDS",
            "response_format.json_schema.schema` refers to `#`",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "not a name", "schema": {}},
                }
            },
            "INVALID_FIELDS",
            "name",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "name\n", "schema": {}},
                }
            },
            "INVALID_FIELDS",
            "name",
        ),
    ],
)
async def test_what_cannot_be_honoured_is_refused(
    api: ApiClient, options: dict[str, Any], code: str, field: str
) -> None:
    error = refused(await api.post("/api/v1/chat", json={"message": "Why?"} | options), 400, code)
    assert field in error["error"]


async def test_a_form_that_no_model_has_is_a_feature_that_is_missing(system: System) -> None:
    models = tuple(
        msgspec.structs.replace(model, capabilities=()) for model in system.settings.models
    )
    system.settings = msgspec.structs.replace(system.settings, models=models)
    await system.front()
    api = await system.customer()
    asked = {"message": "Why?", "response_format": _FORMAT}
    error = refused(await api.post("/api/v1/chat", json=asked), 400, "FEATURE_UNAVAILABLE")
    assert "response_format" in error["error"]


def _answers(provider: ScriptedProvider, *texts: str, finish_reason: str = "stop") -> None:
    provider.script.extend(ScriptedAnswer(text=text, finish_reason=finish_reason) for text in texts)


@pytest.mark.usefixtures("worker_like_api")
@pytest.mark.parametrize("asked", [_FORMAT, {"type": "json_object"}])
async def test_an_answer_of_the_form_is_taken(
    api: ApiClient, provider: ScriptedProvider, asked: dict[str, Any]
) -> None:
    _answers(provider, '{"count": 3}')
    status = await api.submit_and_wait("As JSON.", response_format=asked)
    assert (status["state"], status["result"]["content"]) == ("completed", '{"count": 3}')
    assert provider.requests[0].body["response_format"]["type"] == asked["type"]
    assert len(provider.requests) == 1


@pytest.mark.usefixtures("worker_like_api")
async def test_an_answer_of_another_form_is_dropped_and_made_once_more(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    _answers(provider, "B\u00e4r: three", '{"count": 3}')
    status = await api.submit_and_wait("As JSON.", response_format=_FORMAT)
    assert (status["state"], status["result"]["content"]) == ("completed", '{"count": 3}')
    assert (len(provider.requests), status["attempt"]) == (2, 1)
    _answers(provider, '{"count": 3}')
    at_once = await api.submit_and_wait("As JSON.", response_format=_FORMAT)
    assert 0 < status["credits_used"] == at_once["credits_used"]
    events = read_events((await api.get(_events(status))).content)
    assert [each.payload for each in events if each.name == "reset"] == [
        {"type": "reset", "keep": 0}
    ]
    text = ""
    for each in events:
        text = "" if each.name == "reset" else text + each.payload.get("text", "")
    assert text == '{"count": 3}'


def _events(status: dict[str, Any]) -> str:
    return f"/api/v1/generate/{status['generation_id']}/events"


@pytest.mark.usefixtures("worker_like_api")
@pytest.mark.parametrize(
    ("texts", "finish_reason", "words"),
    [
        (("three", '{"count": "3"}'), "stop", "not of type"),
        (('{"count":',), "length", "cut off"),
    ],
)
async def test_an_answer_that_stays_of_another_form_fails_and_is_paid_for(
    api: ApiClient,
    provider: ScriptedProvider,
    texts: tuple[str, ...],
    finish_reason: str,
    words: str,
) -> None:
    _answers(provider, *texts, finish_reason=finish_reason)
    status = await api.submit_and_wait("As JSON.", response_format=_FORMAT)
    assert (status["state"], status["failure"]["code"]) == ("failed", "ANSWER_FORM")
    assert words in status["failure"]["message"]
    assert status["result"]["content"] == texts[-1]
    assert status["credits_used"] > 0
    assert len(provider.requests) == len(texts)
    assert status["failure"]["retryable"] is (finish_reason == "stop")


@pytest.mark.usefixtures("worker_like_api")
async def test_a_stop_text_that_ends_the_answer_at_once_is_not_called_again(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    _answers(provider, "", "", "")
    status = await api.submit_and_wait("Why?", stop="x")
    assert (status["state"], status["failure"]["code"]) == ("failed", "EMPTY_ANSWER")
    assert status["failure"]["category"] == "invalid_request"
    assert len(provider.requests) == 1


async def test_whole_numbers_that_no_record_holds_are_refused(api: ApiClient) -> None:
    schema = {"type": "integer", "maximum": 2**64}
    asked = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    answer = await api.post("/api/v1/chat", json={"message": "Why?", "response_format": asked})
    refused(answer, 400, "INVALID_FIELDS")
