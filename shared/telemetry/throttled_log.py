"""Logs a repeated text at once and then once a minute.

A fault that only an operator can repair affects every call until then; a line for each call would
hide everything else.
"""

from typing import Final

from shared.clock import Clock, SystemClock

INTERVAL_SECONDS: Final = 60.0
_TEXTS_MAX: Final = 1_000


class ThrottledLog:
    """Decides for each text whether it is to be logged now."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._logged: dict[str, float] = {}

    def is_due(self, text: str) -> bool:
        """Tell whether to log a text now; if so, it counts as logged."""
        now = self._clock.monotonic()
        if now - self._logged.get(text, -INTERVAL_SECONDS) < INTERVAL_SECONDS:
            return False
        if len(self._logged) >= _TEXTS_MAX:
            self._logged.clear()
        self._logged[text] = now
        return True
