"""The throttles of circuits that take fewer calls than are made, as one worker knows them.

Owns which circuits are throttled, and how many calls each took on lately, of which the fleet's
rate is learned at a first refusal; what was sent and not refused so far was taken on. How it is
learned, and whose turn it is, stands in Redis
(`throttle.lua`, `throttled.lua`).
One that never refused a call costs a set look-up.
"""

from collections import deque
from collections.abc import Set as AbstractSet
from typing import Final

from shared.clock import Clock
from shared.redis import functions
from shared.redis.client import Connection
from shared.redis.functions import ThrottleAsk, ThrottledAsk
from shared.telemetry import logs
from shared.wire.submission import Lane

# Of calls that a provider took on lately.
_TAKEN_MAX: Final = 1_000
_TAKEN_SECONDS: Final = 60.0


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

    async def wait_seconds(self, circuit: str, lane: Lane) -> float | None:
        """Take a call's turn and return None; else in how many seconds there is one."""
        if circuit not in self._circuits:
            return None
        ask = ThrottledAsk(circuit=circuit, lane=lane)
        turn = await functions.throttled(self._redis, self._root, ask)
        if turn.is_free:
            self._circuits = self._circuits - {circuit}
        return None if turn.wait_ms is None else turn.wait_ms / 1000

    async def refused(self, circuit: str, after_seconds: float | None) -> float:
        """Slow the fleet down after a refusal; return in how many seconds the next call may be."""
        now = self._clock.monotonic()
        if self._taken.get(circuit):
            self._taken[circuit].pop()
        taken = [at for at in self._taken.get(circuit, ()) if now - at < _TAKEN_SECONDS]
        ask = ThrottleAsk(
            circuit=circuit,
            taken=len(taken),
            taken_ms=int((now - taken[0]) * 1000) if taken else 0,
            told_ms=int(after_seconds * 1000) if after_seconds else None,
        )
        seconds = await functions.throttle(self._redis, self._root, ask) / 1000
        if circuit not in self._circuits:
            logs.logger().warning("provider throttled", circuit=circuit, seconds=round(seconds, 1))
        self._circuits = self._circuits | {circuit}
        return seconds
