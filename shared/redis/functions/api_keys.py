"""API keys: create, list, delete, revoke, authenticate."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from shared.errors import StoreError
from shared.redis.client import Connection, Reply
from shared.redis.functions.contract import Ask, text_of
from shared.redis.library import invoke


class CreateKeyAsk(Ask, frozen=True, kw_only=True):
    """The hash under which a new API key's record is stored."""

    hash: str


async def create_key(redis: Connection, root: str, ask: CreateKeyAsk, record: bytes) -> None:
    """Store the record of a new API key."""
    await invoke(redis, "create_key", root, ask, blob=record)


class RevokeKeyAsk(Ask, frozen=True, kw_only=True):
    """Which API key to revoke, at which time, and the channel that tells API processes."""

    id: str
    now: int
    channel: str


async def revoke_key(redis: Connection, root: str, ask: RevokeKeyAsk) -> bool:
    """Revoke a key; return whether there was one."""
    return bool(await invoke(redis, "revoke_key", root, ask))


class CreateOwnKeyAsk(Ask, frozen=True, kw_only=True):
    """The hash of an API key that an account makes, and how many keys it may have."""

    hash: str
    keys_max: int


class KeyRefused(NamedTuple):
    """Why a key may not do this, or not now; `about` is a scope, a time in ms, a count or a record.

    `missing`: an older process made keys that are not in their accounts' lists yet. `unknown`:
    there is no such key; `about` is the hash of the Idempotency-Key of one that was deleted before,
    if it had one.
    """

    reason: Literal["exists", "gone", "ended", "lacks", "outlives", "quota", "missing", "unknown"]
    about: Any = None


async def create_own_key(
    redis: Connection, root: str, ask: CreateOwnKeyAsk, record: bytes
) -> KeyRefused | None:
    """Store the record of an API key that another key asked for; None when it is valid."""
    reply: list[Reply] = await invoke(redis, "create_own_key", root, ask, blob=record)
    return _key_refused(reply) if text_of(reply[0]) != "created" else None


class DeleteOwnKeyAsk(Ask, frozen=True, kw_only=True):
    """Which API key to delete, by which key and request; `channel` tells API processes."""

    account: str
    by: str
    id: str
    call: str
    channel: str


async def delete_own_key(redis: Connection, root: str, ask: DeleteOwnKeyAsk) -> str | KeyRefused:
    """Delete a key; return the hash of the Idempotency-Key that created it, or an empty text."""
    reply: list[Reply] = await invoke(redis, "delete_own_key", root, ask)
    match [text_of(reply[0]), *reply[1:]]:
        case ["deleted", receipt]:
            return text_of(receipt)
        case _:
            return _key_refused(reply)


def _key_refused(reply: list[Reply]) -> KeyRefused:
    match [text_of(reply[0]), *reply[1:]]:
        case [("lacks" | "unknown") as reason, about]:
            return KeyRefused(reason, text_of(about) or None)
        case [("exists" | "outlives" | "quota") as reason, about]:
            return KeyRefused(reason, about)
        case [("gone" | "ended" | "missing") as reason]:
            return KeyRefused(reason)
        case _:
            raise StoreError(f"a function about API keys answered {reply!r}")


class ListOwnKeysAsk(Ask, frozen=True, kw_only=True):
    """Which page of an account's API keys."""

    account: str
    offset: int
    limit: int


class OwnKeys(NamedTuple):
    """Records of keys, how many the account has, and how many keys are missing in the lists."""

    records: list[bytes]
    total: int
    missing: int


async def list_own_keys(redis: Connection, root: str, ask: ListOwnKeysAsk) -> OwnKeys:
    """Return a page of an account's keys, newest first."""
    missing, total, records = await invoke(redis, "list_own_keys", root, ask)
    return OwnKeys(records, total, missing)


class AdoptKeysAsk(Ask, frozen=True, kw_only=True):
    """Ids of keys; the last call of a round says how many were `missing` at its start."""

    ids: Sequence[str]
    missing: int | None = None


async def adopt_keys(redis: Connection, root: str, ask: AdoptKeysAsk) -> int:
    """Add keys to their accounts' lists; return how many are missing there now."""
    return int(await invoke(redis, "adopt_keys", root, ask))


class AuthenticateAsk(Ask, frozen=True, kw_only=True):
    """The hash of the presented key."""

    hash: str


async def authenticate(
    redis: Connection, root: str, ask: AuthenticateAsk
) -> tuple[bytes, bytes] | None:
    """Return a key's record and its account's; None for an unknown key."""
    reply: list[bytes] = await invoke(redis, "authenticate", root, ask, effect="none")
    return (reply[0], reply[1]) if reply else None
