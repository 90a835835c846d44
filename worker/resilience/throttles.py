"""The throttles of circuits that take fewer calls than are made, as one worker knows them.

Owns which circuits are throttled, and how many calls each took on lately, of which the fleet's
rate is learned at a first refusal; what was sent and not refused so far was taken on. How it is
learned, and whose turn it is, stands in Redis (`record_refusal.lua`, `admit_throttled.lua`). A
provider whose
answers tell that no calls are left is throttled before it refuses one. One that neither refused a
call nor tells that they run out costs a set look-up.
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

# Of calls that a provider took on lately.
_SENT_MAX: Final = 1_000
_SENT_SECONDS: Final = 60.0
_WINDOW_SECONDS_MIN: Final = 1.0


class Throttles:
    """Which circuits are throttled, and how many calls they took on."""

    def __init__(self, redis: Connection, root: str, clock: Clock) -> None:
        self._redis = redis
        self._root = root
        self._clock = clock
        self._circuits: AbstractSet[str] = frozenset()
        self._sent_at: dict[str, deque[float]] = {}
        self._remaining = RemainingCalls(clock)
        self._live_workers = 1

    def update(self, circuits: AbstractSet[str], live_workers: int) -> None:
        """Take in which are throttled in the fleet, and how many workers live."""
        self._circuits, self._live_workers = circuits, max(1, live_workers)

    def note_sent(self, circuit: str) -> int:
        """Count a call as taken on, until it is refused: a refusal comes sooner than an answer.

        Return its number among the circuit's.
        """
        taken = self._sent_at.get(circuit)
        if taken is None:
            taken = self._sent_at[circuit] = deque(maxlen=_SENT_MAX)
        taken.append(self._clock.monotonic())
        return self._remaining.note_sent(circuit)

    def note_remaining(self, circuit: str, number: int, limit: Limit) -> None:
        """Take in what the answer to a call says of the calls that are left."""
        if self._remaining.note_remaining(circuit, number, limit, self._live_workers):
            logs.logger().warning(
                "limits told by a provider contradict each other", circuit=circuit
            )
            ask = RecordRefusalAsk(circuit=circuit, taken=0, taken_ms=0, is_false=True)
            library.send_call(self._redis, "record_refusal", self._root, ask)
        else:
            self._pause_if_spent(circuit)

    def _pause_if_spent(self, circuit: str, *, is_calling: bool = False) -> None:
        """Have nobody call until a provider takes calls again, as far as its answers tell."""
        # One that is throttled is called by one worker at a time.
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
        """Take a call's turn; raise BarredError until when there is one."""
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
        """Slow the fleet down after a refusal; return in how many seconds the next call may be."""
        if self._sent_at.get(circuit):
            self._sent_at[circuit].pop()
        ask = self._ask(circuit, asked_seconds)
        seconds = await functions.record_refusal(self._redis, self._root, ask) / 1000
        self._note_throttled(circuit, seconds)
        return seconds

    def _ask(self, circuit: str, retry_after_seconds: float | None) -> RecordRefusalAsk:
        now = self._clock.monotonic()
        count, seconds_ago = _busiest_window([now - at for at in self._sent_at.get(circuit, ())])
        return RecordRefusalAsk(
            circuit=circuit,
            taken=count,
            taken_ms=int(seconds_ago * 1000),
            retry_after_ms=int(retry_after_seconds * 1000) if retry_after_seconds else None,
        )

    def _note_throttled(self, circuit: str, seconds: float) -> None:
        if circuit not in self._circuits:
            logs.logger().warning("provider throttled", circuit=circuit, seconds=round(seconds, 1))
        self._circuits = self._circuits | {circuit}


def _busiest_window(ages: list[float]) -> tuple[int, float]:
    """Return how many calls were sent in the busiest stretch up to now, and how long that is.

    `ages` are in seconds, the oldest first. Of calls 40, 2 and 1 s ago the last two say more of
    what the provider takes than all three: the others were not wanted.
    """
    windows = [(count, age) for count, age in enumerate(reversed(ages), 1) if age < _SENT_SECONDS]
    if not windows:
        return 0, 0.0
    return max(windows, key=lambda each: each[0] / max(each[1], _WINDOW_SECONDS_MIN))
