"""`pollux keys` and `pollux credits`, on a real server."""

import json
from typing import Any

import pytest

from shared import ids
from shared.clock import SystemClock
from shared.redis import functions, keys
from shared.redis.client import Redis
from shared.settings import RedisSettings
from shared.stores.accounts import Accounts, CreatedKey
from shared.wire.account import ApiKey
from tests.deploy.conftest import Pollux

pytestmark = pytest.mark.each_once
_PEPPER = "of these tests"


@pytest.fixture
def redis_environment(redis_settings: RedisSettings) -> dict[str, str]:
    """Return the environment that leads the command to the test's server."""
    return {
        "REDIS_URL": redis_settings.url,
        "POLLUX_REDIS__PREFIX": redis_settings.prefix,
        "POLLUX_REDIS__PARTITIONS": str(redis_settings.partitions),
        "POLLUX_PEPPER": _PEPPER,
    }


@pytest.fixture
def accounts(redis: Redis, redis_settings: RedisSettings) -> Accounts:
    """Return the accounts as a front sees them."""
    return Accounts(redis, redis_settings, _PEPPER.encode(), SystemClock())


def _made(pollux: Pollux, redis_environment: dict[str, str], *words: str) -> dict[str, Any]:
    result = pollux("keys", "create", "--json", *words, **redis_environment)
    assert result.code == 0, result.err
    made: dict[str, Any] = json.loads(result.out)
    return made


async def test_a_key_is_created_with_what_was_said(
    pollux: Pollux, redis_environment: dict[str, str], accounts: Accounts
) -> None:
    made = _made(
        pollux,
        redis_environment,
        *"--account acme --tier pro --credits 12.5 --scopes read,approve".split(),
        *"--expires-days 2".split(),
    )
    assert set(made) == {"key", "key_id"}
    found = await accounts.authenticate(made["key"])
    assert found is not None
    key, account = found
    assert (key.id, key.scopes, key.revoked) == (made["key_id"], ("read", "approve"), None)
    assert key.expires is not None
    assert key.expires - key.created == pytest.approx(2 * 86_400_000, abs=5_000)
    assert (account.id, account.tier) == ("acme", "pro")
    assert (await accounts.credit_totals(account)).balance == 12_500_000


async def test_a_second_key_leaves_the_account_as_it_is(
    pollux: Pollux, redis_environment: dict[str, str], accounts: Accounts
) -> None:
    _made(pollux, redis_environment, *"--account acme --tier pro --credits 1".split())
    made = _made(pollux, redis_environment, *"--account acme --credits 2".split())
    found = await accounts.authenticate(made["key"])
    assert found is not None
    key, account = found
    assert (account.tier, key.scopes, key.expires) == ("pro", ("chat", "read"), None)
    assert (await accounts.credit_totals(account)).balance == 3_000_000


async def test_a_new_account_is_free(
    pollux: Pollux, redis_environment: dict[str, str], accounts: Accounts
) -> None:
    result = pollux("keys", "create", "--account", "acme", **redis_environment)
    assert result.code == 0, result.err
    account = await accounts.find("acme")
    assert account is not None
    assert account.tier == "free"
    [record] = await accounts.list_keys()
    assert record.id in result.out


async def test_a_revoked_key_is_listed_so(
    pollux: Pollux, redis_environment: dict[str, str], accounts: Accounts
) -> None:
    made = _made(pollux, redis_environment, "--account", "acme")
    assert pollux("keys", "revoke", made["key_id"], **redis_environment).code == 0
    found = await accounts.authenticate(made["key"])
    assert found is not None
    assert found[0].revoked is not None
    [row] = json.loads(pollux("keys", "list", "--json", **redis_environment).out)
    assert (row["key_id"], row["account"]) == (made["key_id"], "acme")
    assert row["revoked_at"] is not None
    assert made["key"] not in pollux("keys", "list", **redis_environment).out


async def test_a_key_that_another_one_made_is_listed_with_its_name(
    pollux: Pollux, redis_environment: dict[str, str], accounts: Accounts
) -> None:
    parent = _made(pollux, redis_environment, *"--account acme --scopes read,keys".split())
    record = ApiKey(
        id=ids.new_id(),
        account="acme",
        scopes=("read",),
        created=SystemClock().now_ms() + 1,
        name="Web page",
        created_by=parent["key_id"],
    )
    assert isinstance(await accounts.create_own_key(record, 5), CreatedKey)
    rows = json.loads(pollux("keys", "list", "--json", **redis_environment).out)
    assert [(row["name"], row["created_by"]) for row in rows] == [
        (None, None),
        ("Web page", parent["key_id"]),
    ]
    assert f"created_by={parent['key_id']}" in pollux("keys", "list", **redis_environment).out
    assert pollux("keys", "revoke", record.id, **redis_environment).code == 0
    assert (await accounts.page_own_keys("acme", offset=0, limit=9))[1] == 1


def test_credits_are_granted_and_shown(pollux: Pollux, redis_environment: dict[str, str]) -> None:
    _made(pollux, redis_environment, "--account", "acme", "--credits", "1")
    assert pollux("credits", "grant", "acme", "0.5", **redis_environment).code == 0
    shown = pollux("credits", "show", "acme", **redis_environment).out
    assert "available:" in shown
    assert "1.500000" in shown


