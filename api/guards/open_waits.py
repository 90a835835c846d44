"""How many streams and waits each account may have open in this process.

Owns which one ends when the limit is reached. A place is guaranteed for `guaranteed_seconds`, the
longest time that a wait takes. After that, if all places are taken, the oldest is evicted for a new
request: a stream continues after its last id on another connection, a wait returns what there is.
So a refusal can say exactly when to retry: when the oldest place's guarantee ends. E.g. with a
guarantee of 60 s and the oldest place taken 45 s ago, `Retry-After` is 15.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from api.guards.rate_limits import Allowance, headers
from shared.clock import Clock
from shared.errors import Code, RefusedError
from shared.tiers import TierName
from shared.wire.account import Account


class _OpenWait(NamedTuple):
    since: float
    end: Callable[[], None]


class OpenWaits:
    """The open streams and waits of each account, oldest first."""

    def __init__(
        self, allowances: dict[TierName, Allowance], guaranteed_seconds: float, clock: Clock
    ) -> None:
        self._allowances = allowances
        self._guaranteed_seconds = guaranteed_seconds
        self._clock = clock
        self._held: dict[str, dict[object, _OpenWait]] = {}

    @contextmanager
    def hold(self, account: Account, end: Callable[[], None]) -> Iterator[None]:
        """Hold one place; `end` is called when it is evicted.

        Raises RefusedError (RATE_LIMITED) when no place is free or past its guarantee.
        """
        token, held = object(), self._held.get(account.id, {})
        self._evict_oldest(held, self._allowances[account.tier].waits)
        held[token] = _OpenWait(self._clock.monotonic(), end)
        self._held[account.id] = held
        try:
            yield
        finally:
            held.pop(token, None)
            if not held and self._held.get(account.id) is held:
                del self._held[account.id]

    def _evict_oldest(self, held: dict[object, _OpenWait], waits_max: int) -> None:
        if len(held) < waits_max:
            return
        oldest = next(iter(held), None)
        since = held[oldest].since if oldest is not None else self._clock.monotonic()
        left = since + self._guaranteed_seconds - self._clock.monotonic()
        if oldest is None or left > 0:
            seconds = max(1, math.ceil(left))
            raise RefusedError(
                f"The account has {waits_max} streams and waits open, as many as it may.",
                Code.RATE_LIMITED,
                retry_after_seconds=seconds,
                headers=headers(waits_max, seconds),
            )
        held.pop(oldest).end()
