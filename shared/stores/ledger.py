"""An account's grants, charges and daily usage.

Written by the functions that move credits, in the same call; only read here. Days are counted from
1970-01-01, in UTC.
"""

from typing import Final, Literal, NamedTuple

import msgspec

from shared.redis import functions, keys
from shared.redis.client import Connection


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A ledger entry in microcredits; of a charge also the generation, model and API key.

    `overrun` is what an answer cost beyond its hold, which nobody paid.
    """

    kind: Literal["grant", "charge"]
    amount: int
    generation: str | None = None
    overrun: int = 0
    model: str | None = None
    key: str | None = None


class TimedEntry(NamedTuple):
    """An entry, and when it was written, in ms."""

    at: int
    entry: Entry


class UsageTotals(NamedTuple):
    """What answers used: their number, tokens, and microcredits captured."""

    generations: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    captured: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0

    def plus(self, other: "UsageTotals") -> "UsageTotals":
        """Return the sum of both."""
        return UsageTotals(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class DailyUsage(NamedTuple):
    """A day's use of one model through one API key, by its id."""

    day: int
    model: str
    key: str
    use: UsageTotals


_METRICS: Final = ("generations", "input", "output", "reasoning", "credits", "cached", "written")
decode = msgspec.msgpack.Decoder(Entry).decode


async def last(redis: Connection, root: str, account: str, count: int) -> list[TimedEntry]:
    """Return an account's last entries, newest first."""
    name = keys.LEDGER(root, account)
    found = await redis.call("XREVRANGE", name, "+", "-", "COUNT", count)
    return [TimedEntry(int(at.partition(b"-")[0]), decode(fields[1])) for at, fields in found]


async def used(redis: Connection, root: str, account: str, days: range) -> list[DailyUsage]:
    """Return an account's use on each of these days (a year at most) by model and key."""
    ask = functions.UsageAsk(account=account, first=days.start, days=len(days))
    found = await functions.usage(redis, root, ask)
    return [row for day, fields in found for row in _rows(day, fields)]


def _rows(day: int, fields: dict[bytes, bytes]) -> list[DailyUsage]:
    counts: dict[tuple[str, str], dict[str, int]] = {}
    for name, count in fields.items():
        model, key, metric = name.decode().split("|")
        counts.setdefault((model, key), {})[metric] = int(count)
    return [
        DailyUsage(day, model, key, UsageTotals(*(count.get(metric, 0) for metric in _METRICS)))
        for (model, key), count in counts.items()
    ]