def test_the_ledger_is_listed_newest_first(
    pollux: Pollux, redis_environment: dict[str, str]
) -> None:
    _made(pollux, redis_environment, "--account", "acme", "--credits", "1")
    assert pollux("credits", "grant", "acme", "0.5", **redis_environment).code == 0
    listed = pollux("credits", "ledger", "acme", **redis_environment).out.splitlines()
    assert [line.split()[1] for line in listed] == ["+0.500000", "+1.000000"]
    assert (
        len(
            pollux(
                "credits", "ledger", "acme", "--limit", "1", **redis_environment
            ).out.splitlines()
        )
        == 1
    )


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("keys revoke nobody", "No key has the id nobody"),
        ("credits show nobody", "no account nobody"),
        ("credits grant nobody 1", "no account nobody"),
        ("credits ledger nobody", "no account nobody"),
    ],
)
def test_who_is_not_there_is_told(
    pollux: Pollux, redis_environment: dict[str, str], words: str, reason: str
) -> None:
    result = pollux(*words.split(), **redis_environment)
    assert (result.code, result.out) == (1, "")
    assert reason in result.err


def test_an_account_without_credits_is_told_what_to_do(
    pollux: Pollux, redis_environment: dict[str, str]
) -> None:
    poor = pollux("keys", "create", "--account", "acme", **redis_environment)
    assert poor.code == 0
    assert "account acme has no credits" in poor.err
    assert "pollux credits grant acme" in poor.err
    pollux("credits", "grant", "acme", "5", **redis_environment)
    assert not pollux("keys", "create", "--account", "acme", **redis_environment).err


def test_credits_are_taken_back_as_far_as_they_are_free(
    pollux: Pollux, redis_environment: dict[str, str]
) -> None:
    _made(pollux, redis_environment, *"--account acme --credits 10".split())
    shown = pollux("credits", "revoke", "acme", "4", **redis_environment)
    assert shown.code == 0
    assert shown.out.splitlines()[0].split() == ["available:", "6.000000"]
    refused = pollux("credits", "revoke", "acme", "7", **redis_environment)
    assert refused.code == 1
    assert "not that many credits" in refused.err
    assert "-4.000000" in pollux("credits", "ledger", "acme", **redis_environment).out


def test_accounts_are_listed_shown_and_change_tier(
    pollux: Pollux, redis_environment: dict[str, str]
) -> None:
    made = _made(pollux, redis_environment, *"--account beta --tier pro --credits 2".split())
    _made(pollux, redis_environment, *"--account acme --credits 1".split())
    listed = json.loads(pollux("accounts", "list", "--json", **redis_environment).out)
    assert [(row["account"], row["tier"], row["available"]) for row in listed] == [
        ("acme", "free", 1.0),
        ("beta", "pro", 2.0),
    ]
    assert pollux("accounts", "set-tier", "beta", "enterprise", **redis_environment).code == 0
    shown = json.loads(pollux("accounts", "show", "beta", "--json", **redis_environment).out)
    assert (shown["tier"], shown["keys"]) == ("enterprise", [made["key_id"]])
    assert "tier:" in pollux("accounts", "show", "beta", **redis_environment).out
    missing = pollux("accounts", "set-tier", "nobody", "pro", **redis_environment)
    assert (missing.code, "no account nobody" in missing.err) == (1, True)


async def test_an_account_is_shown_with_its_quotas_and_what_it_uses_of_them(
    pollux: Pollux, redis_environment: dict[str, str], accounts: Accounts, redis: Redis
) -> None:
    _made(pollux, redis_environment, "--account", "acme")
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
    told = pollux("accounts", "show", "acme", **redis_environment).out.splitlines()
    assert "stored_bytes:     200" in told
    assert "sessions_max:     1000" in told


async def test_an_account_is_shown_with_its_own_keys_and_how_many_it_may_have(
    pollux: Pollux,
    redis_environment: dict[str, str],
    accounts: Accounts,
    redis: Redis,
    redis_settings: RedisSettings,
) -> None:
    owner = await accounts.create("acme", None)
    made = [await accounts.create_key(owner, ("read",), expires_ms=at) for at in (None, 1, 2**50)]
    revoked = await accounts.create_key(owner, ("read",))
    assert await accounts.revoke_key(revoked.key_id)
    # Records of other accounts are not read, so a damaged one is not met.
    other = await accounts.create_key(await accounts.create("other", None), ("read",))
    hashed = ids.key_hash(other.key, _PEPPER.encode())
    await redis.call("SET", keys.API_KEY(keys.system_root(redis_settings), hashed), "damaged")
    limits = {"POLLUX_LIMITS__FREE__KEYS_MAX": "7"}
    result = pollux("accounts", "show", "acme", "--json", **redis_environment, **limits)
    shown = json.loads(result.out)
    assert (shown["keys_used"], shown["keys_max"]) == (2, 7)
    assert sorted(shown["keys"]) == sorted(each.key_id for each in made)
    told = pollux("accounts", "show", "acme", **redis_environment).out.splitlines()
    assert {"keys_used:        2", "keys_max:         10"} <= set(told)
