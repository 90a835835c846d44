"""From a submit body to an Intent, from a generation to a status, and the rows of lists.

Pure: no Redis, no clock. What the published contract says of a field is implemented only here.
"""

from typing import Final

import msgspec
from msgspec import UNSET

from api.accept import options
from api.accept.intent import Intent
from api.dialects.kolbo import wire
from api.dialects.kolbo.links import LINKS
from api.follow import stream_events
from api.polling.eta import Eta
from shared import clarity
from shared.catalogue import Catalogue
from shared.clock import iso
from shared.media.url_signing import UrlSigner
from shared.routing import price
from shared.settings import ModelSettings
from shared.stores.sessions import Session, Turn
from shared.tiers import LimitSettings
from shared.wire.account import MICROCREDITS_PER_CREDIT
from shared.wire.enhancement import Reason, sentence
from shared.wire.generation import Generation
from shared.wire.message import CallCost, Usage as Used
from shared.wire.submission import AUTO

# Input and output tokens of a typical exchange, for a model's `credit`.
_TYPICAL_TOKENS: Final = (1_000, 500)
_AUTO: Final = wire.MessageModel(AUTO, "Auto", "Pollux")


def intent(body: wire.SubmitBody, limits: LimitSettings) -> Intent:
    """Return what a submit body asks for. Raises RequestError naming the field that is wrong."""
    return options.intent(body, limits, model=asked_model(body))


def asked_model(body: wire.SubmitBody) -> str:
    """Return the model that a body names, or `auto`."""
    return AUTO if body.model is None else body.model


def receipt(generation: str, session: str | None, model: str, hint: int) -> wire.SubmitReply:
    """Return the receipt of an accepted message."""
    return wire.SubmitReply(
        message_id=generation,
        session_id=session,
        model=model,
        poll_url=LINKS.poll_url(generation),
        poll_interval_hint=hint,
        events_url=LINKS.events_url(generation),
        cancel_url=LINKS.cancel_url(generation),
    )


def status(
    generation: Generation,
    hint: int,
    eta: Eta | None,
    sign: stream_events.Sign,
    *,
    catalogue: Catalogue,
    may_reword: bool,
) -> wire.StatusReply:
    """Return a generation as this dialect shows it; `may_reword` if rewording is configured."""
    assistant, user = generation.assistant, generation.user
    failure = assistant.failure if assistant is not None else None
    return wire.StatusReply(
        generation_id=generation.id,
        session_id=generation.session,
        state=generation.state,
        stage=generation.stage,
        progress=100 if generation.is_final else generation.progress,
        poll_interval_hint=hint,
        queue_position=generation.ahead,
        eta_seconds=wire.EtaSeconds(round(eta.p50, 1), round(eta.p90, 1)) if eta else None,
        attempt=generation.attempt,
        result=_result(generation, sign),
        error=failure.message if failure is not None else None,
        failure=stream_events.failure(failure) if failure is not None else None,
        enhancement=_enhancement(generation, may_reword=may_reword),
        credits_used=generation.captured / MICROCREDITS_PER_CREDIT,
        credits_breakdown=_breakdown(generation, catalogue),
        usage=_usage(generation),
        routing=_routing(generation),
        metadata=(user.metadata if user is not None else None) or {},
        project_id=user.project if user is not None else None,
        created_at=iso(generation.accepted),
        started_at=None if generation.started is None else iso(generation.started),
        finished_at=None if generation.finished is None else iso(generation.finished),
    )


def _result(generation: Generation, sign: stream_events.Sign) -> wire.Result:
    """Return the answer; reasoning and media are known once it has ended."""
    assistant = generation.assistant
    media = stream_events.urls(assistant, sign)
    return wire.Result(
        content=generation.text,
        reasoning_content=(assistant.reasoning if assistant is not None else None) or None,
        image_urls=media["image"],
        video_urls=media["video"],
        audio_urls=media["audio"],
        citations=list(assistant.citations) if assistant is not None else [],
        finish_reason=assistant.visible_finish_reason if assistant is not None else None,
        model=generation.model,
        created_at=iso(assistant.created if assistant is not None else generation.accepted),
        partial=UNSET if generation.is_final else True,
    )


def _enhancement(generation: Generation, *, may_reword: bool) -> wire.Enhancement:
    """Return what became of the message: as stored, else as it follows from the record."""
    assistant, user = generation.assistant, generation.user
    kept = assistant.enhancement if assistant is not None else None
    if kept is not None:
        return wire.Enhancement(kept.applied, sentence(kept.reason), kept.text)
    reason: Reason
    if not may_reword:
        reason = "off"
    elif not generation.is_final:
        reason = "undecided"
    else:
        default_reason: Reason = "as_written" if generation.state == "completed" else "ended"
        reason = (
            clarity.reason_not_to_reword(user.content) if user and user.content else None
        ) or default_reason
    return wire.Enhancement(applied=False, reason=sentence(reason), text=None)


def _usage(generation: Generation) -> wire.TokenCounts | None:
    """Return the tokens used, once the generation is settled."""
    if not generation.is_final:
        return None
    used = (generation.assistant.usage if generation.assistant is not None else None) or Used()
    return wire.TokenCounts(
        input_tokens=used.input_tokens,
        cached_input_tokens=used.cached_input_tokens,
        cache_write_tokens=used.cache_write_tokens,
        output_tokens=used.output_tokens,
        reasoning_tokens=used.reasoning_tokens,
    )


