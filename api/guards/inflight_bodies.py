"""How many bytes of request bodies may be arriving at once in this process.

Owns the count. A body counts with its `Content-Length`, or with the largest size allowed without
one, from before its first byte until it is decoded. One account may have a quarter of the total, so
that its slow uploads leave room for others. The last quarter of the total is for accounts that send
little: a few clients that declare large bodies and send nothing block no short message. E.g. of
256 MB, one account may use 64 MB; beyond 192 MB, only accounts with up to 4 MB arriving are let in.
"""

from typing import Final

from api.guards.rate_limits import headers
from shared.errors import Code, RefusedError
from shared.settings import ApiSettings

_ACCOUNT_SHARE: Final = 0.25
# The share that bodies of accounts with more than a little may fill.
_LARGE_SHARE: Final = 0.75
# What counts as little for one account: 1/64 of the total, and never less than a short message.
_LITTLE_SHARE: Final = 1 / 64
_LITTLE_BYTES_MIN: Final = 65_536
_RETRY_AFTER_SECONDS: Final = 1


class InflightBodies:
    """The bytes that are arriving, in total and by account."""

    def __init__(self, settings: ApiSettings) -> None:
        self._bytes_max = settings.bodies_bytes_max
        self._little = max(int(self._bytes_max * _LITTLE_SHARE), _LITTLE_BYTES_MIN)
        self._total = 0
        self._by_account: dict[str, int] = {}

    def add(self, account: str, size: int) -> None:
        """Count a body. Raises RefusedError where it does not fit; a single body always fits."""
        account_bytes = self._by_account.get(account, 0)
        if account_bytes and account_bytes + size > self._bytes_max * _ACCOUNT_SHARE:
            refusal = _refused("The account sends too many bodies at once.", Code.RATE_LIMITED)
            refusal.headers |= headers(int(self._bytes_max * _ACCOUNT_SHARE), _RETRY_AFTER_SECONDS)
            raise refusal
        is_little = account_bytes + size <= self._little
        total_max = self._bytes_max if is_little else self._bytes_max * _LARGE_SHARE
        if self._total and self._total + size > total_max:
            raise _refused("Too many bodies are arriving here.", Code.UNAVAILABLE)
        self._total += size
        self._by_account[account] = account_bytes + size

    def remove(self, account: str, size: int) -> None:
        """Stop counting a body that was added with this size."""
        self._total -= size
        remaining = self._by_account.get(account, 0) - size
        if remaining:
            self._by_account[account] = remaining
        else:
            self._by_account.pop(account, None)


def _refused(message: str, code: Code) -> RefusedError:
    # The body will not be read.
    return RefusedError(
        f"{message} Send it again in a moment.",
        code,
        retry_after_seconds=_RETRY_AFTER_SECONDS,
        headers={"connection": "close"},
    )
