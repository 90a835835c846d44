"""How many calls a provider will still take, as its answers tell in their headers.

Owns what was told last of each circuit, and how far it is believed. Only limits of requests count:
a call of few tokens may pass where a limit of tokens is used up. What is told may be wrong, so
nothing here closes a circuit for longer than `PAUSE_SECONDS_MAX`, and a provider whose counts
contradict themselves is not believed for a while. Refuses to ask Redis: that is the throttle's.
"""

from typing import Final, NamedTuple

from shared.clock import Clock
from worker.providers.rate_limit_headers import Limit

# Most limits are a minute's. For longer ones a refusal says how long, and is believed further.
PAUSE_SECONDS_MAX: Final = 60.0
_PAUSE_SECONDS_MIN: Final = 0.05
_DISTRUST_SECONDS: Final = 600.0
# Where no more than that of a limit is left, the calls that other workers may be sending are
# reckoned with; of a small limit always.
_SCARCE_SHARE: Final = 0.2
_SMALL_LIMIT: Final = 50


class _Reported(NamedTuple):
    """What the answer to call `number` said: how many are `left`, of how many, until when."""

    left: int
    limit: int | None
    number: int
    until: float


class RemainingCalls:
    """The calls that are left of each circuit, as far as this worker was told."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sent: dict[str, int] = {}
        self._reported: dict[str, _Reported] = {}
        self._paused: dict[str, tuple[int, float]] = {}
        self._distrusted: dict[str, float] = {}

    def note_sent(self, circuit: str) -> int:
        """Count a call that leaves, and return its number."""
        number = self._sent.get(circuit, 0) + 1
        self._sent[circuit] = number
        return number

    def note_remaining(self, circuit: str, number: int, limit: Limit, live_workers: int) -> bool:
        """Take in what an answer says of its circuit's calls; return whether that proved false."""
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
        """Tell whether too few calls were made since a pause for none to be left again."""
        first, until = self._paused.get(circuit, (number, 0.0))
        if number <= first or self._clock.monotonic() < until:
            return False
        made = (number - first) * live_workers
        return made < limit.limit if limit.limit is not None else number - first == 1

    def pause_seconds(
        self, circuit: str, live_workers: int = 1, *, is_calling: bool = False
    ) -> float | None:
        """Return for how long no calls are left, once for each time that this is so.

        `living` workers send about as many calls as this one. `is_calling`: one more is to leave.
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
