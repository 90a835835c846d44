"""Another account's resource is answered exactly like a missing one, on every route with an id."""

import asyncio
from collections.abc import Iterator
from typing import Final

import httpx
import pytest

from api.endpoints.endpoint import Endpoint
from shared import ids
from tests.support.api_client import ApiClient, Json, body
from tests.support.mounts import DOUBLED_MOUNTS, MOUNTS
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.stored_batch import StoredBatch, answered
from tests.support.system import System

KOLBO: Final = "/api/v1"
# The body for each route that has one, so that only the id can be wrong.
BODIES: Final[dict[str, Json]] = {"PATCH": {"name": "Stolen"}}


def matrix() -> Iterator[tuple[str, Endpoint, str]]:
    """Yield every route that takes an id, under both prefixes, with the name of its id."""
    for prefix, endpoints in ({KOLBO: MOUNTS[KOLBO]} | DOUBLED_MOUNTS).items():
        for endpoint in endpoints:
            for name in ("generation_id", "session_id", "batch_id"):
                if f"{{{name}}}" in endpoint.path:
                    yield prefix, endpoint, name


def _comparable(answer: httpx.Response) -> tuple[int, Json, set[str]]:
    """Return everything in a response that could distinguish the two cases."""
    said: Json = answer.json()
    said.pop("request_id")
    names = {name for name in answer.headers if not name.startswith("ratelimit")}
    return answer.status_code, said, names


async def _both(
    other: ApiClient, prefix: str, endpoint: Endpoint, name: str, id_: str
) -> list[tuple[int, Json, set[str]]]:
    """Request another account's id, and an id that does not exist."""
    payload = []
    for asked in (id_, ids.new_id()):
        path = prefix + endpoint.path.replace(f"{{{name}}}", asked)
        parameters = {"wait": 45} if path.endswith("/status") else {}
        answer = await other.request(
            endpoint.method, path, params=parameters, json=BODIES.get(endpoint.method)
        )
        payload.append(_comparable(answer))
    return payload


@pytest.mark.usefixtures("worker")
async def test_another_accounts_ids_answer_as_unknown_on_every_route(
    api: ApiClient, other: ApiClient, batch: StoredBatch, provider: ScriptedProvider
) -> None:
    provider.script.append(ScriptedAnswer(text="done"))
    done = await api.submit("done")
    await api.wait_for_end(done)
    provider.script.append(ScriptedAnswer(gate=asyncio.Event()))
    running = await api.submit("running", session_id=done["session_id"])
    waits = await api.submit("waits", session_id=done["session_id"])
    await batch.add([answered(1, "done"), None])
    stored = await batch.write()
    before = body(await api.get("/api/v1/chat/conversations"))
    rows = list(matrix())
    assert len(rows) == 2 * sum("{" in endpoint.path for endpoint in MOUNTS[KOLBO])
    for prefix, endpoint, name in rows:
        generations = [each["message_id"] for each in (done, running, waits)]
        of_name = {"session_id": [done["session_id"]], "batch_id": [stored]}
        for id_ in of_name.get(name, generations):
            theirs, nobodys = await _both(other, prefix, endpoint, name, id_)
            assert theirs == nobodys, endpoint.path
            assert theirs[0] == 404, endpoint.path
    # The other account's resource is unchanged.
    assert body(await api.get(f"{KOLBO}/batches/{stored}"))["state"] == "running"
    assert body(await api.get("/api/v1/chat/conversations")) == before
    assert [(await api.poll(each))["state"] for each in (running, waits)] == ["processing"] * 2
    assert (await api.poll(done))["state"] == "completed"


@pytest.mark.usefixtures("worker")
async def test_another_accounts_session_takes_no_message(
    api: ApiClient, other: ApiClient, provider: ScriptedProvider
) -> None:
    receipt = await api.submit("my secret")
    await api.wait_for_end(receipt)
    for on_conflict in ("enqueue", "reject", "interrupt"):
        payload = []
        for session in (receipt["session_id"], ids.new_id()):
            asked = {"message": "hi", "session_id": session, "on_conflict": on_conflict}
            payload.append(_comparable(await other.post("/api/v1/chat", json=asked)))
        assert payload[0] == payload[1]
        assert (payload[0][0], payload[0][1]["code"]) == (404, "SESSION_NOT_FOUND")
    assert len(await api.messages(receipt["session_id"])) == 2
    assert len(provider.requests) == 1


@pytest.mark.usefixtures("worker")
async def test_a_generation_and_a_session_are_different_things(api: ApiClient) -> None:
    receipt = await api.submit("hello")
    await api.wait_for_end(receipt)
    for prefix, endpoint, name in matrix():
        id_ = receipt["session_id" if name == "generation_id" else "message_id"]
        path = prefix + endpoint.path.replace(f"{{{name}}}", id_)
        answer = await api.request(endpoint.method, path, json=BODIES.get(endpoint.method))
        assert answer.status_code == 404, (endpoint.path, answer.text)


@pytest.mark.usefixtures("worker")
async def test_lists_hold_only_ones_own(api: ApiClient, other: ApiClient, system: System) -> None:
    mine, theirs = await api.submit("canary-one"), await other.submit("canary-two")
    await api.wait_for_end(mine)
    await other.wait_for_end(theirs)
    for customer, receipt in ((api, mine), (other, theirs)):
        listed = body(await customer.get("/api/v1/chat/conversations"))
        assert [each["session_id"] for each in listed["conversations"]] == [receipt["session_id"]]
        assert listed["pagination"]["total"] == 1
    # Another key of the same account sees it.
    twin = await system.customer("one")
    assert (await twin.poll(mine))["state"] == "completed"
    assert (await twin.credits())["total"] < 1000
    assert (await other.credits())["total"] < 1000
