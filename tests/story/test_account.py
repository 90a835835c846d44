"""The tutorial: conversations, credits and keys."""

import pytest

from tests.support import waiting
from tests.support.api_client import ApiClient, body, refused
from tests.support.system import System

pytestmark = pytest.mark.usefixtures("worker")

LIST = "/api/v1/chat/conversations"


async def test_find_rename_and_delete_a_conversation(api: ApiClient) -> None:
    """I find my conversation in the list, give it a name, read it, and delete it for good."""
    receipt = await api.submit("Where shall we go?")
    await api.wait_for_end(receipt)
    (found,) = body(await api.get(LIST))["conversations"]
    assert found["name"].startswith("API Chat - ")
    path = f"{LIST}/{found['session_id']}"
    body(await api.patch(path, json={"name": "Trip to Rome"}))
    (found,) = body(await api.get(LIST))["conversations"]
    assert found["name"] == "Trip to Rome"
    read = body(await api.get(f"{path}/messages"))["messages"]
    assert [(each["role"], each["content"]) for each in read] == [
        ("user", "Where shall we go?"),
        ("assistant", "You said: Where shall we go?"),
    ]
    body(await api.delete(path))
    assert body(await api.get(LIST))["conversations"] == []
    refused(await api.get(receipt["poll_url"]), 404, "GENERATION_NOT_FOUND")


async def test_read_a_long_conversation_page_by_page(api: ApiClient) -> None:
    """I turn the pages of a long conversation and read every message once, oldest first."""
    receipt = await api.submit("message 0")
    await api.wait_for_end(receipt)
    for number in range(1, 5):
        await api.submit_and_wait(f"message {number}", session_id=receipt["session_id"])
    path, read, page = f"{LIST}/{receipt['session_id']}/messages", [], 1
    while True:
        got = body(await api.get(path, params={"page": page, "limit": 4}))
        read += [each["content"] for each in got["messages"]]
        if page == got["pagination"]["pages"]:
            break
        page += 1
    assert page == 3
    assert read[::2] == [f"message {number}" for number in range(5)]
    assert len(read) == got["pagination"]["total"] == 10


async def test_credits_are_held_then_paid_and_the_rest_comes_back(
    api: ApiClient, system: System
) -> None:
    """What my answer may cost is held while it is made; I pay what it did cost."""
    before = await api.credits()
    await system.stop(system.workers[0])
    receipt = await api.submit("hello")
    held = await api.credits()
    assert held["held"] > 0
    assert held["available"] == pytest.approx(before["available"] - held["held"])
    await system.worker()
    status = await api.wait_for_end(receipt)
    after = await api.credits()
    assert 0 < status["credits_used"] < held["held"]
    assert after["held"] == 0
    assert after["available"] == pytest.approx(before["available"] - status["credits_used"])


async def test_a_revoked_key_stops_working(api: ApiClient, system: System) -> None:
    """I lost a key; I revoke it, and soon nobody can use it. My other key still works."""
    lost = await system.key()
    finder = await system.caller({"Authorization": f"Bearer {lost.key}"})
    body(await finder.get("/api/v1/account/credits"))
    await system.accounts.revoke_key(lost.key_id)

    async def is_out() -> bool:
        return (await finder.get("/api/v1/account/credits")).status_code == 401

    await waiting.until(is_out)
    assert (await api.submit_and_wait("hello"))["state"] == "completed"


async def test_nobody_else_sees_what_is_mine(api: ApiClient, other: ApiClient) -> None:
    """Another account that learns the ids of my messages can do nothing with them."""
    receipt = await api.submit("a secret")
    await api.wait_for_end(receipt)
    refused(await other.get(receipt["poll_url"]), 404, "GENERATION_NOT_FOUND")
    path = f"{LIST}/{receipt['session_id']}"
    refused(await other.get(f"{path}/messages"), 404, "SESSION_NOT_FOUND")
    refused(await other.delete(path), 404, "SESSION_NOT_FOUND")
    assert len(await api.messages(receipt["session_id"])) == 2


async def test_post_too_often_and_read_when_to_retry(system: System) -> None:
    """I post more than my tier allows in a minute; I read how long to wait, and lose nothing."""
    await system.front()
    api = await system.customer("small", tier="free")
    receipts = [await api.submit(f"message {number}") for number in range(10)]
    answer = await api.post("/api/v1/chat", json={"message": "one too many"})
    refused(answer, 429, "RATE_LIMITED")
    assert int(answer.headers["Retry-After"]) > 0
    for receipt in receipts:
        assert (await api.wait_for_end(receipt))["state"] == "completed"
