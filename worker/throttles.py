"""The throttles of circuits that take fewer calls than are made, as one worker knows them.

Owns which circuits are throttled, and how many calls each took on lately, of which the fleet's
rate is learned at a first refusal; what was sent and not refused so far was taken on. How it is
learned, and whose turn it is, stands in Redis (`throttle.lua`, `throttled.lua`). One that never
refused a call costs a set look-up.
"""

from collections import deque
from collections.abc import Set as AbstractSet
from typing import Final

from shared.clock import Clock
from shared.redis import functions
from shared.redis.client import Connection
from shared.redis.functions import ThrottleAsk, ThrottledAsk
from shared.settings import ModelSettings
from shared.telemetry import logs
from shared.wire.submission import Lane
from worker.circuits import Caller, barred

# Of calls that a provider took on lately.
_TAKEN_MAX: Final = 1_000
_TAKEN_SECONDS: Final = 60.0
_STRETCH_SECONDS_MIN: Final = 1.0


class Throttles:
    """Which circuits are throttled, and how many calls they took on."""

    def __init__(self, redis: Connection, root: str, clock: Clock) -> None:
        self._redis = redis
        self._root = root
        self._clock = clock
        self._circuits: AbstractSet[str] = frozenset()
        self._taken: dict[str, deque[float]] = {}

    def hear(self, circuits: AbstractSet[str]) -> None:
        """Take in which are throttled in the fleet."""
        self._circuits = circuits

    def sent(self, circuit: str) -> None:
        """Count a call as taken on, until it is refused: a refusal comes sooner than an answer."""
        taken = self._taken.get(circuit)
        if taken is None:
            taken = self._taken[circuit] = deque(maxlen=_TAKEN_MAX)
        taken.append(self._clock.monotonic())

    async def take_turn(
        self, model: ModelSettings, circuit: str, lane: Lane, caller: Caller
    ) -> None:
        """Take a call's turn; raise BarredError until when there is one."""
        if circuit not in self._circuits:
            return
        ask = ThrottledAsk(
            circuit=circuit, lane=lane, is_again=caller.is_again, passes_over=caller.passes_over
        )
        turn = await functions.throttled(self._redis, self._root, ask)
        if turn.is_free:
            self._circuits = self._circuits - {circuit}
        if turn.wait_ms is not None:
            raise barred(model, "throttled", turn.wait_ms / 1000)

    async def refused(self, circuit: str, after_seconds: float | None) -> float:
        """Slow the fleet down after a refusal; return in how many seconds the next call may be."""
        now = self._clock.monotonic()
        if self._taken.get(circuit):
            self._taken[circuit].pop()
        count, seconds_ago = _busiest([now - at for at in self._taken.get(circuit, ())])
        ask = ThrottleAsk(
            circuit=circuit,
            taken=count,
            taken_ms=int(seconds_ago * 1000),
            told_ms=int(after_seconds * 1000) if after_seconds else None,
        )
        seconds = await functions.throttle(self._redis, self._root, ask) / 1000
        if circuit not in self._circuits:
            logs.logger().warning("provider throttled", circuit=circuit, seconds=round(seconds, 1))
        self._circuits = self._circuits | {circuit}
        return seconds


def _busiest(ages: list[float]) -> tuple[int, float]:
    """Return how many calls were sent in the busiest stretch up to now, and how long that is.

    `ages` are in seconds, the oldest first. Of calls 40, 2 and 1 s ago the last two say more of
    what the provider takes than all three: the others were not wanted.
    """
    stretches = [
        (count, age) for count, age in enumerate(reversed(ages), 1) if age < _TAKEN_SECONDS
    ]
    if not stretches:
        return 0, 0.0
    return max(stretches, key=lambda each: each[0] / max(each[1], _STRETCH_SECONDS_MIN))
