"""Accounts: create, credits, usage, the preferred model, and the submission limit."""

from typing import Final, Literal, NamedTuple

from shared.errors import StoreError
from shared.redis.client import Connection, Reply
from shared.redis.functions.contract import Ask, Rate, Rejected, text_of
from shared.redis.library import invoke


class CreateAccountAsk(Ask, frozen=True, kw_only=True):
    """An account to make, or to give another tier."""

    account: str
    tier: str | None = None


async def create_account(
    redis: Connection, root: str, ask: CreateAccountAsk, fresh: bytes
) -> bytes:
    """Return the account's record: `fresh` where there was none."""
    record: bytes = await invoke(redis, "create_account", root, ask, blob=fresh)
    return record


class CountSubmissionAsk(Ask, frozen=True, kw_only=True):
    """One of the `per_minute` submissions, for what is created under another root as `id`."""

    account: str
    per_minute: int
    id: str
    idempotency: str | None = None
    fingerprint: str | None = None
    idempotency_ms: int | None = None


class SubmissionCounted(NamedTuple):
    """What to create: the asked id, or the one that an earlier request reserved."""

    id: str
    rate: Rate | None = None


async def count_submission(
    redis: Connection, root: str, ask: CountSubmissionAsk
) -> SubmissionCounted | Rejected:
    """Count a submission and reserve its Idempotency-Key; NotAccepted: mismatch or limited."""
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
            raise StoreError(f"take_submission answered {reply!r}")


class ReleaseIdempotencyKeyAsk(Ask, frozen=True, kw_only=True):
    """The hash of an Idempotency-Key, and the id of the API key that it stands for."""

    account: str
    idempotency: str
    id: str


async def release_idempotency_key(
    redis: Connection, root: str, ask: ReleaseIdempotencyKeyAsk
) -> None:
    """Forget an Idempotency-Key that was reserved."""
    await invoke(redis, "release_idempotency_key", root, ask)


class GrantAsk(Ask, frozen=True, kw_only=True):
    """Credits for an account, in microcredits."""

    account: str
    amount: int


NotGranted = Literal["poor", "too much"]


_NOT_GRANTED: Final[dict[int, NotGranted]] = {-1: "poor", -2: "too much"}


async def grant(redis: Connection, root: str, ask: GrantAsk) -> int | NotGranted:
    """Return the new balance, or why it stays: less can be taken, or no more be counted.

    Not to be repeated blindly.
    """
    balance = int(await invoke(redis, "grant", root, ask, effect="once"))
    return _NOT_GRANTED.get(balance, balance)


class SetPreferredModelAsk(Ask, frozen=True, kw_only=True):
    """Which model an account prefers; absent for none."""

    account: str
    model: str | None = None


async def set_preferred_model(redis: Connection, root: str, ask: SetPreferredModelAsk) -> bool:
    """Write an account's preference into its record; False when there is no such account."""
    return bool(await invoke(redis, "set_preferred_model", root, ask))


class UsageAsk(Ask, frozen=True, kw_only=True):
    """So many days in a row, from the first on; days are counted from 1970-01-01."""

    account: str
    first: int
    days: int


async def usage(
    redis: Connection, root: str, ask: UsageAsk
) -> list[tuple[int, dict[bytes, bytes]]]:
    """Return the fields of each day on which an account used something, the first day first."""
    reply: list[Reply] = await invoke(redis, "usage", root, ask, effect="none")
    return [(day, dict(zip(flat[::2], flat[1::2], strict=True))) for day, *flat in reply]
