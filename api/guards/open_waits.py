"""How many streams and waits each account may have open in this process.

Owns which one ends when the limit is reached. A place is guaranteed for `guaranteed_seconds`, the
longest time that a wait takes. After that, if all places are taken, the oldest is evicted for a new
request: a stream continues after its last id on another connection, a wait returns what there is.
So a refusal can say exactly when to retry: when the oldest place's guarantee ends. E.g. with a
guarantee of 60 s and the oldest place taken 45 s ago, `Retry-After` is 15.
"""

import math
from collections.abc import Callable
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

    def hold(self, account: Account, end: Callable[[], None]) -> "_Place":
        """Hold one place during a `with` block; `end` is called when it is evicted.

        The block raises RefusedError (RATE_LIMITED) when no place is free or past its guarantee.
        """
        return _Place(self, account, end)

    def take(self, token: object, account: Account, end: Callable[[], None]) -> None:
        """Take one place, which is given back by its token. Raises as `hold`."""
        held = self._held.get(account.id, {})
        self._evict_oldest(held, self._allowances[account.tier].waits)
        held[token] = _OpenWait(self._clock.monotonic(), end)
        self._held[account.id] = held

    def give_back(self, token: object, account: Account) -> None:
        """Give a place back, unless it was evicted."""
        held = self._held.get(account.id)
        if held is not None:
            held.pop(token, None)
            if not held:
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


class _Place:
    """One place, held during a `with` block; a generator would cost each request more."""

    __slots__ = ("_account", "_end", "_open_waits")

    def __init__(self, open_waits: OpenWaits, account: Account, end: Callable[[], None]) -> None:
        self._open_waits = open_waits
        self._account = account
        self._end = end

    def __enter__(self) -> None:
        self._open_waits.take(self, self._account, self._end)

    def __exit__(self, *_: object) -> None:
        self._open_waits.give_back(self, self._account)
