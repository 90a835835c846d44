"""The retry budget of a provider in one worker: retries are bounded by a share of first calls.

Owns the arithmetic. Refuses to read a clock: the caller passes the time.

DESIGN. A token bucket that first calls fill, so that retries cannot multiply the load on a failing
provider; time fills it, too, up to one minute's minimum, so that a rarely used provider may still
be retried. Example: with `share` 0.1 and `per_minute_min` 10, 200 calls add 20 retries; an idle
provider has 10.
"""

from typing import Final

from shared.settings import RetrySettings

# The most retries that can be saved up.
_BALANCE_MAX: Final = 100.0


class RetryBudget:
    """How many retries are left; it starts with `per_minute_min`."""

    def __init__(self, settings: RetrySettings, now: float) -> None:
        self._settings = settings
        self._balance = float(settings.per_minute_min)
        self._filled_at = now

    def deposit(self) -> None:
        """Count a first call."""
        self._balance = max(self._balance, min(_BALANCE_MAX, self._balance + self._settings.share))

    def try_withdraw(self, now: float) -> bool:
        """Take a retry, if one is left; `now` is monotonic, in seconds."""
        retries_min = self._settings.per_minute_min
        filled = self._balance + (now - self._filled_at) * retries_min / 60
        self._balance, self._filled_at = max(self._balance, min(retries_min, filled)), now
        # In floating point, ten times 0.1 is a little less than 1.
        if self._balance < 1 - 1e-6:
            return False
        self._balance -= 1
        return True
