"""An account's own API keys: rights, quota, repeated calls, and keys of older processes."""

import asyncio

import msgspec
import pytest

from shared import ids
from shared.clock import SystemClock
from shared.errors import UnavailableError
from shared.redis import functions, keys, library
from shared.redis.client import Connection, Redis
from shared.redis.functions import (
    AdoptKeysAsk,
    CountSubmissionAsk,
    CreateOwnKeyAsk,
    DeleteOwnKeyAsk,
    KeyRefused,
    Rejected,
    ReleaseIdempotencyKeyAsk,
    SubmissionCounted,
)
from shared.settings import RedisSettings
from shared.stores import idempotency_records
from shared.stores.accounts import CreatedKey, NewKey
from shared.wire.account import ApiKey
from tests.support.own_keys import OldKey, OwnKeys
from tests.support.redis_functions import LONG_MS, RedisFunctions


@pytest.fixture
async def key_store(redis: Redis, redis_settings: RedisSettings) -> OwnKeys:
    opened = OwnKeys(redis, redis_settings)
    await opened.open()
    return opened


async def test_rights_are_checked_by_the_stored_records(key_store: OwnKeys) -> None:
    soon = SystemClock().now_ms() + 60_000
    assert await key_store.make(scopes=("read", "approve")) == KeyRefused("lacks", "approve")
    brief = await key_store.create_managing_key(key_store.account, soon)
    for expires in (None, soon + 1):
        assert await key_store.make(brief, expires=expires) == KeyRefused("outlives", soon)
    assert isinstance(await key_store.make(brief, expires=soon), CreatedKey)
    expired = await key_store.create_managing_key(key_store.account, 1)
    assert await key_store.make(expired, expires=1) == KeyRefused("ended")
    # A key of another account, and one that does not exist.
    stranger = await key_store.create_managing_key(await key_store.accounts.create("other", None))
    for by in (stranger.id, ids.new_id()):
        posing = msgspec.structs.replace(key_store.managing_key, id=by)
        assert await key_store.make(posing) == KeyRefused("ended")
        assert await key_store.accounts.delete_own_key(posing, brief.id) == KeyRefused("ended")
    assert await key_store.accounts.revoke_key(key_store.managing_key.id)
    assert await key_store.make() == KeyRefused("ended")
    assert await key_store.accounts.delete_own_key(key_store.managing_key, brief.id) == KeyRefused(
        "ended"
    )
    assert isinstance(await key_store.make(brief, expires=soon), CreatedKey)


async def test_one_of_many_concurrent_calls_gets_the_last_place(key_store: OwnKeys) -> None:
    answers = await asyncio.gather(*(key_store.make(keys_max=4) for _ in range(20)))
    assert sum(isinstance(each, CreatedKey) for each in answers) == 3
    assert [each for each in answers if isinstance(each, KeyRefused)] == [
        KeyRefused("quota", 4)
    ] * 17
    made = set(await key_store.listed()) - {key_store.managing_key.id}
    assert await key_store.accounts.delete_own_key(key_store.managing_key, made.pop()) == "hash"
    again = await asyncio.gather(*(key_store.make(keys_max=4) for _ in range(5)))
    assert sum(isinstance(each, CreatedKey) for each in again) == 1


async def test_repeated_calls_change_nothing(key_store: OwnKeys) -> None:
    record = ApiKey(
        id=ids.new_id(),
        account="acme",
        scopes=("read",),
        created=5,
        created_by=key_store.managing_key.id,
    )
    encoded = msgspec.msgpack.encode(record)
    for hashed, expected in (("a", None), ("a", None), ("b", KeyRefused("exists", encoded))):
        ask = CreateOwnKeyAsk(hash=hashed, keys_max=2)
        assert (
            await functions.create_own_key(key_store.redis, key_store.root, ask, encoded)
            == expected
        )
    deletion = DeleteOwnKeyAsk(
        account="acme", by=record.id, id=record.id, call="first", channel="somewhere"
    )
    for call, expected_deletion in (
        ("first", ""),
        ("first", ""),
        ("second", KeyRefused("ended")),
    ):
        ask_again = msgspec.structs.replace(deletion, call=call)
        answer = await functions.delete_own_key(key_store.redis, key_store.root, ask_again)
        assert answer == expected_deletion
    other = msgspec.structs.replace(deletion, by=key_store.managing_key.id, call="third")
    answer = await functions.delete_own_key(key_store.redis, key_store.root, other)
    assert answer == KeyRefused("unknown")
    assert await key_store.listed() == [key_store.managing_key.id]
    left = await key_store.redis.call("PTTL", keys.DELETED_KEY(key_store.root, "acme", record.id))
    assert 0 < left <= 600_000


