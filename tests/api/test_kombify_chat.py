"""`POST /v1/ai/chat`: answered if the answer is there in time, never refused once accepted."""

import asyncio
from typing import Final

import httpx
import pytest

from api.follow import wait
from shared import ids
from tests.api.kombify_client import AI, CHAT, SESSIONS, TIME, chat, payload, refused
from tests.api.test_kolbo_submit import UNAVAILABLE, WRONG
from tests.support import waiting
from tests.support.api_client import ApiClient, body
from tests.support.redis_server import Server
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.system import System

LIST: Final = "/api/v1/chat/conversations"


async def _total(api: ApiClient) -> int:
    return int(body(await api.get(LIST))["pagination"]["total"])


def _later(api: ApiClient, **fields: object) -> "asyncio.Task[httpx.Response]":
    """Send a message in a task, without waiting for its answer."""
    return asyncio.create_task(api.post(CHAT, json={"message": "hello", **fields}))


@pytest.mark.usefixtures("worker")
async def test_the_answer_is_waited_for(api: ApiClient) -> None:
    answer = await api.post(CHAT, json={"message": "hello", "metadata": {"a": "b"}})
    said = payload(answer)
    assert said.keys() == {"id", "session_id", "message", "usage", "routing"}
    message = said["message"]
    assert message.pop("id") == said["id"]
    assert TIME.fullmatch(message.pop("created_at"))
    assert message == {
        "role": "assistant",
        "content": "You said: hello",
        "reasoning_content": None,
        "image_urls": [],
        "video_urls": [],
        "audio_urls": [],
        "citations": [],
        "finish_reason": "stop",
        "model": "alpha",
    }
    cached = {"cached_input_tokens", "cache_write_tokens"}
    counts = {"input_tokens", "output_tokens", "reasoning_tokens", "credits"}
    assert said["usage"].keys() == cached | counts | {"estimated"}
    assert said["usage"]["estimated"] is False
    assert said["usage"]["credits"] > 0
    assert said["routing"]["chosen"] == "alpha"
    assert int(answer.headers["ratelimit-remaining"]) >= 0
    status = body(await api.get(f"/api/v1/generate/{said['id']}/status"))
    assert (status["state"], status["metadata"]) == ("completed", {"a": "b"})
    assert status["credits_used"] == said["usage"]["credits"]


@pytest.mark.usefixtures("worker")
async def test_the_published_request_runs_as_it_stands(system: System, api: ApiClient) -> None:
    assert api
    bearer = await system.caller({"authorization": f"Bearer {(await system.key()).key}"})
    asked = {
        "message": "Explain my server architecture",
        "companion": "smart-home",
        "model": "gpt-4o",
    }
    said = payload(await bearer.post(CHAT, json=asked))
    assert said["message"]["content"] == "You said: Explain my server architecture"


async def test_an_answer_not_in_time_is_polled_later(system: System) -> None:
    system.change("api", wait_seconds_max=1)
    await system.front()
    api = await system.customer()
    said = payload(await api.post(CHAT, json={"message": "hello"}), 202)
    hint = said.pop("poll_interval_hint")
    assert hint in range(1, 31)
    assert said == {
        "id": said["id"],
        "session_id": said["session_id"],
        "state": "processing",
        "poll_url": f"/api/v1/generate/{said['id']}/status",
        "events_url": f"/api/v1/generate/{said['id']}/events",
        "cancel_url": f"/api/v1/generate/{said['id']}/cancel",
    }
    await system.worker()
    assert (await api.wait_for_end(said))["result"]["content"] == "You said: hello"


