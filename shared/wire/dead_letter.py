"""A dead letter: a generation that failed through no fault of its caller, kept for an operator.

Owns its form and its name, `ACCOUNT/ID`. The Redis function that ends the generation writes it; the
request is kept as it was stored, so that a retry asks the same.
"""

from typing import NamedTuple, Self

import msgspec
from typing_extensions import override

from shared import ids
from shared.errors import Failure
from shared.wire.message import UserMessage
from shared.wire.submission import Lane, Submission


class DeadLetterName(NamedTuple):
    """An account and the id of its generation that failed."""

    account: str
    id: str

    @override
    def __str__(self) -> str:
        """Return it as operators write it."""
        return f"{self.account}/{self.id}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read a name as `str` writes it; None for any other text."""
        account, _, id_ = text.partition("/")
        return cls(account, id_) if ids.is_id(account) and ids.is_id(id_) else None


class EndedAttempt(NamedTuple):
    """How one attempt ended: times in ms; `why` is a failure's code, CRASHED or RELEASED."""

    attempt: int
    started: int
    ended: int
    worker: str
    why: str


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter. Times are ms of Redis' clock, money microcredits.

    `model` is the requested one, `chosen` the one called last; `attempt` counts all attempts,
    `attempts` lists the last of them. `session` is None where it had none. `retried_as` is the
    generation that a retry made.
    """

    name: DeadLetterName
    session: str | None
    turn: int
    lane: Lane
    model: str
    failure: Failure
    attempt: int
    attempts: tuple[EndedAttempt, ...]
    accepted: int
    died: int
    hold: int
    key: str
    chosen: str | None = None
    retried_as: str | None = None


class OriginalRequest(NamedTuple):
    """What the caller of a dead letter had asked; None where it cannot be read."""

    message: UserMessage | None
    submission: Submission | None
