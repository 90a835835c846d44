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

from api.guards.limits import Allowance, headers
from shared.clock import Clock
from shared.errors import Code, RefusedError
from shared.tiers import TierName
from shared.wire.account import Account


class _Held(NamedTuple):
    since: float
    end: Callable[[], None]


class Places:
    """The open streams and waits of each account, oldest first."""

    def __init__(
        self, allowances: dict[TierName, Allowance], kept_seconds: float, clock: Clock
    ) -> None:
        self._allowances = allowances
        self._kept_seconds = kept_seconds
        self._clock = clock
        self._held: dict[str, dict[object, _Held]] = {}

    @contextmanager
    def hold(self, account: Account, end: Callable[[], None]) -> Iterator[None]:
        """Hold one place; `end` is called when it goes to another.

        Raises RefusedError (RATE_LIMITED) when the account has no place that is free or may go.
        """
        place, held = object(), self._held.get(account.id, {})
        self._make_room(held, self._allowances[account.tier].waits)
        held[place] = _Held(self._clock.monotonic(), end)
        self._held[account.id] = held
        try:
            yield
        finally:
            held.pop(place, None)
            if not held and self._held.get(account.id) is held:
                del self._held[account.id]

    def _make_room(self, held: dict[object, _Held], most: int) -> None:
        if len(held) < most:
            return
        oldest = next(iter(held), None)
        since = held[oldest].since if oldest is not None else self._clock.monotonic()
        left = since + self._kept_seconds - self._clock.monotonic()
        if oldest is None or left > 0:
            seconds = max(1, math.ceil(left))
            raise RefusedError(
                f"The account has {most} streams and waits open, as many as it may.",
                Code.RATE_LIMITED,
                retry_after_seconds=seconds,
                headers=headers(most, seconds),
            )
        held.pop(oldest).end()
