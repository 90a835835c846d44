"""When to look again: poll hints and estimates, from how long a model's last answers took.

Owns the policy that contract 2 measures: a client that obeys the hint should learn of the end soon
after it, with few polls. Refuses to guess beyond what was measured, except before there is anything
to measure by.

DESIGN. Of the durations known, those longer than the time already gone are what may still come. If
they lie close together the hint aims just behind them, for one poll then finds the end. If they lie
apart it aims behind the nearest group, but never sooner than the time already gone allows: doubling
keeps the polls few.
"""

import math
from typing import Final, NamedTuple

from shared.clock import Clock
from shared.redis.client import Connection
from shared.settings import Settings
from shared.stores import pace
from shared.stores.fleet import Fleet
from shared.wire.submission import AUTO

HINT_SECONDS_MAX: Final = 30
HINT_SECONDS_UNKNOWN: Final = 2
_FRESH_SECONDS: Final = 2.0
_UNKNOWN_SECONDS: Final = 5.0
_CLOSE_SECONDS: Final = 1.0
_CLOSE_SHARE: Final = 0.1
_CONCENTRATED: Final = 1 / 3
_MARGIN_SECONDS: Final = 0.1


class Eta(NamedTuple):
    """Seconds until the end, as half and nine tenths of the answers like it had it."""

    p50: float
    p90: float


class Paces:
    """The measured durations of every model lately asked about, as this process knows them."""

    def __init__(self, redis: Connection, settings: Settings, clock: Clock) -> None:
        self._redis = redis
        self._clock = clock
        self._prior = {
            model.identifier: model.estimated_duration_seconds for model in settings.models
        }
        # Who names no model is answered by the first that can.
        for first in settings.models[:1]:
            self._prior[AUTO] = first.estimated_duration_seconds
        self._known: dict[tuple[str, str], tuple[float, list[float]]] = {}

    async def durations(self, root: str, model: str) -> list[float]:
        """Return the model's durations in seconds, sorted; the catalogue's word without any."""
        now = self._clock.monotonic()
        known = self._known.get((root, model))
        if known is not None and now - known[0] < _FRESH_SECONDS:
            return known[1]
        measured = await pace.durations_ms(self._redis, root, model)
        durations = sorted(duration / 1000 for duration in measured)
        self._known[root, model] = (now, durations or [self._prior.get(model, _UNKNOWN_SECONDS)])
        return self._known[root, model][1]


def hint(durations: list[float], elapsed: float, wait: float) -> int:
    """Return in how many whole seconds, 1 to 30, to look again.

    `elapsed` is the time since the answer was begun, `wait` the time until it will be, both in
    seconds.
    """
    remaining = [duration for duration in durations if duration > elapsed]
    if not remaining:
        return _clamp(wait + elapsed / 2)
    nearest = remaining[0]
    close = [d for d in remaining if d <= nearest + max(_CLOSE_SECONDS, _CLOSE_SHARE * nearest)]
    behind = close[-1] - elapsed + _MARGIN_SECONDS
    if len(close) < _CONCENTRATED * len(remaining):
        behind = max(behind, elapsed)
    return _clamp(wait + behind)


def eta(durations: list[float], elapsed: float, wait: float) -> Eta:
    """Return what is left until the end, in seconds."""
    remaining = [duration - elapsed for duration in durations if duration > elapsed] or [1.0]
    return Eta(wait + _quantile(remaining, 0.5), wait + _quantile(remaining, 0.9))


def wait_seconds(ahead: int | None, durations: list[float], fleet: Fleet) -> float:
    """Return the wait for a turn, by the account's own line and the fleet's room.

    `ahead` counts the account's own that come first; None for what no longer waits.
    """
    if ahead is None:
        return 0.0
    rounds = ahead // max(1, fleet.slots)
    return rounds * _quantile(durations, 0.5)


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _clamp(seconds: float) -> int:
    return max(1, min(HINT_SECONDS_MAX, math.ceil(seconds)))
