"""The stages of a generation, and which stage may follow which.

Code never decides by itself whether a transition is allowed: it asks this table, and so do the
Redis functions, into whose text the table is rendered. Nothing follows an end.

`stage` is the internal word; `state` is the coarser one that callers poll: `processing` until one
of the three ends.

A stage that processes of wire 3 do not know is stored as one that they know (`STORED_AS`), with its
own name beside it in the field `finer_stage`. Otherwise they would take the record for damaged.
"""

from collections.abc import Mapping
from typing import Final, Literal, cast

State = Literal["processing", "completed", "failed", "cancelled"]
Stage = Literal[
    "queued",
    "routing",
    "enhancing",
    "searching",
    "generating",
    "calling_tool",
    "awaiting_approval",
    "retrying",
    "completed",
    "failed",
    "cancelled",
]

ENDS: Final[frozenset[Stage]] = frozenset({"completed", "failed", "cancelled"})

# A generation waits as `queued` (never tried, or handed back by a worker that drains) or `retrying`
# (deferred, or its worker died). A claim moves it to `routing`; its message may be reworded and the
# web searched before it generates. It may call tools, and generate again with the results. While a
# person decides about a call, no worker has it; then it is `queued` again. An attempt may begin by
# making the calls that an earlier one left. Whatever waits or runs may fail (deadline, many
# crashes) or be cancelled; only `generating` can complete.
_HANDED_BACK: Final[frozenset[Stage]] = frozenset({"queued", "retrying", "failed", "cancelled"})
TRANSITIONS: Final[dict[Stage, frozenset[Stage]]] = {
    "queued": frozenset({"routing", "failed", "cancelled"}),
    "retrying": frozenset({"routing", "failed", "cancelled"}),
    "routing": _HANDED_BACK | {"enhancing", "searching", "generating", "calling_tool"},
    "enhancing": _HANDED_BACK | {"searching", "generating", "calling_tool"},
    "searching": _HANDED_BACK | {"generating", "calling_tool"},
    "generating": _HANDED_BACK | {"generating", "calling_tool", "completed"},
    "calling_tool": _HANDED_BACK | {"generating", "awaiting_approval"},
    "awaiting_approval": frozenset({"queued", "routing", "failed", "cancelled"}),
    "completed": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}

WAITING: Final[frozenset[Stage]] = frozenset({"queued", "retrying", "awaiting_approval"})

STORED_AS: Final[dict[Stage, Stage]] = {
    "calling_tool": "generating",
    "awaiting_approval": "retrying",
}


def stage_in(record: Mapping[str, str]) -> Stage:
    """Return the stage of a generation's stored record.

    An older process changes `stage` alone, which leaves a finer one behind that no longer counts.
    """
    stored = cast("Stage", record["stage"])
    if "finer_stage" not in record:
        return stored
    finer = cast("Stage", record["finer_stage"])
    return finer if STORED_AS.get(finer) == stored else stored


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
