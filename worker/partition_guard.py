"""Isolates partitions: an error in one is logged, and the loop goes on with the next.

Owns how often it logs: an error once, until that work in that partition succeeds or fails in
another way; a key of the wrong type once a minute, since only an operator can repair it. Refuses to
swallow UnavailableError: Redis is then away for all partitions, and the loop must wait.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from shared.clock import Clock
from shared.errors import UnavailableError, WrongTypeError
from shared.telemetry import logs
from shared.telemetry.throttled_log import ThrottledLog


class PartitionGuard:
    """Context manager around the work in one partition; remembers which work fails where."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._logged: dict[tuple[str, int], str] = {}
        self._wrong_type_log = ThrottledLog(clock)
        self._stopped: set[tuple[str, int]] = set()

    @contextmanager
    def __call__(self, work: str, partition: int) -> Iterator[None]:
        """Log what the work in a partition raises, instead of raising it."""
        try:
            yield
        except UnavailableError:
            raise
        except WrongTypeError as error:
            self._stopped.add((work, partition))
            self.log_wrong_type(error, work=work, partition=partition)
        except Exception as error:  # noqa: BLE001  the other partitions must still be worked on
            if self._logged.get((work, partition)) != str(error):
                self._logged[work, partition] = str(error)
                logs.logger().exception("a partition failed", work=work, partition=partition)
        else:
            self._logged.pop((work, partition), None)
            self._stopped.discard((work, partition))

    def is_stopped(self, work: str, partition: int) -> bool:
        """Tell whether a key of the wrong type stopped that work when it was tried last."""
        return (work, partition) in self._stopped

    def log_wrong_type(self, error: WrongTypeError, **about: object) -> None:
        """Log that a key has the wrong type: once a minute for each key, whatever the work is."""
        if self._wrong_type_log.is_due(error.message):
            logs.logger().error("a key is of another type", fault=error.message, **about)
