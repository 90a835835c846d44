"""Which circuits accept fewer calls than are made, as one worker knows it.

Owns which circuits are throttled, and how many calls each accepted lately, from which the fleet
learns the rate at the first refusal; a call that was sent and not refused counts as accepted. How
the rate is learned, and whose turn it is, is decided in Redis (`record_refusal.lua`,
`admit_throttled.lua`). A provider whose headers say that no calls remain is throttled before it
refuses one. For any other provider, a call costs one look-up in a set.
"""

from collections import deque
from collections.abc import Set as AbstractSet
from typing import Final

import msgspec

from shared.clock import Clock
from shared.redis import functions, library
from shared.redis.client import Connection
from shared.redis.functions import AdmitThrottledAsk, RecordRefusalAsk
from shared.settings import ModelSettings
from shared.telemetry import logs
from shared.wire.submission import Lane
from worker.providers.rate_limit_headers import Limit
from worker.resilience.circuits import Caller, barred
from worker.resilience.remaining_calls import RemainingCalls

# Which of the latest calls are remembered for the rate.
_SENT_MAX: Final = 1_000
_SENT_SECONDS: Final = 60.0
_WINDOW_SECONDS_MIN: Final = 1.0


class Throttles:
    """Which circuits are throttled, and how many calls they accepted."""

    def __init__(self, redis: Connection, root: str, clock: Clock) -> None:
        self._redis = redis
        self._root = root
        self._clock = clock
        self._circuits: AbstractSet[str] = frozenset()
        self._sent_at: dict[str, deque[float]] = {}
        self._remaining = RemainingCalls(clock)
        self._live_workers = 1

    def update(self, circuits: AbstractSet[str], live_workers: int) -> None:
        """Store which circuits the fleet throttles, and how many workers live."""
        self._circuits, self._live_workers = circuits, max(1, live_workers)

    def note_sent(self, circuit: str) -> int:
        """Count a call as accepted, until it is refused; return its number within the circuit.

        It is counted when sent, since a refusal arrives sooner than an answer.
        """
        taken = self._sent_at.get(circuit)
        if taken is None:
            taken = self._sent_at[circuit] = deque(maxlen=_SENT_MAX)
        taken.append(self._clock.monotonic())
        return self._remaining.note_sent(circuit)

    def note_remaining(self, circuit: str, number: int, limit: Limit) -> None:
        """Note what the response to a call says of remaining calls."""
        if self._remaining.note_remaining(circuit, number, limit, self._live_workers):
            logs.logger().warning(
                "a provider's rate-limit headers contradict each other", circuit=circuit
            )
            ask = RecordRefusalAsk(circuit=circuit, taken=0, taken_ms=0, is_false=True)
            library.send_call(self._redis, "record_refusal", self._root, ask)
        else:
            self._pause_if_spent(circuit)

    def _pause_if_spent(self, circuit: str, *, is_calling: bool = False) -> None:
        """If no calls remain, throttle the circuit for the whole fleet until the limit resets."""
        # A throttled circuit is called by one worker at a time.
        live_workers = 1 if circuit in self._circuits else self._live_workers
        seconds = self._remaining.pause_seconds(circuit, live_workers, is_calling=is_calling)
        if seconds is None:
            return
        ask = msgspec.structs.replace(self._ask(circuit, seconds), is_spent=True)
        library.send_call(self._redis, "record_refusal", self._root, ask)
        self._note_throttled(circuit, seconds)

    async def take_turn(
        self, model: ModelSettings, circuit: str, lane: Lane, caller: Caller
    ) -> None:
        """Take a call's turn at a throttled circuit, or raise CallBlockedError with the wait."""
        self._pause_if_spent(circuit, is_calling=True)
        if circuit not in self._circuits:
            return
        ask = AdmitThrottledAsk(
            circuit=circuit, lane=lane, is_again=caller.is_again, passes_over=caller.passes_over
        )
        turn = await functions.admit_throttled(self._redis, self._root, ask)
        if turn.is_no_longer_throttled:
            self._circuits = self._circuits - {circuit}
        if turn.wait_ms is not None:
            raise barred(model, "throttled", turn.wait_ms / 1000)

    async def note_refusal(self, circuit: str, asked_seconds: float | None) -> float:
        """Throttle the circuit after a refusal; return the seconds until the next call."""
        if self._sent_at.get(circuit):
            self._sent_at[circuit].pop()
        ask = self._ask(circuit, asked_seconds)
        seconds = await functions.record_refusal(self._redis, self._root, ask) / 1000
        self._note_throttled(circuit, seconds)
        return seconds

    def _ask(self, circuit: str, retry_after_seconds: float | None) -> RecordRefusalAsk:
        now = self._clock.monotonic()
        ages = [now - at for at in self._sent_at.get(circuit, ()) if now - at < _SENT_SECONDS]
        count, seconds_ago = _busiest_window(ages)
        return RecordRefusalAsk(
            circuit=circuit,
            taken=count,
            taken_ms=int(seconds_ago * 1000),
            minute=len(ages),
            minute_ms=int(ages[0] * 1000) if ages else 0,
            retry_after_ms=int(retry_after_seconds * 1000) if retry_after_seconds else None,
        )

    def _note_throttled(self, circuit: str, seconds: float) -> None:
        if circuit not in self._circuits:
            logs.logger().warning("provider throttled", circuit=circuit, seconds=round(seconds, 1))
        self._circuits = self._circuits | {circuit}


def _busiest_window(ages: list[float]) -> tuple[int, float]:
    """Return the number of calls in the busiest window that ends now, and its length in seconds.

    `ages` are in seconds, the oldest first. Example: calls 40, 2 and 1.5 s ago give (2, 2.0): two
    calls in 2 s show a higher accepted rate than three in 40 s.
    """
    windows = [(count, age) for count, age in enumerate(reversed(ages), 1) if age < _SENT_SECONDS]
    if not windows:
        return 0, 0.0
    return max(windows, key=lambda each: each[0] / max(each[1], _WINDOW_SECONDS_MIN))
