"""Ends the open streams and waits of an API key when it is revoked or expires.

Owns which keys have something open in this process. Revocations are published on one channel for
the whole deployment. A publication may be lost, so the records of all open keys are read at once
after each new subscription and every `_RECHECK_SECONDS`. With nothing open, Redis is asked nothing.
Does not know what a stream or a wait is.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from shared.clock import Clock
from shared.errors import Code, RequestError, UnavailableError
from shared.stores.accounts import Accounts
from shared.wire.account import ApiKey

_TICK_SECONDS: Final = 1.0
_RECHECK_SECONDS: Final = 10.0
# A slow body may delay a request this long between the check of its key and its stream.
_REMEMBERED_SECONDS: Final = 60.0
# Longer than a key's record is trusted: it may be older than the subscription.
_RECHECK_WINDOW_SECONDS: Final = 2.0


class OpenKeyUse:
    """A stream or wait that is open with a key; `end` is called once, when the key ends."""

    __slots__ = ("_end", "has_ended", "key")

    def __init__(self, key: ApiKey, end: Callable[[], None]) -> None:
        self.key = key
        self.has_ended = False
        self._end = end

    def finish(self) -> None:
        """End it, once."""
        if not self.has_ended:
            self.has_ended = True
            self._end()

    def check(self) -> None:
        """Raise RequestError (INVALID_API_KEY) if the key has ended."""
        if self.has_ended:
            raise RequestError("The API key was revoked or has expired.", Code.INVALID_API_KEY)


class Revocations:
    """The keys with open streams or waits in this process."""

    def __init__(self, accounts: Accounts, clock: Clock) -> None:
        self._accounts = accounts
        self._clock = clock
        self._open: defaultdict[str, set[OpenKeyUse]] = defaultdict(set)
        self._recently_revoked: dict[str, float] = {}
        self._recheck_at = self._recheck_until = 0.0

    @contextmanager
    def watch(self, key: ApiKey, end: Callable[[], None]) -> Iterator[OpenKeyUse]:
        """Call `end` when the key ends, or at once if it was just revoked."""
        key_use = OpenKeyUse(key, end)
        self._open[key.id].add(key_use)
        try:
            if key.id in self._recently_revoked:
                key_use.finish()
            yield key_use
        finally:
            key_uses = self._open[key.id]
            key_uses.discard(key_use)
            if not key_uses:
                del self._open[key.id]

    def on_message(self, message: bytes | None) -> None:
        """Take the id of a revoked key; None means that earlier publications may be lost."""
        if message is None:
            self._recheck_at = self._clock.monotonic()
            self._recheck_until = self._recheck_at + _RECHECK_WINDOW_SECONDS
        else:
            self._revoke(message.decode())

    async def run(self) -> None:
        """Check the open keys once a second."""
        while True:
            await self._clock.sleep(_TICK_SECONDS)
            await self.check_open_keys()

    async def check_open_keys(self) -> None:
        """End the uses of expired keys; read the records of the open keys if that is due."""
        now, now_ms = self._clock.monotonic(), self._clock.now_ms()
        self._recently_revoked = {
            key: at for key, at in self._recently_revoked.items() if now - at < _REMEMBERED_SECONDS
        }
        for key_uses in list(self._open.values()):
            for key_use in list(key_uses):
                if key_use.key.expires is not None and now_ms >= key_use.key.expires:
                    key_use.finish()
        if self._open and now >= self._recheck_at:
            await self._recheck(now)

    async def _recheck(self, now: float) -> None:
        try:
            revoked = await self._accounts.find_revoked(list(self._open))
        except UnavailableError:
            # The recheck stays due.
            return
        if now >= self._recheck_until:
            self._recheck_at = now + _RECHECK_SECONDS
        for key in revoked:
            self._revoke(key)

    def _revoke(self, key: str) -> None:
        self._recently_revoked[key] = self._clock.monotonic()
        for key_use in list(self._open.get(key, ())):
            key_use.finish()
