"""One answer being made, as a caller may look at it: the record in Redis, typed."""

import msgspec

from shared.lifecycle import ENDS, Stage, State, state_of
from shared.wire.message import AssistantMessage, UserMessage
from shared.wire.routing import Routing
from shared.wire.submission import Lane


class QueuePosition(msgspec.Struct, frozen=True, kw_only=True):
    """What comes before a turn that waits.

    `ahead` counts the account's own of its lane that wait before it, `running` those that run,
    `most` how many of them may (0: unknown). `crowd` counts those who share the lane, itself too,
    in accounts of its weight. Where it `follows` the head of its session, `behind` turns wait
    between the two. What comes first began `front_seconds` ago; None where it waits, too.
    """

    ahead: int = 0
    running: int = 0
    running_max: int = 0
    lane_accounts: int = 1
    session_turns_before: int = 0
    is_behind_head: bool = False
    first_age_seconds: float | None = None


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """A generation at one moment, `seen`. Times are ms of Redis' clock, money microcredits.

    `text` is the answer so far, or the whole of it; `assistant` is there once it has ended; `ahead`
    counts the account's own of the lane that will run before it, and `line` all that it waits for;
    `line_at_first` is that line as it was taken in, where anything waited before it;
    `again_seconds` is how long what was put off still waits before it is tried again; `last_event`
    is EPOCH-SEQ. What has ended has no `deadline`, and `is_cancelling` no more: its worker is asked
    to stop. `routed` is the choice of a model while it runs.
    """

    id: str
    seen: int = 0
    session: str
    turn: int
    lane: Lane
    stage: Stage
    model: str
    attempt: int
    accepted: int
    deadline: int | None = None
    started: int | None = None
    finished: int | None = None
    captured: int = 0
    hold: int = 0
    progress: int = 0
    ahead: int | None = None
    position: QueuePosition | None = None
    position_when_accepted: QueuePosition | None = None
    retry_in_seconds: float = 0.0
    unfinished: int = 0
    is_cancelling: bool = False
    last_event: str = "0-0"
    text: str = ""
    user: UserMessage | None = None
    assistant: AssistantMessage | None = None
    routed: Routing | None = None

    @property
    def is_past_deadline(self) -> bool:
        """Whether its deadline had passed when it was looked at."""
        return self.deadline is not None and self.seen >= self.deadline

    @property
    def state(self) -> State:
        """What callers loop on."""
        return state_of(self.stage)

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        return self.stage in ENDS
