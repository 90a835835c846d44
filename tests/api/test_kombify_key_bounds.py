"""An account's own API keys under pressure: quotas, repeated requests, other accounts, races."""

import asyncio
from typing import Final

import httpx
import pytest

from shared import ids
from shared.clock import iso
from shared.errors import UnavailableError
from shared.redis import functions, keys
from shared.stores.accounts import Accounts
from shared.wire.account import SCOPES
from tests.api.kombify_client import (
    CHAT,
    KEYS,
    MANAGING,
    SESSIONS,
    key_ids,
    make_key,
    payload,
    refused,
)
from tests.support.api_client import ApiClient, Json
from tests.support.redis_server import Server
from tests.support.stream_reader import ENDS, following
from tests.support.system import System

CREDITS: Final = "/api/v1/account/credits"
_PATIENCE_SECONDS: Final = 10.0


async def test_keys_beyond_the_quota_are_refused_until_one_is_deleted(system: System) -> None:
    system.change_tier("enterprise", keys_max=4)
    await system.front()
    owner = await system.customer(scopes=MANAGING)
    # Of ten at once, as many are created as the quota allows.
    answers = await asyncio.gather(*(owner.post(KEYS, json={}) for _ in range(10)))
    made = [answer.json() for answer in answers if answer.status_code == 201]
    assert len(made) == 3
    for answer in answers:
        if answer.status_code != 201:
            error = refused(answer, 403, "QUOTA_EXCEEDED")
            assert error["message"] == (
                "The account has 4 API keys; 4 are allowed. Deleting keys makes room."
            )
            assert error["details"] == {"quota": "keys", "used": 4, "limit": 4}
            assert answer.headers["ratelimit-limit"] == "6000"
    assert (await owner.delete(f"{KEYS}/{made[0]['id']}")).status_code == 204
    await make_key(owner)
    refused(await owner.post(KEYS, json={}), 403, "QUOTA_EXCEEDED")
    # The quota does not bind operators, and a key that they revoke makes room.
    extra = [await system.key() for _ in range(2)]
    assert refused(await owner.post(KEYS, json={}), 403, "QUOTA_EXCEEDED")["details"]["used"] == 6
    for each in (*extra, made[1]["id"], made[2]["id"]):
        assert await system.accounts.revoke_key(each if isinstance(each, str) else each.key_id)
    await make_key(owner)
    assert payload(await owner.get(KEYS))["total"] == 3


async def test_keys_that_expired_make_room(system: System) -> None:
    system.change_tier("enterprise", keys_max=2)
    await system.front()
    owner = await system.customer(scopes=MANAGING)
    made = await make_key(owner)
    root = keys.system_root(system.settings.redis)
    refused(await owner.post(KEYS, json={}), 403, "QUOTA_EXCEEDED")
    await system.redis.call("ZADD", keys.KEY_EXPIRIES(root, "one"), 1, made["id"])
    again = await make_key(owner)
    listed = await key_ids(owner)
    assert again["id"] in listed
    assert made["id"] not in listed
    assert made["id"] not in {key.id for key in await system.accounts.list_keys()}


async def test_a_repeated_request_shows_no_key_twice(owner: ApiClient, system: System) -> None:
    headers = {"idempotency-key": "k"}
    answers = await asyncio.gather(
        *(owner.post(KEYS, json={"name": "one"}, headers=headers) for _ in range(5))
    )
    made = [payload(answer, 201) for answer in answers]
    assert len({each["id"] for each in made}) == 1
    [shown] = [each["key"] for each in made if each["key"] is not None]
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 4
    assert (await (await system.caller({"x-api-key": shown})).get(CREDITS)).status_code == 200
    refused(
        await owner.post(KEYS, json={"name": "two"}, headers=headers), 422, "IDEMPOTENCY_MISMATCH"
    )
    for path, asked in ((SESSIONS, {}), (CHAT, {"message": "a"})):
        refused(await owner.post(path, json=asked, headers=headers), 422, "IDEMPOTENCY_MISMATCH")
    payload(await owner.post(SESSIONS, json={}, headers={"idempotency-key": "s"}), 201)
    answer = await owner.post(KEYS, json={}, headers={"idempotency-key": "s"})
    refused(answer, 422, "IDEMPOTENCY_MISMATCH")
    assert len(await key_ids(owner)) == 2
    # Deleting it forgets the Idempotency-Key, too.
    await owner.delete(f"{KEYS}/{made[0]['id']}")
    again = payload(await owner.post(KEYS, json={"name": "one"}, headers=headers), 201)
    assert again["id"] != made[0]["id"]
    assert again["key"]


