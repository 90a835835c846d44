"""`pollux credits`, on a real server."""

import pytest

from tests.deploy.conftest import Pollux, create_key


def test_credits_are_granted_and_shown(pollux: Pollux, redis_environment: dict[str, str]) -> None:
    create_key(pollux, redis_environment, "--account", "acme", "--credits", "1")
    assert pollux("credits", "grant", "acme", "0.5", **redis_environment).code == 0
    shown = pollux("credits", "show", "acme", **redis_environment).out
    assert "available:" in shown
    assert "1.500000" in shown


def test_the_ledger_is_listed_newest_first(
    pollux: Pollux, redis_environment: dict[str, str]
) -> None:
    create_key(pollux, redis_environment, "--account", "acme", "--credits", "1")
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


def test_only_available_credits_are_taken_back(
    pollux: Pollux, redis_environment: dict[str, str]
) -> None:
    create_key(pollux, redis_environment, *"--account acme --credits 10".split())
    shown = pollux("credits", "revoke", "acme", "4", **redis_environment)
    assert shown.code == 0
    assert shown.out.splitlines()[0].split() == ["available:", "6.000000"]
    refused = pollux("credits", "revoke", "acme", "7", **redis_environment)
    assert refused.code == 1
    assert "fewer credits than that" in refused.err
    assert "-4.000000" in pollux("credits", "ledger", "acme", **redis_environment).out


@pytest.mark.parametrize(
    "command", ["credits show nobody", "credits grant nobody 1", "credits ledger nobody"]
)
def test_an_unknown_account_is_named(
    pollux: Pollux, redis_environment: dict[str, str], command: str
) -> None:
    result = pollux(*command.split(), **redis_environment)
    assert (result.code, result.out) == (1, "")
    assert "no account nobody" in result.err
