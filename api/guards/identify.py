"""Who asks: the key in the headers, and the account behind it.

Owns how long a look at a key's record may be trusted: well under a second, so that a revocation
holds on every process within one. A key is read from headers only, and a mistyped one is refused
without a look.
"""

import asyncio
from collections import OrderedDict
from typing import Final, NamedTuple

from starlette.datastructures import Headers

from shared import ids
from shared.clock import Clock
from shared.errors import Code, RequestError
from shared.stores.accounts import Accounts
from shared.wire.account import Account, ApiKey, Scope

_TRUSTED_SECONDS: Final = 0.8
_REMEMBERED_MAX: Final = 10_000


class Caller(NamedTuple):
    """Who asks, and the root of the partition where all of theirs is."""

    key: ApiKey
    account: Account
    root: str


class Identities:
    """The callers this process has lately seen."""

    def __init__(self, accounts: Accounts, clock: Clock) -> None:
        self._accounts = accounts
        self._clock = clock
        self._seen: OrderedDict[str, tuple[float, Caller | None]] = OrderedDict()
        self._looking: dict[str, asyncio.Task[Caller | None]] = {}

    async def identify(self, headers: Headers, scope: Scope) -> Caller:
        """Return the caller, whose key must carry the scope.

        Raises:
            RequestError: INVALID_API_KEY without a key that was made, lives and is not revoked;
                FORBIDDEN when it lacks the scope.

        """
        key = _presented(headers)
        caller = await self._find(key) if key is not None else None
        if caller is None or not self._is_live(caller.key):
            raise RequestError(
                "The API key is missing, unknown, expired or revoked (X-API-Key or Bearer).",
                Code.INVALID_API_KEY,
            )
        if scope not in caller.key.scopes:
            raise RequestError(f"The API key lacks the scope `{scope}`.", Code.FORBIDDEN)
        return caller

    def _is_live(self, key: ApiKey) -> bool:
        return key.revoked is None and (key.expires is None or self._clock.now_ms() < key.expires)

    async def _find(self, key: str) -> Caller | None:
        now = self._clock.monotonic()
        seen = self._seen.get(key)
        if seen is not None and now - seen[0] < _TRUSTED_SECONDS:
            return seen[1]
        if not ids.is_key(key):
            return None
        if key not in self._looking:
            self._looking[key] = asyncio.create_task(self._look(key, now))
            self._looking[key].add_done_callback(lambda _: self._looking.pop(key, None))
        return await asyncio.shield(self._looking[key])

    async def _look(self, key: str, asked_at: float) -> Caller | None:
        """Ask Redis. What is found is trusted from the moment of asking, not of the answer."""
        found = await self._accounts.authenticate(key)
        caller = Caller(*found, self._accounts.root_of(found[1])) if found is not None else None
        self._seen[key] = (asked_at, caller)
        self._seen.move_to_end(key)
        if len(self._seen) > _REMEMBERED_MAX:
            self._seen.popitem(last=False)
        return caller


def _presented(headers: Headers) -> str | None:
    key = headers.get("x-api-key")
    if key:
        return key
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token else None
