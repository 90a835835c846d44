"""An account's own API keys: made with no more rights than the key that asks, listed, deleted."""

import asyncio
from typing import Any, Final

import httpx
import pytest

from shared import ids
from shared.clock import instant, iso
from shared.redis import functions, keys
from shared.wire.account import SCOPES, Scope
from tests.api.kombify import CHAT, KEYS, SESSIONS, TIME, refused, told
from tests.api.test_kolbo_lists import NO_NUMBERS
from tests.support.customer import Customer, Json
from tests.support.follower import ENDS, following
from tests.support.server import Server
from tests.support.system import System

pytestmark = pytest.mark.each_once

CREDITS: Final = "/api/v1/account/credits"
_MANAGING: Final[tuple[Scope, ...]] = ("chat", "read", "keys")
_PATIENCE_SECONDS: Final = 10.0


@pytest.fixture
async def owner(system: System) -> Customer:
    """Return a program of the account whose key may make others."""
    await system.front()
    made = await system.customer(scopes=_MANAGING)
    # Its key is older than all others.
    system.clock.turn(1)
    return made


async def _make(caller: Customer, **fields: object) -> Json:
    return told(await caller.post(KEYS, json=fields), 201)


async def _ids(caller: Customer) -> list[str]:
    return [each["id"] for each in told(await caller.get(KEYS))["items"]]


async def test_a_key_is_made_that_opens_the_account(owner: Customer, system: System) -> None:
    answer = await owner.post(KEYS, json={"name": "Küche 👩‍💻", "scopes": ["read"]})
    made = told(answer, 201)
    assert made.keys() == {
        "id", "name", "scopes", "created_at", "created_by", "expires_at", "key",
    }  # fmt: skip
    assert (made["name"], made["scopes"], made["expires_at"]) == ("Küche 👩‍💻", ["read"], None)
    assert TIME.fullmatch(made["created_at"])
    assert answer.headers["location"] == f"{KEYS}/{made['id']}"
    assert answer.headers["ratelimit-limit"] == "6000"
    assert answer.headers["cache-control"] == "no-store"
    caller = await system.caller({"x-api-key": made["key"]})
    assert (await caller.get(CREDITS)).status_code == 200
    refused(await caller.post(CHAT, json={"message": "hello"}), 403, "FORBIDDEN")
    refused(await caller.get(KEYS), 403, "FORBIDDEN")
    listed = told(await owner.get(KEYS))
    assert listed["items"][0] == {name: made[name] for name in made if name != "key"}
    assert made["created_by"] == listed["items"][1]["id"]
    assert (listed["total"], listed["items"][1]["created_by"]) == (2, None)
    assert made["key"] not in str(listed)


async def test_nothing_of_a_key_must_be_said(system: System) -> None:
    await system.front()
    everything = await system.customer(scopes=SCOPES)
    nothing: tuple[Json, ...] = ({}, {"name": None, "scopes": None, "expires_at": None})
    for asked in nothing:
        made = await _make(everything, **asked)
        assert (made["name"], made["expires_at"]) == (None, None)
        assert made["scopes"] == ["chat", "read"]
    reader = await system.customer(scopes=("keys", "read"))
    assert (await _make(reader))["scopes"] == ["read"]
    bare = await system.customer(scopes=("keys",))
    answer = await bare.post(KEYS, json={})
    assert "`scopes`" in refused(answer, 400, "MISSING_FIELDS")["message"]
    assert (await _make(bare, scopes=["keys"]))["scopes"] == ["keys"]


async def test_no_key_is_made_with_more_rights(owner: Customer, system: System) -> None:
    for scope in ("approve", "operator"):
        answer = await owner.post(KEYS, json={"scopes": ["read", scope]})
        assert f"`{scope}`" in refused(answer, 403, "FORBIDDEN")["message"]
    child = await _make(owner, scopes=["keys", "read"])
    caller = await system.caller({"x-api-key": child["key"]})
    assert (
        "`chat`"
        in refused(await caller.post(KEYS, json={"scopes": ["chat"]}), 403, "FORBIDDEN")["message"]
    )
    grandchild = await _make(caller)
    assert (grandchild["scopes"], grandchild["created_by"]) == (["read"], child["id"])
    assert len(await _ids(owner)) == 3


