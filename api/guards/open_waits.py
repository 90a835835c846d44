"""How many streams and waits each account may have open in this process.

Owns whose place goes to a newcomer. A place is its holder's for `kept_seconds`, the longest time
that a wait takes; then, where all of them are taken, it goes to the next who asks, and its holder
is ended: a stream goes on after its last id on another connection, a wait returns what there is.
So a newcomer can be told exactly when there will be a place: once the oldest has been held so long.
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
        """Hold one place; `end` is called when it goes to another.

        Raises RefusedError (RATE_LIMITED) when the account has no place that is free or may go.
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