@pytest.mark.usefixtures("worker")
async def test_what_has_no_answer_is_an_error_that_says_why(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    provider.script.append(ScriptedAnswer(status=401))
    headers = {"idempotency-key": "k"}
    first, again = [
        await api.post(CHAT, json={"message": "hello", "model": "alpha"}, headers=headers)
        for _ in range(2)
    ]
    error = refused(first, 502, "GENERATION_ERROR")
    assert error["message"] == "The provider refused the deployment's credentials."
    details = error["details"]
    assert details.keys() == {"id", "session_id", "failure"}
    assert details["failure"]["category"] == "auth"
    assert details["failure"]["message"] == error["message"]
    assert refused(again, 502, "GENERATION_ERROR") == error
    assert again.headers["idempotent-replayed"] == "true"
    assert len(provider.requests) == 1
    status = body(await api.get(f"/api/v1/generate/{details['id']}/status"))
    assert (status["state"], status["session_id"]) == ("failed", details["session_id"])


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    ("scripted", "status", "category"),
    [
        (ScriptedAnswer(status=400), 422, "invalid_request"),
        (ScriptedAnswer(text="", finish_reason="content_filter"), 422, "content_policy"),
        (ScriptedAnswer(text="one two", error_after=1), 502, "provider_error"),
        # Its backoff is longer than the deadline allows.
        (ScriptedAnswer(status=429, headers={"retry-after": "3600"}), 503, "rate_limit"),
        (ScriptedAnswer(status=503, headers={"retry-after": "3600"}), 503, "overloaded"),
    ],
    ids=["invalid", "policy", "broken", "limited", "overloaded"],
)
async def test_the_status_follows_the_failure(
    api: ApiClient, provider: ScriptedProvider, scripted: ScriptedAnswer, status: int, category: str
) -> None:
    provider.answer = lambda _: scripted
    answer = await api.post(CHAT, json={"message": "hello"})
    error = refused(answer, status, "GENERATION_ERROR")
    assert error["details"]["failure"]["category"] == category
    assert ("retry-after" in answer.headers) == (status == 503)


@pytest.mark.usefixtures("worker")
async def test_what_passes_its_deadline_is_a_gateway_timeout(
    api: ApiClient, system: System, provider: ScriptedProvider
) -> None:
    # The worker and the reaper notice at the same time.
    system.expected.add("reaped")
    provider.script.append(ScriptedAnswer(gate=asyncio.Event()))
    answer = await api.post(CHAT, json={"message": "hello", "deadline_seconds": 1})
    error = refused(answer, 504, "GENERATION_ERROR")
    assert error["details"]["failure"]["category"] == "expired"


@pytest.mark.parametrize("how", ["cancel", "delete"])
async def test_what_is_cancelled_meanwhile_is_a_conflict(api: ApiClient, how: str) -> None:
    sent = _later(api)
    await waiting.until(lambda: _total(api), what="the message")
    (found,) = payload(await api.get(SESSIONS))["items"]
    whole = payload(await api.get(f"{SESSIONS}/{found['id']}"))
    if how == "cancel":
        await api.post(f"/api/v1/generate/{whole['messages'][1]['id']}/cancel")
    else:
        await api.delete(f"{SESSIONS}/{found['id']}")
    error = refused(await sent, 409, "GENERATION_ERROR")
    assert error["details"]["failure"]["category"] == "cancelled"
    assert error["details"]["session_id"] == found["id"]