def _routing(generation: Generation) -> wire.Routing | None:
    routing = stream_events.routing(generation)
    if routing is None:
        return None
    return wire.Routing(
        policy=routing.policy,
        chosen=routing.chosen,
        category=routing.category,
        reason=routing.reason,
        candidates=[
            wire.Candidate(**msgspec.structs.asdict(candidate)) for candidate in routing.candidates
        ],
    )


def _breakdown(generation: Generation, catalogue: Catalogue) -> list[wire.CreditLine]:
    """Return the parts of the charge; they add up to it."""
    usage = generation.assistant.usage if generation.assistant is not None else None
    if usage is None or not generation.captured:
        return []
    of_searches = min(usage.search_cost, generation.captured)
    calls = [
        (catalogue.by_identifier.get(call.model), call.usage) for call in _calls(generation, usage)
    ]
    of_tokens = price.charged_calls(calls, generation.captured - of_searches)
    lines = [
        wire.CreditLine(
            each.item, each.quantity, each.microcredits / MICROCREDITS_PER_CREDIT, usage.estimated
        )
        for each in of_tokens
    ]
    if usage.searches:
        searched = wire.CreditLine(
            "web_search", usage.searches, of_searches / MICROCREDITS_PER_CREDIT, estimated=False
        )
        lines.append(searched)
    return lines


def _calls(generation: Generation, usage: Used) -> tuple[CallCost, ...]:
    """Return the calls of models that an answer was charged for; mostly there was one."""
    if generation.assistant is not None and generation.assistant.costs:
        return generation.assistant.costs
    routing = stream_events.routing(generation)
    named = (routing.chosen if routing is not None else None) or generation.model
    return (CallCost(named, usage),)


def etag(generation: Generation, url_signer: UrlSigner) -> str:
    """Return the weak tag that changes with state, stage, attempt and last event.

    With media it also changes when their URLs are renewed: a client that gets a 304 continues to
    use the URLs that it has.
    """
    has_media = generation.assistant is not None and bool(generation.assistant.media)
    expires = f"-{url_signer.expires()}" if has_media else ""
    return f'W/"{generation.stage}-{generation.attempt}-{generation.last_event}{expires}"'


def model(entry: ModelSettings, catalogue: Catalogue, *, is_available: bool) -> wire.ModelItem:
    """Return a catalogue entry as callers see it."""
    provider = catalogue.provider_of(entry)
    return wire.ModelItem(
        identifier=entry.identifier,
        name=entry.title,
        provider=provider.title,
        types=entry.types,
        credit=price.cost(entry, *_TYPICAL_TOKENS) / MICROCREDITS_PER_CREDIT,
        recommended=entry.recommended,
        summary=entry.summary,
        smart_select_strengths=entry.strengths,
        input_token_rate=price.cost(entry, 1_000, 0) / MICROCREDITS_PER_CREDIT,
        output_token_rate=price.cost(entry, 0, 1_000) / MICROCREDITS_PER_CREDIT,
        context_window=entry.context_window,
        max_output_tokens=entry.max_output_tokens,
        capabilities=entry.capabilities,
        estimated_duration_seconds=entry.estimated_duration_seconds,
        available=is_available,
    )


def conversation(session: Session) -> wire.Conversation:
    """Return a session as this dialect lists it."""
    return wire.Conversation(
        session_id=session.id,
        name=session.name,
        last_activity=iso(session.active),
        created_at=iso(session.created),
    )


def messages(
    turn: Turn, catalogue: Catalogue, sign: stream_events.Sign
) -> tuple[wire.MessageItem, wire.MessageItem]:
    """Return a turn's two messages: the user's, then the assistant's, finished or not."""
    assistant = turn.assistant
    media = stream_events.urls(assistant, sign)
    return (
        wire.MessageItem(
            message_id=turn.user.id,
            role="user",
            content=turn.user.content,
            status="completed",
            media_urls=list(turn.user.media) or UNSET,
            created_at=iso(turn.user.created),
        ),
        wire.MessageItem(
            message_id=turn.user.generation,
            role="assistant",
            content=assistant.content if assistant is not None else "",
            status=turn.state,
            model=_named_model(turn, catalogue),
            image_urls=media["image"] or UNSET,
            video_urls=media["video"] or UNSET,
            audio_urls=media["audio"] or UNSET,
            citations=(list(assistant.citations) or UNSET) if assistant is not None else UNSET,
            finish_reason=assistant.visible_finish_reason if assistant is not None else None,
            created_at=iso(assistant.created if assistant is not None else turn.user.created),
        ),
    )


def _named_model(turn: Turn, catalogue: Catalogue) -> wire.MessageModel:
    """Return the model as it was when it answered; without an answer, as it is now."""
    name = turn.user.model
    if name is None:
        return _AUTO
    kept = turn.assistant.model if turn.assistant is not None else None
    if kept is not None:
        return wire.MessageModel(kept.identifier, kept.name, kept.provider)
    entry = catalogue.by_identifier.get(name)
    if entry is None:
        return wire.MessageModel(name, name, "")
    return wire.MessageModel(name, entry.title, catalogue.provider_of(entry).title)
