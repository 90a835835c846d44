"""`pollux accounts`, on a real server."""

import json

from shared import ids
from shared.redis import functions, keys
from shared.redis.client import Redis
from shared.settings import RedisSettings
from shared.stores.accounts import Accounts
from tests.deploy.conftest import PEPPER, Pollux, create_key


def test_accounts_are_listed_shown_and_change_tier(
    pollux: Pollux, redis_environment: dict[str, str]
) -> None:
    created = create_key(
        pollux, redis_environment, *"--account beta --tier pro --credits 2".split()
    )
    create_key(pollux, redis_environment, *"--account acme --credits 1".split())
    listed = json.loads(pollux("accounts", "list", "--json", **redis_environment).out)
    assert [(row["account"], row["tier"], row["available"]) for row in listed] == [
        ("acme", "free", 1.0),
        ("beta", "pro", 2.0),
    ]
    assert pollux("accounts", "set-tier", "beta", "enterprise", **redis_environment).code == 0
    shown = json.loads(pollux("accounts", "show", "beta", "--json", **redis_environment).out)
    assert (shown["tier"], shown["keys"]) == ("enterprise", [created["key_id"]])
    assert "tier:" in pollux("accounts", "show", "beta", **redis_environment).out
    missing = pollux("accounts", "set-tier", "nobody", "pro", **redis_environment)
    assert (missing.code, "no account nobody" in missing.err) == (1, True)


async def test_an_account_is_shown_with_its_quotas_and_their_use(
    pollux: Pollux, redis_environment: dict[str, str], accounts: Accounts, redis: Redis
) -> None:
    create_key(pollux, redis_environment, "--account", "acme")
    owner = await accounts.load("acme")
    root = accounts.root_of(owner)
    for session in ("a", "b"):
        ask = functions.CreateSessionAsk(
            account="acme",
            id=session,
            name="x" * 100,
            per_minute=9,
            sessions_max=9,
            stored_bytes_max=999,
        )
        await functions.create_session(redis, root, ask)
    limits = {"POLLUX_LIMITS__FREE__SESSIONS_MAX": "7"}
    shown = json.loads(
        pollux("accounts", "show", "acme", "--json", **redis_environment, **limits).out
    )
    quotas = ("sessions", "sessions_max", "stored_bytes", "stored_bytes_max")
    assert [shown[name] for name in quotas] == [2, 7, 200, 50_000_000]
    printed = pollux("accounts", "show", "acme", **redis_environment).out.splitlines()
    assert "stored_bytes:     200" in printed
    assert "sessions_max:     1000" in printed


async def test_an_account_is_shown_with_its_keys_and_their_limit(
    pollux: Pollux,
    redis_environment: dict[str, str],
    accounts: Accounts,
    redis: Redis,
    redis_settings: RedisSettings,
) -> None:
    owner = await accounts.create("acme", None)
    created = [
        await accounts.create_key(owner, ("read",), expires_ms=at) for at in (None, 1, 2**50)
    ]
    revoked = await accounts.create_key(owner, ("read",))
    assert await accounts.revoke_key(revoked.key_id)
    # Keys of other accounts are not read, so a damaged one does no harm.
    other = await accounts.create_key(await accounts.create("other", None), ("read",))
    hashed = ids.key_hash(other.key, PEPPER)
    await redis.call("SET", keys.API_KEY(keys.system_root(redis_settings), hashed), "damaged")
    limits = {"POLLUX_LIMITS__FREE__KEYS_MAX": "7"}
    result = pollux("accounts", "show", "acme", "--json", **redis_environment, **limits)
    shown = json.loads(result.out)
    assert (shown["keys_used"], shown["keys_max"]) == (2, 7)
    assert sorted(shown["keys"]) == sorted(each.key_id for each in created)
    printed = pollux("accounts", "show", "acme", **redis_environment).out.splitlines()
    assert {"keys_used:        2", "keys_max:         10"} <= set(printed)
