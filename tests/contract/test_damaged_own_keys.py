"""API keys beside a key of Redis that something else has overwritten: named, and nobody else's."""

import msgspec
import pytest

from shared import ids
from shared.clock import SystemClock
from shared.errors import WrongTypeError
from shared.redis import keys
from shared.redis.client import Redis, Reply
from shared.settings import RedisSettings
from shared.stores.accounts import CreatedKey
from tests.support.office import Office
from tests.support.waiting import until


@pytest.fixture
async def office(redis: Redis, redis_settings: RedisSettings) -> Office:
    opened = Office(redis, redis_settings)
    await opened.open()
    return opened


_LISTS = (keys.ACCOUNT_KEYS, keys.KEY_EXPIRIES)


def _named(error: WrongTypeError) -> list[str]:
    return [key.name for key in error.keys]


@pytest.mark.parametrize("key", [*_LISTS, keys.LISTED_KEYS_COUNT], ids=lambda key: key.pattern)
async def test_no_half_of_a_key_is_made_where_a_list_is_of_another_type(
    office: Office, key: keys.Key
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
    office: Office, redis_settings: RedisSettings, key: keys.Key
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
    if key is keys.KEY_EXPIRIES:
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


async def _in_the_place_of(office: Office, name: str) -> bytes | None:
    """Put a hash in the place of a key; return what was there."""
    kept: bytes | None = await office.redis.call("DUMP", name)
    await office.redis.call("DEL", name)
    await office.redis.call("HSET", name, "f", "x")
    return kept


async def _bring_back(office: Office, name: str, kept: bytes | None) -> None:
    await office.redis.call("DEL", name)
    if kept is not None:
        await office.redis.call("RESTORE", name, 0, kept)


async def test_a_key_that_stops_the_making_or_the_deletion_of_another_is_named(
    office: Office,
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
    office: Office,
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
    office: Office, damage: str
) -> None:
    soon = SystemClock().now_ms() + 60_000
    await office.accounts.create("other", None)
    theirs = await office.old_process_makes("other", expires=soon)
    hashed = await office.redis.call("HGET", keys.KEY_IDS(office.root), theirs.key_id)
    name = {
        "list": keys.ACCOUNT_KEYS(office.root, "other"),
        "ends": keys.KEY_EXPIRIES(office.root, "other"),
        "record": keys.API_KEY(office.root, hashed.decode()),
        "bytes": keys.API_KEY(office.root, hashed.decode()),
    }[damage]
    await _in_the_place_of(office, name)
    if damage == "bytes":
        await office.redis.call("SET", name, "theirs")
    mine = await office.old_process_makes(created=5)
    assert await office.listed() == [office.asking.id, mine.key_id]
    assert isinstance(await office.make(), CreatedKey)
    await office.redis.call("DEL", name)
