"""The tutorial: a message in, a receipt back, and how to learn of the answer."""

import asyncio

import httpx
import pytest

from tests.support import waiting
from tests.support.api_client import ApiClient, body, refused
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider

pytestmark = pytest.mark.usefixtures("worker")


async def test_ask_and_poll_to_the_end(api: ApiClient) -> None:
    """I post a message, get a receipt at once, and poll its link until the answer is there."""
    receipt = await api.post("/api/v1/chat", json={"message": "hello"})
    assert receipt.status_code == 200
    link = receipt.json()["poll_url"]

    async def has_ended() -> httpx.Response | None:
        status = await api.get(link)
        return status if status.json()["state"] != "processing" else None

    status = (await waiting.until(has_ended)).json()
    assert status["state"] == "completed"
    assert status["progress"] == 100
    assert status["result"]["content"] == "You said: hello"


async def test_wait_instead_of_polling(api: ApiClient) -> None:
    """I ask the link to wait, and it answers when my answer is ready."""
    receipt = await api.submit("hello")
    status = await api.get(receipt["poll_url"], params={"wait": 30})
    assert status.json()["result"]["content"] == "You said: hello"


async def test_see_the_answer_grow(api: ApiClient, provider: ScriptedProvider) -> None:
    """While my answer is being written I can show what there is of it."""
    more = asyncio.Event()
    provider.script.append(ScriptedAnswer(text="Once upon a time", gate=more, gate_after=2))
    receipt = await api.submit("Tell me a story")

    async def has_begun() -> bool:
        status = await api.poll(receipt)
        return bool(status["result"]["content"] == "Once upon" and status["result"]["partial"])

    await waiting.until(has_begun)
    more.set()
    assert (await api.wait_for_end(receipt))["result"]["content"] == "Once upon a time"


async def test_poll_with_the_etag_until_something_changes(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    """I send the tag that I got, and as long as nothing changes I get an empty 304 and a hint."""
    more = asyncio.Event()
    provider.script.append(ScriptedAnswer(gate=more))
    receipt = await api.submit("hello")

    async def is_generating() -> httpx.Response | None:
        # The provider keeps its first word back, so nothing changes after this stage has begun.
        status = await api.get(receipt["poll_url"])
        return status if status.json()["stage"] == "generating" else None

    first = await waiting.until(is_generating)
    again = await api.get(receipt["poll_url"], headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert int(again.headers["poll-interval-hint"]) >= 1
    more.set()
    last = await api.get(
        receipt["poll_url"],
        params={"wait": 30},
        headers={"If-None-Match": again.headers["etag"]},
    )
    assert last.status_code == 200
    assert last.headers["etag"] != first.headers["etag"]
    assert (await api.wait_for_end(receipt))["state"] == "completed"


async def test_follow_up_in_the_same_session(api: ApiClient, provider: ScriptedProvider) -> None:
    """I send the session that I was given with my next message, and the model knows the first."""
    receipt = await api.submit("What is machine learning?", system_prompt="Be brief.")
    await api.wait_for_end(receipt)
    await api.submit_and_wait("Give me an example", session_id=receipt["session_id"])
    assert [message["content"] for message in provider.requests[-1].messages] == [
        "Be brief.",
        "What is machine learning?",
        "You said: What is machine learning?",
        "Give me an example",
    ]


async def test_choose_a_model_or_leave_it_to_pollux(api: ApiClient) -> None:
    """I list the models and name one; when I name none, the status says which one answered."""
    models = (await api.get("/api/v1/models", params={"type": "chat"})).json()["models"]
    named = models[1]["identifier"]
    assert (await api.submit_and_wait("hello", model=named))["result"]["model"] == named
    status = await api.submit_and_wait("hello")
    assert status["result"]["model"] == "auto"
    assert status["routing"]["chosen"] == models[0]["identifier"]


async def test_cancel_before_a_worker_began(api: ApiClient, provider: ScriptedProvider) -> None:
    """I cancel a message that is still queued; it ends at once and costs nothing."""
    provider.script.append(ScriptedAnswer(gate=asyncio.Event()))
    running = await api.submit("first")
    waits = await api.submit("second", session_id=running["session_id"])
    cancelled = body(await api.post(waits["cancel_url"]))
    assert (cancelled["state"], cancelled["effect"]) == ("cancelled", "immediate")
    assert (await api.poll(waits))["credits_used"] == 0
    assert (await api.poll(running))["state"] == "processing"


async def test_cancel_in_the_middle(api: ApiClient, provider: ScriptedProvider) -> None:
    """I cancel an answer that is being written; it stops, and I keep what there is of it."""
    provider.script.append(ScriptedAnswer(text="one two three", gate=asyncio.Event(), gate_after=2))
    receipt = await api.submit("Count to three")

    async def has_begun() -> bool:
        return bool((await api.poll(receipt))["result"]["content"] == "one two")

    await waiting.until(has_begun)
    assert body(await api.post(receipt["cancel_url"]))["effect"] == "pending"
    status = await api.wait_for_end(receipt)
    assert (status["state"], status["result"]["content"]) == ("cancelled", "one two")


async def test_cancel_too_late(api: ApiClient) -> None:
    """I cancel an answer that is complete; I read that it has ended, and nothing changes."""
    receipt = await api.submit("hello")
    await api.wait_for_end(receipt)
    refusal = refused(await api.post(receipt["cancel_url"]), 409, "ALREADY_FINISHED")
    assert refusal["state"] == "completed"
    assert (await api.poll(receipt))["result"]["content"] == "You said: hello"


async def test_retry_safely(api: ApiClient, provider: ScriptedProvider) -> None:
    """My connection broke after I posted; I repeat it under the same key, and pay once."""
    asked = {"message": "hello"}
    key = {"Idempotency-Key": "order-66"}
    first = await api.post("/api/v1/chat", json=asked, headers=key)
    again = await api.post("/api/v1/chat", json=asked, headers=key)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json()["message_id"] == first.json()["message_id"]
    await api.wait_for_end(first.json())
    assert len(provider.requests) == 1


async def test_a_failed_answer_says_why(api: ApiClient, provider: ScriptedProvider) -> None:
    """My answer could not be made; I read a sentence, a code for my program, and pay nothing."""
    provider.script.append(ScriptedAnswer(status=401))
    status = await api.submit_and_wait("hello", model="alpha")
    assert status["state"] == "failed"
    assert status["error"] == "The provider refused the deployment's credentials."
    assert status["failure"]["category"] == "auth"
    assert status["credits_used"] == 0
