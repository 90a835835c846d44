"""What must be said to Redis, said until it is answered.

Owns the pace: at once at first, then less and less often, so that a server which comes back is not
run over by all that waited for it; and the log, in which a long wait is told of ever more seldom.
Refuses to give up: who asks may be cancelled.
"""

import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from shared.clock import Clock
from shared.errors import UnavailableError
from shared.telemetry import logs

# Well below a lease: what is said in time is still the holder's to say.
_RETRY_SECONDS: Final = (0.1, 1.0)

Reply = TypeVar("Reply")


async def retry_until_answered(
    clock: Clock, work: str, send: Callable[[], Awaitable[Reply]]
) -> Reply:
    """Return what Redis answers at last; `work` is what the log calls it. Any other error rises."""
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
