"""Partitions apart: what fails in one of them is logged, and the next ones have their turn.

Owns when it is logged: once, until that work in that partition succeeds or fails otherwise, and of
a key of another type once a minute, since only an operator ends that. Refuses to hide that Redis is
away: that is of all partitions, and whoever goes over them waits for it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from shared.clock import Clock
from shared.errors import UnavailableError, WrongTypeError
from shared.telemetry import logs
from shared.telemetry.throttled_log import ThrottledLog


class PartitionGuard:
    """Which work fails in which partition. A call surrounds that work."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._logged: dict[tuple[str, int], str] = {}
        self._seldom = ThrottledLog(clock)
        self._stopped: set[tuple[str, int]] = set()

    @contextmanager
    def __call__(self, work: str, partition: int) -> Iterator[None]:
        """Keep what a partition raises from whoever goes over all of them."""
        try:
            yield
        except UnavailableError:
            raise
        except WrongTypeError as error:
            self._stopped.add((work, partition))
            self.log_wrong_type(error, work=work, partition=partition)
        except Exception as error:  # noqa: BLE001  the other partitions must have their turn
            if self._logged.get((work, partition)) != str(error):
                self._logged[work, partition] = str(error)
                logs.logger().exception("a partition failed", work=work, partition=partition)
        else:
            self._logged.pop((work, partition), None)
            self._stopped.discard((work, partition))

    def is_stopped(self, work: str, partition: int) -> bool:
        """Tell whether that work was stopped by a key of another type when it was tried last."""
        return (work, partition) in self._stopped

    def log_wrong_type(self, error: WrongTypeError, **about: object) -> None:
        """Log that work waits until an operator mends a key: once a minute, whatever work it is."""
        if self._seldom.is_due(error.message):
            logs.logger().error("a key is of another type", fault=error.message, **about)
