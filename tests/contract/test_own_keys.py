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
    CreateOwnKeyAsk,
    DeleteOwnKeyAsk,
    FreeReceiptAsk,
    NotAccepted,
    NotAllowed,
    Taken,
    TakeSubmissionAsk,
)
from shared.settings import RedisSettings
from shared.stores import receipts
from shared.stores.accounts import NewKey, OwnKey
from shared.wire.account import ApiKey
from tests.support.desk import LONG_MS, Desk
from tests.support.office import Office, OldKey


@pytest.fixture
async def office(redis: Redis, redis_settings: RedisSettings) -> Office:
    opened = Office(redis, redis_settings)
    await opened.open()
    return opened


async def test_rights_are_judged_by_the_records_as_they_are(office: Office) -> None:
    soon = SystemClock().now_ms() + 60_000
    assert await office.make(scopes=("read", "approve")) == NotAllowed("lacks", "approve")
    brief = await office.asker(office.account, soon)
    for expires in (None, soon + 1):
        assert await office.make(brief, expires=expires) == NotAllowed("outlives", soon)
    assert isinstance(await office.make(brief, expires=soon), OwnKey)
    expired = await office.asker(office.account, 1)
    assert await office.make(expired, expires=1) == NotAllowed("ended")
    # A key of another account, and one that nobody knows.
    stranger = await office.asker(await office.accounts.create("other", None))
    for by in (stranger.id, ids.new_id()):
        posing = msgspec.structs.replace(office.asking, id=by)
        assert await office.make(posing) == NotAllowed("ended")
        assert await office.accounts.delete_own_key(posing, brief.id) == NotAllowed("ended")
    assert await office.accounts.revoke_key(office.asking.id)
    assert await office.make() == NotAllowed("ended")
    assert await office.accounts.delete_own_key(office.asking, brief.id) == NotAllowed("ended")
    assert isinstance(await office.make(brief, expires=soon), OwnKey)


async def test_one_of_many_gets_the_last_place(office: Office) -> None:
    answers = await asyncio.gather(*(office.make(keys_max=4) for _ in range(20)))
    assert sum(isinstance(each, OwnKey) for each in answers) == 3
    assert [each for each in answers if isinstance(each, NotAllowed)] == [
        NotAllowed("quota", 4)
    ] * 17
    made = set(await office.listed()) - {office.asking.id}
    assert await office.accounts.delete_own_key(office.asking, made.pop()) == "hash"
    again = await asyncio.gather(*(office.make(keys_max=4) for _ in range(5)))
    assert sum(isinstance(each, OwnKey) for each in again) == 1


async def test_repeated_calls_change_nothing(office: Office) -> None:
    record = ApiKey(
        id=ids.new_id(), account="acme", scopes=("read",), created=5, created_by=office.asking.id
    )
    encoded = msgspec.msgpack.encode(record)
    for hashed, expected in (("a", None), ("a", None), ("b", NotAllowed("exists", encoded))):
        ask = CreateOwnKeyAsk(hash=hashed, keys_max=2)
        assert await functions.create_own_key(office.redis, office.root, ask, encoded) == expected
    deletion = DeleteOwnKeyAsk(
        account="acme", by=record.id, id=record.id, call="first", channel="somewhere"
    )
    for call, expected_deletion in (
        ("first", ""),
        ("first", ""),
        ("second", NotAllowed("ended")),
    ):
        ask_again = msgspec.structs.replace(deletion, call=call)
        answer = await functions.delete_own_key(office.redis, office.root, ask_again)
        assert answer == expected_deletion
    other = msgspec.structs.replace(deletion, by=office.asking.id, call="third")
    answer = await functions.delete_own_key(office.redis, office.root, other)
    assert answer == NotAllowed("unknown")
    assert await office.listed() == [office.asking.id]
    left = await office.redis.call("PTTL", keys.DELETED_KEY(office.root, "acme", record.id))
    assert 0 < left <= 600_000


