"""An account's own API keys: created with no more rights than the caller's key, listed, deleted."""

from typing import Any, Final

from shared import ids
from shared.clock import iso
from shared.wire.account import SCOPES
from tests.api.kombify_client import CHAT, KEYS, MANAGING, TIME, key_ids, make_key, payload, refused
from tests.api.test_kolbo_lists import NO_NUMBERS
from tests.support.api_client import ApiClient, Json
from tests.support.system import System

CREDITS: Final = "/api/v1/account/credits"


async def test_a_key_is_made_that_opens_the_account(owner: ApiClient, system: System) -> None:
    answer = await owner.post(KEYS, json={"name": "Küche 👩‍💻", "scopes": ["read"]})
    made = payload(answer, 201)
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
    listed = payload(await owner.get(KEYS))
    assert listed["items"][0] == {name: made[name] for name in made if name != "key"}
    assert made["created_by"] == listed["items"][1]["id"]
    assert (listed["total"], listed["items"][1]["created_by"]) == (2, None)
    assert made["key"] not in str(listed)


async def test_every_field_of_a_new_key_is_optional(system: System) -> None:
    await system.front()
    everything = await system.customer(scopes=SCOPES)
    nothing: tuple[Json, ...] = ({}, {"name": None, "scopes": None, "expires_at": None})
    for asked in nothing:
        made = await make_key(everything, **asked)
        assert (made["name"], made["expires_at"]) == (None, None)
        assert made["scopes"] == ["chat", "read"]
    reader = await system.customer(scopes=("keys", "read"))
    assert (await make_key(reader))["scopes"] == ["read"]
    bare = await system.customer(scopes=("keys",))
    answer = await bare.post(KEYS, json={})
    assert "`scopes`" in refused(answer, 400, "MISSING_FIELDS")["message"]
    assert (await make_key(bare, scopes=["keys"]))["scopes"] == ["keys"]


async def test_no_key_is_made_with_more_rights(owner: ApiClient, system: System) -> None:
    for scope in ("approve", "operator"):
        answer = await owner.post(KEYS, json={"scopes": ["read", scope]})
        assert f"`{scope}`" in refused(answer, 403, "FORBIDDEN")["message"]
    child = await make_key(owner, scopes=["keys", "read"])
    caller = await system.caller({"x-api-key": child["key"]})
    assert (
        "`chat`"
        in refused(await caller.post(KEYS, json={"scopes": ["chat"]}), 403, "FORBIDDEN")["message"]
    )
    grandchild = await make_key(caller)
    assert (grandchild["scopes"], grandchild["created_by"]) == (["read"], child["id"])
    assert len(await key_ids(owner)) == 3


async def test_no_key_outlives_the_one_that_made_it(system: System) -> None:
    await system.front()
    until = system.clock.now_ms() // 1000 * 1000 + 3_600_000
    key = await system.key(scopes=MANAGING, expires_ms=until)
    caller = await system.caller({"x-api-key": key.key})
    assert (await make_key(caller))["expires_at"] == iso(until)
    assert (await make_key(caller, expires_at=iso(until)))["expires_at"] == iso(until)
    made = await make_key(caller, expires_at=iso(until - 1_800_000))
    twin = await system.caller({"x-api-key": made["key"]})
    assert (await twin.get(CREDITS)).status_code == 200
    for text in (iso(until + 1_000), "9999-12-31T23:59:59Z"):
        answer = await caller.post(KEYS, json={"expires_at": text})
        assert iso(until) in refused(answer, 403, "FORBIDDEN")["message"]
    system.clock.advance(1_801)
    answer = await twin.get(CREDITS)
    assert answer.status_code == 401
    assert "expired" in answer.json()["error"]


