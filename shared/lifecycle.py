"""The life of a generation: its stages, the states callers see, and which stage may follow which.

Two rules. Code never decides whether a step is allowed: it asks this table, and so do the Redis
functions, into whose text the table is rendered. And an end is an end: nothing follows it.

`stage` is what happens inside; `state` is the coarse word that callers loop on (`processing` until
one of the three ends).
"""

from typing import Final, Literal

State = Literal["processing", "completed", "failed", "cancelled"]
Stage = Literal[
    "queued",
    "routing",
    "enhancing",
    "searching",
    "generating",
    "retrying",
    "completed",
    "failed",
    "cancelled",
]

ENDS: Final[frozenset[Stage]] = frozenset({"completed", "failed", "cancelled"})

# A generation waits as `queued` (never tried, or handed back by a worker that drains) or `retrying`
# (deferred, or its worker died); it is claimed into `routing`. Its message may be reworded and the
# web searched before it generates. Anything that waits or runs may fail (deadline, too many
# crashes) or be cancelled; only what generates can complete.
_HANDED_BACK: Final[frozenset[Stage]] = frozenset({"queued", "retrying", "failed", "cancelled"})
TRANSITIONS: Final[dict[Stage, frozenset[Stage]]] = {
    "queued": frozenset({"routing", "failed", "cancelled"}),
    "retrying": frozenset({"routing", "failed", "cancelled"}),
    "routing": _HANDED_BACK | {"enhancing", "searching", "generating"},
    "enhancing": _HANDED_BACK | {"searching", "generating"},
    "searching": _HANDED_BACK | {"generating"},
    "generating": _HANDED_BACK | {"generating", "completed"},
    "completed": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}

WAITING: Final[frozenset[Stage]] = frozenset({"queued", "retrying"})


def state_of(stage: Stage) -> State:
    """Return the state that callers see for a stage."""
    match stage:
        case "completed" | "failed" | "cancelled":
            return stage
        case _:
            return "processing"


def may_follow(stage: Stage, following: Stage) -> bool:
    """Tell whether the table lets `following` come after `stage`."""
    return following in TRANSITIONS[stage]
