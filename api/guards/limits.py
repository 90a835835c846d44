"""How often an account may read, and how many waits it may hold open, in this process.

Submissions are not limited here but in the accepting call itself, where the limit is exact for all
processes.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from shared.clock import Clock
from shared.errors import Code, RefusedError
from shared.settings import ApiSettings

_REMEMBERED_MAX: Final = 10_000


class ReadLimits:
    """A token bucket an account: so many reads a minute, and more for what is unfinished."""

    def __init__(self, settings: ApiSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._unfinished: dict[str, int] = {}

    def note_unfinished(self, account: str, count: int) -> None:
        """Remember how many generations an account was last seen to wait for."""
        if account in self._buckets:
            self._unfinished[account] = count

    def spend(self, account: str) -> None:
        """Take one read from the account's bucket. Raises RefusedError when it is empty."""
        now = self._clock.monotonic()
        allowance = (
            self._settings.reads_per_minute
            + self._settings.reads_per_unfinished * self._unfinished.get(account, 0)
        )
        tokens, at = self._buckets.get(account, (float(allowance), now))
        tokens = min(allowance, tokens + (now - at) * allowance / 60)
        if tokens < 1:
            seconds = max(1, math.ceil((1 - tokens) * 60 / allowance))
            raise RefusedError(
                f"More than {allowance} reads a minute; wait {seconds} s.",
                Code.RATE_LIMITED,
                retry_after_seconds=seconds,
            )
        self._remember(account, tokens - 1, now)

    def _remember(self, account: str, tokens: float, now: float) -> None:
        self._buckets[account] = (tokens, now)
        self._buckets.move_to_end(account)
        if len(self._buckets) > _REMEMBERED_MAX:
            forgotten, _ = self._buckets.popitem(last=False)
            self._unfinished.pop(forgotten, None)


class Slots:
    """How many waits each account holds open."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken: dict[str, int] = {}

    @contextmanager
    def hold(self, account: str) -> Iterator[None]:
        """Hold one wait open. Raises RefusedError when the account holds as many as it may."""
        taken = self._taken.get(account, 0)
        if taken >= self._most:
            raise RefusedError(
                f"The account already holds {self._most} waits open.",
                Code.RATE_LIMITED,
                retry_after_seconds=1,
            )
        self._taken[account] = taken + 1
        try:
            yield
        finally:
            self._taken[account] -= 1
            if not self._taken[account]:
                del self._taken[account]