async def test_what_a_key_cannot_be_is_refused(owner: ApiClient, system: System) -> None:
    now = system.clock.now_ms()
    wrong: dict[str, tuple[Any, ...]] = {
        "name": ("", "n" * 101, 3, "a\0", "a\nb", "\x1b[2J", "\u202eevil", "\x9b", "\u2028"),
        "scopes": ([], "read", ["root"], [3], ["read", None], {}, ["read"] * 17),
        "expires_at": (
            *("", "soon", "2030-01-31", "2030-02-30T00:00:00Z", "2030-01-31T12:00:00"),
            *("2030-01-31T24:00:61Z", "٢٠٣٠-01-31T12:00:00Z", 1_900_000_000, iso(now - 1_000)),
            *("0001-01-01T00:00:00Z", "9999-12-31T23:59:59-00:01", "0001-01-01T00:00:00+23:59"),
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
    # A far too large body is not read to its end, and has no effect.
    headers = {"content-length": "10000000", "content-type": "application/json"}
    refused(
        await owner.post(KEYS, content=b"{" + b" " * 9_999_999, headers=headers),
        413,
        "PAYLOAD_TOO_LARGE",
    )
    assert len(await key_ids(owner)) == 1


async def test_times_are_taken_as_programs_write_them(owner: ApiClient) -> None:
    for text in ("2999-01-31T12:00:00.250Z", "2999-01-31T14:00:00+02:00"):
        assert (await make_key(owner, expires_at=text))["expires_at"] == "2999-01-31T12:00:00Z"


async def test_a_key_is_deleted_once(owner: ApiClient, system: System) -> None:
    made = await make_key(owner)
    caller = await system.caller({"x-api-key": made["key"]})
    assert (await caller.get(CREDITS)).status_code == 200
    answer = await owner.delete(f"{KEYS}/{made['id']}")
    assert (answer.status_code, answer.content) == (204, b"")
    system.clock.advance(1.0)
    assert (await caller.get(CREDITS)).status_code == 401
    refused(await owner.delete(f"{KEYS}/{made['id']}"), 404, "NOT_FOUND")
    assert made["id"] not in await key_ids(owner)
    # Nothing of it remains.
    assert made["id"] not in {key.id for key in await system.accounts.list_keys()}
    for id_ in (ids.new_id(), "x", "a:b", "x" * 65, "*", "%C3%A9", "%0A"):
        refused(await owner.delete(f"{KEYS}/{id_}"), 404, "NOT_FOUND")


async def test_a_key_may_delete_itself(owner: ApiClient) -> None:
    [own] = await key_ids(owner)
    assert (await owner.delete(f"{KEYS}/{own}")).status_code == 204
    assert (await owner.get(CREDITS)).status_code == 401


async def test_what_an_operator_made_stays_known_as_revoked(
    owner: ApiClient, system: System
) -> None:
    made = await system.key()
    assert (await owner.delete(f"{KEYS}/{made.key_id}")).status_code == 204
    refused(await owner.delete(f"{KEYS}/{made.key_id}"), 404, "NOT_FOUND")
    caller = await system.caller({"x-api-key": made.key})
    assert "revoked" in (await caller.get(CREDITS)).json()["error"]
    [kept] = [key for key in await system.accounts.list_keys() if key.id == made.key_id]
    assert kept.revoked is not None


async def test_a_key_with_more_rights_is_listed_but_cannot_be_deleted(
    owner: ApiClient, system: System
) -> None:
    greater = await system.key(scopes=("read", "operator"))
    assert greater.key_id in await key_ids(owner)
    answer = await owner.delete(f"{KEYS}/{greater.key_id}")
    assert "`operator`" in refused(answer, 403, "FORBIDDEN")["message"]
    caller = await system.caller({"x-api-key": greater.key})
    assert (await caller.get(CREDITS)).status_code == 200


async def test_keys_are_listed_in_parts_last_made_first(owner: ApiClient, system: System) -> None:
    for n in range(4):
        await make_key(owner, name=f"k{n}")
        system.clock.advance(1)
    made = ["k3", "k2", "k1", "k0", None]
    for limit, offset in ((2, 0), (2, 3), (2, 4), (5, 0), (1, 9), (100, 0)):
        part = payload(await owner.get(KEYS, params={"limit": limit, "offset": offset}))
        names = [each["name"] for each in part["items"]]
        assert names == made[offset : offset + limit]
        assert (part["total"], part["limit"], part["offset"]) == (5, limit, offset)
    for text in NO_NUMBERS:
        wrong = await owner.get(KEYS, params={"limit": text})
        assert "`limit`" in refused(wrong, 400, "INVALID_FIELDS")["message"]
