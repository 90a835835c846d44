"""`pollux keys`, on a real server."""

import json

import pytest

from shared import ids
from shared.clock import SystemClock
from shared.stores.accounts import Accounts, CreatedKey
from shared.wire.account import ApiKey
from tests.deploy.conftest import Pollux, create_key


async def test_a_key_is_created_with_all_options(
    pollux: Pollux, redis_environment: dict[str, str], accounts: Accounts
) -> None:
    created = create_key(
        pollux,
        redis_environment,
        *"--account acme --tier pro --credits 12.5 --scopes read,approve".split(),
        *"--expires-days 2".split(),
    )
    assert set(created) == {"key", "key_id"}
    found = await accounts.authenticate(created["key"])
    assert found is not None
    key, account = found
    assert (key.id, key.scopes, key.revoked) == (created["key_id"], ("read", "approve"), None)
    assert key.expires is not None
    assert key.expires - key.created == pytest.approx(2 * 86_400_000, abs=5_000)
    assert (account.id, account.tier) == ("acme", "pro")
    assert (await accounts.credit_totals(account)).balance == 12_500_000


async def test_a_second_key_keeps_the_accounts_tier(
    pollux: Pollux, redis_environment: dict[str, str], accounts: Accounts
) -> None:
    create_key(pollux, redis_environment, *"--account acme --tier pro --credits 1".split())
    created = create_key(pollux, redis_environment, *"--account acme --credits 2".split())
    found = await accounts.authenticate(created["key"])
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


async def test_a_revoked_key_is_listed_as_revoked(
    pollux: Pollux, redis_environment: dict[str, str], accounts: Accounts
) -> None:
    created = create_key(pollux, redis_environment, "--account", "acme")
    assert pollux("keys", "revoke", created["key_id"], **redis_environment).code == 0
    found = await accounts.authenticate(created["key"])
    assert found is not None
    assert found[0].revoked is not None
    [row] = json.loads(pollux("keys", "list", "--json", **redis_environment).out)
    assert (row["key_id"], row["account"]) == (created["key_id"], "acme")
    assert row["revoked_at"] is not None
    assert created["key"] not in pollux("keys", "list", **redis_environment).out


async def test_a_key_created_by_another_key_is_listed_with_its_name_and_creator(
    pollux: Pollux, redis_environment: dict[str, str], accounts: Accounts
) -> None:
    parent = create_key(pollux, redis_environment, *"--account acme --scopes read,keys".split())
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


def test_a_key_of_an_account_without_credits_prints_a_warning(
    pollux: Pollux, redis_environment: dict[str, str]
) -> None:
    poor = pollux("keys", "create", "--account", "acme", **redis_environment)
    assert poor.code == 0
    assert "account acme has no credits" in poor.err
    assert "pollux credits grant acme" in poor.err
    pollux("credits", "grant", "acme", "5", **redis_environment)
    assert not pollux("keys", "create", "--account", "acme", **redis_environment).err


def test_an_unknown_key_is_named(pollux: Pollux, redis_environment: dict[str, str]) -> None:
    result = pollux("keys", "revoke", "nobody", **redis_environment)
    assert (result.code, result.out) == (1, "")
    assert "No key has the id nobody" in result.err
