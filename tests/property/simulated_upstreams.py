"""Upstreams in simulated time that limit calls: each takes a call or refuses it.

Owns what each kind of limit takes, and how many calls it could have taken at most. Times are in
seconds.
"""

import random
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from typing_extensions import override


class Refusal(NamedTuple):
    """A 429; `retry_after_seconds` is what it says of the wait, if anything."""

    retry_after_seconds: float | None = None


class Upstream(Protocol):
    """An upstream. `has_retry_after` in the constructors: a refusal says when to call again."""

    def take(self, now: float, answer_seconds: float, tokens: int) -> Refusal | None:
        """Take a call that would last so long and use so many tokens, or refuse it."""

    def capacity(self, since: float, until: float) -> float:
        """Return how many calls it could have taken between two times."""


class WindowLimit(Upstream):
    """So many calls, or tokens, in each minute of a clock whose minutes begin at `offset`."""

    def __init__(
        self, most: int, *, offset: float = 0.0, has_retry_after: bool = False, tokens_each: int = 0
    ) -> None:
        self._most = most
        self._offset = offset
        self._has_retry_after = has_retry_after
        self._tokens_each = tokens_each
        self._window, self._used = -1, 0

    @override
    def take(self, now: float, answer_seconds: float, tokens: int) -> Refusal | None:
        """Take a call while the minute has room for it."""
        window = int((now - self._offset) // 60)
        if window != self._window:
            self._window, self._used = window, 0
        cost = tokens if self._tokens_each else 1
        if self._used + cost > self._most:
            left = (window + 1) * 60 + self._offset - now
            return Refusal(left + 0.01 if self._has_retry_after else None)
        self._used += cost
        return None

    @override
    def capacity(self, since: float, until: float) -> float:
        """Return the calls of all minutes; for tokens, of average size."""
        return self._most / max(1, self._tokens_each) * (until - since) / 60


class BucketLimit(Upstream):
    """So many calls a minute, refilled evenly, of which a tenth may come at once."""

    def __init__(self, most: int, *, has_retry_after: bool = False) -> None:
        self._rate = most / 60
        self._size = max(1.0, most / 10)
        self._has_retry_after = has_retry_after
        self._level, self._at = self._size, 0.0

    @override
    def take(self, now: float, answer_seconds: float, tokens: int) -> Refusal | None:
        """Take a call if a whole one has been refilled."""
        self._level = min(self._size, self._level + (now - self._at) * self._rate)
        self._at = now
        if self._level < 1:
            return Refusal((1 - self._level) / self._rate if self._has_retry_after else None)
        self._level -= 1
        return None

    @override
    def capacity(self, since: float, until: float) -> float:
        """Return the calls that are refilled."""
        return self._rate * (until - since)


class ConcurrencyLimit(Upstream):
    """So many calls at the same time."""

    def __init__(self, most: int, answer_seconds: float) -> None:
        self._most = most
        self._answer_seconds = answer_seconds
        self._ends: list[float] = []

    @override
    def take(self, now: float, answer_seconds: float, tokens: int) -> Refusal | None:
        """Take a call if fewer are under way."""
        self._ends = [end for end in self._ends if end > now]
        if len(self._ends) >= self._most:
            return Refusal()
        self._ends.append(now + answer_seconds)
        return None

    @override
    def capacity(self, since: float, until: float) -> float:
        """Return the calls of average length."""
        return self._most * (until - since) / self._answer_seconds


class ChanceRefusals(Upstream):
    """No limit: a share of the calls is refused at random."""

    def __init__(self, share: float, seed: int, retry_after_seconds: float | None = None) -> None:
        self._share = share
        self._chance = random.Random(seed)
        self._refusal = Refusal(retry_after_seconds)

    @override
    def take(self, now: float, answer_seconds: float, tokens: int) -> Refusal | None:
        """Take a call unless chance refuses it."""
        return self._refusal if self._chance.random() < self._share else None

    @override
    def capacity(self, since: float, until: float) -> float:
        """Return that there is no limit."""
        return float("inf")


class OneAfterAnother(Upstream):
    """Upstreams, each with the time until which it answers."""

    def __init__(self, parts: Sequence[tuple[float, Upstream]]) -> None:
        self._parts = deque(parts)
        self._all: Final = tuple(parts)

    @override
    def take(self, now: float, answer_seconds: float, tokens: int) -> Refusal | None:
        """Take a call if the present one does."""
        while self._parts[0][0] <= now:
            self._parts.popleft()
        return self._parts[0][1].take(now, answer_seconds, tokens)

    @override
    def capacity(self, since: float, until: float) -> float:
        """Return the sum of all parts."""
        total, begin = 0.0, 0.0
        for end, part in self._all:
            low, high = max(since, begin), min(until, end)
            total += part.capacity(low, high) if low < high else 0.0
            begin = end
        return total
