"""How long a client retries a request, and how long it pauses between attempts.

Owns the pauses, which double from 0.25 s to 5 s and are never shorter than a reply's Retry-After,
and the deadline, 60 s after the first of a series of failures. Refuses to know what is sent: its
caller sends the request, and calls `pause` after a failure and `reset` after a success.
"""

from collections.abc import Callable
from typing import Final

import httpx

from shared.clock import Clock
from shared.errors import UnavailableError

# Statuses of replies that a later attempt may turn into a success.
RETRIED_STATUSES: Final = frozenset({429, 502, 503, 504})
GIVE_UP_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = (0.25, 5.0)


class RetryTimer:
    """Pauses between attempts until the time is up.

    `note` receives the first failure of each series; `address` is the API's, for the error.
    """

    def __init__(
        self,
        clock: Clock,
        note: Callable[[str], None],
        address: str,
        *,
        give_up_seconds: float = GIVE_UP_SECONDS,
    ) -> None:
        self.give_up_seconds = give_up_seconds
        self._clock = clock
        self._note = note
        self._address = address
        self._failing_since: float | None = None
        self._pause_seconds = _PAUSE_SECONDS[0]

    def reset(self) -> None:
        """End the series of failures: something was received."""
        self._failing_since, self._pause_seconds = None, _PAUSE_SECONDS[0]

    async def pause(self, problem: str, seconds: float = 0.0) -> None:
        """Wait before the next attempt, at least `seconds`.

        Raises:
            UnavailableError: the next attempt would come after the deadline.

        """
        now = self._clock.monotonic()
        if self._failing_since is None:
            self._failing_since = now
            self._note(problem)
        seconds = max(seconds, self._pause_seconds)
        if now + seconds > self._failing_since + self.give_up_seconds:
            raise UnavailableError(f"The API at {self._address} did not answer: {problem}.")
        self._pause_seconds = min(2 * self._pause_seconds, _PAUSE_SECONDS[1])
        await self._clock.sleep(seconds)


def retry_after(reply: httpx.Response) -> float:
    """Return the seconds of a reply's Retry-After, 0 if it has none; a date counts as none."""
    text = reply.headers.get("Retry-After", "")
    return float(text) if text.isdigit() else 0.0
