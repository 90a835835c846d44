"""A repeated request is answered as the first one was, even where a new one would be refused."""

from collections.abc import Awaitable, Callable
from typing import Final

import httpx
import msgspec
import pytest

from tests.api import kombify_client
from tests.api.kombify_client import AI, SESSIONS
from tests.support.api_client import Json, body, refused
from tests.support.redis_server import Server
from tests.support.system import System

KOLBO: Final = "/api/v1/chat"
COMPANION: Final = f"{AI}/companion/devops/chat"
REPLAYED: Final = "idempotent-replayed"
KEY: Final = {"idempotency-key": "k"}
OTHER: Final = {"idempotency-key": "another"}


async def _without_models(system: System) -> None:
    models = tuple(model for model in system.settings.models if model.identifier == "beta")
    system.settings = msgspec.structs.replace(system.settings, models=models)


async def _with_short_messages(system: System) -> None:
    system.change("limits", message_characters_max=2)


async def _without_companions(system: System) -> None:
    system.settings = msgspec.structs.replace(system.settings, companions=())


async def _without_workers(system: System) -> None:
    for worker in system.workers:
        await system.stop(worker)


Change = Callable[[System], Awaitable[None]]
CASES: Final[list[tuple[str, Change, Json, str]]] = [
    (KOLBO, _without_models, {"model": "alpha"}, "MODEL_NOT_FOUND"),
    (KOLBO, _with_short_messages, {}, "INVALID_FIELDS"),
    (kombify_client.CHAT, _without_models, {"model": "alpha"}, "MODEL_NOT_FOUND"),
    (kombify_client.CHAT, _with_short_messages, {}, "INVALID_FIELDS"),
    (COMPANION, _without_companions, {}, "COMPANION_NOT_FOUND"),
    (COMPANION, _without_workers, {}, "BRAIN_UNAVAILABLE"),
]


def _generation_of(answer: httpx.Response) -> str:
    """Return the generation of a response, in either dialect."""
    if answer.headers["content-type"] == "text/event-stream; charset=utf-8":
        lines = [line for line in answer.text.splitlines() if line.startswith("data:")]
        return str(msgspec.json.decode(lines[0][5:])["id"])
    payload: Json = answer.json()
    return str(payload["message_id"] if "message_id" in payload else payload["id"])


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(("path", "change", "asked", "code"), CASES)
async def test_a_replay_is_answered_where_a_new_request_would_be_refused(
    system: System, path: str, change: Change, asked: Json, code: str, *, streams: bool
) -> None:
    await system.front()
    await system.worker()
    api = await system.customer()
    asked = {"message": "hello", **asked}
    if streams and path != KOLBO:
        asked["stream"] = True
    first = await api.post(path, json=asked, headers=KEY)
    assert first.status_code == 200, first.text
    await change(system)
    url = await system.front()
    fresh = await api.post(url + path, json=asked, headers=OTHER)
    assert fresh.json()["code"] == code
    again = await api.post(url + path, json=asked, headers=KEY)
    assert (again.status_code, again.headers.get(REPLAYED)) == (200, "true"), again.text
    assert _generation_of(again) == _generation_of(first)
    differs = await api.post(url + path, json={**asked, "message": "else"}, headers=KEY)
    assert (differs.status_code, differs.json()["code"]) == (422, "IDEMPOTENCY_MISMATCH")


async def test_a_replay_without_room_to_wait_gets_its_poll_url(
    system: System,
) -> None:
    system.change("api", wait_seconds_max=1)
    system.change_tier("enterprise", waits_max=0)
    full = await system.front()
    system.change_tier("enterprise", waits_max=10)
    url = await system.front()
    api = await system.customer()
    asked: Json = {"message": "hello"}
    first = kombify_client.payload(
        await api.post(url + kombify_client.CHAT, json=asked, headers=KEY), 202
    )
    fresh = await api.post(full + kombify_client.CHAT, json=asked, headers=OTHER)
    kombify_client.refused(fresh, 429, "RATE_LIMITED")
    again = await api.post(full + kombify_client.CHAT, json=asked, headers=KEY)
    assert kombify_client.payload(again, 202)["id"] == first["id"]
    assert again.headers[REPLAYED] == "true"


async def test_replay_is_answered_by_a_server_that_takes_nothing_in(
    own_system: System, own_server: Server
) -> None:
    await own_system.front()
    api = await own_system.customer()
    first = body(await api.post(KOLBO, json={"message": "hello"}, headers=KEY))
    made = kombify_client.payload(
        await api.post(SESSIONS, json={"name": "one"}, headers=OTHER), 201
    )
    own_system.expected.add("unavailable")
    with own_server.raw_client() as raw_client:
        raw_client("CONFIG", "SET", "maxmemory", 1)
        new = await api.post(KOLBO, json={"message": "hello"}, headers={"idempotency-key": "new"})
        again = await api.post(KOLBO, json={"message": "hello"}, headers=KEY)
        session = await api.post(SESSIONS, json={"name": "one"}, headers=OTHER)
        raw_client("CONFIG", "SET", "maxmemory", 0)
    assert new.status_code == 503
    assert (body(again)["message_id"], again.headers[REPLAYED]) == (first["message_id"], "true")
    assert kombify_client.payload(session, 201)["id"] == made["id"]


async def test_replays_have_a_limit_of_their_own(system: System) -> None:
    system.change_tier("enterprise", refused_per_minute=3)
    await system.front()
    api = await system.customer()
    receipts = [await api.post(KOLBO, json={"message": "hello"}, headers=KEY) for _ in range(4)]
    assert len({_generation_of(each) for each in receipts}) == 1
    limited = await api.post(KOLBO, json={"message": "hello"}, headers=KEY)
    assert int(limited.headers["retry-after"]) > 0
    refused(limited, 429, "RATE_LIMITED")
    # It counts against neither the submission limit nor the reads.
    body(await api.post(KOLBO, json={"message": "hello"}, headers=OTHER))
    body(await api.get(receipts[0].json()["poll_url"]))
