"""Permits: room at providers that is taken before the turn that will use it is claimed.

Owns which permits this worker holds: free ones, for the next claim, and assigned ones, for turns
that were claimed and will call. Refuses to ask Redis: `rate_limiter` takes and returns room.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Final, NamedTuple

from shared.clock import Clock
from shared.redis.functions import EndCallAsk
from shared.wire.submission import Lane
from worker.resilience.provider_rate_limits import ProviderRateLimits

# An assigned permit not used by then is returned; a turn that calls later asks for room itself.
UNUSED_SECONDS: Final = 10.0
# After a call found no room, turns for the provider are parked for at least this long.
_FULL_SECONDS: Final = 1.0
# The weight of the last call in the moving average of tokens a call uses.
_LAST_WEIGHT: Final = 0.2

_Kind = tuple[str, Lane]


class Permit(NamedTuple):
    """Room for one call: the id and lane under which Redis keeps it, and the tokens reserved.

    `limits` are those under which it was taken: a reload may have changed or removed them since.
    """

    limits: ProviderRateLimits
    lane: Lane
    id: str
    tokens: int

    @property
    def provider(self) -> str:
        """The name of the provider."""
        return self.limits.provider.name

    def return_ask(self) -> EndCallAsk:
        """Return the message that returns all of it."""
        return self.limits.depart_ask(self.id, self.lane, self.tokens, None)


class Permits:
    """The permits of one worker."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._free: defaultdict[_Kind, list[tuple[float, Permit]]] = defaultdict(list)
        self._assigned: dict[str, tuple[float, Permit]] = {}
        self._full_until: dict[str, float] = {}
        self._freed: set[str] = set()
        self._tokens: dict[str, float] = {}
        self.on_freed: Callable[[], None] = lambda: None

    def free(self, provider: str, lane: Lane) -> int:
        """Return how many free permits there are of a lane."""
        return len(self._free.get((provider, lane), ()))

    def held(self, provider: str) -> int:
        """Return how many free permits there are of both lanes."""
        return self.free(provider, "interactive") + self.free(provider, "batch")

    def add(self, permit: Permit) -> None:
        """Keep a permit for the next claim."""
        self._free[permit.provider, permit.lane].append((self._clock.monotonic(), permit))

    def assign(self, provider: str, lane: Lane, generation: str) -> None:
        """Assign a free permit to a turn that was claimed with it."""
        if self.free(provider, lane) and generation not in self._assigned:
            _, permit = self._free[provider, lane].pop(0)
            self._assigned[generation] = (self._clock.monotonic(), permit)

    def take_assigned(self, provider: str, lane: Lane, generation: str) -> Permit | None:
        """Remove and return the permit assigned to a turn, if it is for this provider and lane."""
        _, permit = self._assigned.get(generation, (0.0, None))
        if permit is None or (permit.provider, permit.lane) != (provider, lane):
            return None
        del self._assigned[generation]
        return permit

    def drop(self, generation: str, provider: str | None = None) -> list[Permit]:
        """Remove and return the permit that a turn will not use (only of `provider`, if given)."""
        _, permit = self._assigned.get(generation, (0.0, None))
        if permit is None or provider not in {None, permit.provider}:
            return []
        del self._assigned[generation]
        return [permit]

    def take_unused(self, since: float) -> list[Permit]:
        """Remove and return the permits to return to Redis.

        They are free ones taken before `since`, and those assigned too long ago.
        """
        before = self._clock.monotonic() - UNUSED_SECONDS
        late = [each for each, (at, _) in self._assigned.items() if at < before]
        found = [self._assigned.pop(generation)[1] for generation in late]
        for permits in self._free.values():
            while permits and permits[0][0] < since:
                found.append(permits.pop(0)[1])
        return found

    # -- what is learned from calls ----------------------------------------------------------------

    def note_full(self, provider: str) -> None:
        """Note that a provider had no room for a call."""
        self._full_until[provider] = self._clock.monotonic() + _FULL_SECONDS

    def is_full(self, provider: str) -> bool:
        """Tell whether a call found no room lately."""
        return self._full_until.get(provider, 0.0) > self._clock.monotonic()

    def note_end(self, provider: str, tokens: int) -> None:
        """Note that a call has ended, and its tokens: there may be room again."""
        before = self._tokens.get(provider, float(tokens))
        self._tokens[provider] = before + (tokens - before) * _LAST_WEIGHT
        self.note_freed(provider)

    def note_freed(self, provider: str) -> None:
        """Note that there may be room at a provider."""
        self._freed.add(provider)
        self.on_freed()

    def was_freed(self, provider: str) -> bool:
        """Tell whether this worker has freed room since the last call of this method."""
        if provider not in self._freed:
            return False
        self._freed.discard(provider)
        return True

    def typical_tokens(self, provider: str) -> int:
        """Return the moving average of the tokens that a call uses."""
        return int(self._tokens.get(provider, 0.0))
