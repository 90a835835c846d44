"""Which uploads arrive at once in this process, and which one ends when another needs its place.

Owns the counts, in total and by account, and the choice. As long as places are free, an upload may
be as slow as the minimum rate of a body. When all are taken, an account's share decides: its
uploads, divided by its tier's weight. A new upload takes the place of the slowest one of the
account with the largest share, if that share is larger than its own would be. Where it is as large,
only an upload that is slow, and older than `GUARANTEED_SECONDS`, ends for it. So neither many slow
uploads of one account nor one for each of many accounts keep others out, and one that brings a
megabit a second is ended only for an account with a smaller share.

Example: two free accounts send four bodies each, a kilobyte a second. A third one's upload takes
the place of one of them at once, and so does its second: its share is two, theirs four and three.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from api.guards.rate_limits import headers
from shared.clock import Clock
from shared.errors import Code, PolluxError, RefusedError
from shared.settings import Settings
from shared.wire.account import Account

GUARANTEED_SECONDS: Final = 5.0
# Half a megabit a second.
SLOW_BYTES_PER_SECOND: Final = 65_536
_RETRY_SECONDS: Final = 5
_RETRY_SECONDS_MAX: Final = 60


class Arriving(Protocol):
    """A body, as this module sees it."""

    @property
    def bytes_per_second(self) -> float:
        """How fast the sender is at present."""

    @property
    def seconds_left(self) -> float | None:
        """When it may have ended at this rate; None where that is unknown."""

    def end(self, error: PolluxError) -> None:
        """Read no further, and raise this error."""


class _Upload(NamedTuple):
    account: str
    weight: int
    began: float
    body: Arriving


@dataclass
class UploadPlaces:
    """The uploads of this process."""

    settings: Settings
    clock: Clock
    _uploads: list[_Upload] = field(default_factory=list, init=False)

    @contextmanager
    def hold(self, account: Account, body: Arriving) -> Iterator[None]:
        """Hold one place for a body; another upload may end it.

        Raises RefusedError (RATE_LIMITED, UNAVAILABLE) where there are as many as may be.
        """
        api = self.settings.api
        weight = self.settings.limits.of(account.tier).weight
        own = _Upload(account.id, weight, self.clock.monotonic(), body)
        if self._count(account.id) >= api.uploads_per_account:
            raise _account_has_all(api.uploads_per_account)
        if len(self._uploads) >= api.uploads_max:
            self._make_place(own)
        self._uploads.append(own)
        try:
            yield
        finally:
            self._remove(own)

    def _remove(self, upload: _Upload) -> None:
        self._uploads = [each for each in self._uploads if each is not upload]

    def _count(self, account: str) -> int:
        return sum(each.account == account for each in self._uploads)

    def _share(self, upload: _Upload) -> float:
        return self._count(upload.account) / upload.weight

    def _make_place(self, new: _Upload) -> None:
        """End the upload that gives its place to a new one. Raises RefusedError without one."""
        own_share = (self._count(new.account) + 1) / new.weight
        rivals = [each for each in self._uploads if each.account != new.account]
        larger = [each for each in rivals if self._share(each) > own_share]
        equal = [each for each in rivals if self._share(each) == own_share and _is_slow(each)]
        aged = [each for each in equal if new.began - each.began >= GUARANTEED_SECONDS]
        if not (larger or aged):
            raise self._all_taken(new.began, equal)
        ended = min(
            larger or aged, key=lambda each: (-self._share(each), each.body.bytes_per_second)
        )
        self._remove(ended)
        ended.body.end(
            RefusedError(
                "As many batches arrive here as may, and this upload was ended for that of another "
                "account. Nothing of it is stored; send it again in a moment.",
                Code.UNAVAILABLE,
                retry_after_seconds=_RETRY_SECONDS,
            )
        )

    def _all_taken(self, now: float, slow: list[_Upload]) -> RefusedError:
        """Return the refusal, which says when a place may be free."""
        waits = [each.began + GUARANTEED_SECONDS - now for each in slow]
        waits += [left for each in self._uploads if (left := each.body.seconds_left) is not None]
        seconds = min(waits, default=float(_RETRY_SECONDS))
        return RefusedError(
            "As many batches arrive here as may. Send it again in a moment.",
            Code.UNAVAILABLE,
            retry_after_seconds=max(1, min(_RETRY_SECONDS_MAX, math.ceil(seconds))),
        )


def _is_slow(upload: _Upload) -> bool:
    return upload.body.bytes_per_second < SLOW_BYTES_PER_SECOND


def _account_has_all(most: int) -> RefusedError:
    return RefusedError(
        f"The account sends {most} batches already, as many as it may.",
        Code.RATE_LIMITED,
        retry_after_seconds=_RETRY_SECONDS,
        headers=headers(most, _RETRY_SECONDS),
    )
