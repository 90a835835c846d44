"""`pollux dead`, on a real server."""

import json
from typing import Any

import pytest

from shared.errors import Failure
from shared.redis.client import Redis
from shared.settings import RedisSettings
from shared.stores.accounts import Accounts
from shared.wire.account import Account
from tests.deploy.conftest import Pollux
from tests.support.redis_functions import RedisFunctions, Ticket

_PROVIDER_DOWN = Failure(
    message="Down.", category="provider_error", code="DOWN", provider="scripted"
)
_INTERNAL = Failure(message="A fault.", category="internal", code="INTERNAL")


@pytest.fixture
async def acme(accounts: Accounts) -> Account:
    """Return an account with ten credits."""
    account = await accounts.create("acme", "pro")
    await accounts.grant(account, 10_000_000)
    return account


@pytest.fixture
def home(redis: Redis, redis_settings: RedisSettings, acme: Account) -> RedisFunctions:
    """Return the Redis functions of the account's partition."""
    return RedisFunctions(redis, redis_settings, acme.partition)


async def _fail_one(
    home: RedisFunctions, failure: Failure = _PROVIDER_DOWN, *, hold: int = 4_000_000
) -> Ticket:
    ticket = await home.submit("acme", content="Why is it down?", hold=hold)
    await home.fail(await home.claim_one(), failure)
    return ticket


def _json(pollux: Pollux, redis_environment: dict[str, str], *words: str) -> Any:  # noqa: ANN401  JSON of any shape
    result = pollux("dead", *words, "--json", **redis_environment)
    assert result.code == 0, result.err
    return json.loads(result.out)


def _id(ticket: Ticket) -> str:
    return f"acme/{ticket.id}"


async def test_dead_letters_are_listed_without_the_callers_message(
    pollux: Pollux, redis_environment: dict[str, str], home: RedisFunctions
) -> None:
    first, second = await _fail_one(home), await _fail_one(home, _INTERNAL)
    rows = _json(pollux, redis_environment, "list")
    assert {row["id"] for row in rows} == {_id(first), _id(second)}
    assert {row["code"] for row in rows} == {"DOWN", "INTERNAL"}
    listed = pollux("dead", "list", **redis_environment)
    assert listed.code == 0
    assert len(listed.out.splitlines()) == 3
    assert _id(first) in listed.out
    assert "Why is it down?" not in listed.out + json.dumps(rows)
    assert len(_json(pollux, redis_environment, "list", "--limit", "1")) == 1


@pytest.mark.parametrize(
    ("words", "count"),
    [
        ("--category internal", 1),
        ("--code DOWN", 1),
        ("--provider scripted", 1),
        ("--model auto", 2),
        ("--model alpha --code INTERNAL", 1),
        ("--account acme", 2),
        ("--account nobody", 0),
        ("--since 2020-01-01", 2),
        ("--until 2020-01-01T00:00:00Z", 0),
    ],
)
async def test_filters_narrow_the_list(
    pollux: Pollux, redis_environment: dict[str, str], home: RedisFunctions, words: str, count: int
) -> None:
    await _fail_one(home)
    await _fail_one(home, _INTERNAL)
    assert len(_json(pollux, redis_environment, "list", *words.split())) == count


async def test_one_is_shown_with_the_callers_message(
    pollux: Pollux, redis_environment: dict[str, str], home: RedisFunctions
) -> None:
    ticket = await _fail_one(home)
    result = _json(pollux, redis_environment, "show", _id(ticket))
    assert result["message"]["content"] == "Why is it down?"
    assert result["submission"]["session"] == ticket.session
    assert (result["provider"], result["chosen"], result["hold"]) == ("scripted", "alpha", 4)
    [attempt] = result["attempts"]
    assert (attempt["attempt"], attempt["worker"], attempt["why"]) == (1, "worker-1", "DOWN")
    shown = pollux("dead", "show", _id(ticket), **redis_environment).out
    assert "Why is it down?" in shown
    assert "worker-1" in shown