async def test_no_key_outlives_the_one_that_made_it(system: System) -> None:
    await system.front()
    until = system.clock.now_ms() // 1000 * 1000 + 3_600_000
    key = await system.key(scopes=_MANAGING, expires_ms=until)
    caller = await system.caller({"x-api-key": key.key})
    assert (await _make(caller))["expires_at"] == iso(until)
    assert (await _make(caller, expires_at=iso(until)))["expires_at"] == iso(until)
    made = await _make(caller, expires_at=iso(until - 1_800_000))
    twin = await system.caller({"x-api-key": made["key"]})
    assert (await twin.get(CREDITS)).status_code == 200
    for text in (iso(until + 1_000), "9999-12-31T23:59:59Z"):
        answer = await caller.post(KEYS, json={"expires_at": text})
        assert iso(until) in refused(answer, 403, "FORBIDDEN")["message"]
    system.clock.turn(1_801)
    answer = await twin.get(CREDITS)
    assert answer.status_code == 401
    assert "expired" in answer.json()["error"]


async def test_what_a_key_cannot_be_is_refused(owner: Customer, system: System) -> None:
    now = system.clock.now_ms()
    wrong: dict[str, tuple[Any, ...]] = {
        "name": ("", "n" * 101, 3, "a\0", "a\nb", "\x1b[2J", "\u202eevil", "\x9b", "\u2028"),
        "scopes": ([], "read", ["root"], [3], ["read", None], {}, ["read"] * 17),
        "expires_at": (
            *("", "soon", "2030-01-31", "2030-02-30T00:00:00Z", "2030-01-31T12:00:00"),
            *("2030-01-31T24:00:61Z", "٢٠٣٠-01-31T12:00:00Z", 1_900_000_000, iso(now - 1_000)),
            "0001-01-01T00:00:00Z",
        ),
        "operator": (True,),
        "created_by": (ids.new_id(),),
        "account": ("two",),
    }
    for name, values in wrong.items():
        for value in values:
            answer = await owner.post(KEYS, json={name: value})
            assert f"`{name}" in refused(answer, 400, "INVALID_FIELDS")["message"], (name, value)
    answer = await owner.post(KEYS, json={"scopes": ["read", "root"]})
    assert "`approve`, `chat`, `keys`, `operator` or `read`" in answer.json()["message"]
    # A body that is far too large is not read to its end, and nothing comes of it.
    headers = {"content-length": "10000000", "content-type": "application/json"}
    refused(
        await owner.post(KEYS, content=b"{" + b" " * 9_999_999, headers=headers),
        413,
        "PAYLOAD_TOO_LARGE",
    )
    assert len(await _ids(owner)) == 1


async def test_times_are_taken_as_programs_write_them(owner: Customer) -> None:
    for text in ("2999-01-31T12:00:00.250Z", "2999-01-31T14:00:00+02:00"):
        assert (await _make(owner, expires_at=text))["expires_at"] == "2999-01-31T12:00:00Z"
    assert instant("2999-01-31T12:00:00Z")


async def test_a_key_is_deleted_once(owner: Customer, system: System) -> None:
    made = await _make(owner)
    caller = await system.caller({"x-api-key": made["key"]})
    assert (await caller.get(CREDITS)).status_code == 200
    answer = await owner.delete(f"{KEYS}/{made['id']}")
    assert (answer.status_code, answer.content) == (204, b"")
    system.clock.turn(1.0)
    assert (await caller.get(CREDITS)).status_code == 401
    refused(await owner.delete(f"{KEYS}/{made['id']}"), 404, "NOT_FOUND")
    assert made["id"] not in await _ids(owner)
    # Nothing is left of it.
    assert made["id"] not in {key.id for key in await system.accounts.list_keys()}
    for id_ in (ids.new_id(), "x", "a:b", "x" * 65, "*", "%C3%A9", "%0A"):
        refused(await owner.delete(f"{KEYS}/{id_}"), 404, "NOT_FOUND")


async def test_a_key_may_delete_itself(owner: Customer) -> None:
    [own] = await _ids(owner)
    assert (await owner.delete(f"{KEYS}/{own}")).status_code == 204
    assert (await owner.get(CREDITS)).status_code == 401


async def test_what_an_operator_made_stays_known_as_revoked(
    owner: Customer, system: System
) -> None:
    made = await system.key()
    assert (await owner.delete(f"{KEYS}/{made.key_id}")).status_code == 204
    refused(await owner.delete(f"{KEYS}/{made.key_id}"), 404, "NOT_FOUND")
    caller = await system.caller({"x-api-key": made.key})
    assert "revoked" in (await caller.get(CREDITS)).json()["error"]
    [kept] = [key for key in await system.accounts.list_keys() if key.id == made.key_id]
    assert kept.revoked is not None


