"""Accounts: create, grant, usage, preferred model, submission limit."""

from typing import Final, Literal, NamedTuple

from shared.errors import StoreError
from shared.redis.client import Connection, Reply
from shared.redis.functions.contract import Ask, Rate, Rejected, text_of
from shared.redis.library import invoke


class CreateAccountAsk(Ask, frozen=True, kw_only=True):
    """An account to create, or to give another tier."""

    account: str
    tier: str | None = None


async def create_account(
    redis: Connection, root: str, ask: CreateAccountAsk, fresh: bytes
) -> bytes:
    """Return the account's record: `fresh` where there was none."""
    record: bytes = await invoke(redis, "create_account", root, ask, blob=fresh)
    return record


class CountSubmissionAsk(Ask, frozen=True, kw_only=True):
    """One of the `per_minute` submissions, for an object created under another root as `id`."""

    account: str
    per_minute: int
    id: str
    idempotency: str | None = None
    fingerprint: str | None = None
    idempotency_ms: int | None = None


class SubmissionCounted(NamedTuple):
    """The id to create: the requested one, or the one that an earlier request reserved."""

    id: str
    rate: Rate | None = None


async def count_submission(
    redis: Connection, root: str, ask: CountSubmissionAsk
) -> SubmissionCounted | Rejected:
    """Count a submission and reserve its Idempotency-Key; Rejected: mismatch or limited."""
    reply: list[Reply] = await invoke(redis, "count_submission", root, ask)
    match [text_of(reply[0]), *reply[1:]]:
        case ["taken", rate]:
            return SubmissionCounted(ask.id, Rate(*rate))
        case ["reserved", id_]:
            return SubmissionCounted(text_of(id_))
        case ["limited", rate]:
            return Rejected("limited", rate=Rate(*rate))
        case ["mismatch"]:
            return Rejected("mismatch")
        case _:
            raise StoreError(f"count_submission answered {reply!r}")


class ReleaseIdempotencyKeyAsk(Ask, frozen=True, kw_only=True):
    """The hash of an Idempotency-Key, and the id of the API key that it was reserved for."""

    account: str
    idempotency: str
    id: str


async def release_idempotency_key(
    redis: Connection, root: str, ask: ReleaseIdempotencyKeyAsk
) -> None:
    """Delete a reserved Idempotency-Key."""
    await invoke(redis, "release_idempotency_key", root, ask)


class GrantAsk(Ask, frozen=True, kw_only=True):
    """Microcredits for an account; negative to take some back."""

    account: str
    amount: int


NotGranted = Literal["poor", "too much"]
_NOT_GRANTED: Final[dict[int, NotGranted]] = {-1: "poor", -2: "too much"}


async def grant(redis: Connection, root: str, ask: GrantAsk) -> int | NotGranted:
    """Return the new balance, or why nothing was granted. Must not be repeated blindly.

    "poor": the balance is less than what is taken; "too much": the total would be too large.
    """
    balance = int(await invoke(redis, "grant", root, ask, effect="once"))
    return _NOT_GRANTED.get(balance, balance)


class SetPreferredModelAsk(Ask, frozen=True, kw_only=True):
    """The model that an account prefers; None for none."""

    account: str
    model: str | None = None


async def set_preferred_model(redis: Connection, root: str, ask: SetPreferredModelAsk) -> bool:
    """Store an account's preferred model in its record; False where there is no such account."""
    return bool(await invoke(redis, "set_preferred_model", root, ask))


class UsageAsk(Ask, frozen=True, kw_only=True):
    """`days` days in a row from `first`, counted from 1970-01-01."""

    account: str
    first: int
    days: int


async def usage(
    redis: Connection, root: str, ask: UsageAsk
) -> list[tuple[int, dict[bytes, bytes]]]:
    """Return the fields of each day on which an account used something, first day first."""
    reply: list[Reply] = await invoke(redis, "usage", root, ask, effect="none")
    return [(day, dict(zip(flat[::2], flat[1::2], strict=True))) for day, *flat in reply]
