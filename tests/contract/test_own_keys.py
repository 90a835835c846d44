"""An account's own API keys: rights, quota, repeated calls, and keys of older processes."""

import asyncio

import msgspec
import pytest

from shared import ids
from shared.clock import SystemClock
from shared.errors import UnavailableError, WrongTypeError
from shared.redis import functions, keys, library
from shared.redis.client import Connection, Redis, Reply
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
from shared.stores.accounts import Accounts, NewKey, OwnKey
from shared.wire.account import Account, ApiKey, Scope
from tests.support.desk import LONG_MS, Desk
from tests.support.waiting import until

_MANAGING: tuple[Scope, ...] = ("chat", "read", "keys")


class _OldKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A key's record as release 0.6.1 reads and writes it."""

    id: str
    account: str
    scopes: tuple[Scope, ...]
    created: int
    expires: int | None = None
    revoked: int | None = None


class _Office:
    """Two accounts, and a key of the first one that may make others."""

    def __init__(self, redis: Redis, settings: RedisSettings) -> None:
        self.redis = redis
        self.root = keys.system_root(settings)
        self.accounts = Accounts(redis, settings, b"pepper", SystemClock())

    async def open(self) -> None:
        self.account = await self.accounts.create("acme", None)
        self.asking = await self.asker(self.account)

    async def asker(self, account: Account, expires_ms: int | None = None) -> ApiKey:
        made = await self.accounts.create_key(account, _MANAGING, expires_ms=expires_ms)
        return await self.record(made.key)

    async def record(self, key: str) -> ApiKey:
        found = await self.accounts.authenticate(key)
        assert found is not None
        return found[0]

    async def make(
        self,
        by: ApiKey | None = None,
        *,
        keys_max: int = 100,
        scopes: tuple[Scope, ...] = ("read",),
        expires: int | None = None,
        name: str | None = None,
    ) -> OwnKey | NotAllowed:
        by = by or self.asking
        record = ApiKey(
            id=ids.new_id(),
            account=by.account,
            scopes=scopes,
            created=SystemClock().now_ms(),
            expires=expires,
            name=name,
            created_by=by.id,
            receipt="hash",
            receipt_ends=SystemClock().now_ms() + LONG_MS,
        )
        return await self.accounts.create_own_key(record, keys_max)

    async def made(
        self,
        *,
        keys_max: int = 100,
        scopes: tuple[Scope, ...] = ("read",),
        expires: int | None = None,
    ) -> OwnKey:
        made = await self.make(keys_max=keys_max, scopes=scopes, expires=expires, name="Küche")
        assert isinstance(made, OwnKey)
        return made

    async def listed(self, account: str = "acme") -> list[str]:
        found, total = await self.accounts.page_own_keys(account, offset=0, limit=100)
        assert total == len(found)
        return [key.id for key in found]

    async def old_process_makes(
        self, account: str = "acme", *, created: int = 1, expires: int | None = None
    ) -> NewKey:
        """Do what release 0.6.1 does to make a key."""
        key = ids.new_key()
        record = _OldKey(
            id=ids.new_id(), account=account, scopes=("chat",), created=created, expires=expires
        )
        hashed = ids.key_hash(key, b"pepper")
        await self.redis.call("HSET", keys.KEY_IDS(self.root), record.id, hashed)
        where = keys.API_KEY(self.root, hashed)
        await self.redis.call("SET", where, msgspec.msgpack.encode(record))
        return NewKey(key, record.id)

    async def old_process_revokes(self, key_id: str) -> None:
        """Do what release 0.6.1 does to revoke a key."""
        hashed = await self.redis.call("HGET", keys.KEY_IDS(self.root), key_id)
        where = keys.API_KEY(self.root, hashed.decode())
        record = msgspec.msgpack.decode(await self.redis.call("GET", where), type=_OldKey)
        revoked = msgspec.structs.replace(record, revoked=1)
        await self.redis.call("SET", where, msgspec.msgpack.encode(revoked))


@pytest.fixture
async def office(redis: Redis, redis_settings: RedisSettings) -> _Office:
    opened = _Office(redis, redis_settings)
    await opened.open()
    return opened


async def test_rights_are_judged_by_the_records_as_they_are(office: _Office) -> None:
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


