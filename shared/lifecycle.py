"""The stages of a generation, and which stage may follow which.

Code never decides by itself whether a transition is allowed: it asks this table, and so do the
Redis functions, into whose text the table is rendered. Nothing follows an end.

`stage` is the internal word; `state` is the coarser one that callers poll: `processing` until one
of the three ends.
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
# (deferred, or its worker died). A claim moves it to `routing`; its message may be reworded and the
# web searched before it generates. Whatever waits or runs may fail (deadline, too many crashes) or
# be cancelled; only `generating` can complete.
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
    """Tell whether `following` may come after `stage`."""
    return following in TRANSITIONS[stage]
