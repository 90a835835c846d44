"""How many pages may be sent in pieces at once in this process.

Owns the count, by account and in total, since each such page holds a piece in memory until its
client has read it. When all places are taken, a page of an account that holds more places than the
new one's would gets no more pieces, if it can be continued by a later request; so slow readers keep
nobody out. Owns also the turns in which pieces are read and encoded: one at a time, so that other
requests run in between. Knows nothing of what a page contains.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from api.guards.rate_limits import headers
from shared.errors import Code, RefusedError

PER_ACCOUNT: Final = 8
PER_PROCESS: Final = 128
# Pages that were ended, and whose clients have not read the last piece yet.
_ENDED_MAX: Final = 128
_RETRY_AFTER_SECONDS: Final = 1
# Ends a page; None where it could not be continued.
End = Callable[[], None] | None


class LargePages:
    """The pages that are being sent, by account. `turn` is held while a piece is made."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        # Of each account the oldest first.
        self._held: dict[str, dict[object, End]] = {}
        self._ended: set[object] = set()

    @contextmanager
    def hold(self, account: str, end: End = None) -> Iterator[None]:
        """Count a page while it is sent; `end` is called when another account needs its place.

        Raises:
            RefusedError: RATE_LIMITED beyond the account's limit, UNAVAILABLE beyond the process'.
        """
        own = len(self._held.get(account, ()))
        if own >= PER_ACCOUNT:
            refusal = _refused("The account reads too many large pages at once.", Code.RATE_LIMITED)
            refusal.headers |= headers(PER_ACCOUNT, _RETRY_AFTER_SECONDS)
            raise refusal
        is_full = sum(map(len, self._held.values())) >= PER_PROCESS
        if is_full and not self._has_made_place(own + 1):
            raise _refused("Too many large pages are read here.", Code.UNAVAILABLE)
        token = object()
        self._held.setdefault(account, {})[token] = end
        try:
            yield
        finally:
            self._forget(account, token)
            self._ended.discard(token)

    def _forget(self, account: str, token: object) -> None:
        pages = self._held.get(account, {})
        pages.pop(token, None)
        if not pages:
            self._held.pop(account, None)

    def _has_made_place(self, count: int) -> bool:
        """End the oldest page of the account with the most, if it has more than `count`."""
        found = (
            (len(pages), account, token, end)
            for account, pages in self._held.items()
            for token, end in pages.items()
            if end is not None and len(pages) > count
        )
        most = max(found, key=lambda each: each[0], default=None)
        if most is None or len(self._ended) >= _ENDED_MAX:
            return False
        _, account, token, end = most
        self._forget(account, token)
        self._ended.add(token)
        end()
        return True


def _refused(message: str, code: Code) -> RefusedError:
    return RefusedError(
        f"{message} Try again in a moment.", code, retry_after_seconds=_RETRY_AFTER_SECONDS
    )
