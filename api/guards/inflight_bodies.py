"""How many bytes of bodies may be arriving at once in this process.

Owns the count: each body counts with the size that its head declares, or with the largest allowed
where it declares none, from before its first byte until it is decoded. One account has a part of it
only, so that its slow uploads leave room for others, and the last quarter is for accounts that send
little: a few strangers who declare large bodies and send nothing keep nobody's messages out.
Refuses to read anything.
"""

from typing import Final

from api.guards.rate_limits import headers
from shared.errors import Code, RefusedError
from shared.settings import ApiSettings

_ACCOUNT_SHARE: Final = 0.25
# What all that is more than little may fill.
_LARGE_SHARE: Final = 0.75
# What is little of one account: a 64th of all, and a short message in any case.
_LITTLE_SHARE: Final = 1 / 64
_LITTLE_BYTES_MIN: Final = 65_536
_RETRY_AFTER_SECONDS: Final = 1


class InflightBodies:
    """The bodies that are arriving, in bytes, of all accounts and of each."""

    def __init__(self, settings: ApiSettings) -> None:
        self._bytes_max = settings.bodies_bytes_max
        self._little = max(int(self._bytes_max * _LITTLE_SHARE), _LITTLE_BYTES_MIN)
        self._total = 0
        self._by_account: dict[str, int] = {}

    def add(self, account: str, size: int) -> None:
        """Count a body in. Raises RefusedError where it does not fit; one alone always does."""
        account_bytes = self._by_account.get(account, 0)
        if account_bytes and account_bytes + size > self._bytes_max * _ACCOUNT_SHARE:
            refusal = _refused("The account sends too many bodies at once.", Code.RATE_LIMITED)
            refusal.headers |= headers(int(self._bytes_max * _ACCOUNT_SHARE), _RETRY_AFTER_SECONDS)
            raise refusal
        is_little = account_bytes + size <= self._little
        most = self._bytes_max if is_little else self._bytes_max * _LARGE_SHARE
        if self._total and self._total + size > most:
            raise _refused("Too many bodies are arriving here.", Code.UNAVAILABLE)
        self._total += size
        self._by_account[account] = account_bytes + size

    def remove(self, account: str, size: int) -> None:
        """Count a body out that was counted in with this size."""
        self._total -= size
        remaining = self._by_account.get(account, 0) - size
        if remaining:
            self._by_account[account] = remaining
        else:
            self._by_account.pop(account, None)


def _refused(message: str, code: Code) -> RefusedError:
    # The body is not wanted, and will not be read.
    return RefusedError(
        f"{message} Send it again in a moment.",
        code,
        retry_after_seconds=_RETRY_AFTER_SECONDS,
        headers={"connection": "close"},
    )