async def test_one_of_many_gets_the_last_place(office: _Office) -> None:
    answers = await asyncio.gather(*(office.make(keys_max=4) for _ in range(20)))
    assert sum(isinstance(each, OwnKey) for each in answers) == 3
    assert [each for each in answers if isinstance(each, NotAllowed)] == [
        NotAllowed("quota", 4)
    ] * 17
    made = set(await office.listed()) - {office.asking.id}
    assert await office.accounts.delete_own_key(office.asking, made.pop()) == "hash"
    again = await asyncio.gather(*(office.make(keys_max=4) for _ in range(5)))
    assert sum(isinstance(each, OwnKey) for each in again) == 1


async def test_repeated_calls_change_nothing(office: _Office) -> None:
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


async def test_a_deletion_whose_reply_was_lost_tells_its_receipt_again(office: _Office) -> None:
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


async def test_a_deleted_key_leaves_nothing(office: _Office) -> None:
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


async def test_expired_keys_make_room_and_those_of_operators_stay_known(office: _Office) -> None:
    theirs = await office.accounts.create_key(office.account, ("read",), expires_ms=1)
    mine = [await office.made(expires=1) for _ in range(2)]
    last = await office.made(keys_max=2)
    assert await office.make(keys_max=2) == NotAllowed("quota", 2)
    assert set(await office.listed()) == {last.record.id, office.asking.id}
    known = {key.id for key in await office.accounts.list_keys()}
    assert known == {theirs.key_id, last.record.id, office.asking.id}
    assert mine[0].record.id not in known


async def test_keys_of_an_older_process_are_listed_counted_and_deleted(office: _Office) -> None:
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
    office: _Office, monkeypatch: pytest.MonkeyPatch
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


async def test_an_older_process_reads_and_revokes_keys_of_this_one(office: _Office) -> None:
    made = await office.made(scopes=("chat", "keys"))
    assert made.key is not None
    where = keys.API_KEY(office.root, ids.key_hash(made.key, b"pepper"))
    record = msgspec.msgpack.decode(await office.redis.call("GET", where), type=_OldKey)
    assert (record.id, record.scopes) == (made.record.id, ("chat", "keys"))
    await office.old_process_revokes(made.record.id)
    assert (await office.record(made.key)).revoked == 1
    assert await office.make(made.record, scopes=("chat",)) == NotAllowed("ended")
    # It leaves the list, and the count, at the next look.
    assert await office.make(keys_max=2) == NotAllowed("quota", 2)
    assert await office.listed() == [office.asking.id]
    assert isinstance(await office.make(keys_max=2), OwnKey)


