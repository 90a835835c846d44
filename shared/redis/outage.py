"""What an error reply means, and Retry-After while Redis is away.

DESIGN. An outage is expected to last as long again as it has lasted: after 4 s, callers are asked
to retry in 4 to 8 s. The bounds are 1 s and 30 s.
"""

import random
from collections.abc import Callable
from typing import Final

from shared.clock import SystemClock
from shared.errors import NotNowError, StoreError, UnavailableError, WrongTypeError

# Error replies, by their first word, that mean "not now"; any other is a fault of the command.
_TEMPORARY_ERRORS: Final = frozenset(
    """
    LOADING READONLY MASTERDOWN OOM MISCONF CLUSTERDOWN TRYAGAIN BUSY UNBLOCKED NOREPLICAS
    NOAUTH WRONGPASS NOPERM MAXCLIENTS
    """.split()
)
_MONOTONIC: Final = SystemClock().monotonic
# Jitter at most doubles these.
_RETRY_AFTER_SECONDS: Final = (1.0, 15.0)
# Refusals farther apart than this are not one outage: calls between them were answered.
_REFUSAL_GAP_SECONDS: Final = 10.0


class FunctionMissingError(StoreError):
    """The server lacks the function: the library must be loaded, as after FLUSHALL."""


def error_of(text: str) -> Exception:
    """Return the error that an error reply means."""
    word = text.split(" ", 1)[0]
    if "Function not found" in text:
        return FunctionMissingError(text)
    # An error that a function caught and raised again begins with ERR.
    if text.removeprefix("ERR ").startswith("WRONGTYPE"):
        return WrongTypeError(f"Redis answered: {text}")
    if word in _TEMPORARY_ERRORS or "max number of clients" in text:
        return NotNowError(f"Redis cannot serve this now: {text}")
    return StoreError(f"Redis answered: {text}")


def with_key_name(error: WrongTypeError, command: tuple[object, ...]) -> WrongTypeError:
    """Return the error with the key's name, which Redis leaves out; a function's error as it is."""
    verb, key = str(command[0]), command[1]
    if verb.startswith("FCALL"):
        return error
    return WrongTypeError(f"{key} is of another type than {verb} needs")


class Outage:
    """Since when there is no connection, and since when the server refuses calls."""

    def __init__(self, now: Callable[[], float] = _MONOTONIC) -> None:
        self._now = now
        self._lost_at: float | None = None
        self._refused_from = 0.0
        self._refused_at = float("-inf")

    def begin(self) -> None:
        """Note that there is no connection; the first note of an outage counts."""
        if self._lost_at is None:
            self._lost_at = self._now()

    def end(self) -> None:
        """Note that there is a connection again."""
        self._lost_at = None

    def with_retry_after(self, error: UnavailableError) -> UnavailableError:
        """Return the error with the seconds after which to retry."""
        now = self._now()
        since = now if self._lost_at is None else self._lost_at
        if isinstance(error, NotNowError):
            if now - self._refused_at > _REFUSAL_GAP_SECONDS:
                self._refused_from = now
            self._refused_at = now
            since = min(since, self._refused_from)
        low, high = _RETRY_AFTER_SECONDS
        away = min(max(now - since, low), high)
        error.retry_after_seconds = round(away * random.uniform(1, 2))  # noqa: S311  jitter
        return error
