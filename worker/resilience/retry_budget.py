"""The retry budget of a provider, in one worker: second tries are a share of the first ones.

Owns the arithmetic. Refuses to look at a clock: who asks says what time it is.

DESIGN. A token bucket that first tries fill, so that retries cannot multiply the load on a provider
that is failing; time fills it, too, up to a minute's worth, so that a quiet one may still be
retried.
"""

from typing import Final

from shared.settings import RetrySettings

# What busy hours may save up.
_BALANCE_MAX: Final = 100.0


class RetryBudget:
    """How many retries are left. It begins with a minute's worth."""

    def __init__(self, settings: RetrySettings, now: float) -> None:
        self._settings = settings
        self._balance = float(settings.per_minute_min)
        self._filled_at = now

    def deposit(self) -> None:
        """Count a first try."""
        self._balance = max(self._balance, min(_BALANCE_MAX, self._balance + self._settings.share))

    def try_withdraw(self, now: float) -> bool:
        """Take a retry, if there is one; `now` is monotonic, in seconds."""
        retries_min = self._settings.per_minute_min
        filled = self._balance + (now - self._filled_at) * retries_min / 60
        self._balance, self._filled_at = max(self._balance, min(retries_min, filled)), now
        # A tenth ten times is a little less than one.
        if self._balance < 1 - 1e-6:
            return False
        self._balance -= 1
        return True