async def test_keys_that_are_made_while_others_are_adopted_are_found(
    office: _Office, monkeypatch: pytest.MonkeyPatch
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


_LISTS = (keys.ACCOUNT_KEYS, keys.KEY_ENDS)


def _named(error: WrongTypeError) -> list[str]:
    return [key.name for key in error.keys]


@pytest.mark.parametrize("key", [*_LISTS, keys.KEYS_LISTED], ids=lambda key: key.pattern)
async def test_no_half_of_a_key_is_made_where_a_list_is_of_another_type(
    office: _Office, key: keys.Key
) -> None:
    before = await office.redis.call("HGETALL", keys.KEY_IDS(office.root))
    name = key(office.root, *("acme" for _ in key.parts))
    await office.redis.call("DEL", name)
    await office.redis.call("HSET", name, "f", "x")
    for expires in (None, SystemClock().now_ms() + 60_000):
        with pytest.raises(WrongTypeError) as refused:
            await office.accounts.create_key(office.account, ("read",), expires_ms=expires)
        assert _named(refused.value) == [name]
        with pytest.raises(WrongTypeError) as refused:
            await office.make(expires=expires)
        assert _named(refused.value) == [name]
    assert await office.redis.call("HGETALL", keys.KEY_IDS(office.root)) == before
    assert len(await office.redis.call("KEYS", keys.API_KEY(office.root, "*"))) == len(before)
    await office.redis.call("DEL", name)


@pytest.mark.parametrize("key", _LISTS, ids=lambda key: key.pattern)
async def test_a_key_is_revoked_and_fronts_are_told_whatever_its_lists_are(
    office: _Office, redis_settings: RedisSettings, key: keys.Key
) -> None:
    made = [await office.made(expires=SystemClock().now_ms() + 60_000) for _ in range(2)]
    name = key(office.root, "acme")
    await office.redis.call("DEL", name)
    await office.redis.call("SET", name, "theirs")
    pushes: list[list[Reply]] = []
    ear = Redis(redis_settings, on_push=pushes.append)
    await ear.connect()
    ear.listen("SUBSCRIBE", keys.revocations_channel(office.root))
    await until(lambda: len(pushes) == 1)
    ended = [made[0].record.id]
    assert await office.accounts.revoke_key(made[0].record.id)
    if key is keys.KEY_ENDS:
        ended.append(made[1].record.id)
        assert await office.accounts.delete_own_key(office.asking, ended[1]) == "hash"
        assert await office.accounts.find_key(ended[1]) is None
        assert await office.listed() == [office.asking.id]
    else:
        with pytest.raises(WrongTypeError):
            await office.accounts.delete_own_key(office.asking, made[1].record.id)
        assert await office.accounts.find_key(made[1].record.id) == made[1].record
    await until(lambda: [push[2] for push in pushes[1:]] == [each.encode() for each in ended])
    await ear.close()
    found = await office.accounts.find_key(made[0].record.id)
    assert found is not None
    assert found.revoked is not None
    assert await office.redis.call("GETDEL", name) == b"theirs"


async def test_keys_are_deleted_on_a_server_that_is_full_and_not_made(
    own_redis: Redis, own_settings: RedisSettings
) -> None:
    await library.load(own_redis)
    office = _Office(own_redis, own_settings)
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


async def _in_the_place_of(office: _Office, name: str) -> bytes | None:
    """Put a hash in the place of a key; return what was there."""
    kept: bytes | None = await office.redis.call("DUMP", name)
    await office.redis.call("DEL", name)
    await office.redis.call("HSET", name, "f", "x")
    return kept


async def _bring_back(office: _Office, name: str, kept: bytes | None) -> None:
    await office.redis.call("DEL", name)
    if kept is not None:
        await office.redis.call("RESTORE", name, 0, kept)


async def test_a_key_that_stops_the_making_or_the_deletion_of_another_is_named(
    office: _Office,
) -> None:
    made = await office.made()
    record = msgspec.structs.replace(made.record, id=ids.new_id())
    hashed = await office.redis.call("HGET", keys.KEY_IDS(office.root), made.record.id)
    for name, refuse in (
        (
            keys.DELETED_KEY(office.root, "acme", record.id),
            lambda: office.accounts.create_own_key(record, 100),
        ),
        (
            keys.API_KEY(office.root, hashed.decode()),
            lambda: office.accounts.delete_own_key(office.asking, made.record.id),
        ),
    ):
        kept = await _in_the_place_of(office, name)
        with pytest.raises(WrongTypeError) as refused:
            await refuse()
        assert _named(refused.value) == [name]
        await _bring_back(office, name, kept)


async def test_an_account_that_is_refused_by_a_key_hears_of_it_by_its_name(
    office: _Office,
) -> None:
    name = keys.ACCOUNT(office.root, "acme")
    kept = await _in_the_place_of(office, name)
    for refuse in (
        lambda: office.accounts.prefer(office.account, "alpha"),
        lambda: office.accounts.create("acme", "pro"),
    ):
        with pytest.raises(WrongTypeError) as refused:
            await refuse()
        assert _named(refused.value) == [name]
    await _bring_back(office, name, kept)


@pytest.mark.parametrize("damage", ["list", "ends", "record", "bytes"])
async def test_one_accounts_damage_keeps_no_other_from_its_keys(
    office: _Office, damage: str
) -> None:
    soon = SystemClock().now_ms() + 60_000
    await office.accounts.create("other", None)
    theirs = await office.old_process_makes("other", expires=soon)
    hashed = await office.redis.call("HGET", keys.KEY_IDS(office.root), theirs.key_id)
    name = {
        "list": keys.ACCOUNT_KEYS(office.root, "other"),
        "ends": keys.KEY_ENDS(office.root, "other"),
        "record": keys.API_KEY(office.root, hashed.decode()),
        "bytes": keys.API_KEY(office.root, hashed.decode()),
    }[damage]
    await _in_the_place_of(office, name)
    if damage == "bytes":
        await office.redis.call("SET", name, "theirs")
    mine = await office.old_process_makes(created=5)
    assert await office.listed() == [office.asking.id, mine.key_id]
    assert isinstance(await office.make(), OwnKey)
    await office.redis.call("DEL", name)