@pytest.mark.usefixtures("worker")
async def test_the_same_request_again_waits_for_the_same_answer(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    gate = asyncio.Event()
    provider.script.append(ScriptedAnswer(gate=gate))
    asked, headers = {"message": "hello"}, {"idempotency-key": "k"}
    both = [asyncio.create_task(api.post(CHAT, json=asked, headers=headers)) for _ in range(2)]
    await waiting.until(lambda: provider.requests)
    gate.set()
    answers = [*(await asyncio.gather(*both)), await api.post(CHAT, json=asked, headers=headers)]
    assert payload(answers[0]) == payload(answers[1]) == payload(answers[2])
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 2
    assert answers[2].headers["idempotent-replayed"] == "true"
    assert len(provider.requests) == 1


@pytest.mark.usefixtures("worker")
async def test_each_route_and_each_body_is_a_request_of_its_own(api: ApiClient) -> None:
    headers = {"idempotency-key": "k"}
    payload(await api.post(f"{AI}/companion/personal/chat", json={"message": "a"}, headers=headers))
    for path, asked in (
        (f"{AI}/companion/personal/chat", {"message": "b"}),
        (f"{AI}/companion/devops/chat", {"message": "a"}),
        (CHAT, {"message": "a"}),
    ):
        answer = await api.post(path, json=asked, headers=headers)
        refused(answer, 422, "IDEMPOTENCY_MISMATCH")
    answer = await api.post("/api/v1/chat", json={"message": "a"}, headers=headers)
    assert answer.status_code == 422
    answer = await api.post(CHAT, json={"message": "a"}, headers={"idempotency-key": "k" * 256})
    assert "Idempotency-Key" in refused(answer, 400, "INVALID_FIELDS")["message"]


@pytest.mark.usefixtures("worker")
async def test_an_alias_names_a_model_here_and_nowhere_else(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    said = await chat(api, "hello", model="gpt-4o")
    assert (said["message"]["model"], said["routing"]["policy"]) == ("alpha", "requested")
    assert provider.requests[-1].body["model"] == "upstream-alpha"
    assert (await chat(api, "hello", model="beta"))["message"]["model"] == "beta"
    assert (await chat(api, "hello", model="auto"))["routing"]["policy"] == "catalogue_order"
    answer = await api.post(CHAT, json={"message": "hello", "model": "gpt-5"})
    refused(answer, 400, "MODEL_NOT_FOUND")
    answer = await api.post("/api/v1/chat", json={"message": "hello", "model": "gpt-4o"})
    assert (answer.status_code, answer.json()["code"]) == (400, "MODEL_NOT_FOUND")


async def test_every_option_is_refused_as_in_the_other_dialect(api: ApiClient) -> None:
    for name, values in WRONG.items():
        for value in values:
            answer = await api.post(CHAT, json={"message": "hello", name: value})
            assert f"`{name}" in refused(answer, 400, "INVALID_FIELDS")["message"], (name, value)
    for name, values in UNAVAILABLE.items():
        answer = await api.post(CHAT, json={"message": "hello", name: values[0]})
        assert f"`{name}`" in refused(answer, 400, "FEATURE_UNAVAILABLE")["message"]
    for name, wrong in {"companion": 3, "stream": "yes"}.items():
        answer = await api.post(CHAT, json={"message": "hello", name: wrong})
        assert f"`{name}`" in refused(answer, 400, "INVALID_FIELDS")["message"]
    answer = await api.post(CHAT, json={"message": "hello", "mood": "good"})
    assert "`mood`" in refused(answer, 400, "INVALID_FIELDS")["message"]
    for asked in ({}, {"message": None}, {"message": "  "}):
        refused(await api.post(CHAT, json=asked), 400, "MISSING_FIELDS")
    for id_ in ("x", "a:b"):
        answer = await api.post(CHAT, json={"message": "hello", "session_id": id_})
        refused(answer, 404, "SESSION_NOT_FOUND")
    assert await _total(api) == 0


async def test_who_may_not_wait_is_refused_before_the_message_is_in(system: System) -> None:
    system.change_tier("enterprise", waits_max=1)
    await system.front()
    api = await system.customer()
    sent = [_later(api) for _ in range(2)]
    done, pending = await asyncio.wait(sent, return_when=asyncio.FIRST_COMPLETED)
    answer = done.pop().result()
    refused(answer, 429, "RATE_LIMITED")
    assert int(answer.headers["retry-after"]) >= 1
    await waiting.until(lambda: _total(api), what="the other message")
    assert await _total(api) == 1
    await system.worker()
    payload(await pending.pop())


async def test_who_hangs_up_gives_the_place_back_and_loses_nothing(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wait, "_POLL_ANYWAY_SECONDS", 0.05)
    system.change_tier("enterprise", waits_max=1)
    await system.front()
    api = await system.customer()
    sent = _later(api)
    await waiting.until(lambda: _total(api), what="the message")
    sent.cancel()

    async def is_free() -> bool:
        answer = await api.get(f"/api/v1/generate/{ids.new_id()}/status", params={"wait": 1})
        return answer.status_code == 404

    await waiting.until(is_free, 5, what="the place of who has gone")
    await system.worker()
    (found,) = payload(await api.get(SESSIONS))["items"]

    async def is_answered() -> bool:
        whole = payload(await api.get(f"{SESSIONS}/{found['id']}"))
        return bool(whole["messages"][1]["content"] == "You said: hello")

    await waiting.until(is_answered)


async def test_redis_going_away_does_not_refuse_what_is_in(
    own_system: System, own_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wait, "_POLL_ANYWAY_SECONDS", 0.05)
    own_system.expected |= {"unavailable", "waiting for Redis", "a beat was missed", "reaped"}
    await own_system.front()
    api = await own_system.customer()
    sent = _later(api)
    await waiting.until(lambda: _total(api), what="the message")
    own_server.kill()
    said = payload(await sent, 202)
    own_server.start()

    async def is_back() -> bool:
        return (await api.get("/readyz")).status_code == 200

    await waiting.until(is_back)
    await own_system.worker()
    assert (await api.wait_for_end(said))["result"]["content"] == "You said: hello"
