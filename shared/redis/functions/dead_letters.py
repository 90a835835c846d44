"""Dead letters: list, retry, discard."""

from typing import Literal, NamedTuple

from shared.errors import StoreError
from shared.redis.client import Connection, Reply
from shared.redis.functions.contract import Ask, KeepTimes, text_of
from shared.redis.library import invoke


class ListDeadLettersAsk(Ask, frozen=True, kw_only=True):
    """Which dead letters: `count` of them behind the name `after`, died between two times.

    A name is `account:id`; `after_ms` is when that one died. Both times are included.
    """

    count: int
    keep: KeepTimes
    after_ms: int | None = None
    after: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None


class DeadLetterEntry(NamedTuple):
    """A dead letter in the list; `record` is empty where it was deleted before its entry."""

    died_ms: int
    account: str
    id: str
    record: dict[str, bytes]


async def list_dead_letters(
    redis: Connection, root: str, ask: ListDeadLettersAsk
) -> list[DeadLetterEntry]:
    """Return a page of dead letters, newest first; a page shorter than `count` is the last."""
    reply: list[list[Reply]] = await invoke(redis, "list_dead_letters", root, ask)
    return [
        DeadLetterEntry(
            int(died),
            text_of(account),
            text_of(id_),
            dict(zip(map(text_of, fields[::2]), fields[1::2], strict=True)),
        )
        for died, account, id_, *fields in reply
    ]


class RetryDeadLetterAsk(Ask, frozen=True, kw_only=True):
    """Which dead letter to retry, with which new ids, within which limits of the account."""

    account: str
    id: str
    generation: str
    message: str
    unfinished_max: int
    waiting_max: int
    total_max: int
    stored_bytes_max: int


class Retried(NamedTuple):
    """The generation that a retry made, this one or an earlier one."""

    generation: str


class RetryRefused(NamedTuple):
    """Nothing was done; `balance` in microcredits where that was the reason."""

    reason: Literal[
        "unknown",
        "unreadable",
        "no_session",
        "crowded",
        "waiting",
        "full",
        "quota",
        "poor",
        "in_batch",
    ]
    balance: int = 0


async def retry_dead_letter(
    redis: Connection, root: str, ask: RetryDeadLetterAsk
) -> Retried | RetryRefused:
    """Make a new generation of a dead letter, once; safe to repeat, also with other ids."""
    reply: list[Reply] = await invoke(redis, "retry_dead_letter", root, ask)
    match [text_of(word) for word in reply]:
        case ["revived", generation]:
            return Retried(generation)
        case ["poor", balance]:
            return RetryRefused("poor", int(balance))
        case [
            (
                "unknown"
                | "unreadable"
                | "no_session"
                | "crowded"
                | "waiting"
                | "full"
                | "quota"
                | "in_batch"
            ) as reason
        ]:
            return RetryRefused(reason)
        case _:
            raise StoreError(f"retry_dead_letter answered {reply!r}")


class DiscardDeadLettersAsk(Ask, frozen=True, kw_only=True):
    """Dead letters to delete, as (account, id), at most a hundred."""

    names: list[tuple[str, str]]


async def discard_dead_letters(
    redis: Connection, root: str, ask: DiscardDeadLettersAsk
) -> list[bool]:
    """Delete dead letters; return of each whether it was there."""
    return [bool(gone) for gone in await invoke(redis, "discard_dead_letters", root, ask)]
