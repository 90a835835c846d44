"""How long until a queued turn begins, from what is ahead of it and how long it has waited.

Owns the estimate of the wait, how far to trust it, and the hint that follows. Durations are passed
in by hints.py.

DESIGN. What is ahead of a turn takes a number of rounds through the available slots, each as long
as a typical answer. E.g. 8 claims ahead on 4 slots, at 10 s an answer, are 2 rounds: 20 s. That
holds only while others use the slots for no longer, so the time waited is the evidence: if the wait
so far went as expected, the rest is believed; if nothing has moved, the rest is taken to be as long
as the whole. No ETA is given once the wait is twice what it should be by now. A hint is never
shorter than a share of the time waited; the share shrinks while the wait goes as expected. So polls
stay few whatever happens.
"""

import math
from typing import Final, NamedTuple

from api.polling import eta
from api.polling.eta import KnownDurations
from shared.stores.fleet import Fleet
from shared.wire.generation import Generation, QueuePosition
from shared.wire.submission import AUTO

# Without evidence, the next poll is this share of the time waited away.
HINT_GROWTH: Final = 0.6
_HINT_GROWTH_MIN: Final = 0.1
# From the end of one turn to the claim of the next.
_HANDOVER_SECONDS: Final = 0.03
# The workers' reports, as known here, may be this old.
_STALE_SECONDS: Final = 2.5
_STRETCH_MAX: Final = 2.0
# A turn that is retried gets this much growth for each attempt.
_HINT_GROWTH_PER_ATTEMPT: Final = 0.15


class Wait(NamedTuple):
    """`seconds` until a turn begins; it may well be `margin` less.

    The next poll is at least `growth` of the time waited away. `is_known` if measurements predict
    when the turn begins.
    """

    seconds: float
    growth: float = 0.0
    is_known: bool = True
    margin: float = 0.0

    def shortest_hint(self, waited: float) -> int:
        """Return the shortest hint, in whole seconds, after such a wait."""
        return math.ceil(self.growth * (waited + 1))

    def hint(self, known: KnownDurations, waited: float) -> int:
        """Return the seconds to the first poll that may find an end, but not too few of them."""
        soonest = eta.HINT_SECONDS_UNKNOWN
        if self.is_known:
            soonest = eta.hint_while_waiting(known, max(0.0, self.seconds - self.margin))
        return min(eta.HINT_SECONDS_MAX, max(soonest, self.shortest_hint(waited)))


class TypicalDuration(NamedTuple):
    """How long a model's answers take, and how much less many of them do, in seconds."""

    seconds: float
    margin: float = 0.0

    def margin_of(self, seconds: float) -> float:
        """Return how much shorter a sequence of answers may be whose typical length this is."""
        return self.margin * math.sqrt(seconds / self.seconds)


NO_WAIT: Final = Wait(0.0)
UNKNOWN: Final = Wait(0.0, HINT_GROWTH, is_known=False)


def of_receipt(position: QueuePosition, model: str, typical: TypicalDuration, fleet: Fleet) -> Wait:
    """Return the wait of a message that was just accepted."""
    if not _is_served(model, fleet):
        return UNKNOWN
    seconds = estimated_seconds(position, typical.seconds, fleet)
    return Wait(seconds, HINT_GROWTH, margin=typical.margin_of(seconds))


def of(generation: Generation, typical: TypicalDuration, fleet: Fleet) -> Wait:
    """Return the wait of a generation as it stands; none for one that runs."""
    position = generation.position
    if position is None:
        return NO_WAIT
    if not _is_served(generation.model, fleet):
        return UNKNOWN
    if generation.retry_in_seconds > 0:
        # The time of the retry is known, not its success.
        growth = min(HINT_GROWTH, _HINT_GROWTH_PER_ATTEMPT * max(1, generation.attempt))
        return Wait(generation.retry_in_seconds, growth)
    return _from_observed_progress(generation, position, typical, fleet)


def _from_observed_progress(
    generation: Generation, position: QueuePosition, typical: TypicalDuration, fleet: Fleet
) -> Wait:
    """Return the rest by measured durations, stretched as much as the wait so far was."""
    waited = waited_seconds(generation)
    remaining = estimated_seconds(position, typical.seconds, fleet)
    first = generation.position_when_accepted
    whole = remaining if first is None else estimated_seconds(first, typical.seconds, fleet)
    passed = max(0.0, whole - remaining)
    stretch = (waited + typical.seconds) / (passed + typical.seconds)
    if stretch > _STRETCH_MAX and waited > _STALE_SECONDS:
        return Wait(remaining * stretch, HINT_GROWTH, is_known=False)
    growth = max(_HINT_GROWTH_MIN, HINT_GROWTH * typical.seconds / (passed + typical.seconds))
    seconds = remaining * max(1.0, stretch)
    return Wait(seconds, growth, margin=typical.margin_of(seconds))


def waited_seconds(generation: Generation) -> float:
    """Return how long a generation has waited, or did until its attempt began."""
    until = generation.seen
    if generation.position is None and generation.started is not None:
        until = generation.started
    return max(0.0, (until - generation.accepted) / 1000)


def estimated_seconds(position: QueuePosition, typical_seconds: float, fleet: Fleet) -> float:
    """Return the wait if everything ahead takes as long as a typical answer."""
    by_rounds = _by_rounds(position, typical_seconds, fleet)
    if not position.is_behind_head:
        return by_rounds
    turn_seconds = typical_seconds + _HANDOVER_SECONDS
    if position.first_age_seconds is None:
        # The session's head is queued too, and waits about as long.
        return by_rounds + (position.session_turns_before + 1) * turn_seconds
    return (
        max(0.0, turn_seconds - position.first_age_seconds)
        + position.session_turns_before * turn_seconds
    )


def _by_rounds(position: QueuePosition, typical_seconds: float, fleet: Fleet) -> float:
    """Count rounds: through the account's share of the slots, and its own limit at once."""
    claims_before, slots = position.ahead + position.running, max(1, fleet.slots)
    rounds = claims_before * max(1, position.lane_accounts) // slots
    if position.running_max:
        rounds = max(rounds, claims_before // position.running_max)
    if rounds:
        seconds = rounds * typical_seconds
        is_begun = (
            position.running
            and position.first_age_seconds is not None
            and not position.is_behind_head
        )
        return max(0.0, seconds - (position.first_age_seconds or 0.0)) if is_begun else seconds
    if fleet.slots and fleet.running >= fleet.slots:
        # Others hold every slot; among many slots, one is free after a fraction of a duration.
        return typical_seconds * (position.ahead + 1) * max(1, position.lane_accounts) / (slots + 1)
    return 0.0


def _is_served(model: str, fleet: Fleet) -> bool:
    """Whether a live worker would take it."""
    if fleet.workers <= fleet.without_listener:
        return False
    return model == AUTO or model in fleet.models


def polls_made(waited: float, first: int, hint_max: int) -> int:
    """Return how many polls a client made by the time it found the turn begun, or is about to.

    The first came at the receipt's hint, the others as if nothing predicted the beginning.
    """
    at, polls = float(first), 1
    while at < waited:
        step = UNKNOWN.shortest_hint(at)
        if step >= hint_max:
            return polls + math.ceil((waited - at) / hint_max)
        at += step
        polls += 1
    return polls