async def test_a_key_with_more_rights_is_listed_but_cannot_be_deleted(
    owner: Customer, system: System
) -> None:
    greater = await system.key(scopes=("read", "operator"))
    assert greater.key_id in await _ids(owner)
    answer = await owner.delete(f"{KEYS}/{greater.key_id}")
    assert "`operator`" in refused(answer, 403, "FORBIDDEN")["message"]
    caller = await system.caller({"x-api-key": greater.key})
    assert (await caller.get(CREDITS)).status_code == 200


async def test_keys_beyond_the_quota_are_refused_until_one_is_deleted(system: System) -> None:
    system.change_tier("enterprise", keys_max=4)
    await system.front()
    owner = await system.customer(scopes=_MANAGING)
    # Of ten at once, as many are made as there is room for.
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
    await _make(owner)
    refused(await owner.post(KEYS, json={}), 403, "QUOTA_EXCEEDED")
    # Operators are not bound by it, and what they revoke makes room.
    extra = [await system.key() for _ in range(2)]
    assert refused(await owner.post(KEYS, json={}), 403, "QUOTA_EXCEEDED")["details"]["used"] == 6
    for each in (*extra, made[1]["id"], made[2]["id"]):
        assert await system.accounts.revoke_key(each if isinstance(each, str) else each.key_id)
    await _make(owner)
    assert told(await owner.get(KEYS))["total"] == 3


async def test_keys_that_expired_make_room(system: System) -> None:
    system.change_tier("enterprise", keys_max=2)
    await system.front()
    owner = await system.customer(scopes=_MANAGING)
    made = await _make(owner)
    root = keys.system_root(system.settings.redis)
    refused(await owner.post(KEYS, json={}), 403, "QUOTA_EXCEEDED")
    await system.redis.call("ZADD", keys.KEY_ENDS(root, "one"), 1, made["id"])
    again = await _make(owner)
    listed = await _ids(owner)
    assert again["id"] in listed
    assert made["id"] not in listed
    assert made["id"] not in {key.id for key in await system.accounts.list_keys()}


async def test_a_repeated_request_shows_no_key_twice(owner: Customer, system: System) -> None:
    headers = {"idempotency-key": "k"}
    answers = await asyncio.gather(
        *(owner.post(KEYS, json={"name": "one"}, headers=headers) for _ in range(5))
    )
    made = [told(answer, 201) for answer in answers]
    assert len({each["id"] for each in made}) == 1
    [shown] = [each["key"] for each in made if each["key"] is not None]
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 4
    assert (await (await system.caller({"x-api-key": shown})).get(CREDITS)).status_code == 200
    refused(
        await owner.post(KEYS, json={"name": "two"}, headers=headers), 422, "IDEMPOTENCY_MISMATCH"
    )
    for path, asked in ((SESSIONS, {}), (CHAT, {"message": "a"})):
        refused(await owner.post(path, json=asked, headers=headers), 422, "IDEMPOTENCY_MISMATCH")
    told(await owner.post(SESSIONS, json={}, headers={"idempotency-key": "s"}), 201)
    answer = await owner.post(KEYS, json={}, headers={"idempotency-key": "s"})
    refused(answer, 422, "IDEMPOTENCY_MISMATCH")
    assert len(await _ids(owner)) == 2
    # Deleting it forgets the Idempotency-Key, too.
    await owner.delete(f"{KEYS}/{made[0]['id']}")
    again = told(await owner.post(KEYS, json={"name": "one"}, headers=headers), 201)
    assert again["id"] != made[0]["id"]
    assert again["key"]


async def test_a_refused_request_may_be_repeated(system: System) -> None:
    system.change_tier("enterprise", keys_max=2)
    await system.front()
    owner = await system.customer(scopes=_MANAGING)
    made = await _make(owner)
    headers = {"idempotency-key": "k"}
    refused(await owner.post(KEYS, json={}, headers=headers), 403, "QUOTA_EXCEEDED")
    refused(await owner.post(KEYS, json={"name": "b"}, headers=headers), 403, "QUOTA_EXCEEDED")
    await owner.delete(f"{KEYS}/{made['id']}")
    answer = await owner.post(KEYS, json={}, headers=headers)
    assert told(answer, 201)["key"]
    assert "idempotent-replayed" not in answer.headers