async def test_a_deletion_whose_reply_was_lost_tells_its_receipt_again(office: Office) -> None:
    made = await office.made()
    deletion = DeleteOwnKeyAsk(
        account="acme", by=office.asking.id, id=made.record.id, call="first", channel="somewhere"
    )
    for _ in range(2):
        assert await functions.delete_own_key(office.redis, office.root, deletion) == "hash"
    later = await office.accounts.delete_own_key(office.asking, made.record.id)
    assert later == NotAllowed("unknown", "hash")
    assert await office.accounts.create_own_key(made.record, 100) == NotAllowed("gone")
    left = await office.redis.call("PTTL", keys.DELETED_KEY(office.root, "acme", made.record.id))
    assert 600_000 < left <= 600_000 + LONG_MS


async def test_a_deleted_key_leaves_nothing(office: Office) -> None:
    made = await office.made(expires=SystemClock().now_ms() + 60_000)
    assert made.key is not None
    assert await office.accounts.delete_own_key(office.asking, made.record.id) == "hash"
    assert await office.accounts.authenticate(made.key) is None
    assert await office.accounts.find_revoked([made.record.id]) == {made.record.id}
    names = await office.redis.call("KEYS", f"{office.root}*")
    kept = {name.decode().removeprefix(office.root) for name in names}
    assert not kept & {"key-ends:acme"}
    assert await office.redis.call("HKEYS", keys.KEY_IDS(office.root)) == [
        office.asking.id.encode()
    ]
    assert await office.redis.call("GET", keys.KEYS_LISTED(office.root)) == b"1"


async def test_expired_keys_make_room_and_those_of_operators_stay_known(office: Office) -> None:
    theirs = await office.accounts.create_key(office.account, ("read",), expires_ms=1)
    mine = [await office.made(expires=1) for _ in range(2)]
    last = await office.made(keys_max=2)
    assert await office.make(keys_max=2) == NotAllowed("quota", 2)
    assert set(await office.listed()) == {last.record.id, office.asking.id}
    known = {key.id for key in await office.accounts.list_keys()}
    assert known == {theirs.key_id, last.record.id, office.asking.id}
    assert mine[0].record.id not in known


async def test_keys_of_an_older_process_are_listed_counted_and_deleted(office: Office) -> None:
    old = [await office.old_process_makes(created=n) for n in (1, 2)]
    strange = await office.old_process_makes("other", created=5)
    assert await office.make(keys_max=3) == NotAllowed("quota", 3)
    assert await office.listed() == [office.asking.id, old[1].key_id, old[0].key_id]
    assert await office.listed("other") == [strange.key_id]
    # One more, which nobody has looked for yet.
    newest = await office.old_process_makes()
    assert await office.accounts.delete_own_key(office.asking, newest.key_id) == ""
    later = await office.old_process_makes("other", created=1)
    answer = await office.accounts.delete_own_key(office.asking, later.key_id)
    assert answer == NotAllowed("unknown")
    assert await office.listed("other") == [strange.key_id, later.key_id]


