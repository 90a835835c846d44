"""Keeps to the rate limits of providers: takes room in them for calls, and returns it.

Owns the room that this worker holds, of calls under way and as permits for later calls. The limits
are the fleet's, in Redis; each report renews the leases of the room held here, and that of a dead
worker lapses. Room is returned without waiting for a reply.
"""

from collections.abc import Sequence
from typing import Final, Protocol

from shared import ids
from shared.catalogue import Catalogue
from shared.clock import Clock
from shared.redis import functions
from shared.redis.client import Connection
from shared.settings import ModelSettings, ProviderSettings
from shared.wire.submission import Lane
from worker.resilience.circuits import Caller, barred
from worker.resilience.permits import Permit, Permits
from worker.resilience.provider_rate_limits import ProviderRateLimits

LEASE_MS: Final = 5_000  # a few reports


class LimitedCall(Protocol):
    """What the limits need to know of a call."""

    model: ModelSettings
    caller: Caller
    lane: Lane
    tokens: int
    is_sent: bool

    @property
    def id(self) -> str:
        """The id of the call in Redis."""

    def spent_tokens(self) -> int:
        """Return the tokens to count."""


class RateLimiter:
    """The room at providers that one worker holds."""

    def __init__(self, redis: Connection, root: str, clock: Clock) -> None:
        self._redis = redis
        self._root = root
        self._held: dict[str, tuple[str, Lane, str]] = {}
        self.permits = Permits(clock)

    def held(self) -> tuple[tuple[str, Lane, str], ...]:
        """Return the provider, lane and id of all room held here."""
        return tuple(self._held.values())

    # -- a call ------------------------------------------------------------------------------------

    async def admit(self, call: LimitedCall, provider: ProviderSettings) -> None:
        """Take room in the provider's limits, or raise CallBlockedError."""
        permit = self.permits.take_assigned(provider.name, call.lane, call.caller.message)
        if permit is not None:
            call.tokens = permit.tokens
            self._held[call.id] = (permit.provider, permit.lane, permit.id)
            self._held.pop(permit.id, None)
            return
        ask = ProviderRateLimits(provider).admit_ask(call.id, call.lane, call.tokens, LEASE_MS)
        wait_ms: int | None = None
        try:
            wait_ms = await functions.admit_call(self._redis, self._root, ask)
        finally:
            # Reports renew the leases of what is noted here. A call that was refused has none; one
            # whose reply was lost may have been admitted.
            if wait_ms is None:
                self._held[call.id] = (provider.name, call.lane, call.id)
        if wait_ms is not None:
            self.permits.note_full(provider.name)
            raise barred(call.model, "busy", wait_ms / 1000)

    def release(self, call: LimitedCall, catalogue: Catalogue) -> None:
        """Return the room that a call holds, if it holds any."""
        room = self._held.pop(call.id, None) if self._held else None
        if room is not None:
            provider, lane, name = room
            limits = ProviderRateLimits(catalogue.provider_of(call.model))
            used = call.spent_tokens() if call.is_sent else None
            functions.end_call(
                self._redis, self._root, limits.depart_ask(name, lane, call.tokens, used)
            )
            if used is not None:
                self.permits.note_end(provider, used)

    # -- room for later calls ----------------------------------------------------------------------

    async def take_permit(self, provider: ProviderSettings, lane: Lane) -> float | None:
        """Take room in a provider's limits for a later call, and return None.

        Without room, return in how many seconds there may be some (0: unknown). Raises
        UnavailableError.
        """
        limits, tokens = ProviderRateLimits(provider), self.permits.typical_tokens(provider.name)
        permit = Permit(limits, lane, ids.new_id(), tokens)
        ask = limits.admit_ask(permit.id, lane, permit.tokens, LEASE_MS)
        wait_ms = await functions.admit_call(self._redis, self._root, ask)
        if wait_ms is not None:
            return wait_ms / 1000
        self._held[permit.id] = (provider.name, lane, permit.id)
        self.permits.add(permit)
        return None

    def return_permits(self, unused: Sequence[Permit]) -> set[str]:
        """Return unused permits to Redis; return the names of their providers."""
        for permit in unused:
            self._held.pop(permit.id, None)
            functions.end_call(self._redis, self._root, permit.return_ask())
        return {permit.provider for permit in unused}
