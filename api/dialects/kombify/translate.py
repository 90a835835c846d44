"""From a chat body to an Intent, from a generation to an answer, and the items of lists.

Pure: no Redis, no clock. Model aliases are resolved here and in no other dialect.
"""

from collections.abc import Iterable
from typing import Final

from msgspec import UNSET

from api.dialects.kombify import wire
from api.follow import stream_events
from shared.catalogue import Catalogue
from shared.clock import iso
from shared.companions import CompanionSettings
from shared.stores.fleet import Fleet
from shared.stores.sessions import Session, Turn
from shared.wire.account import ApiKey
from shared.wire.generation import Generation
from shared.wire.message import AssistantMessage
from shared.wire.submission import AUTO

_EVENTS: Final = "text/event-stream"
_JSON: Final = "application/json"


def identifier(name: str, catalogue: Catalogue, fleet: Fleet) -> str:
    """Return a model's identifier: what an alias stands for, unless a model has that very name.

    A name that is neither stays as it is.
    """
    return catalogue.resolve(name, lambda model: fleet.offers(model, catalogue.provider_of(model)))


def is_streamed(body: wire.ChatBody, accept: Iterable[str]) -> bool:
    """Whether the response is a stream: the body says so, or Accept prefers events."""
    if body.stream:
        return True
    weights = _weights(",".join(accept))
    events = weights.get(_EVENTS, 0.0)
    any_kind = weights.get("application/*", weights.get("*/*", 0.0))
    # A named type outweighs one that a wildcard admits.
    return 0.0 < events >= any_kind and events > weights.get(_JSON, 0.0)


def _weights(accept: str) -> dict[str, float]:
    """Return how much each media type of an Accept header is wanted, from 0 to 1."""
    weights = {}
    for choice in accept.split(","):
        media_type, *parameters = (part.strip().lower() for part in choice.split(";"))
        given = next((each[2:] for each in parameters if each.startswith("q=")), "1")
        weights[media_type] = float(given) if given.replace(".", "", 1).isdecimal() else 0.0
    return weights


def answer(generation: Generation, sign: stream_events.Sign) -> wire.ChatReply:
    """Return a completed generation."""
    return wire.ChatReply(
        id=generation.id,
        session_id=generation.session,
        message=stream_events.message(generation, sign),
        usage=stream_events.usage(generation),
        routing=stream_events.routing(generation),
    )


def agent(companion: CompanionSettings, fleet: Fleet) -> wire.Agent:
    """Return a companion as callers see it."""
    is_served = companion.model in fleet.models if companion.model else bool(fleet.models)
    return wire.Agent(
        type=companion.type,
        name=companion.name,
        description=companion.description,
        capabilities=companion.capabilities,
        model=companion.model or AUTO,
        memory_layers=companion.memory_layers,
        available=is_served,
    )


def session(found: Session) -> wire.SessionReply:
    """Return a session as this dialect lists it."""
    return wire.SessionReply(
        id=found.id,
        companion=found.companion,
        name=found.name,
        metadata=found.metadata,
        created_at=iso(found.created),
        last_activity=iso(found.active),
        messages_total=found.turns * 2,
    )


def key(found: ApiKey) -> wire.KeyReply:
    """Return an API key as this dialect lists it; its clear text is not known."""
    return wire.KeyReply(
        id=found.id,
        name=found.name,
        scopes=found.scopes,
        created_at=iso(found.created),
        created_by=found.created_by,
        expires_at=None if found.expires is None else iso(found.expires),
    )


def new_key(made: ApiKey, clear_text: str | None) -> wire.NewKeyReply:
    """Return a key just made; with its clear text, if this response may show it."""
    listed = key(made)
    listed_fields = {name: getattr(listed, name) for name in listed.__struct_fields__}
    return wire.NewKeyReply(key=clear_text, **listed_fields)


def whole_session(found: Session, messages: list[wire.SessionMessage]) -> wire.WholeSessionReply:
    """Return a session with the messages of some of its turns."""
    return wire.WholeSessionReply(
        id=found.id,
        companion=found.companion,
        name=found.name,
        metadata=found.metadata,
        created_at=iso(found.created),
        last_activity=iso(found.active),
        messages_total=found.turns * 2,
        messages=messages,
    )


def messages(
    turn: Turn, sign: stream_events.Sign
) -> tuple[wire.SessionMessage, wire.SessionMessage]:
    """Return a turn's two messages: the user's, then the assistant's, finished or not."""
    assistant = turn.assistant
    media = stream_events.urls(assistant, sign)
    return (
        wire.SessionMessage(
            id=turn.user.id,
            role="user",
            content=turn.user.content,
            status="completed",
            model=None,
            turn=turn.number,
            media_urls=list(turn.user.media) or UNSET,
            created_at=iso(turn.user.created),
        ),
        wire.SessionMessage(
            id=turn.user.generation,
            role="assistant",
            content=assistant.content if assistant is not None else "",
            status=turn.state,
            model=_answering_model(assistant),
            citations=(list(assistant.citations) or UNSET) if assistant is not None else UNSET,
            finish_reason=assistant.visible_finish_reason if assistant is not None else None,
            turn=turn.number,
            image_urls=media["image"] or UNSET,
            video_urls=media["video"] or UNSET,
            audio_urls=media["audio"] or UNSET,
            created_at=iso(assistant.created if assistant is not None else turn.user.created),
        ),
    )


def _answering_model(assistant: AssistantMessage | None) -> str | None:
    if assistant is None:
        return None
    if assistant.model is not None:
        return assistant.model.identifier
    return assistant.routing.chosen if assistant.routing is not None else None
