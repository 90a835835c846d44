"""`pollux keys`: creates, lists and revokes API keys.

A key is printed once, when it is created. Only its hash is stored, so it cannot be printed again.
"""

import sys
from typing import Final

from cyclopts import App

from deploy import stores
from deploy.options import FOLDER, Json, RunningFolder, examples
from deploy.output import print_json, print_line
from shared.clock import MS_PER_DAY, SystemClock, iso
from shared.errors import Code, RequestError
from shared.tiers import TierName
from shared.wire.account import DEFAULT_SCOPES, MICROCREDITS_PER_CREDIT, SCOPES, ApiKey, Scope

app: Final = App(
    name="keys",
    help="Create, list and revoke API keys.",
    help_format="markdown",
    help_epilogue=examples(
        "pollux keys create --account acme --tier pro --credits 1000",
        "pollux keys list --json",
        "pollux keys revoke KEY_ID",
    ),
)

_DAYS_MAX: Final = 36_500
_CREDITS_MAX: Final = 1_000_000_000


@app.command
async def create(
    *,
    account: str,
    tier: TierName | None = None,
    credits: float = 0,  # noqa: A002  the option's name
    scopes: str = ",".join(DEFAULT_SCOPES),
    expires_days: float | None = None,
    json: Json = False,
    folder: RunningFolder = FOLDER,
) -> None:
    """Create a key, and its account if no account has that name.

    Args:
        account: The account's name.
        tier: The account's tier; by default a new account is free, and another keeps its tier.
        credits: Credits to add to the account.
        scopes: What the key may do, separated by commas: chat, read, approve, keys, operator.
        expires_days: Days until the key expires; by default it never does.

    """
    granted = microcredits(credits)
    allowed = _scopes(scopes)
    expires_ms = _expiry(expires_days)
    async with stores.open_accounts(folder) as accounts:
        owner = await accounts.create(account, tier)
        if granted:
            await accounts.grant(owner, granted)
        created = await accounts.create_key(owner, allowed, expires_ms=expires_ms)
        credit_totals = await accounts.credit_totals(owner)
    if not credit_totals.balance and "chat" in allowed:
        sys.stderr.write(
            f"pollux: account {owner.id} has no credits, so its messages are refused; "
            f"run `pollux credits grant {owner.id} 100`\n"
        )
    if json:
        print_json({"key": created.key, "key_id": created.key_id})
        return
    print_line(f"key:     {created.key}\nkey id:  {created.key_id}")
    print_line(f"account: {owner.id} ({owner.tier})")
    print_line("Store the key now: it is not shown again.")


@app.command(name="list")
async def list_(*, json: Json = False, folder: RunningFolder = FOLDER) -> None:
    """List all keys, oldest first, including revoked ones."""
    async with stores.open_accounts(folder) as accounts:
        rows = [_row(key) for key in await accounts.list_keys()]
    if json:
        print_json(rows)
        return
    for row in rows:
        print_line("  ".join(_columns(row)))


@app.command
async def revoke(key_id: str, /, *, folder: RunningFolder = FOLDER) -> None:
    """Revoke a key for ever; every API process refuses it within a second.

    Args:
        key_id: The key's id, as `create` and `list` print it.

    """
    async with stores.open_accounts(folder) as accounts:
        if not await accounts.revoke_key(key_id):
            raise RequestError(f"No key has the id {key_id}.", Code.NOT_FOUND)
    print_line(f"Key {key_id} is revoked.")


def microcredits(credits: float) -> int:  # noqa: A002  the unit is the point
    """Return credits in microcredits. Raises RequestError for an amount out of range."""
    if not 0 <= credits <= _CREDITS_MAX:
        raise RequestError(
            f"Credits must be a number from 0 to {_CREDITS_MAX:,}, not {credits}.",
            Code.INVALID_FIELDS,
        )
    return round(credits * MICROCREDITS_PER_CREDIT)


def _scopes(text: str) -> tuple[Scope, ...]:
    asked = [word.strip() for word in text.split(",") if word.strip()]
    unknown = [word for word in asked if word not in SCOPES]
    if unknown or not asked:
        raise RequestError(
            f"Scopes must be some of {', '.join(SCOPES)}, separated by commas, not {text!r}.",
            Code.INVALID_FIELDS,
        )
    return tuple(scope for scope in SCOPES if scope in asked)


def _expiry(days: float | None) -> int | None:
    if days is None:
        return None
    if not 0 < days <= _DAYS_MAX:
        raise RequestError(
            f"--expires-days must be a number above 0, at most {_DAYS_MAX:,}, not {days}.",
            Code.INVALID_FIELDS,
        )
    return SystemClock().now_ms() + round(days * MS_PER_DAY)


def _row(key: ApiKey) -> dict[str, str | list[str] | None]:
    return {
        "key_id": key.id,
        "account": key.account,
        "name": key.name,
        "scopes": list(key.scopes),
        "created_at": iso(key.created),
        "created_by": key.created_by,
        "expires_at": None if key.expires is None else iso(key.expires),
        "revoked_at": None if key.revoked is None else iso(key.revoked),
    }


def _columns(row: dict[str, str | list[str] | None]) -> list[str]:
    """Return a key's record as `name=value` texts, without the fields that are null."""
    return [
        f"{name.removesuffix('_at')}={','.join(value) if isinstance(value, list) else value}"
        for name, value in row.items()
        if value is not None
    ]
