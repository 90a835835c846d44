"""What followers are told that the stream does not keep: its beginning, and its end.

The end is told from the generation's record, in the same words as the answer of a caller who
waited: what was charged is known there only. Media are told as the caller's `sign` has them. The
events between them go by as they were published. Pure.
"""

from collections.abc import Callable
from typing import Final, Literal

import msgspec

from api import links
from shared.clock import iso
from shared.errors import CANCELLED, Category, Failure
from shared.wire import event as events
from shared.wire.generation import Generation
from shared.wire.message import (
    AssistantMessage,
    Citation,
    FinishReason,
    Media,
    MediaKind,
    Usage as Used,
)
from shared.wire.routing import KeptRouting, Routing

_MICROCREDITS: Final = 1_000_000

# From what a record refers to, to what a caller may open.
Sign = Callable[[Media], Media]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. `model` is the identifier of the one that gave it.

    `finish_reason` is `length` where the limit of tokens cut it, `content_filter` where a filter
    of the provider's did.
    A URL that is a path is good on this front, without a key, until its `expires`.
    """

    id: str
    role: Literal["assistant"] = "assistant"
    content: str
    reasoning_content: str | None
    image_urls: list[str]
    video_urls: list[str]
    audio_urls: list[str]
    citations: list[Citation]
    finish_reason: FinishReason | None
    model: str
    created_at: str


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer consumed and cost; `estimated` by us where the provider did not say."""

    input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    credits: float
    estimated: bool


class ToldFailure(msgspec.Struct, frozen=True, kw_only=True):
    """Why there is no answer; `provider` is the upstream's name where one is to blame."""

    message: str
    category: Category
    code: str
    retryable: bool
    severity: Literal["error", "fatal"]
    provider: str | None


class Accepted(msgspec.Struct, frozen=True, kw_only=True, tag="accepted"):
    """The message is in."""

    id: str
    session_id: str
    poll_url: str


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, tag="snapshot"):
    """All of the answer so far; it replaces what was told before."""

    text: str
    reasoning: str = ""
    media: tuple[Media, ...] = ()


class Completed(msgspec.Struct, frozen=True, kw_only=True, tag="completed"):
    """The end, with an answer."""

    message: Message
    usage: Usage
    routing: Routing | None


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """The end, without one."""

    failure: ToldFailure


class Cancelled(msgspec.Struct, frozen=True, tag="cancelled"):
    """The end, by request."""


End = Completed | Failed | Cancelled
Event = (
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
    | Cancelled
)


def accepted(generation: str, session: str) -> Accepted:
    """Return a stream's first event."""
    return Accepted(id=generation, session_id=session, poll_url=links.poll_url(generation))


def snapshot(generation: Generation, sign: Sign) -> Snapshot:
    """Return all of the answer; what was thought, and media, are known once it has ended."""
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
        finish_reason=assistant.told_finish_reason if assistant else None,
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
        output_tokens=used.output_tokens,
        reasoning_tokens=used.reasoning_tokens,
        credits=generation.captured / _MICROCREDITS,
        estimated=used.estimated,
    )


def routing(generation: Generation) -> Routing | None:
    """Return which model was chosen and why, once it was."""
    kept = generation.assistant.routing if generation.assistant else None
    return kept.told() if isinstance(kept, KeptRouting) else kept


def failure(found: Failure) -> ToldFailure:
    """Return a failure with every field said."""
    return ToldFailure(**msgspec.structs.asdict(found))
