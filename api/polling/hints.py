"""The poll hint of a receipt, and the hint and ETA of a generation as it stands.

Owns which figures go into them; the arithmetic is eta.py's and queue_wait.py's.
"""

from typing import Final, NamedTuple

from api.live_fleet import LiveFleet
from api.polling import eta, queue_wait
from api.polling.eta import Eta, KnownDurations, ModelDurations, PriorWait
from api.polling.queue_wait import TypicalDuration
from shared.errors import UnavailableError
from shared.stores.fleet import Fleet
from shared.wire.generation import Generation, QueuePosition

# A client that polls at each hint, a little late, still finds the record of an ended generation.
_KEPT_SHARE: Final = 0.5


class Outlook(NamedTuple):
    """What a hint is computed from: a model's measured durations, and the live workers."""

    known: KnownDurations
    fleet: Fleet


class Hints:
    """Poll hints, in whole seconds; none leads past the time for which a record is kept."""

    def __init__(
        self, model_durations: ModelDurations, live_fleet: LiveFleet, kept_seconds: float
    ) -> None:
        self._model_durations = model_durations
        self._live_fleet = live_fleet
        self._hint_max = max(1, int(_KEPT_SHARE * kept_seconds))

    async def for_receipt(
        self, root: str, model: str, position: QueuePosition | None, outlook: Outlook | None = None
    ) -> int:
        """Return a receipt's hint; without a position the generation may long be running.

        The message is accepted: a failure of Redis must not refuse it now.
        """
        if outlook is None:
            try:
                outlook = await self._outlook(root, model)
            except UnavailableError:
                return min(self._hint_max, eta.HINT_SECONDS_UNKNOWN)
        known, fleet = outlook
        wait = queue_wait.NO_WAIT
        if position is not None:
            wait = queue_wait.of_receipt(position, model, _typical(known), fleet)
        return min(self._hint_max, wait.hint(known, 0.0))

    async def for_generation(self, root: str, generation: Generation) -> tuple[int, Eta | None]:
        """Return hint and ETA; an ended generation needs neither: 1 and None."""
        if generation.is_final:
            return 1, None
        known, fleet = await self._outlook(root, generation.model)
        if generation.position is not None:
            wait = queue_wait.of(generation, _typical(known), fleet)
            hint = wait.hint(known, queue_wait.waited_seconds(generation))
            estimate = eta.estimate(known, 0.0, wait.seconds) if wait.is_known else None
            return min(self._hint_max, hint), estimate
        if generation.stage == "awaiting_approval":
            # Nothing predicts when a person decides.
            since_accepted = (generation.seen - generation.accepted) / 1000
            return min(self._hint_max, queue_wait.UNKNOWN.hint(known, since_accepted)), None
        elapsed = 0.0
        if generation.started is not None:
            elapsed = max(0.0, (generation.seen - generation.started) / 1000)
        hint = eta.hint(known, elapsed, _prior_wait(generation, known, fleet))
        return min(self._hint_max, hint), eta.estimate(known, elapsed, 0.0)

    async def _outlook(self, root: str, model: str) -> Outlook:
        known = await self._model_durations.durations(root, model)
        return Outlook(known, await self._live_fleet.current())


def _prior_wait(generation: Generation, known: KnownDurations, fleet: Fleet) -> PriorWait:
    """Return how long a running generation was queued, and how often its client may have polled."""
    waited = queue_wait.waited_seconds(generation)
    if waited < 1:
        return eta.NO_PRIOR_WAIT
    position = generation.position_when_accepted or QueuePosition()
    wait = queue_wait.of_receipt(position, generation.model, _typical(known), fleet)
    first = wait.hint(known, 0.0)
    return PriorWait.of(waited, queue_wait.polls_made(waited, first, eta.HINT_SECONDS_MAX))


def _typical(known: KnownDurations) -> TypicalDuration:
    return TypicalDuration(known.typical_seconds, max(0.0, known.margin_seconds))
