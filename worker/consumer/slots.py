"""What runs in a worker, and how many more turns of each lane may run.

Owns the slots and the stop signals of the attempts in them. Batches hold at most their share of the
slots, so that an interactive turn never waits for a batch to end, and fewer where they slow down
persons' turns (`pace`); they may always hold one slot, so that they do not starve.
"""

from collections.abc import Iterator

from shared.clock import Clock, SystemClock
from shared.redis.functions import Claimed, Stop
from shared.settings import WorkerSettings
from worker.consumer.batch_pace import BatchPace
from worker.outcome import StopSignal


class Slots:
    """The slots of one worker."""

    def __init__(self, settings: WorkerSettings, clock: Clock | None = None) -> None:
        self._total = settings.concurrency
        batch_max = max(1, int(settings.concurrency * settings.batch_share))
        self.pace = BatchPace(batch_max, clock or SystemClock())
        self._batch = 0
        self._suspect_companies: dict[tuple[str, str, int], int] = {}
        # By attempt: one that lost its lease may still be ending here when the next one starts.
        self._taken: dict[tuple[str, str, int], tuple[Claimed, StopSignal]] = {}

    def __len__(self) -> int:
        return len(self._taken)

    @property
    def free(self) -> int:
        """How many more turns may run."""
        return self._total - len(self._taken)

    @property
    def free_for_batch(self) -> int:
        """How many more batch turns may run, if slots are free."""
        return max(0, self.pace.limit - self._batch)

    @property
    def suspects(self) -> int:
        """How many running turns may have killed a worker before."""
        return len(self._suspect_companies)

    @property
    def suspects_max(self) -> int | None:
        """How many suspects may run at once: the least that a running one allows; None without."""
        return min(self._suspect_companies.values(), default=None)

    def take(self, claimed: Claimed) -> StopSignal:
        """Give an attempt a slot and return its stop signal."""
        stop_signal = StopSignal()
        self._taken[claimed.account, claimed.id, claimed.attempt] = (claimed, stop_signal)
        if claimed.lane == "batch":
            self._batch += 1
        else:
            self.pace.note_interactive()
        if claimed.suspects_max:
            self._suspect_companies[claimed.account, claimed.id, claimed.attempt] = (
                claimed.suspects_max
            )
        return stop_signal

    def leave(self, claimed: Claimed) -> None:
        """Free an attempt's slot."""
        del self._taken[claimed.account, claimed.id, claimed.attempt]
        self._batch -= claimed.lane == "batch"
        self._suspect_companies.pop((claimed.account, claimed.id, claimed.attempt), None)

    def held(self) -> list[Claimed]:
        """Return what runs; safe to call from another thread."""
        return [claimed for claimed, _ in list(self._taken.values())]

    def stop(self, stop: Stop) -> None:
        """Stop an attempt, if it still runs here: it may have been settled meanwhile."""
        found = self._taken.get((stop.account, stop.id, stop.attempt))
        if found is not None:
            found[1].trigger(stop.why)

    def stop_signals_of(self, account: str, generation: str) -> Iterator[StopSignal]:
        """Yield the stop signals of all attempts at a generation."""
        for claimed, stop_signal in self._taken.values():
            if (claimed.account, claimed.id) == (account, generation):
                yield stop_signal

    def stop_signals(self) -> list[StopSignal]:
        """Return every stop signal."""
        return [stop_signal for _, stop_signal in self._taken.values()]
