"""What runs in a worker, and how much more of which lane may.

Owns the slots and the brakes of the attempts in them. A batch holds its share of the slots at most,
so that a person never waits for one to end; one slot it always may hold, else it would starve where
there are few.
"""

from collections.abc import Iterator

from shared.redis.functions import Claimed, Stop
from shared.settings import WorkerSettings
from worker.outcome import StopSignal


class Slots:
    """The slots of one worker."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._total = settings.concurrency
        self._batch_max = max(1, int(settings.concurrency * settings.batch_share))
        self._batch = 0
        self._suspect_companies: dict[tuple[str, str, int], int] = {}
        # By attempt: one that has lost its lease may still be ending when the next runs here, too.
        self._taken: dict[tuple[str, str, int], tuple[Claimed, StopSignal]] = {}

    def __len__(self) -> int:
        return len(self._taken)

    @property
    def free(self) -> int:
        """How many more may run."""
        return self._total - len(self._taken)

    @property
    def free_for_batch(self) -> int:
        """How many more of a batch may, if they are free."""
        return max(0, self._batch_max - self._batch)

    @property
    def suspects(self) -> int:
        """How many run that may have killed a worker before."""
        return len(self._suspect_companies)

    @property
    def suspects_max(self) -> int | None:
        """How many suspects may run together with those that do; None where none runs."""
        return min(self._suspect_companies.values(), default=None)

    def take(self, claimed: Claimed) -> StopSignal:
        """Give an attempt a slot and return its brake."""
        stop_signal = StopSignal()
        self._taken[claimed.account, claimed.id, claimed.attempt] = (claimed, stop_signal)
        self._batch += claimed.lane == "batch"
        if claimed.suspects_max:
            self._suspect_companies[claimed.account, claimed.id, claimed.attempt] = (
                claimed.suspects_max
            )
        return stop_signal

    def leave(self, claimed: Claimed) -> None:
        """Take an attempt's slot back."""
        del self._taken[claimed.account, claimed.id, claimed.attempt]
        self._batch -= claimed.lane == "batch"
        self._suspect_companies.pop((claimed.account, claimed.id, claimed.attempt), None)

    def held(self) -> list[Claimed]:
        """Return what runs; also from another thread."""
        return [claimed for claimed, _ in list(self._taken.values())]

    def stop(self, stop: Stop) -> None:
        """Brake what is no longer ours; it may have been settled since somebody said so."""
        found = self._taken.get((stop.account, stop.id, stop.attempt))
        if found is not None:
            found[1].trigger(stop.why)

    def stop_signals_of(self, account: str, generation: str) -> Iterator[StopSignal]:
        """Yield the brakes of all attempts at a generation."""
        for claimed, stop_signal in self._taken.values():
            if (claimed.account, claimed.id) == (account, generation):
                yield stop_signal

    def stop_signals(self) -> list[StopSignal]:
        """Return every brake."""
        return [stop_signal for _, stop_signal in self._taken.values()]
