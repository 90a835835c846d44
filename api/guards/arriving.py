"""How many bytes of bodies may be arriving at once in this process.

Owns the count: each body counts with the size that its head declares, or with the largest allowed
where it declares none, from before its first byte until it is decoded. One account has a part of it
only, so that its slow uploads leave room for others. Refuses to read anything.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from api.guards.limits import headers
from shared.errors import Code, RefusedError
from shared.settings import ApiSettings

_ACCOUNT_SHARE: Final = 0.25
_AGAIN_SECONDS: Final = 1


class Arriving:
    """The bodies that are arriving, in bytes, of all accounts and of each."""

    def __init__(self, settings: ApiSettings) -> None:
        self._most = settings.bodies_bytes_max
        self._total = 0
        self._by_account: Counter[str] = Counter()

    @contextmanager
    def hold(self, account: str, size: int) -> Iterator[None]:
        """Count a body in. Raises RefusedError where it does not fit; one alone always does."""
        self._check(account, size)
        self._total += size
        self._by_account[account] += size
        try:
            yield
        finally:
            self._total -= size
            self._by_account[account] -= size
            if not self._by_account[account]:
                del self._by_account[account]

    def _check(self, account: str, size: int) -> None:
        own = self._by_account.get(account, 0)
        if own and own + size > self._most * _ACCOUNT_SHARE:
            refusal = _refused("The account sends too many bodies at once.", Code.RATE_LIMITED)
            refusal.headers |= headers(int(self._most * _ACCOUNT_SHARE), _AGAIN_SECONDS)
            raise refusal
        if self._total and self._total + size > self._most:
            raise _refused("Too many bodies are arriving here.", Code.UNAVAILABLE)


def _refused(message: str, code: Code) -> RefusedError:
    # The body is not wanted, and will not be read.
    return RefusedError(
        f"{message} Send it again in a moment.",
        code,
        retry_after_seconds=_AGAIN_SECONDS,
        headers={"connection": "close"},
    )
