"""What every stub stands on: `Ask`, times to keep, rates, rejections."""

from typing import Literal, Self

import msgspec

from shared.redis.client import Reply
from shared.settings import RetentionSettings


class KeepTimes(msgspec.Struct, frozen=True, array_like=True):
    """How long the record and the events of an ended generation stay, in milliseconds.

    What failed for no fault of its caller stays longer, and no more than `dead_max` in a partition.
    """

    record_ms: int
    events_ms: int
    dead_ms: int = 604_800_000
    dead_max: int = 100_000

    @classmethod
    def of(cls, settings: RetentionSettings) -> Self:
        """Return what an operator decided, in the functions' words."""
        return cls(
            settings.generation_seconds * 1000,
            settings.events_seconds * 1000,
            settings.dead_seconds * 1000,
            settings.dead_max,
        )


class Ask(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The arguments of one function; absent fields are nil in Lua."""


class Rate(msgspec.Struct, frozen=True, array_like=True):
    """Where an account stands against its submission limit; one more is allowed in `retry_ms`."""

    limit: int
    remaining: int
    reset_ms: int
    retry_ms: int


class Rejected(msgspec.Struct, frozen=True):
    """Nothing was stored. `about` is the busy generation, the balance, or the least budget.

    `hold` is what was to be held, where the balance does not cover it. Of a quota, `about` says
    which one and `used` how much of it there is.
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
    """Return a reply as text."""
    return word.decode() if isinstance(word, bytes) else str(word)
