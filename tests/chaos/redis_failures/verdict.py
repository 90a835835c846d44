"""What must hold for every failure, and what for some.

Bounds depend on the speed of the machine: the caller adds `margin_seconds` to each.
"""

from collections.abc import Iterator
from typing import Final

from shared.settings import RedisSettings
from tests.chaos.redis_failures.clients import Kind
from tests.chaos.redis_failures.failures import RedisFailure
from tests.chaos.redis_failures.runner import Result

_RECOVERY_SECONDS: Final = 8.0
_BUSY_MAX: Final = 0.8
# Lines a second of failure, of all processes, without those of refused requests.
_LINES_PER_SECOND: Final = 40
_ANSWERS: Final = frozenset({"200", "202", "204", "503"})
# Statuses for an account that is gone; a front caches keys for a moment.
_GONE: Final = frozenset({"401", "402", "404"})
# The status of a chat whose message is gone.
_CANCELLED: Final = "409"


def breaches(
    redis_failure: RedisFailure, result: Result, redis: RedisSettings, *, margin_seconds: float
) -> Iterator[str]:
    """Yield a sentence for each rule that does not hold."""
    yield from (f"ended: {name}" for name in result.ended)
    yield from (f"lost: {each}" for each in result.lost)
    yield from result.wrong
    yield from _answers(redis_failure, result)
    slowest_seconds_max = redis.connect_seconds + redis.timeout_seconds + margin_seconds
    if result.slowest.seconds > slowest_seconds_max:
        slowest = result.slowest
        yield f"{slowest.kind} took {slowest.seconds:.1f} s and was answered {slowest.status}"
    if max(result.recovered_seconds, result.ready_seconds) > _RECOVERY_SECONDS + margin_seconds:
        yield f"recovered after {result.recovered_seconds:.1f} s"
    if redis_failure.forbids_reruns and result.reruns:
        yield f"{result.reruns} upstream calls were repeated"
    if not result.logged:
        yield "no warning or error was logged"
    if result.busy > _BUSY_MAX:
        yield f"a process took {result.busy:.0%} of a core"


def _answers(redis_failure: RedisFailure, result: Result) -> Iterator[str]:
    """Yield the statuses that no client should have been answered with."""
    for kind, statuses in result.saw().items():
        for status in statuses.keys() - _allowed_statuses(redis_failure, kind):
            yield f"{kind} was answered {status} {statuses[status]} times"
    lines = sum(count for event, count in result.logged.items() if event != "unavailable")
    if lines > _LINES_PER_SECOND * (result.seconds + _RECOVERY_SECONDS):
        yield f"{lines} lines were logged"


def _allowed_statuses(redis_failure: RedisFailure, kind: Kind) -> frozenset[str]:
    if kind == "healthz":
        return frozenset({"200"})
    if not redis_failure.loses_all:
        return _ANSWERS
    return _ANSWERS | _GONE | ({_CANCELLED} if kind == "chat" else frozenset())
