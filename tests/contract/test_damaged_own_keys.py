"""API keys beside an overwritten Redis key: it is named, and other accounts are not affected."""

import msgspec
import pytest

from shared import ids
from shared.clock import SystemClock
from shared.errors import WrongTypeError
from shared.redis import keys
from shared.redis.client import Redis, Reply
from shared.settings import RedisSettings
from shared.stores.accounts import CreatedKey
from tests.support.own_keys import OwnKeys
from tests.support.waiting import until


@pytest.fixture
async def own_keys(redis: Redis, redis_settings: RedisSettings) -> OwnKeys:
    opened = OwnKeys(redis, redis_settings)
    await opened.open()
    return opened


_LISTS = (keys.ACCOUNT_KEYS, keys.KEY_EXPIRIES)


def _named(error: WrongTypeError) -> list[str]:
    return [key.name for key in error.keys]


@pytest.mark.parametrize("key", [*_LISTS, keys.LISTED_KEYS_COUNT], ids=lambda key: key.pattern)
async def test_no_half_of_a_key_is_created_where_a_list_is_of_another_type(
    own_keys: OwnKeys, key: keys.Key
) -> None:
    before = await own_keys.redis.call("HGETALL", keys.KEY_IDS(own_keys.root))
    name = key(own_keys.root, *("acme" for _ in key.parts))
    await own_keys.redis.call("DEL", name)
    await own_keys.redis.call("HSET", name, "f", "x")
    for expires in (None, SystemClock().now_ms() + 60_000):
        with pytest.raises(WrongTypeError) as refused:
            await own_keys.accounts.create_key(own_keys.account, ("read",), expires_ms=expires)
        assert _named(refused.value) == [name]
        with pytest.raises(WrongTypeError) as refused:
            await own_keys.make(expires=expires)
        assert _named(refused.value) == [name]
    assert await own_keys.redis.call("HGETALL", keys.KEY_IDS(own_keys.root)) == before
    assert len(await own_keys.redis.call("KEYS", keys.API_KEY(own_keys.root, "*"))) == len(before)
    await own_keys.redis.call("DEL", name)


@pytest.mark.parametrize("key", _LISTS, ids=lambda key: key.pattern)
async def test_key_is_revoked_and_fronts_are_notified_whatever_its_lists_are(
    own_keys: OwnKeys, redis_settings: RedisSettings, key: keys.Key
) -> None:
    made = [await own_keys.made(expires=SystemClock().now_ms() + 60_000) for _ in range(2)]
    name = key(own_keys.root, "acme")
    await own_keys.redis.call("DEL", name)
    await own_keys.redis.call("SET", name, "theirs")
    pushes: list[list[Reply]] = []
    listener = Redis(redis_settings, on_push=pushes.append)
    await listener.connect()
    listener.listen("SUBSCRIBE", keys.revocations_channel(own_keys.root))
    await until(lambda: len(pushes) == 1)
    ended = [made[0].record.id]
    assert await own_keys.accounts.revoke_key(made[0].record.id)
    if key is keys.KEY_EXPIRIES:
        ended.append(made[1].record.id)
        assert await own_keys.accounts.delete_own_key(own_keys.managing_key, ended[1]) == "hash"
        assert await own_keys.accounts.find_key(ended[1]) is None
        assert await own_keys.listed() == [own_keys.managing_key.id]
    else:
        with pytest.raises(WrongTypeError):
            await own_keys.accounts.delete_own_key(own_keys.managing_key, made[1].record.id)
        assert await own_keys.accounts.find_key(made[1].record.id) == made[1].record
    await until(lambda: [push[2] for push in pushes[1:]] == [each.encode() for each in ended])
    await listener.close()
    found = await own_keys.accounts.find_key(made[0].record.id)
    assert found is not None
    assert found.revoked is not None
    assert await own_keys.redis.call("GETDEL", name) == b"theirs"


async def _overwrite(own_keys: OwnKeys, name: str) -> bytes | None:
    """Replace a key by a hash; return what was there."""
    kept: bytes | None = await own_keys.redis.call("DUMP", name)
    await own_keys.redis.call("DEL", name)
    await own_keys.redis.call("HSET", name, "f", "x")
    return kept


async def _restore(own_keys: OwnKeys, name: str, kept: bytes | None) -> None:
    await own_keys.redis.call("DEL", name)
    if kept is not None:
        await own_keys.redis.call("RESTORE", name, 0, kept)


async def test_redis_key_that_stops_the_creation_or_deletion_of_an_api_key_is_named(
    own_keys: OwnKeys,
) -> None:
    made = await own_keys.made()
    record = msgspec.structs.replace(made.record, id=ids.new_id())
    hashed = await own_keys.redis.call("HGET", keys.KEY_IDS(own_keys.root), made.record.id)
    for name, refuse in (
        (
            keys.DELETED_KEY(own_keys.root, "acme", record.id),
            lambda: own_keys.accounts.create_own_key(record, 100),
        ),
        (
            keys.API_KEY(own_keys.root, hashed.decode()),
            lambda: own_keys.accounts.delete_own_key(own_keys.managing_key, made.record.id),
        ),
    ):
        kept = await _overwrite(own_keys, name)
        with pytest.raises(WrongTypeError) as refused:
            await refuse()
        assert _named(refused.value) == [name]
        await _restore(own_keys, name, kept)


async def test_error_names_the_redis_key_that_stopped_the_call(
    own_keys: OwnKeys,
) -> None:
    name = keys.ACCOUNT(own_keys.root, "acme")
    kept = await _overwrite(own_keys, name)
    for refuse in (
        lambda: own_keys.accounts.prefer(own_keys.account, "alpha"),
        lambda: own_keys.accounts.create("acme", "pro"),
    ):
        with pytest.raises(WrongTypeError) as refused:
            await refuse()
        assert _named(refused.value) == [name]
    await _restore(own_keys, name, kept)


@pytest.mark.parametrize("damage", ["list", "ends", "record", "bytes"])
async def test_damage_of_one_account_does_not_affect_the_keys_of_another(
    own_keys: OwnKeys, damage: str
) -> None:
    soon = SystemClock().now_ms() + 60_000
    await own_keys.accounts.create("other", None)
    theirs = await own_keys.create_as_old_release("other", expires=soon)
    hashed = await own_keys.redis.call("HGET", keys.KEY_IDS(own_keys.root), theirs.key_id)
    name = {
        "list": keys.ACCOUNT_KEYS(own_keys.root, "other"),
        "ends": keys.KEY_EXPIRIES(own_keys.root, "other"),
        "record": keys.API_KEY(own_keys.root, hashed.decode()),
        "bytes": keys.API_KEY(own_keys.root, hashed.decode()),
    }[damage]
    await _overwrite(own_keys, name)
    if damage == "bytes":
        await own_keys.redis.call("SET", name, "theirs")
    mine = await own_keys.create_as_old_release(created=5)
    assert await own_keys.listed() == [own_keys.managing_key.id, mine.key_id]
    assert isinstance(await own_keys.make(), CreatedKey)
    await own_keys.redis.call("DEL", name)
