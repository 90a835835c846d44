"""How long until a turn begins, from what comes before it and from how long it has waited.

Owns the estimate of a wait and how far it may be trusted. Refuses to know durations: pace has them.

DESIGN. What comes before a turn takes so many rounds of the room there is, each as long as such
answers take. That is only true while others hold the room for no longer, so the time waited is the
evidence: of a wait that passed as it was expected the rest is believed, of one in which nothing has
moved the rest is taken to be as long as the whole. An estimate is told no longer once the wait is
twice what it should be by now, and a hint never leads to a poll sooner than a share of the time
waited, which is the smaller the more has passed as expected. So polls stay few whatever happens.
"""

import math
from typing import Final, NamedTuple

from shared.stores.fleet import Fleet
from shared.wire.generation import Generation, Line
from shared.wire.submission import AUTO

# Without any evidence the next look is so much of the time waited away.
GROWTH: Final = 0.6
_GROWTH_MIN: Final = 0.1
# From the end of one turn to the claim of the next.
_HANDOVER_SECONDS: Final = 0.03
# The workers' reports, and what is known of them here, may be as old as that.
_STALE_SECONDS: Final = 2.5
_DOUBTED_STRETCH: Final = 2.0
# What is tried again and again has a growth of this much for each attempt.
_GROWTH_PER_ATTEMPT: Final = 0.15


class Wait(NamedTuple):
    """`seconds` until a turn begins, which may well be `margin` less.

    `growth` of the time waited is the shortest way to the next look; `is_known` where something
    that was measured tells when the turn begins.
    """

    seconds: float
    growth: float = 0.0
    is_known: bool = True
    margin: float = 0.0

    def shortest_hint(self, waited: float) -> int:
        """Return in how many whole seconds to look again at the soonest, after such a wait."""
        return math.ceil(self.growth * (waited + 1))


class Typical(NamedTuple):
    """How long the answers of a model take, and how much less many of them do, in seconds."""

    seconds: float
    margin: float = 0.0

    def margin_of(self, seconds: float) -> float:
        """Return how much less a sequence of answers may take that takes so long as a rule."""
        return self.margin * math.sqrt(seconds / self.seconds)


NO_WAIT: Final = Wait(0.0)
UNKNOWN: Final = Wait(0.0, GROWTH, is_known=False)


def of_receipt(line: Line, model: str, typical: Typical, fleet: Fleet) -> Wait:
    """Return the wait of a message that was just taken in."""
    if not _is_served(model, fleet):
        return UNKNOWN
    seconds = model_seconds(line, typical.seconds, fleet)
    return Wait(seconds, GROWTH, margin=typical.margin_of(seconds))


def of(generation: Generation, typical: Typical, fleet: Fleet) -> Wait:
    """Return the wait of a generation as it stands; none for what runs."""
    line = generation.line
    if line is None:
        return NO_WAIT
    if not _is_served(generation.model, fleet):
        return UNKNOWN
    if generation.again_seconds > 0:
        # It knows when it is tried again, not what comes of that.
        growth = min(GROWTH, _GROWTH_PER_ATTEMPT * max(1, generation.attempt))
        return Wait(generation.again_seconds, growth)
    return _by_evidence(generation, line, typical, fleet)


def _by_evidence(generation: Generation, line: Line, typical: Typical, fleet: Fleet) -> Wait:
    """Return what is left by the measured durations, stretched as the wait so far was."""
    waited = waited_seconds(generation)
    left = model_seconds(line, typical.seconds, fleet)
    first = generation.line_at_first
    whole = left if first is None else model_seconds(first, typical.seconds, fleet)
    passed = max(0.0, whole - left)
    stretch = (waited + typical.seconds) / (passed + typical.seconds)
    if stretch > _DOUBTED_STRETCH and waited > _STALE_SECONDS:
        return Wait(left * stretch, GROWTH, is_known=False)
    growth = max(_GROWTH_MIN, GROWTH * typical.seconds / (passed + typical.seconds))
    seconds = left * max(1.0, stretch)
    return Wait(seconds, growth, margin=typical.margin_of(seconds))


def waited_seconds(generation: Generation) -> float:
    """Return how long a generation has waited, or did until its attempt began."""
    until = generation.seen
    if generation.line is None and generation.started is not None:
        until = generation.started
    return max(0.0, (until - generation.accepted) / 1000)


def model_seconds(line: Line, typical_seconds: float, fleet: Fleet) -> float:
    """Return the wait as it is if everything before takes as long as such answers did."""
    by_line = _by_line(line, typical_seconds, fleet)
    if not line.follows:
        return by_line
    turn_seconds = typical_seconds + _HANDOVER_SECONDS
    if line.front_seconds is None:
        # The head has to wait itself, about as long as this line tells.
        return by_line + (line.behind + 1) * turn_seconds
    return max(0.0, turn_seconds - line.front_seconds) + line.behind * turn_seconds


def _by_line(line: Line, typical_seconds: float, fleet: Fleet) -> float:
    """Count rounds: of the account's share of all slots, and of how many it may run at once."""
    place, slots = line.ahead + line.running, max(1, fleet.slots)
    rounds = place * max(1, line.crowd) // slots
    if line.most:
        rounds = max(rounds, place // line.most)
    if rounds:
        seconds = rounds * typical_seconds
        is_begun = line.running and line.front_seconds is not None and not line.follows
        return max(0.0, seconds - (line.front_seconds or 0.0)) if is_begun else seconds
    if fleet.slots and fleet.running >= fleet.slots:
        # Others hold every slot: of so many, one is free soon, if they take as long.
        return typical_seconds * (line.ahead + 1) * max(1, line.crowd) / (slots + 1)
    return 0.0


def _is_served(model: str, fleet: Fleet) -> bool:
    """Tell whether a worker lives that would take it."""
    if fleet.workers <= fleet.deaf:
        return False
    return model == AUTO or model in fleet.models


def polls_by(waited: float, first: int, hint_max: int) -> int:
    """Return how many polls a client made that found the turn begun, or is about to find it so.

    The first came where the receipt's hint led, the others as if nothing told when it would begin.
    """
    at, polls = float(first), 1
    while at < waited:
        step = UNKNOWN.shortest_hint(at)
        if step >= hint_max:
            return polls + math.ceil((waited - at) / hint_max)
        at += step
        polls += 1
    return polls
