"""Repeats a Redis call until Redis answers it, with exponential backoff and jitter.

Owns the backoff (0.1 s doubling to 1 s, so that a server that comes back is not overloaded by all
waiting callers) and the log, which names the wait at the 1st, 2nd, 4th, 8th... try. Refuses to give
up: only cancelling the task ends it. Only for calls that Redis may safely carry out twice.
"""

import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from shared.clock import Clock
from shared.errors import UnavailableError
from shared.telemetry import logs

# Well below a lease, so that a repeated call still arrives while this attempt holds it.
_RETRY_SECONDS: Final = (0.1, 1.0)

Reply = TypeVar("Reply")


async def retry_until_answered(
    clock: Clock, work: str, send: Callable[[], Awaitable[Reply]]
) -> Reply:
    """Return Redis' reply; `work` names the call in the log. Other errors are raised."""
    seconds, seconds_max = _RETRY_SECONDS
    tries = 0
    while True:
        try:
            return await send()
        except UnavailableError as error:
            tries += 1
            if tries & (tries - 1) == 0:
                logs.logger().warning(
                    "waiting for Redis", work=work, error=error.message, tries=tries
                )
            await clock.sleep(random.uniform(seconds / 2, seconds))  # noqa: S311  jitter
            seconds = min(seconds * 2, seconds_max)
