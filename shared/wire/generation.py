"""One answer being made, at the moment of a poll: the record in Redis, typed."""

import msgspec

from shared.lifecycle import ENDS, Stage, State, state_of
from shared.wire.message import AssistantMessage, UserMessage
from shared.wire.routing import Routing
from shared.wire.submission import Lane


class QueuePosition(msgspec.Struct, frozen=True, kw_only=True):
    """What a waiting turn waits for.

    `ahead` counts the account's own generations of the lane that wait before it, `running` those
    that run, `running_max` how many may (0: unknown). `lane_accounts` counts the accounts that
    share the lane, itself included, weighted: for an account of weight 1 beside one of weight 2 it
    is 3, as it gets a third of the claims. `is_behind_head`: an earlier turn of its session is not
    finished, and `session_turns_before` more wait between the two. The first of what comes before
    it began `first_age_seconds` ago; None where that waits, too.
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

    `text` is the answer so far, or all of it; `assistant` is set once it has ended. `ahead` counts
    the account's own of the lane that will run before it, `position` all that it waits for, and
    `position_when_accepted` is that at the accept, where anything was before it. A deferred one is
    tried again in `retry_in_seconds`. `last_event` is EPOCH-SEQ. One that has ended has no
    `deadline`; `is_cancelling`: its worker was asked to stop. `routed` is the choice of a model
    while it runs. A generation without a session has turn 1, which ends with it.
    """

    id: str
    seen: int = 0
    session: str | None
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
        """Whether its deadline had passed at that moment."""
        return self.deadline is not None and self.seen >= self.deadline

    @property
    def state(self) -> State:
        """The state that callers poll."""
        return state_of(self.stage)

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        return self.stage in ENDS