async def test_many_keys_of_an_older_process_are_adopted_once(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = [await office.old_process_makes(f"a{n % 7}", created=n) for n in range(250)]
    adopt = functions.adopt_keys
    passed: list[str] = []

    async def adopt_noted(redis: Connection, root: str, ask: AdoptKeysAsk) -> int:
        passed.extend(ask.ids)
        return await adopt(redis, root, ask)

    monkeypatch.setattr(functions, "adopt_keys", adopt_noted)
    listed = await asyncio.gather(*(office.listed(f"a{n}") for n in range(7)))
    assert {each for some in listed for each in some} == {each.key_id for each in old}
    assert sorted(passed) == sorted([office.asking.id, *(each.key_id for each in old)])


async def test_an_older_process_reads_and_revokes_keys_of_this_one(office: Office) -> None:
    made = await office.made(scopes=("chat", "keys"))
    assert made.key is not None
    where = keys.API_KEY(office.root, ids.key_hash(made.key, b"pepper"))
    record = msgspec.msgpack.decode(await office.redis.call("GET", where), type=OldKey)
    assert (record.id, record.scopes) == (made.record.id, ("chat", "keys"))
    await office.old_process_revokes(made.record.id)
    assert (await office.record(made.key)).revoked == 1
    assert await office.make(made.record, scopes=("chat",)) == NotAllowed("ended")
    # It leaves the list, and the count, at the next look.
    assert await office.make(keys_max=2) == NotAllowed("quota", 2)
    assert await office.listed() == [office.asking.id]
    assert isinstance(await office.make(keys_max=2), OwnKey)


async def test_keys_that_are_made_while_others_are_adopted_are_found(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await office.old_process_makes(created=1)
    adopt = functions.adopt_keys
    late: list[NewKey] = []

    async def adopt_late(redis: Connection, root: str, ask: AdoptKeysAsk) -> int:
        if ask.missing is not None and not late:
            late.append(await office.old_process_makes(created=2))
        return await adopt(redis, root, ask)

    monkeypatch.setattr(functions, "adopt_keys", adopt_late)
    assert await office.listed() == [office.asking.id, late[0].key_id, first.key_id]
    # Half a key, whose maker died: it is accounted for, too.
    await office.redis.call("HSET", keys.KEY_IDS(office.root), "half", "0" * 64)
    assert len(await office.listed()) == 3
    assert await office.redis.call("GET", keys.KEYS_LISTED(office.root)) == b"4"


async def test_keys_are_deleted_on_a_server_that_is_full_and_not_made(
    own_redis: Redis, own_settings: RedisSettings
) -> None:
    await library.load(own_redis)
    office = Office(own_redis, own_settings)
    await office.open()
    made = await office.made()
    old = await office.old_process_makes()
    await own_redis.call("CONFIG", "SET", "maxmemory", 1)
    try:
        with pytest.raises(UnavailableError, match="OOM"):
            await office.make()
        for key_id, receipt in ((made.record.id, "hash"), (old.key_id, "")):
            assert await office.accounts.delete_own_key(office.asking, key_id) == receipt
        assert await office.listed() == [office.asking.id]
    finally:
        await own_redis.call("CONFIG", "SET", "maxmemory", 0)


async def test_a_submission_is_taken_once_for_an_idempotency_key(desk: Desk) -> None:
    ask = TakeSubmissionAsk(
        account="ann",
        per_minute=2,
        id="first",
        idempotency="k",
        fingerprint="same",
        idempotency_ms=LONG_MS,
    )
    taken = await functions.take_submission(desk.redis, desk.root, ask)
    assert isinstance(taken, Taken)
    assert taken.rate is not None
    assert (taken.id, taken.rate.limit, taken.rate.remaining) == ("first", 2, 1)
    second = msgspec.structs.replace(ask, id="second")
    assert await functions.take_submission(desk.redis, desk.root, second) == Taken("first")
    found = await receipts.find(desk.redis, desk.root, "ann", "k")
    assert found is not None
    assert (found.generation, found.session, found.api_key) == (None, "", "first")
    other = msgspec.structs.replace(second, fingerprint="other")
    assert await functions.take_submission(desk.redis, desk.root, other) == NotAccepted("mismatch")
    bare = TakeSubmissionAsk(account="ann", per_minute=2, id="third")
    assert isinstance(await functions.take_submission(desk.redis, desk.root, bare), Taken)
    limited = await functions.take_submission(desk.redis, desk.root, bare)
    assert isinstance(limited, NotAccepted)
    assert (limited.reason, limited.rate and limited.rate.remaining) == ("limited", 0)
    for id_, is_kept in (("second", True), ("first", False)):
        free = FreeReceiptAsk(account="ann", idempotency="k", id=id_)
        await functions.free_receipt(desk.redis, desk.root, free)
        assert (await receipts.find(desk.redis, desk.root, "ann", "k") is not None) == is_kept
