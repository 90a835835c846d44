"""Token buckets, and the count of recent generations that their sizes depend on.

Pure: the caller passes the time, in seconds of a monotonic clock.
"""

from typing import Final

_MINUTE: Final = 60.0
# Far below any use to a caller, far above the rounding error of adding up small times.
_ROUNDING: Final = 1e-6


class TokenBucket:
    """An allowance of some requests a minute: what is used of it flows back within a minute.

    E.g. with size 60, a used token is back after 1 s. The size may differ from call to call. A
    larger size is usable at once; a smaller one leaves at least one token, so that a caller who was
    given a Retry-After is let through at that time.
    """

    __slots__ = ("_at", "_size", "_used")

    def __init__(self, now: float) -> None:
        self._at = now
        self._size = 1
        self._used = 0.0

    def wait_seconds(self, size: int, now: float) -> float:
        """Return in how many seconds there is a token; 0 if there is one now."""
        if not self._used:
            self._at, self._size = now, size
            return 0.0
        self._used = max(0.0, self._used - (now - self._at) * size / _MINUTE)
        if size < self._size:
            self._used = min(self._used, size - 1.0)
        self._at, self._size = now, size
        missing = self._used + 1 - size
        return missing * _MINUTE / size if missing > _ROUNDING else 0.0

    @property
    def reset_seconds(self) -> float:
        """In how many seconds the bucket is unused again, as of the last call."""
        return self._used * _MINUTE / self._size

    def take(self) -> None:
        """Use one token; `wait_seconds` has just returned 0."""
        self._used += 1

    def give_back(self) -> None:
        """Return one token that was taken."""
        self._used = max(0.0, self._used - 1)


class RecentGenerations:
    """How many generations of an account are unfinished, or ended within the last minute.

    Never too few, as far as this process accepted or saw them. Let `level` be the number of
    unfinished generations minus the number accepted so far; the result is the highest level of the
    last minute plus the number accepted by now. E.g. 5 are unfinished, then 2 more are accepted and
    4 end: 7 count. The minute is the current one and the one before, so it is up to two long.
    """

    __slots__ = ("_accepted", "_before", "_last", "_peak", "_since")

    def __init__(self, now: float) -> None:
        self._accepted = 0
        self._before = self._peak = self._last = 0
        self._since = now

    def note(self, unfinished: int, now: float, *, is_new: bool = False) -> None:
        """Note how many are unfinished; `is_new` if one of them was just accepted."""
        if now - self._since >= _MINUTE:
            self._start_minute(now)
        self._accepted += is_new
        self._last = unfinished - self._accepted
        self._peak = max(self._peak, self._last)

    def count(self, now: float) -> int:
        """Return how many count now."""
        if now - self._since >= _MINUTE:
            self._start_minute(now)
        return self._accepted + max(self._before, self._peak)

    def _start_minute(self, now: float) -> None:
        minutes = (now - self._since) // _MINUTE
        self._before = self._peak if minutes == 1 else self._last
        self._peak = self._last
        self._since += minutes * _MINUTE
