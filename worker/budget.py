"""The retry budget of a provider, in one worker: second tries are a share of the first ones.

Owns the arithmetic. Refuses to look at a clock: who asks says what time it is.

DESIGN. A token bucket that first tries fill, so that retries cannot multiply the load on a provider
that is failing; time fills it, too, up to a minute's worth, so that a quiet one may still be
retried.
"""

from typing import Final

from shared.sections import RetrySettings

# What busy hours may save up.
_SAVED_MAX: Final = 100.0


class Budget:
    """How many retries are left. It begins with a minute's worth."""

    def __init__(self, settings: RetrySettings, now: float) -> None:
        self._settings = settings
        self._left = float(settings.per_minute_min)
        self._at = now

    def earn(self) -> None:
        """Count a first try."""
        self._left = max(self._left, min(_SAVED_MAX, self._left + self._settings.share))

    def spend(self, now: float) -> bool:
        """Take a retry, if there is one; `now` is monotonic, in seconds."""
        quiet = self._settings.per_minute_min
        filled = self._left + (now - self._at) * quiet / 60
        self._left, self._at = max(self._left, min(quiet, filled)), now
        # A tenth ten times is a little less than one.
        if self._left < 1 - 1e-6:
            return False
        self._left -= 1
        return True
