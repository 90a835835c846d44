"""Storage quotas in both dialects, and a full server."""

from typing import Final

import msgspec

from shared.tiers import Tier
from tests.api import kombify_client
from tests.support import api_client
from tests.support.api_client import ApiClient, body
from tests.support.redis_server import Server
from tests.support.system import System

CHAT: Final = "/api/v1/chat"
_TIER: Final = Tier(submissions_per_minute=1_000, sessions_max=2, stored_bytes_max=4_000)


async def _limited(system: System, **fields: int) -> ApiClient:
    system.change("limits", free=msgspec.structs.replace(_TIER, **fields))
    await system.front()
    return await system.customer("two", tier="free")


async def test_sessions_beyond_the_quota_are_refused_in_both_dialects(system: System) -> None:
    api = await _limited(system)
    first = await kombify_client.session(api)
    await api.submit("hello")
    refusal = api_client.refused(await api.post(CHAT, json={"message": "b"}), 403, "QUOTA_EXCEEDED")
    assert refusal["error"] == (
        "The account has 2 sessions; 2 are allowed. Deleting sessions makes room."
    )
    assert (refusal["quota"], refusal["used"], refusal["limit"]) == ("sessions", 2, 2)
    answer = await api.post(kombify_client.SESSIONS, json={})
    assert int(answer.headers["ratelimit-limit"]) == 1_000
    error = kombify_client.refused(answer, 403, "QUOTA_EXCEEDED")
    assert error["details"] == {"quota": "sessions", "used": 2, "limit": 2}
    kombify_client.refused(
        await api.post(kombify_client.CHAT, json={"message": "b"}), 403, "QUOTA_EXCEEDED"
    )
    await api.submit("more", session_id=first["id"])
    assert (await api.delete(f"{kombify_client.SESSIONS}/{first['id']}")).status_code == 204
    await kombify_client.session(api)


async def test_bytes_beyond_the_quota_are_refused_until_something_is_deleted(
    system: System,
) -> None:
    api = await _limited(system)
    receipt = await api.submit("x" * 2_500)
    # A cancelled message costs nothing, but is stored.
    await api.post(receipt["cancel_url"])
    asked = {"message": "x" * 2_500}
    refusal = api_client.refused(await api.post(CHAT, json=asked), 403, "QUOTA_EXCEEDED")
    assert "MB that are allowed" in refusal["error"]
    assert (refusal["quota"], refusal["limit"]) == ("stored_bytes", 4_000)
    assert 2_500 < refusal["used"] < 4_000
    answer = await api.post(kombify_client.SESSIONS, json={"metadata": {"k" * 60: "v" * 500}})
    assert answer.status_code == 201
    metadata = {f"k{n}": "v" * 500 for n in range(3)}
    answer = await api.post(kombify_client.SESSIONS, json={"metadata": metadata})
    assert kombify_client.refused(answer, 403, "QUOTA_EXCEEDED")["details"]["quota"] == "sessions"
    body(await api.delete(f"/api/v1/chat/conversations/{receipt['session_id']}"))
    await api.submit("x" * 2_500)


async def test_nothing_more_is_stored_on_a_server_that_is_nearly_full(
    own_system: System, own_server: Server
) -> None:
    await own_system.front()
    api = await own_system.customer("two", tier="free")
    made = await kombify_client.session(api, name="before")
    with own_server.raw_client() as raw_client:
        raw_client("SETRANGE", "ballast", 32 * 1024 * 1024, "x")
        used = int(raw_client("INFO", "memory")["used_memory"])
        raw_client("CONFIG", "SET", "maxmemory", int(used / 0.85))
    own_system.clock.advance(10)
    await api.get("/api/v1/account/credits")
    path = f"{kombify_client.SESSIONS}/{made['id']}"
    headers = {"idempotency-key": "k"}
    answers = [
        await api.post(kombify_client.SESSIONS, json={}, headers=headers),
        await api.patch(path, json={"name": "after"}),
        await api.put("/v1/ai/preferences/model", json={"model": "alpha"}),
    ]
    for answer in answers:
        kombify_client.refused(answer, 503, "QUEUE_FULL")
        assert int(answer.headers["retry-after"]) >= 1
    assert (await api.get(path)).json()["name"] == "before"
    assert (await api.delete(path)).status_code == 204
