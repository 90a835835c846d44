"""Identifies the caller: the API key in the headers, and the account that it belongs to.

Owns how long a key's record is trusted: less than a second, so that a revocation takes effect in
every process within one. A key is read from headers only; one with a wrong checksum is refused
without asking Redis.
"""

from typing import Final, NamedTuple

from api.guards.rate_limits import SubmissionAttempt
from api.refresh_ahead_cache import RefreshAheadCache
from api.server.request_head import FieldsByName
from shared import ids
from shared.clock import Clock, iso
from shared.errors import Code, RequestError
from shared.stores.accounts import Accounts
from shared.wire.account import Account, ApiKey, Scope

TRUSTED_SECONDS: Final = 0.8


class Caller(NamedTuple):
    """The key, its account, and the root of the partition that holds the account.

    `attempt` is the submission that this request makes, if it makes one.
    """

    key: ApiKey
    account: Account
    root: str
    attempt: SubmissionAttempt | None = None


class Identities:
    """The callers that this process has seen recently."""

    def __init__(self, accounts: Accounts, clock: Clock) -> None:
        self._accounts = accounts
        self._clock = clock
        self._callers = RefreshAheadCache(self._load, clock, trusted_seconds=TRUSTED_SECONDS)

    async def identify(self, fields: FieldsByName, scope: Scope) -> Caller:
        """Return the caller, whose key must have the scope.

        Raises:
            RequestError: INVALID_API_KEY without a key that exists and is neither expired nor
            revoked;
                FORBIDDEN when it lacks the scope.
        """
        key = _presented(fields)
        if key is None:
            raise _refused("is missing: send `X-API-Key: KEY` or `Authorization: Bearer KEY`")
        # The checksum finds a mistyped key.
        caller = await self._callers.get(key) if ids.is_key(key) else None
        if caller is None:
            raise _refused("is unknown")
        self._check_live(caller.key)
        if scope not in caller.key.scopes:
            raise RequestError(f"The API key lacks the scope `{scope}`.", Code.FORBIDDEN)
        return caller

    def forget(self, fields: FieldsByName) -> None:
        """Make the caller's next request read its account again: it was just changed."""
        key = _presented(fields)
        if key is not None:
            self._callers.forget(key)

    def _check_live(self, key: ApiKey) -> None:
        if key.revoked is not None:
            raise _refused("was revoked")
        if key.expires is not None and self._clock.now_ms() >= key.expires:
            raise _refused(f"expired at {iso(key.expires)}")

    async def _load(self, key: str) -> Caller | None:
        found = await self._accounts.authenticate(key)
        return Caller(*found, self._accounts.root_of(found[1])) if found is not None else None


def _refused(reason: str) -> RequestError:
    return RequestError(f"The API key {reason}.", Code.INVALID_API_KEY)


def _presented(fields: FieldsByName) -> str | None:
    key = fields.get(b"x-api-key")
    if key:
        return key
    scheme, _, token = fields.get(b"authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token else None
