"""Credits and keys: `grant` and `authenticate`, called through the accounts' store."""

import msgspec
import pytest

from shared import ids
from shared.clock import SystemClock
from shared.errors import Code, RequestError
from shared.redis import keys, library
from shared.redis.client import Redis
from shared.settings import RedisSettings
from shared.stores.accounts import GRANTED_MAX, Accounts
from tests.support.redis_functions import RedisFunctions


@pytest.fixture
def accounts(redis: Redis, redis_settings: RedisSettings) -> Accounts:
    return Accounts(redis, redis_settings, b"pepper", SystemClock())


async def test_grant_adds_credits_and_takes_free_ones(queue: RedisFunctions) -> None:
    assert await queue.grant(100) == 100
    await queue.submit(hold=70)
    assert await queue.grant(-31) == "poor"
    assert await queue.grant(-30) == 0
    credit_totals = await queue.credit_totals()
    assert (credit_totals.granted, credit_totals.balance, credit_totals.held) == (70, 0, 70)


async def test_more_than_the_totals_can_count_is_not_granted(queue: RedisFunctions) -> None:
    assert await queue.grant(GRANTED_MAX + 1) == "too much"
    assert await queue.redis.call("EXISTS", keys.ACCOUNT_TOTALS(queue.root, "ann")) == 0
    assert await queue.grant(GRANTED_MAX - 1) == GRANTED_MAX - 1
    await queue.submit(hold=70)
    for amount in (2, 1_000_000, GRANTED_MAX):
        assert await queue.grant(amount) == "too much"
    assert await queue.grant(1) == GRANTED_MAX - 70
    assert await queue.grant(-1) == GRANTED_MAX - 71
    credit_totals = await queue.credit_totals()
    assert (credit_totals.granted, credit_totals.balance, credit_totals.held) == (
        GRANTED_MAX - 1,
        GRANTED_MAX - 71,
        70,
    )


async def test_refused_grant_names_the_most_that_may_be_granted(accounts: Accounts) -> None:
    account = await accounts.create("acme", None)
    assert await accounts.grant(account, GRANTED_MAX) == GRANTED_MAX
    with pytest.raises(RequestError, match=r"more than 9,007,199,255 credits in all") as refused:
        await accounts.grant(account, 1)
    assert refused.value.code is Code.INVALID_FIELDS
    assert (await accounts.credit_totals(account)).granted == GRANTED_MAX


async def test_account_is_created_once_and_changes_only_its_tier(accounts: Accounts) -> None:
    first = await accounts.create("acme", None)
    assert (first.tier, first.id) == ("free", "acme")
    again = await accounts.create("acme", "pro")
    assert (again.tier, again.partition, again.created) == ("pro", first.partition, first.created)
    assert (await accounts.create("acme", None)).tier == "pro"
    assert await accounts.find("nobody") is None


async def test_a_preference_changes_nothing_else_of_an_account(accounts: Accounts) -> None:
    made = await accounts.create("acme", "pro")
    for model in ("alpha", "é" * 40, None):
        await accounts.prefer(made, model)
        found = await accounts.find("acme")
        assert found == msgspec.structs.replace(made, preferred_model=model)
    # An account that does not exist is not created.
    await accounts.prefer(msgspec.structs.replace(made, id="nobody"), "alpha")
    assert await accounts.find("nobody") is None


@pytest.mark.parametrize("name", ["", "a:b", "a b", "é", "x" * 65, "a\n"])
async def test_account_names_that_would_break_keys_are_refused(
    accounts: Accounts, name: str
) -> None:
    with pytest.raises(RequestError):
        await accounts.create(name, None)


async def test_key_opens_its_account_and_is_stored_nowhere(
    accounts: Accounts, redis: Redis, redis_settings: RedisSettings
) -> None:
    account = await accounts.create("acme", "enterprise")
    made = await accounts.create_key(account, ("chat",), expires_ms=123)
    found = await accounts.authenticate(made.key)
    assert found is not None
    key, owner = found
    assert (key.id, key.account, key.scopes, key.expires) == (made.key_id, "acme", ("chat",), 123)
    assert owner == account
    for name in await redis.call("KEYS", f"{redis_settings.prefix}:*"):
        kind = await redis.call("TYPE", name)
        read = {b"string": ("GET", name), b"hash": ("HGETALL", name)}
        kept = await redis.call(*read.get(kind, ("ZRANGE", name, 0, -1)))
        assert made.key not in repr(kept)


async def test_unknown_key_and_other_pepper_open_nothing(
    accounts: Accounts, redis: Redis, redis_settings: RedisSettings
) -> None:
    account = await accounts.create("acme", None)
    made = await accounts.create_key(account, ("chat",))
    assert await accounts.authenticate(ids.new_key()) is None
    strangers = Accounts(redis, redis_settings, b"other", SystemClock())
    assert await strangers.authenticate(made.key) is None


async def test_key_whose_creation_was_interrupted_is_unknown(
    accounts: Accounts, redis: Redis, redis_settings: RedisSettings
) -> None:
    names = keys.KEY_IDS(keys.system_root(redis_settings))
    await redis.call("HSET", names, "half", "0" * 64)
    assert not await accounts.revoke_key("half")
    assert await accounts.list_keys() == []


async def test_revoked_key_stays_known_as_revoked(accounts: Accounts) -> None:
    account = await accounts.create("acme", None)
    made = await accounts.create_key(account, ("chat",))
    other = await accounts.create_key(account, ("read",))
    assert await accounts.revoke_key(made.key_id)
    assert not await accounts.revoke_key("unknown")
    found = await accounts.authenticate(made.key)
    assert found is not None
    assert found[0].revoked is not None
    listed = {key.id: key.revoked is None for key in await accounts.list_keys()}
    assert listed == {made.key_id: False, other.key_id: True}


async def test_operator_calls_work_on_a_full_server(
    own_redis: Redis, own_settings: RedisSettings
) -> None:
    await library.load(own_redis)
    accounts = Accounts(own_redis, own_settings, b"pepper", SystemClock())
    old = await accounts.create_key(await accounts.create("old", None), ("chat",))
    await own_redis.call("CONFIG", "SET", "maxmemory", 1)
    try:
        account = await accounts.create("acme", "pro")
        assert (await accounts.create("acme", "enterprise")).tier == "enterprise"
        made = await accounts.create_key(account, ("chat",))
        assert await accounts.authenticate(made.key) is not None
        assert await accounts.grant(account, 5) == 5
        assert await accounts.grant(account, -2) == 3
        assert await accounts.revoke_key(old.key_id)
        assert await accounts.list_accounts()
        queue = RedisFunctions(own_redis, own_settings)
        assert await queue.dead() == []
        assert await queue.discard() == []
    finally:
        await own_redis.call("CONFIG", "SET", "maxmemory", 0)
    found = await accounts.authenticate(old.key)
    assert found is not None
    assert found[0].revoked is not None


async def test_credits_are_kept_in_the_partition_of_the_account(
    accounts: Accounts, redis: Redis, redis_settings: RedisSettings
) -> None:
    for name in ("a1", "a2", "a3", "a4", "a5", "a6"):
        account = await accounts.create(name, None)
        assert 0 <= account.partition < redis_settings.partitions
        assert await accounts.grant(account, 5_000_000) == 5_000_000
        assert (await accounts.credit_totals(account)).granted == 5_000_000
        root = keys.partition_root(redis_settings, account.partition)
        assert await redis.call("EXISTS", keys.ACCOUNT_TOTALS(root, name)) == 1
        with pytest.raises(RequestError):
            await accounts.grant(account, -5_000_001)