async def test_repeated_deletion_returns_the_idempotency_key_again(key_store: OwnKeys) -> None:
    made = await key_store.made()
    deletion = DeleteOwnKeyAsk(
        account="acme",
        by=key_store.managing_key.id,
        id=made.record.id,
        call="first",
        channel="somewhere",
    )
    for _ in range(2):
        assert await functions.delete_own_key(key_store.redis, key_store.root, deletion) == "hash"
    later = await key_store.accounts.delete_own_key(key_store.managing_key, made.record.id)
    assert later == KeyRefused("unknown", "hash")
    assert await key_store.accounts.create_own_key(made.record, 100) == KeyRefused("gone")
    left = await key_store.redis.call(
        "PTTL", keys.DELETED_KEY(key_store.root, "acme", made.record.id)
    )
    assert 600_000 < left <= 600_000 + LONG_MS


async def test_a_deleted_key_leaves_nothing(key_store: OwnKeys) -> None:
    made = await key_store.made(expires=SystemClock().now_ms() + 60_000)
    assert made.key is not None
    assert await key_store.accounts.delete_own_key(key_store.managing_key, made.record.id) == "hash"
    assert await key_store.accounts.authenticate(made.key) is None
    assert await key_store.accounts.find_revoked([made.record.id]) == {made.record.id}
    names = await key_store.redis.call("KEYS", f"{key_store.root}*")
    kept = {name.decode().removeprefix(key_store.root) for name in names}
    assert not kept & {"key-ends:acme"}
    assert await key_store.redis.call("HKEYS", keys.KEY_IDS(key_store.root)) == [
        key_store.managing_key.id.encode()
    ]
    assert await key_store.redis.call("GET", keys.LISTED_KEYS_COUNT(key_store.root)) == b"1"


async def test_expired_keys_make_room_and_those_of_operators_stay_known(key_store: OwnKeys) -> None:
    theirs = await key_store.accounts.create_key(key_store.account, ("read",), expires_ms=1)
    mine = [await key_store.made(expires=1) for _ in range(2)]
    last = await key_store.made(keys_max=2)
    assert await key_store.make(keys_max=2) == KeyRefused("quota", 2)
    assert set(await key_store.listed()) == {last.record.id, key_store.managing_key.id}
    known = {key.id for key in await key_store.accounts.list_keys()}
    assert known == {theirs.key_id, last.record.id, key_store.managing_key.id}
    assert mine[0].record.id not in known


async def test_keys_of_an_older_process_are_listed_counted_and_deleted(key_store: OwnKeys) -> None:
    old = [await key_store.create_as_old_release(created=n) for n in (1, 2)]
    strange = await key_store.create_as_old_release("other", created=5)
    assert await key_store.make(keys_max=3) == KeyRefused("quota", 3)
    assert await key_store.listed() == [key_store.managing_key.id, old[1].key_id, old[0].key_id]
    assert await key_store.listed("other") == [strange.key_id]
    # One more key, which has not been searched for yet.
    newest = await key_store.create_as_old_release()
    assert await key_store.accounts.delete_own_key(key_store.managing_key, newest.key_id) == ""
    later = await key_store.create_as_old_release("other", created=1)
    answer = await key_store.accounts.delete_own_key(key_store.managing_key, later.key_id)
    assert answer == KeyRefused("unknown")
    assert await key_store.listed("other") == [strange.key_id, later.key_id]