async def test_a_dead_letter_is_retried_only_once(
    pollux: Pollux, redis_environment: dict[str, str], home: RedisFunctions
) -> None:
    ticket = await _fail_one(home)
    result = _json(pollux, redis_environment, "retry", _id(ticket))
    assert result["refused"] == {}
    generation = result["retried"][_id(ticket)]
    assert _json(pollux, redis_environment, "retry", _id(ticket)) == result
    assert (await home.credit_totals("acme")).held == 4_000_000
    claimed = await home.claim_one()
    assert claimed.id == generation
    await home.complete(claimed, cost=1_000_000)
    credit_totals = await home.credit_totals("acme")
    assert (credit_totals.balance, credit_totals.held, credit_totals.settled) == (
        9_000_000,
        0,
        1_000_000,
    )
    assert _json(pollux, redis_environment, "list") == []
    assert _json(pollux, redis_environment, "show", _id(ticket))["retried_as"] == generation


async def test_retry_all_retries_as_many_as_the_credits_allow(
    pollux: Pollux, redis_environment: dict[str, str], home: RedisFunctions
) -> None:
    internal = await _fail_one(home, _INTERNAL)
    down = [await _fail_one(home) for _ in range(3)]
    result = pollux("dead", "retry", "--all", "--category", "provider_error", **redis_environment)
    # Ten credits hold two of them.
    assert result.code == 1
    assert "2 retried, 1 refused." in result.out
    assert "too few credits" in result.err
    left = {row["id"] for row in _json(pollux, redis_environment, "list")}
    assert _id(internal) in left
    assert len(left - {_id(internal)}) == 1
    assert left - {_id(internal)} <= {_id(ticket) for ticket in down}


async def test_all_pages_are_retried_and_discarded(
    pollux: Pollux, redis_environment: dict[str, str], home: RedisFunctions
) -> None:
    for _ in range(205):
        await _fail_one(home, hold=0)
    result = _json(pollux, redis_environment, "retry", "--all", "--limit", "102")
    assert len(result["retried"]) == 102
    result = _json(pollux, redis_environment, "discard", "--all")
    assert len(result["discarded"]) == 103
    assert _json(pollux, redis_environment, "list") == []
    assert len(await home.claim(200)) == 102


async def test_a_discarded_dead_letter_is_gone(
    pollux: Pollux, redis_environment: dict[str, str], home: RedisFunctions
) -> None:
    first, second = await _fail_one(home), await _fail_one(home)
    assert pollux("dead", "discard", _id(first), **redis_environment).code == 0
    result = pollux("dead", "discard", _id(first), _id(second), **redis_environment)
    assert result.code == 1
    assert "1 discarded, 1 unknown." in result.out
    assert f"{_id(first)}: There is no such dead letter." in result.err
    assert _json(pollux, redis_environment, "list") == []


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("retry", "or --all"),
        ("retry --category provider_error", "or --all"),
        ("discard", "or --all"),
        ("discard acme/x --all", "or --all"),
        ("discard acme/x --code DOWN", "or --all"),
        ("retry acme", "ACCOUNT/GENERATION"),
        ("show acme:x", "ACCOUNT/GENERATION"),
        ("show acme/x", "no dead letter acme/x"),
        ("list --since yesterday", "--since is"),
        ("list --until 31.1.2026", "--until is"),
    ],
)
async def test_an_ambiguous_command_changes_nothing(
    pollux: Pollux, redis_environment: dict[str, str], home: RedisFunctions, words: str, reason: str
) -> None:
    ticket = await _fail_one(home)
    result = pollux("dead", *words.split(), **redis_environment)
    assert (result.code, result.out) == (1, "")
    assert reason in result.err
    assert [row["id"] for row in _json(pollux, redis_environment, "list")] == [_id(ticket)]


def test_an_unknown_category_is_refused(pollux: Pollux, redis_environment: dict[str, str]) -> None:
    result = pollux("dead", "list", "--category", "weather", **redis_environment)
    assert result.code != 0
    assert "weather" in result.err
