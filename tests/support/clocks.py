"""Clocks for tests: one that a test advances beside real time, and one that only a test advances.

`AdjustableClock` is the machine's time plus what a test has added: for whole systems.
`ManualClock` stands still until it is advanced or slept on: for single parts.
"""

from typing_extensions import override

from shared.clock import SystemClock


class AdjustableClock(SystemClock):
    """The machine's time, plus the seconds that a test has added."""

    def __init__(self) -> None:
        self._added_seconds = 0.0

    def advance(self, seconds: float) -> None:
        """Let this much time pass at once."""
        self._added_seconds += seconds

    @override
    def now_ms(self) -> int:
        return super().now_ms() + int(self._added_seconds * 1000)

    @override
    def monotonic(self) -> float:
        return super().monotonic() + self._added_seconds


class ManualClock:
    """Time stands at `now` seconds until a test sets it; a sleep returns at once and advances it.

    `slept` are the seconds of each sleep.
    """

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        self.slept: list[float] = []

    def now_ms(self) -> int:
        """Return `now` in milliseconds."""
        return int(self.now * 1000)

    def monotonic(self) -> float:
        """Return `now`."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Advance the clock by `seconds`."""
        self.slept.append(seconds)
        self.now += seconds
