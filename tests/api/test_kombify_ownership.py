"""Another account's resource is answered exactly like a missing one, on every route with an id."""

from typing import Final

import httpx
import pytest

from shared import ids
from tests.api.kombify_client import AI, CHAT, SESSIONS, chat, payload
from tests.support.api_client import ApiClient, Json
from tests.support.mounts import MOUNTS
from tests.support.scripted_provider import ScriptedProvider

# The body for each route that has one, so that only the id can be wrong.
BODIES: Final[dict[str, Json]] = {"PATCH": {"name": "Stolen"}}


def _comparable(answer: httpx.Response) -> tuple[int, Json, set[str]]:
    """Return everything in a response that could distinguish the two cases."""
    decoded: Json = answer.json()
    decoded.pop("meta")
    names = {name for name in answer.headers if not name.startswith("ratelimit")}
    return answer.status_code, decoded, names


@pytest.mark.usefixtures("worker")
async def test_another_accounts_session_answers_as_unknown_on_every_route(
    api: ApiClient, other: ApiClient, provider: ScriptedProvider
) -> None:
    mine = await chat(api, "my secret", companion="work")
    before = payload(await api.get(f"{SESSIONS}/{mine['session_id']}"))
    rows = [endpoint for endpoint in MOUNTS[AI] if "{session_id}" in endpoint.path]
    assert len(rows) == 3
    for endpoint in rows:
        answers = [
            await other.request(
                endpoint.method,
                AI + endpoint.path.replace("{session_id}", id_),
                json=BODIES.get(endpoint.method),
            )
            for id_ in (mine["session_id"], ids.new_id(), mine["id"])
        ]
        assert _comparable(answers[0]) == _comparable(answers[1]) == _comparable(answers[2])
        assert answers[0].status_code == 404
    for fields in ({}, {"companion": "work"}, {"on_conflict": "interrupt"}):
        answers = [
            await other.post(CHAT, json={"message": "hi", "session_id": id_, **fields})
            for id_ in (mine["session_id"], ids.new_id())
        ]
        assert _comparable(answers[0]) == _comparable(answers[1])
        assert (answers[0].status_code, answers[0].json()["code"]) == (404, "SESSION_NOT_FOUND")
    assert payload(await api.get(f"{SESSIONS}/{mine['session_id']}")) == before
    assert len(provider.requests) == 1


async def test_lists_hold_only_ones_own(api: ApiClient, other: ApiClient) -> None:
    for customer in (api, other):
        made = payload(await customer.post(SESSIONS, json={}), 201)
        listed = payload(await customer.get(SESSIONS))
        assert ([each["id"] for each in listed["items"]], listed["total"]) == ([made["id"]], 1)
