"""What every stub uses: the base of arguments, times to keep, a rate, a rejection."""

from typing import Literal, Self

import msgspec

from shared.redis.client import Reply
from shared.settings import RetentionSettings


class KeepTimes(msgspec.Struct, frozen=True, array_like=True):
    """How long the record and the events of an ended generation stay, in milliseconds.

    Dead letters stay for `dead_ms`, and at most `dead_max` in a partition. The account's log
    reaches `log_ms` back.
    """

    record_ms: int
    events_ms: int
    dead_ms: int = 604_800_000
    dead_max: int = 100_000
    log_ms: int = 2_592_000_000

    @classmethod
    def of(cls, settings: RetentionSettings) -> Self:
        """Return the operator's retention in milliseconds."""
        return cls(
            settings.generation_seconds * 1000,
            settings.events_seconds * 1000,
            settings.dead_seconds * 1000,
            settings.dead_max,
            settings.log_seconds * 1000,
        )


class Ask(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The arguments of one function; a field at its default is absent in Lua (nil)."""


class Rate(msgspec.Struct, frozen=True, array_like=True):
    """An account's submission limit: what remains of it, and in `retry_ms` one more is allowed."""

    limit: int
    remaining: int
    reset_ms: int
    retry_ms: int


class Rejected(msgspec.Struct, frozen=True):
    """Nothing was stored. `about` is the busy generation, the balance, or the least budget.

    `hold` is what would have been held where the balance is too low. For a quota, `about` names it
    and `used` says how much of it is used.
    """

    reason: Literal[
        "mismatch",
        "no_session",
        "busy",
        "limited",
        "crowded",
        "waiting",
        "late",
        "full",
        "poor",
        "unpaid",
        "quota",
    ]
    about: str = ""
    rate: Rate | None = None
    hold: int = 0
    used: int = 0


def text_of(word: Reply) -> str:
    """Return a part of a reply as text."""
    return word.decode() if isinstance(word, bytes) else str(word)