async def test_many_keys_of_an_older_process_are_adopted_once(
    key_store: OwnKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = [await key_store.create_as_old_release(f"a{n % 7}", created=n) for n in range(250)]
    adopt = functions.adopt_keys
    passed: list[str] = []

    async def adopt_noted(redis: Connection, root: str, ask: AdoptKeysAsk) -> int:
        passed.extend(ask.ids)
        return await adopt(redis, root, ask)

    monkeypatch.setattr(functions, "adopt_keys", adopt_noted)
    listed = await asyncio.gather(*(key_store.listed(f"a{n}") for n in range(7)))
    assert {each for some in listed for each in some} == {each.key_id for each in old}
    assert sorted(passed) == sorted([key_store.managing_key.id, *(each.key_id for each in old)])


async def test_an_older_process_reads_and_revokes_keys_of_this_one(key_store: OwnKeys) -> None:
    made = await key_store.made(scopes=("chat", "keys"))
    assert made.key is not None
    where = keys.API_KEY(key_store.root, ids.key_hash(made.key, b"pepper"))
    record = msgspec.msgpack.decode(await key_store.redis.call("GET", where), type=OldKey)
    assert (record.id, record.scopes) == (made.record.id, ("chat", "keys"))
    await key_store.revoke_as_old_release(made.record.id)
    assert (await key_store.record(made.key)).revoked == 1
    assert await key_store.make(made.record, scopes=("chat",)) == KeyRefused("ended")
    # It leaves the list and the count when the list is next read.
    assert await key_store.make(keys_max=2) == KeyRefused("quota", 2)
    assert await key_store.listed() == [key_store.managing_key.id]
    assert isinstance(await key_store.make(keys_max=2), CreatedKey)


async def test_keys_that_are_created_while_others_are_adopted_are_found(
    key_store: OwnKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await key_store.create_as_old_release(created=1)
    adopt = functions.adopt_keys
    late: list[NewKey] = []

    async def adopt_late(redis: Connection, root: str, ask: AdoptKeysAsk) -> int:
        if ask.missing is not None and not late:
            late.append(await key_store.create_as_old_release(created=2))
        return await adopt(redis, root, ask)

    monkeypatch.setattr(functions, "adopt_keys", adopt_late)
    assert await key_store.listed() == [key_store.managing_key.id, late[0].key_id, first.key_id]
    # Half a key, whose creator died: it is counted as listed, too.
    await key_store.redis.call("HSET", keys.KEY_IDS(key_store.root), "half", "0" * 64)
    assert len(await key_store.listed()) == 3
    assert await key_store.redis.call("GET", keys.LISTED_KEYS_COUNT(key_store.root)) == b"4"


async def test_keys_are_deleted_on_a_full_server_and_not_created(
    own_redis: Redis, own_settings: RedisSettings
) -> None:
    await library.load(own_redis)
    key_store = OwnKeys(own_redis, own_settings)
    await key_store.open()
    made = await key_store.made()
    old = await key_store.create_as_old_release()
    await own_redis.call("CONFIG", "SET", "maxmemory", 1)
    try:
        with pytest.raises(UnavailableError, match="OOM"):
            await key_store.make()
        for key_id, receipt in ((made.record.id, "hash"), (old.key_id, "")):
            assert (
                await key_store.accounts.delete_own_key(key_store.managing_key, key_id) == receipt
            )
        assert await key_store.listed() == [key_store.managing_key.id]
    finally:
        await own_redis.call("CONFIG", "SET", "maxmemory", 0)


async def test_submission_is_counted_once_for_an_idempotency_key(queue: RedisFunctions) -> None:
    ask = CountSubmissionAsk(
        account="ann",
        per_minute=2,
        id="first",
        idempotency="k",
        fingerprint="same",
        idempotency_ms=LONG_MS,
    )
    taken = await functions.count_submission(queue.redis, queue.root, ask)
    assert isinstance(taken, SubmissionCounted)
    assert taken.rate is not None
    assert (taken.id, taken.rate.limit, taken.rate.remaining) == ("first", 2, 1)
    second = msgspec.structs.replace(ask, id="second")
    assert await functions.count_submission(queue.redis, queue.root, second) == SubmissionCounted(
        "first"
    )
    found = await idempotency_records.find(queue.redis, queue.root, "ann", "k")
    assert found is not None
    assert (found.generation, found.session, found.api_key) == (None, None, "first")
    other = msgspec.structs.replace(second, fingerprint="other")
    assert await functions.count_submission(queue.redis, queue.root, other) == Rejected("mismatch")
    bare = CountSubmissionAsk(account="ann", per_minute=2, id="third")
    assert isinstance(
        await functions.count_submission(queue.redis, queue.root, bare), SubmissionCounted
    )
    limited = await functions.count_submission(queue.redis, queue.root, bare)
    assert isinstance(limited, Rejected)
    assert (limited.reason, limited.rate and limited.rate.remaining) == ("limited", 0)
    for id_, is_kept in (("second", True), ("first", False)):
        free = ReleaseIdempotencyKeyAsk(account="ann", idempotency="k", id=id_)
        await functions.release_idempotency_key(queue.redis, queue.root, free)
        assert (
            await idempotency_records.find(queue.redis, queue.root, "ann", "k") is not None
        ) == is_kept
