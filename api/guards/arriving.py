"""How many bytes of bodies may be arriving at once in this process.

Owns the count: each body counts with the size that its head declares, or with the largest allowed
where it declares none, from before its first byte until it is decoded. One account has a part of it
only, so that its slow uploads leave room for others, and the last quarter is for accounts that send
little: a few strangers who declare large bodies and send nothing keep nobody's messages out.
Refuses to read anything.
"""

from typing import Final

from api.guards.limits import headers
from shared.errors import Code, RefusedError
from shared.settings import ApiSettings

_ACCOUNT_SHARE: Final = 0.25
# What all that is more than little may fill.
_LARGE_SHARE: Final = 0.75
# What is little of one account: a 64th of all, and a short message in any case.
_LITTLE_SHARE: Final = 1 / 64
_LITTLE_BYTES_MIN: Final = 65_536
_AGAIN_SECONDS: Final = 1


class Arriving:
    """The bodies that are arriving, in bytes, of all accounts and of each."""

    def __init__(self, settings: ApiSettings) -> None:
        self._most = settings.bodies_bytes_max
        self._little = max(int(self._most * _LITTLE_SHARE), _LITTLE_BYTES_MIN)
        self._total = 0
        self._by_account: dict[str, int] = {}

    def add(self, account: str, size: int) -> None:
        """Count a body in. Raises RefusedError where it does not fit; one alone always does."""
        own = self._by_account.get(account, 0)
        if own and own + size > self._most * _ACCOUNT_SHARE:
            refusal = _refused("The account sends too many bodies at once.", Code.RATE_LIMITED)
            refusal.headers |= headers(int(self._most * _ACCOUNT_SHARE), _AGAIN_SECONDS)
            raise refusal
        is_little = own + size <= self._little
        most = self._most if is_little else self._most * _LARGE_SHARE
        if self._total and self._total + size > most:
            raise _refused("Too many bodies are arriving here.", Code.UNAVAILABLE)
        self._total += size
        self._by_account[account] = own + size

    def remove(self, account: str, size: int) -> None:
        """Count a body out that was counted in with this size."""
        self._total -= size
        left = self._by_account.get(account, 0) - size
        if left:
            self._by_account[account] = left
        else:
            self._by_account.pop(account, None)


def _refused(message: str, code: Code) -> RefusedError:
    # The body is not wanted, and will not be read.
    return RefusedError(
        f"{message} Send it again in a moment.",
        code,
        retry_after_seconds=_AGAIN_SECONDS,
        headers={"connection": "close"},
    )
