"""How many calls a provider still accepts, by the rate-limit headers of its responses.

Owns the last header values of each circuit, and how far they are believed. Only limits of requests
count: a call of few tokens may pass although a token limit is used up. Headers may be wrong, so
nothing here pauses a circuit for longer than `PAUSE_SECONDS_MAX`, and a provider whose counts
contradict themselves is not believed for ten minutes. Refuses to ask Redis: `throttles` does.

Example: the response to call 7 says 3 remaining, reset in 20 s; calls 8, 9 and 10 are made, and the
next one waits for the rest of the 20 s. With 4 workers and few calls remaining, each call of this
worker is counted as 4.
"""

from typing import Final, NamedTuple

from shared.clock import Clock
from worker.providers.rate_limit_headers import Limit

# Most limits are per minute. For longer ones a refusal names the wait, and is believed for longer.
PAUSE_SECONDS_MAX: Final = 60.0
_PAUSE_SECONDS_MIN: Final = 0.05
_DISTRUST_SECONDS: Final = 600.0
# If at most this share of a limit is left, the calls that other workers may be sending are counted,
# too; with a small limit always.
_SCARCE_SHARE: Final = 0.2
_SMALL_LIMIT: Final = 50


class _Reported(NamedTuple):
    """What the response to call `number` said: calls `left`, of which limit, until when."""

    left: int
    limit: int | None
    number: int
    until: float


class RemainingCalls:
    """The remaining calls of each circuit, by the responses that this worker has seen."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sent: dict[str, int] = {}
        self._reported: dict[str, _Reported] = {}
        self._paused: dict[str, tuple[int, float]] = {}
        self._distrusted: dict[str, float] = {}

    def note_sent(self, circuit: str) -> int:
        """Count a call that is sent, and return its number."""
        number = self._sent.get(circuit, 0) + 1
        self._sent[circuit] = number
        return number

    def note_remaining(self, circuit: str, number: int, limit: Limit, live_workers: int) -> bool:
        """Store what a response says of remaining calls; return whether it contradicts itself."""
        now = self._clock.monotonic()
        left, seconds = limit.remaining, limit.reset_seconds
        if left is None or seconds is None or seconds < _PAUSE_SECONDS_MIN:
            self._reported.pop(circuit, None)
            return False
        if self._distrusted.get(circuit, 0.0) > now:
            return False
        if left == 0 and self._is_contradicted(circuit, number, limit, live_workers):
            self._distrusted[circuit] = now + _DISTRUST_SECONDS
            self._reported.pop(circuit, None)
            return True
        until = now + min(seconds, PAUSE_SECONDS_MAX)
        self._reported[circuit] = _Reported(left, limit.limit, number, until)
        return False

    def _is_contradicted(self, circuit: str, number: int, limit: Limit, live_workers: int) -> bool:
        """Tell whether too few calls were made since the last pause for 0 to remain again."""
        first, until = self._paused.get(circuit, (number, 0.0))
        if number <= first or self._clock.monotonic() < until:
            return False
        made = (number - first) * live_workers
        return made < limit.limit if limit.limit is not None else number - first == 1

    def pause_seconds(
        self, circuit: str, live_workers: int = 1, *, is_calling: bool = False
    ) -> float | None:
        """Return for how long no calls remain, once for each pause; None if calls remain.

        Each of `live_workers` is assumed to send as many calls as this one. `is_calling`: one more
        call is about to be sent.
        """
        reported = self._reported.get(circuit)
        if reported is None:
            return None
        now = self._clock.monotonic()
        if now >= reported.until:
            del self._reported[circuit]
            return None
        since = self._sent.get(circuit, 0) - reported.number + is_calling
        if reported.left and since * (live_workers if _is_scarce(reported) else 1) <= reported.left:
            return None
        del self._reported[circuit]
        self._paused[circuit] = (self._sent.get(circuit, 0), reported.until)
        return reported.until - now


def _is_scarce(reported: _Reported) -> bool:
    if reported.limit is None:
        return False
    return reported.limit <= _SMALL_LIMIT or reported.left <= reported.limit * _SCARCE_SHARE
