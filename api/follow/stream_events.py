"""The events that the Redis stream does not store: `accepted`, `snapshot`, and the end.

The end is built from the generation's record, with the same fields as the reply to a caller who
waited: only the record has what was charged. Media URLs are made by the caller's `sign`. All other
events are passed on as they were published. Pure.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from api.wire import fields
from api.wire.links import Links
from shared.clock import iso
from shared.errors import CANCELLED, Failure
from shared.wire import event as events
from shared.wire.account import MICROCREDITS_PER_CREDIT
from shared.wire.generation import Generation
from shared.wire.message import (
    AssistantMessage,
    Media,
    MediaKind,
    Usage as Used,
)
from shared.wire.routing import Routing, StoredRouting

# From a stored reference to a URL that a caller may open.
Sign = Callable[[Media], Media]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """The answer."""

    id: fields.GenerationId
    role: Annotated[Literal["assistant"], Meta(description="Who wrote it.")] = "assistant"
    content: fields.Content
    reasoning_content: fields.ReasoningContent
    image_urls: fields.ImageUrls
    video_urls: fields.VideoUrls
    audio_urls: fields.AudioUrls
    citations: fields.Citations
    finish_reason: fields.FinishReasonOrNull
    model: Annotated[str, Meta(description="The identifier of the model that answered.")]
    created_at: fields.CreatedAt


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer consumed and cost."""

    input_tokens: fields.InputTokens
    cached_input_tokens: fields.CachedInputTokens
    cache_write_tokens: fields.CacheWriteTokens
    output_tokens: fields.OutputTokens
    reasoning_tokens: fields.ReasoningTokens
    credits: Annotated[float, Meta(description="The credits that were charged.")]
    estimated: Annotated[
        bool, Meta(description="Whether Pollux counted, where the provider did not say.")
    ]


class Accepted(msgspec.Struct, frozen=True, kw_only=True, tag="accepted"):
    """The message is in."""

    id: fields.GenerationId
    session_id: fields.SessionIdOrNull
    poll_url: fields.PollUrl


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, tag="snapshot"):
    """All of the answer so far; it replaces all events before it."""

    text: Annotated[str, Meta(description="The whole text so far.")]
    reasoning: Annotated[str, Meta(description="What the model thought, if shown.")] = ""
    media: Annotated[tuple[Media, ...], Meta(description="The answer's files so far.")] = ()


class Completed(msgspec.Struct, frozen=True, kw_only=True, tag="completed"):
    """The end, with an answer."""

    message: Annotated[Message, Meta(description="The whole answer.")]
    usage: Annotated[Usage, Meta(description="What it consumed and cost.")]
    routing: Annotated[Routing | None, Meta(description="Which model was chosen, and why.")]


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """The end, without one."""

    failure: Annotated[fields.Failure, Meta(description="Why there is no answer.")]


class Cancelled(msgspec.Struct, frozen=True, tag="cancelled"):
    """The end, by request."""


End = Completed | Failed | Cancelled
Event = Annotated[
    Accepted
    | Snapshot
    | events.StageChanged
    | events.Routed
    | events.Reasoning
    | events.Delta
    | events.ToolCall
    | events.ToolResult
    | events.ApprovalRequired
    | events.Media
    | events.Reset
    | Completed
    | Failed
    | Cancelled,
    Meta(
        title="Event",
        description="The `data` of a server-sent event. Exactly one of `completed`, `failed` and "
        "`cancelled` ends every stream.",
    ),
]


def accepted(generation: str, session: str | None, links: Links) -> Accepted:
    """Return a stream's first event."""
    return Accepted(id=generation, session_id=session, poll_url=links.poll_url(generation))


def snapshot(generation: Generation, sign: Sign) -> Snapshot:
    """Return the answer so far; reasoning and media are known once it has ended."""
    assistant = generation.assistant
    return Snapshot(
        text=generation.text,
        reasoning=assistant.reasoning if assistant else "",
        media=tuple(map(sign, assistant.media)) if assistant else (),
    )


def end(generation: Generation, sign: Sign) -> End:
    """Return the last event of a stream that has ended."""
    if generation.stage == "completed":
        return Completed(
            message=message(generation, sign),
            usage=usage(generation),
            routing=routing(generation),
        )
    if generation.stage == "cancelled":
        return Cancelled()
    assistant = generation.assistant
    return Failed(
        failure=failure(assistant.failure if assistant and assistant.failure else CANCELLED)
    )


def message(generation: Generation, sign: Sign) -> Message:
    """Return the answer, finished or as far as it is."""
    assistant, chosen = generation.assistant, routing(generation)
    media = urls(assistant, sign)
    return Message(
        id=generation.id,
        content=generation.text,
        reasoning_content=(assistant.reasoning if assistant else None) or None,
        image_urls=media["image"],
        video_urls=media["video"],
        audio_urls=media["audio"],
        citations=list(assistant.citations) if assistant else [],
        finish_reason=assistant.visible_finish_reason if assistant else None,
        model=(chosen.chosen if chosen else None) or generation.model,
        created_at=iso(assistant.created if assistant else generation.accepted),
    )


def urls(assistant: AssistantMessage | None, sign: Sign) -> dict[MediaKind, list[str]]:
    """Return the URLs of an answer's media, by their kind."""
    found: dict[MediaKind, list[str]] = {"image": [], "video": [], "audio": []}
    for media in assistant.media if assistant is not None else ():
        found[media.kind].append(sign(media).url)
    return found


def usage(generation: Generation) -> Usage:
    """Return what the answer consumed, and what was charged for it."""
    used = (generation.assistant.usage if generation.assistant else None) or Used()
    return Usage(
        input_tokens=used.input_tokens,
        cached_input_tokens=used.cached_input_tokens,
        cache_write_tokens=used.cache_write_tokens,
        output_tokens=used.output_tokens,
        reasoning_tokens=used.reasoning_tokens,
        credits=generation.captured / MICROCREDITS_PER_CREDIT,
        estimated=used.estimated,
    )


def routing(generation: Generation) -> Routing | None:
    """Return which model was chosen and why, if one was."""
    if generation.assistant is None:
        return generation.routed
    kept = generation.assistant.routing
    return kept.restored() if isinstance(kept, StoredRouting) else kept


def failure(found: Failure) -> fields.Failure:
    """Return a failure with all of its fields."""
    return fields.Failure(**msgspec.structs.asdict(found))