async def test_a_request_whose_front_died_in_between_is_finished_by_the_next(
    owner: Customer, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = functions.create_own_key

    async def cut(*_: object) -> None:
        raise ConnectionError

    system.expected |= {"unexpected"}
    monkeypatch.setattr(functions, "create_own_key", cut)
    headers = {"idempotency-key": "k"}
    assert (await owner.post(KEYS, json={}, headers=headers)).status_code == 500
    monkeypatch.setattr(functions, "create_own_key", create)
    made = told(await owner.post(KEYS, json={}, headers=headers), 201)
    assert made["key"]
    again = told(await owner.post(KEYS, json={}, headers=headers), 201)
    assert (again["id"], again["key"]) == (made["id"], None)


async def test_keys_are_listed_in_parts_last_made_first(owner: Customer, system: System) -> None:
    for n in range(4):
        await _make(owner, name=f"k{n}")
        system.clock.turn(1)
    made = ["k3", "k2", "k1", "k0", None]
    for limit, offset in ((2, 0), (2, 3), (2, 4), (5, 0), (1, 9), (100, 0)):
        part = told(await owner.get(KEYS, params={"limit": limit, "offset": offset}))
        names = [each["name"] for each in part["items"]]
        assert names == made[offset : offset + limit]
        assert (part["total"], part["limit"], part["offset"]) == (5, limit, offset)
    for text in NO_NUMBERS:
        wrong = await owner.get(KEYS, params={"limit": text})
        assert "`limit`" in refused(wrong, 400, "INVALID_FIELDS")["message"]


def _all_of(answer: httpx.Response) -> tuple[int, Json, set[str]]:
    decoded: Json = answer.json()
    decoded.pop("meta")
    return answer.status_code, decoded, set(answer.headers)


async def test_another_accounts_keys_answer_as_unknown(owner: Customer, system: System) -> None:
    mine = await _make(owner, name="my secret")
    stranger = await system.customer("two", scopes=SCOPES)
    known = await _ids(owner)
    for id_ in known:
        answers = [await stranger.delete(f"{KEYS}/{each}") for each in (id_, ids.new_id())]
        assert _all_of(answers[0]) == _all_of(answers[1])
        refused(answers[0], 404, "NOT_FOUND")
    assert mine["id"] not in await _ids(stranger)
    assert "my secret" not in (await stranger.get(KEYS)).text
    assert await _ids(owner) == known
    caller = await system.caller({"x-api-key": mine["key"]})
    assert (await caller.get(CREDITS)).status_code == 200


async def test_a_key_that_was_just_revoked_makes_and_deletes_nothing(
    owner: Customer, system: System
) -> None:
    """The front still trusts what it knows of the key; what it asks for is decided in Redis."""
    made = await _make(owner)
    [own] = [each for each in await _ids(owner) if each != made["id"]]
    assert await system.accounts.revoke_key(own)
    refused(await owner.post(KEYS, json={}), 401, "INVALID_API_KEY")
    refused(
        await owner.post(KEYS, json={}, headers={"idempotency-key": "k"}), 401, "INVALID_API_KEY"
    )
    refused(await owner.delete(f"{KEYS}/{made['id']}"), 401, "INVALID_API_KEY")
    assert (await (await system.caller({"x-api-key": made["key"]})).get(CREDITS)).status_code == 200


async def test_what_a_deleted_key_has_open_ends_on_every_front(
    owner: Customer, system: System
) -> None:
    other_front = await system.front()
    made = await _make(owner)
    receipt = await owner.ask("hello")
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
            assert not [event for event in stream.heard if event.name in ENDS]
            assert ": the API key was revoked or has expired" in stream.comments


async def test_keys_count_as_submissions(system: System) -> None:
    await system.front()
    owner = await system.customer(tier="free", scopes=_MANAGING)
    for _ in range(9):
        await _make(owner)
    await owner.ask("hello")
    answer = await owner.post(KEYS, json={})
    refused(answer, 429, "RATE_LIMITED")
    assert int(answer.headers["retry-after"]) >= 1
    for id_ in (await _ids(owner))[:3]:
        assert (await owner.delete(f"{KEYS}/{id_}")).status_code == 204


async def test_on_a_full_server_keys_are_deleted_and_not_made(
    own_system: System, own_server: Server
) -> None:
    own_system.expected |= {"unavailable"}
    await own_system.front()
    owner = await own_system.customer(scopes=_MANAGING)
    made = await _make(owner)
    with own_server.look() as look:
        look("CONFIG", "SET", "maxmemory", 1)
    # First by what Redis refuses, then by what the front knows of its memory.
    for seconds, code in ((0, "UNAVAILABLE"), (10, "QUEUE_FULL")):
        own_system.clock.turn(seconds)
        if seconds:
            await owner.get(CREDITS)
        answer = await owner.post(KEYS, json={}, headers={"idempotency-key": "k"})
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["code"] in {code, "QUEUE_FULL"}
    assert told(await owner.get(KEYS))["total"] == 2
    assert (await owner.delete(f"{KEYS}/{made['id']}")).status_code == 204
    assert told(await owner.get(KEYS))["total"] == 1
