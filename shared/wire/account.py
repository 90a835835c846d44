"""Accounts, API keys and credits."""

from typing import Final, Literal, get_args

import msgspec

from shared.tiers import TierName

Scope = Literal["chat", "read", "approve", "keys", "operator"]
TIERS: tuple[TierName, ...] = get_args(TierName)
SCOPES: tuple[Scope, ...] = get_args(Scope)
DEFAULT_SCOPES: tuple[Scope, ...] = ("chat", "read")
# A credit is a US cent. Money is counted in whole microcredits, so that no sum is ever rounded.
MICROCREDITS_PER_CREDIT: Final = 1_000_000


class Account(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tenant. `partition` says where its keys are, chosen once when the account is created.

    `preferred_model` is a catalogue identifier or `auto`, where the tenant has chosen one.
    """

    id: str
    tier: TierName
    partition: int
    created: int
    preferred_model: str | None = None


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The record of a key, which itself is not stored. Times are in ms.

    `created_by` is the key of the same account that asked for it, None where an operator made it;
    `receipt` is the hash of that request's Idempotency-Key, if it had one, valid until
    `receipt_ends`.
    """

    id: str
    account: str
    scopes: tuple[Scope, ...]
    created: int
    expires: int | None = None
    revoked: int | None = None
    name: str | None = None
    created_by: str | None = None
    receipt: str | None = None
    receipt_ends: int | None = None


class CreditTotals(msgspec.Struct, frozen=True, kw_only=True):
    """An account's credits in microcredits: granted = balance + held + settled, always.

    `overrun` is what answers cost beyond their holds, which nobody paid.
    """

    granted: int = 0
    balance: int = 0
    held: int = 0
    settled: int = 0
    overrun: int = 0
