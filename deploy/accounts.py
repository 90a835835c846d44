"""`pollux accounts`: lists accounts, shows one, changes its tier."""

from typing import Any, Final

from cyclopts import App

from deploy import stores
from deploy.options import FOLDER, Json, RunningFolder, examples
from deploy.output import print_json, print_line
from shared.clock import SystemClock, iso
from shared.stores.accounts import Accounts
from shared.tiers import LimitSettings, TierName
from shared.wire.account import MICROCREDITS_PER_CREDIT, Account

app: Final = App(
    name="accounts",
    help="List accounts, show one, change its tier.",
    help_format="markdown",
    help_epilogue=examples(
        "pollux accounts list",
        "pollux accounts show acme",
        "pollux accounts set-tier acme enterprise",
    ),
)


@app.command(name="list")
async def list_(*, json: Json = False, folder: RunningFolder = FOLDER) -> None:
    """List all accounts by name, with tier and credits."""
    async with stores.open_accounts(folder) as accounts:
        rows = [await _row(accounts, account) for account in await accounts.list_accounts()]
    if json:
        print_json(rows)
        return
    for row in rows:
        print_line("  ".join(f"{name.removesuffix('_at')}={value}" for name, value in row.items()))


@app.command
async def show(account: str, /, *, json: Json = False, folder: RunningFolder = FOLDER) -> None:
    """Show an account: tier, credits, quotas and how much of each is used, keys.

    The quotas come from the settings that this command reads; run it with the API's settings.

    Args:
        account: The account's name.

    """
    async with stores.open_accounts_and_settings(folder) as (accounts, settings):
        owner = await accounts.load(account)
        row = await _row(accounts, owner) | await _quotas(accounts, owner, settings.limits)
        keys = await accounts.list_own_keys(owner.id)
    now = SystemClock().now_ms()
    row |= {"keys_used": sum(key.expires is None or key.expires > now for key in keys)}
    row |= {"keys_max": settings.limits.of(owner.tier).keys_max}
    row |= {"preferred_model": owner.preferred_model or "auto"}
    row |= {"keys": [key.id for key in keys]}
    if json:
        print_json(row)
        return
    for name, value in row.items():
        shown = ", ".join(value) or "none" if isinstance(value, list) else value
        print_line(f"{name + ':':<18}{shown}")


@app.command
async def set_tier(account: str, tier: TierName, /, *, folder: RunningFolder = FOLDER) -> None:
    """Change an account's tier; every API process applies it within a second.

    Args:
        account: The account's name.
        tier: free, pro or enterprise.

    """
    async with stores.open_accounts(folder) as accounts:
        owner = await accounts.load(account)
        await accounts.create(owner.id, tier)
    print_line(f"Account {account} has the tier {tier}.")


async def _row(accounts: Accounts, account: Account) -> dict[str, Any]:
    credit_totals = await accounts.credit_totals(account)
    return {
        "account": account.id,
        "tier": account.tier,
        "created_at": iso(account.created),
        "available": credit_totals.balance / MICROCREDITS_PER_CREDIT,
        "held": credit_totals.held / MICROCREDITS_PER_CREDIT,
        "spent": credit_totals.settled / MICROCREDITS_PER_CREDIT,
    }


async def _quotas(accounts: Accounts, account: Account, limits: LimitSettings) -> dict[str, int]:
    """Return each quota of an account's tier, next to how much of it is used."""
    used, tier = await accounts.stored(account), limits.of(account.tier)
    return {
        "sessions": used.sessions,
        "sessions_max": tier.sessions_max,
        "stored_bytes": used.stored_bytes,
        "stored_bytes_max": tier.stored_bytes_max,
    }
