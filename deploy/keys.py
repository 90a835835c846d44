"""`pollux keys`: create, list and revoke API keys.

A key is printed once, when it is made; what is kept of it cannot be turned back into it.
"""

import json as json_text
import sys
from typing import Final

from cyclopts import App

from deploy import stores
from deploy.options import FOLDER, Json, RunningFolder, examples
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
    """Create a key, and its account if there is none of that name.

    Args:
        account: The account's name.
        tier: The account's tier; a new account is free unless told otherwise.
        credits: Credits to add to the account.
        scopes: What the key may do, separated by commas: chat, read, approve, keys, operator.
        expires_days: Days until the key expires; never unless told otherwise.

    """
    granted = microcredits(credits)
    allowed = _scopes(scopes)
    expires_ms = _expiry(expires_days)
    async with stores.accounts(folder) as accounts:
        owner = await accounts.create(account, tier)
        if granted:
            await accounts.grant(owner, granted)
        made = await accounts.create_key(owner, allowed, expires_ms=expires_ms)
        credit_totals = await accounts.credit_totals(owner)
    if not credit_totals.balance and "chat" in allowed:
        sys.stderr.write(
            f"pollux: account {owner.id} has no credits, so its messages are refused; "
            f"run `pollux credits grant {owner.id} 100`\n"
        )
    if json:
        _print(json_text.dumps({"key": made.key, "key_id": made.key_id}))
        return
    _print(f"key:     {made.key}\nkey id:  {made.key_id}\naccount: {owner.id} ({owner.tier})")
    _print("The key is shown this once and kept nowhere.")


@app.command(name="list")
async def list_(*, json: Json = False, folder: RunningFolder = FOLDER) -> None:
    """List all keys, oldest first, revoked ones too."""
    async with stores.accounts(folder) as accounts:
        rows = [_row(key) for key in await accounts.list_keys()]
    if json:
        _print(json_text.dumps(rows))
        return
    for row in rows:
        _print("  ".join(_columns(row)))


@app.command
async def revoke(key_id: str, /, *, folder: RunningFolder = FOLDER) -> None:
    """Revoke a key for good; every API process notices within a second.

    Args:
        key_id: The key's id, as `create` and `list` print it.

    """
    async with stores.accounts(folder) as accounts:
        if not await accounts.revoke_key(key_id):
            raise RequestError(f"No key has the id {key_id}.", Code.NOT_FOUND)
    _print(f"Key {key_id} is revoked.")


def microcredits(credits: float) -> int:  # noqa: A002  the unit is the point
    """Return credits as the integer that is stored; refuses what is no amount to add."""
    if not 0 <= credits <= _CREDITS_MAX:
        raise RequestError(
            f"Credits are a number from 0 to {_CREDITS_MAX:,}; got {credits}.", Code.INVALID_FIELDS
        )
    return round(credits * MICROCREDITS_PER_CREDIT)


def _scopes(text: str) -> tuple[Scope, ...]:
    asked = [word.strip() for word in text.split(",") if word.strip()]
    unknown = [word for word in asked if word not in SCOPES]
    if unknown or not asked:
        raise RequestError(
            f"Scopes are some of {', '.join(SCOPES)}, separated by commas; got {text!r}.",
            Code.INVALID_FIELDS,
        )
    return tuple(scope for scope in SCOPES if scope in asked)


def _expiry(days: float | None) -> int | None:
    if days is None:
        return None
    if not 0 < days <= _DAYS_MAX:
        raise RequestError(
            f"Days until a key expires are a number above 0, at most {_DAYS_MAX:,}; got {days}.",
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
    """Write a key's record as text; what is null has no column."""
    return [
        f"{name.removesuffix('_at')}={','.join(value) if isinstance(value, list) else value}"
        for name, value in row.items()
        if value is not None
    ]


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
