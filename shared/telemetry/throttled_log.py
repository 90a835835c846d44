"""What is said again and again, logged once in a while.

Owns when a text was logged last. A fault that only an operator can mend meets every call until
then, and a line for each would hide everything else.
"""

from typing import Final

from shared.clock import Clock, SystemClock

INTERVAL_SECONDS: Final = 60.0
_TEXTS_MAX: Final = 1_000


class ThrottledLog:
    """Tells of each text whether it is to be logged now: at once, and then once a minute."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._logged: dict[str, float] = {}

    def is_due(self, text: str) -> bool:
        """Tell whether a text is to be logged, which is then taken as done."""
        now = self._clock.monotonic()
        if now - self._logged.get(text, -INTERVAL_SECONDS) < INTERVAL_SECONDS:
            return False
        if len(self._logged) >= _TEXTS_MAX:
            self._logged.clear()
        self._logged[text] = now
        return True