async def test_a_deleted_keys_id_is_given_to_no_other_key(
    owner: ApiClient, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    system.expected |= {"unavailable"}

    async def away(*_: object) -> None:
        raise UnavailableError("The receipt's server is away.")

    headers = {"idempotency-key": "k"}
    made = [payload(await owner.post(KEYS, json={"name": "a"}, headers=headers), 201)]
    for name in ("a", "b"):
        with monkeypatch.context() as patch:
            patch.setattr(functions, "release_idempotency_key", away)
            assert (await owner.delete(f"{KEYS}/{made[-1]['id']}")).status_code == 503
        if name == "b":
            # Deleting it once more forgets the Idempotency-Key, which any request may then have.
            answer = await owner.post(KEYS, json={"name": name}, headers=headers)
            refused(answer, 422, "IDEMPOTENCY_MISMATCH")
            refused(await owner.delete(f"{KEYS}/{made[-1]['id']}"), 404, "NOT_FOUND")
        answers = await asyncio.gather(
            *(owner.post(KEYS, json={"name": name}, headers=headers) for _ in range(3))
        )
        again = [payload(answer, 201) for answer in answers]
        assert len({each["id"] for each in again}) == 1
        assert len([each for each in again if each["key"]]) == 1
        made.append(again[0])
    assert len({each["id"] for each in made}) == 3
    assert len(await key_ids(owner)) == 2


async def test_an_expired_keys_id_is_given_to_no_other_key(
    owner: ApiClient, system: System
) -> None:
    headers = {"idempotency-key": "k"}
    made = payload(await owner.post(KEYS, json={}, headers=headers), 201)
    ends = keys.KEY_EXPIRIES(keys.system_root(system.settings.redis), "one")
    await system.redis.call("ZADD", ends, 1, made["id"])
    await make_key(owner)
    again = payload(await owner.post(KEYS, json={}, headers=headers), 201)
    assert again["key"]
    assert again["id"] != made["id"]


async def test_a_request_is_repeated_whatever_has_become_of_its_time(
    owner: ApiClient, system: System
) -> None:
    asked = {"expires_at": iso(system.clock.now_ms() + 60_000)}
    headers = {"idempotency-key": "k"}
    made = payload(await owner.post(KEYS, json=asked, headers=headers), 201)
    system.clock.advance(3_600)
    refused(await owner.post(KEYS, json=asked), 400, "INVALID_FIELDS")
    again = await owner.post(KEYS, json=asked, headers=headers)
    assert payload(again, 201) == made | {"key": None}
    assert again.headers["idempotent-replayed"] == "true"


async def test_a_refused_request_may_be_repeated(system: System) -> None:
    system.change_tier("enterprise", keys_max=2)
    await system.front()
    owner = await system.customer(scopes=MANAGING)
    made = await make_key(owner)
    headers = {"idempotency-key": "k"}
    refused(await owner.post(KEYS, json={}, headers=headers), 403, "QUOTA_EXCEEDED")
    refused(await owner.post(KEYS, json={"name": "b"}, headers=headers), 403, "QUOTA_EXCEEDED")
    await owner.delete(f"{KEYS}/{made['id']}")
    answer = await owner.post(KEYS, json={}, headers=headers)
    assert payload(answer, 201)["key"]
    assert "idempotent-replayed" not in answer.headers


async def test_a_request_whose_server_died_is_finished_by_the_next(
    owner: ApiClient, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = functions.create_own_key

    async def cut(*_: object) -> None:
        raise ConnectionError

    system.expected |= {"unexpected"}
    monkeypatch.setattr(functions, "create_own_key", cut)
    headers = {"idempotency-key": "k"}
    assert (await owner.post(KEYS, json={}, headers=headers)).status_code == 500
    monkeypatch.setattr(functions, "create_own_key", create)
    made = payload(await owner.post(KEYS, json={}, headers=headers), 201)
    assert made["key"]
    again = payload(await owner.post(KEYS, json={}, headers=headers), 201)
    assert (again["id"], again["key"]) == (made["id"], None)


def _all_of(answer: httpx.Response) -> tuple[int, Json, set[str]]:
    decoded: Json = answer.json()
    decoded.pop("meta")
    return answer.status_code, decoded, set(answer.headers)


async def test_another_accounts_keys_answer_as_unknown(owner: ApiClient, system: System) -> None:
    mine = await make_key(owner, name="my secret")
    stranger = await system.customer("two", scopes=SCOPES)
    known = await key_ids(owner)
    for id_ in known:
        answers = [await stranger.delete(f"{KEYS}/{each}") for each in (id_, ids.new_id())]
        assert _all_of(answers[0]) == _all_of(answers[1])
        refused(answers[0], 404, "NOT_FOUND")
    assert mine["id"] not in await key_ids(stranger)
    assert "my secret" not in (await stranger.get(KEYS)).text
    assert await key_ids(owner) == known
    caller = await system.caller({"x-api-key": mine["key"]})
    assert (await caller.get(CREDITS)).status_code == 200


async def test_a_key_that_was_just_revoked_makes_and_deletes_nothing(
    owner: ApiClient, system: System
) -> None:
    """The server's cache still has the key; Redis decides what it may do."""
    made = await make_key(owner)
    [own] = [each for each in await key_ids(owner) if each != made["id"]]
    assert await system.accounts.revoke_key(own)
    refused(await owner.post(KEYS, json={}), 401, "INVALID_API_KEY")
    refused(
        await owner.post(KEYS, json={}, headers={"idempotency-key": "k"}), 401, "INVALID_API_KEY"
    )
    refused(await owner.delete(f"{KEYS}/{made['id']}"), 401, "INVALID_API_KEY")
    assert (await (await system.caller({"x-api-key": made["key"]})).get(CREDITS)).status_code == 200


async def _find_nothing(*_: object) -> set[str]:
    return set()


async def test_what_a_deleted_key_has_open_ends_on_every_front(
    owner: ApiClient, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The publication suffices, and arrives first.
    monkeypatch.setattr(Accounts, "find_revoked", _find_nothing)
    other_front = await system.front()
    made = await make_key(owner)
    receipt = await owner.submit("hello")
    callers = [
        await system.caller({"x-api-key": made["key"]}, url) for url in (system.url, other_front)
    ]
    async with (
        following(callers[0], receipt["events_url"]) as first,
        following(callers[1], receipt["events_url"]) as second,
    ):
        for stream in (first, second):
            await stream.until("accepted")
        assert (await owner.delete(f"{KEYS}/{made['id']}")).status_code == 204
        for stream in (first, second):
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await stream.rest()
            assert not [event for event in stream.received if event.name in ENDS]
            assert ": the API key was revoked or has expired" in stream.comments


async def test_keys_count_as_submissions(system: System) -> None:
    await system.front()
    owner = await system.customer(tier="free", scopes=MANAGING)
    for _ in range(9):
        await make_key(owner)
    await owner.submit("hello")
    answer = await owner.post(KEYS, json={})
    refused(answer, 429, "RATE_LIMITED")
    assert int(answer.headers["retry-after"]) >= 1
    for id_ in (await key_ids(owner))[:3]:
        assert (await owner.delete(f"{KEYS}/{id_}")).status_code == 204


async def test_on_a_full_server_keys_are_deleted_and_not_made(
    own_system: System, own_server: Server
) -> None:
    own_system.expected |= {"unavailable"}
    await own_system.front()
    owner = await own_system.customer(scopes=MANAGING)
    made = await make_key(owner)
    with own_server.raw_client() as raw_client:
        raw_client("CONFIG", "SET", "maxmemory", 1)
    # First by the rejection of Redis, then by the server's cache of its memory.
    for seconds, code in ((0, "UNAVAILABLE"), (10, "QUEUE_FULL")):
        own_system.clock.advance(seconds)
        if seconds:
            await owner.get(CREDITS)
        answer = await owner.post(KEYS, json={}, headers={"idempotency-key": "k"})
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["code"] in {code, "QUEUE_FULL"}
    assert payload(await owner.get(KEYS))["total"] == 2
    assert (await owner.delete(f"{KEYS}/{made['id']}")).status_code == 204
    assert payload(await owner.get(KEYS))["total"] == 1
