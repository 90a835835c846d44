"""How many pages may be sent in pieces at once in this process.

Owns the count, by account and in total, since each such page holds a piece in memory until its
client has read it. Owns also the turns in which pieces are read and encoded: one at a time, so that
other requests run in between. Knows nothing of what a page contains.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from api.guards.rate_limits import headers
from shared.errors import Code, RefusedError

PER_ACCOUNT: Final = 8
PER_PROCESS: Final = 128
_RETRY_AFTER_SECONDS: Final = 1


class LargePages:
    """The pages that are being sent, by account. `turn` is held while a piece is made."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self._by_account: Counter[str] = Counter()

    @contextmanager
    def hold(self, account: str) -> Iterator[None]:
        """Count a page while it is sent.

        Raises:
            RefusedError: RATE_LIMITED beyond the account's limit, UNAVAILABLE beyond the process'.
        """
        if self._by_account[account] >= PER_ACCOUNT:
            refusal = _refused("The account reads too many large pages at once.", Code.RATE_LIMITED)
            refusal.headers |= headers(PER_ACCOUNT, _RETRY_AFTER_SECONDS)
            raise refusal
        if self._by_account.total() >= PER_PROCESS:
            raise _refused("Too many large pages are read here.", Code.UNAVAILABLE)
        self._by_account[account] += 1
        try:
            yield
        finally:
            self._by_account[account] -= 1
            if not self._by_account[account]:
                del self._by_account[account]


def _refused(message: str, code: Code) -> RefusedError:
    return RefusedError(
        f"{message} Try again in a moment.", code, retry_after_seconds=_RETRY_AFTER_SECONDS
    )
