"""What goes over the wire of `/admin/v1`, field by field.

Requests are closed: an unknown field is refused by name, null counts as absent. Replies are open.
Times are `YYYY-MM-DDTHH:MM:SSZ`, credits have at most six decimals.
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from api.dialects.kolbo.wire import Failure
from shared.errors import Category
from shared.wire.submission import Lane

ACTED_ON_MAX: Final = 1_000
ACTED_ON: Final = 100

Word = Annotated[str, Meta(max_length=200)]


class Filter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which dead letters; all of them where nothing is named. The newest `limit` of these."""

    category: Category | None = None
    code: Word | None = None
    provider: Word | None = None
    model: Annotated[Word | None, Meta(description="As it was asked for, or as it was chosen.")] = (
        None
    )
    account: Word | None = None
    since: Annotated[Word | None, Meta(description="Died then or later.")] = None
    until: Annotated[Word | None, Meta(description="Died then or earlier.")] = None
    limit: Annotated[int, Meta(ge=1, le=ACTED_ON_MAX)] | None = None


class ActionBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Either the ids, `ACCOUNT/GENERATION` each, or a filter."""

    ids: Annotated[list[Word], Meta(min_length=1, max_length=ACTED_ON_MAX)] | None = None
    filter: Filter | None = None


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt ended: `why` is the failure's code, `CRASHED` or `RELEASED`."""

    attempt: int
    started_at: str
    ended_at: str
    worker: str
    why: str


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A generation that failed for no fault of its caller.

    `attempt` counts all attempts, `attempts` tells the last sixteen; `chosen` is the model that was
    asked last, `held_credits` what a retry sets aside again.
    """

    id: str
    account: str
    generation_id: str
    session_id: str
    turn: int
    lane: Lane
    model: str
    chosen: str | None
    failure: Failure
    attempt: int
    attempts: list[Attempt]
    accepted_at: str
    died_at: str
    held_credits: float
    key_id: str
    retried_as: str | None


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the caller had asked, prompt and all; null is what can no longer be read."""

    message: str | None
    metadata: dict[str, str]
    project_id: str | None
    companion: str | None
    enhance_prompt: bool | None
    max_output_tokens: int | None
    deep_think: bool | None
    web_search: bool | None
    media_urls: list[str]


class ListReply(msgspec.Struct, frozen=True, kw_only=True):
    """Dead letters, newest first; `next_after` is where to go on, null after the last."""

    success: Literal[True] = True
    dead: list[DeadLetter]
    count: int
    next_after: str | None


class LetterReply(msgspec.Struct, frozen=True, kw_only=True):
    """One dead letter, with what was asked."""

    success: Literal[True] = True
    dead: DeadLetter
    asked: Asked


class Retried(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter and the generation that now answers it."""

    id: str
    generation_id: str


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter that stays as it is, and why."""

    id: str
    code: str
    error: str


class RetryReply(msgspec.Struct, frozen=True, kw_only=True):
    """What a retry did; `count` of them are asked again."""

    success: Literal[True] = True
    count: int
    retried: list[Retried]
    refused: list[Refused]


class DiscardReply(msgspec.Struct, frozen=True, kw_only=True):
    """What was discarded, `count` of them, and which ids are of no dead letter."""

    success: Literal[True] = True
    count: int
    discarded: list[str]
    unknown: list[str]
