"""The fields of requests and replies of `/admin/v1`.

Requests are closed: an unknown field is refused by name, null counts as absent. Replies are open:
later versions may add fields. Times are `YYYY-MM-DDTHH:MM:SSZ`, credits have at most six decimals.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from api.wire import fields
from shared.errors import Category
from shared.wire.submission import Lane

ACTED_ON_MAX: Final = 1_000
ACTED_ON: Final = 100

LIMIT: Final = f"{ACTED_ON} by default, {ACTED_ON_MAX} at most."

Word = Annotated[str, Meta(max_length=200)]
LetterId = Annotated[str, Meta(description="The dead letter's id, `ACCOUNT/GENERATION`.")]


class Filter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which dead letters; all of them where nothing is named. The newest `limit` of these."""

    category: Annotated[Category | None, Meta(description="A failure's category.")] = None
    code: Annotated[Word | None, Meta(description="A failure's code.")] = None
    provider: Annotated[Word | None, Meta(description="The upstream's name in the catalogue.")] = (
        None
    )
    model: Annotated[Word | None, Meta(description="As it was asked for, or as it was chosen.")] = (
        None
    )
    account: Annotated[Word | None, Meta(description="An account's name.")] = None
    since: Annotated[
        Word | None, Meta(description="Died then or later, `YYYY-MM-DDTHH:MM:SSZ`.")
    ] = None
    until: Annotated[Word | None, Meta(description="Died then or earlier.")] = None
    limit: Annotated[
        Annotated[int, Meta(ge=1, le=ACTED_ON_MAX)] | None, Meta(description=f"How many: {LIMIT}")
    ] = None


class ActionBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Either the ids or a filter."""

    ids: Annotated[
        Annotated[list[Word], Meta(min_length=1, max_length=ACTED_ON_MAX)] | None,
        Meta(description="Which dead letters, `ACCOUNT/GENERATION` each."),
    ] = None
    filter: Annotated[Filter | None, Meta(description="All dead letters that fit now.")] = None


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt ended."""

    attempt: Annotated[int, Meta(description="Its number, from 1.")]
    started_at: Annotated[fields.Time, Meta(description="When it began.")]
    ended_at: Annotated[fields.Time, Meta(description="When it ended.")]
    worker: Annotated[str, Meta(description="The worker that made it.")]
    why: Annotated[str, Meta(description="The failure's code, `CRASHED` or `RELEASED`.")]


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A generation that failed for no fault of its caller."""

    id: LetterId
    account: Annotated[str, Meta(description="The account's name.")]
    generation_id: fields.GenerationId
    session_id: fields.SessionIdOrNull
    turn: Annotated[int, Meta(description="The number of its turn in the session, from 1.")]
    lane: Annotated[Lane, Meta(description="The queue it waited in.")]
    model: Annotated[str, Meta(description="The model that was asked for, or `auto`.")]
    chosen: Annotated[str | None, Meta(description="The model that was called last, if any was.")]
    failure: Annotated[fields.Failure, Meta(description="Why it failed.")]
    attempt: Annotated[int, Meta(description="How many attempts there were.")]
    attempts: Annotated[list[Attempt], Meta(description="The last sixteen of them.")]
    accepted_at: Annotated[fields.Time, Meta(description="When its message was accepted.")]
    died_at: Annotated[fields.Time, Meta(description="When it failed.")]
    held_credits: Annotated[float, Meta(description="The credits that a retry sets aside again.")]
    key_id: Annotated[str, Meta(description="The id of the API key that sent it.")]
    retried_as: Annotated[
        str | None, Meta(description="The generation that answers it now, if any.")
    ]


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the caller had asked, prompt and all; null is what can no longer be read."""

    message: Annotated[str | None, Meta(description="The prompt.")]
    metadata: Annotated[dict[str, str], Meta(description="The submission's `metadata`.")]
    project_id: Annotated[str | None, Meta(description="The submission's `project_id`.")]
    companion: Annotated[str | None, Meta(description="The companion that the turn named.")]
    enhance_prompt: Annotated[bool | None, Meta(description="Whether rewording was allowed.")]
    max_output_tokens: Annotated[
        int | None, Meta(description="What the credits set aside paid for.")
    ]
    deep_think: Annotated[bool | None, Meta(description="Whether the model was to think first.")]
    web_search: Annotated[bool | None, Meta(description="Whether the web was to be searched.")]
    media_urls: Annotated[list[str], Meta(description="The pictures that came with it.")]


class ListReply(msgspec.Struct, frozen=True, kw_only=True):
    """A page of dead letters."""

    success: fields.Success = True
    dead: Annotated[list[DeadLetter], Meta(description="Newest first.")]
    count: Annotated[int, Meta(description="How many this page has.")]
    next_after: Annotated[
        str | None, Meta(description="The `after` of the next page; null after the last.")
    ]


class LetterReply(msgspec.Struct, frozen=True, kw_only=True):
    """One dead letter, with what was asked."""

    success: fields.Success = True
    dead: Annotated[DeadLetter, Meta(description="The dead letter.")]
    asked: Annotated[Asked, Meta(description="What the caller wrote.")]


class Retried(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter and the generation that now answers it."""

    id: LetterId
    generation_id: Annotated[str, Meta(description="The id of the new generation.")]


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter that stays as it is."""

    id: LetterId
    code: Annotated[str, Meta(description="Why, for a program.")]
    error: Annotated[str, Meta(description="Why, in a sentence.")]


class RetryReply(msgspec.Struct, frozen=True, kw_only=True):
    """What a retry did."""

    success: fields.Success = True
    count: Annotated[int, Meta(description="How many were submitted again.")]
    retried: Annotated[list[Retried], Meta(description="Those that were submitted again.")]
    refused: Annotated[list[Refused], Meta(description="Those that stay as they are.")]


class DiscardReply(msgspec.Struct, frozen=True, kw_only=True):
    """What was discarded."""

    success: fields.Success = True
    count: Annotated[int, Meta(description="How many were discarded.")]
    discarded: Annotated[list[str], Meta(description="The ids of those that were.")]
    unknown: Annotated[list[str], Meta(description="The ids that are of no dead letter.")]
