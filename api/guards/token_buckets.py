"""The arithmetic of the limits: a token bucket, and how many generations count for its size.

Pure: the caller passes the time, as seconds of a monotonic clock.
"""

from typing import Final

_MINUTE: Final = 60.0
# Far below what anybody could gain by it, far above the error of adding up small times.
_ROUNDING: Final = 1e-6


class TokenBucket:
    """What is used of an allowance of so many a minute; it comes back evenly within a minute.

    The size may differ from call to call. One that grows is usable at once. One that shrinks leaves
    one token at least, so that a caller who was told when to come again is let through then.
    """

    __slots__ = ("_at", "_size", "_used")

    def __init__(self, now: float) -> None:
        self._at = now
        self._size = 1
        self._used = 0.0

    def wait_seconds(self, size: int, now: float) -> float:
        """Return after how many seconds there is a token; 0 if there is one now."""
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
        """After how many seconds it is whole again, as of the last look."""
        return self._used * _MINUTE / self._size

    def take(self) -> None:
        """Use one token, which `wait_seconds` has shown to be there."""
        self._used += 1

    def give_back(self) -> None:
        """Return one token that was taken."""
        self._used = max(0.0, self._used - 1)


class RecentGenerations:
    """How many generations of an account are unfinished, or ended within the last minute.

    Never fewer than there are, as far as they were accepted or seen here. With `level` as the
    number unfinished less the number accepted so far, those that count are the highest level of
    the last minute plus the number accepted by now: of 5 unfinished, 2 accepted later and 4 ended
    since, 7 count. The minute is the present one and the one before, so it is two at most.
    """

    __slots__ = ("_accepted", "_before", "_last", "_peak", "_since")

    def __init__(self, now: float) -> None:
        self._accepted = 0
        self._before = self._peak = self._last = 0
        self._since = now

    def note(self, unfinished: int, now: float, *, is_new: bool = False) -> None:
        """Take in how many are unfinished; `is_new` when one was accepted, which counts too."""
        if now - self._since >= _MINUTE:
            self._start_minute(now)
        self._accepted += is_new
        self._last = unfinished - self._accepted
        self._peak = max(self._peak, self._last)

    def count(self, now: float) -> int:
        """Return how many there are."""
        if now - self._since >= _MINUTE:
            self._start_minute(now)
        return self._accepted + max(self._before, self._peak)

    def _start_minute(self, now: float) -> None:
        minutes = (now - self._since) // _MINUTE
        self._before = self._peak if minutes == 1 else self._last
        self._peak = self._last
        self._since += minutes * _MINUTE
