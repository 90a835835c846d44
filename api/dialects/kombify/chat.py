"""The chat of the Kombify dialect: accept a message, then wait for its answer or stream it.

Owns which companion and which model a message goes to, and the 202 reply when there is no answer in
time. Once a message is accepted, no failure of ours refuses the request: the reply says where to
poll.
"""

from collections.abc import AsyncGenerator
from contextlib import ExitStack
from typing import Final

from api.accept import accept, intent, options, pricing
from api.dialects.kolbo.links import LINKS
from api.dialects.kombify import translate, wire
from api.endpoints import parameters
from api.endpoints.endpoint import RequestContext
from api.follow import event_ids, resume, stream, stream_events, wait
from api.follow.event_ids import BEGINNING, EventId, EventNumber
from api.follow.server_sent_events import ServerSentEvents
from api.generation_ref import GenerationRef
from api.polling import eta
from api.resources import sessions
from api.server.responses import EventStream, Response
from shared import ids
from shared.companions import CompanionSettings
from shared.errors import (
    CANCELLED,
    Code,
    FailedError,
    Failure,
    PolluxError,
    RefusedError,
    RequestError,
    UnavailableError,
)
from shared.stores.fleet import Fleet
from shared.wire.generation import Generation
from shared.wire.submission import AUTO

# Nothing else in a repeated POST names the generation to continue.
EVENTS: Final = ServerSentEvents(LINKS, names_generation=True)
_BRAIN_RETRY_AFTER_SECONDS: Final = 3
_OVERLOADED_RETRY_AFTER_SECONDS: Final = 5


def _ignore_eviction() -> None:
    """Do nothing: a wait ends before its place can be given to another."""


async def chat(context: RequestContext) -> Response | EventStream:
    """POST /chat: accept a message, and return its answer if there is one in time."""
    return await _chat(context, context.body.companion)


async def companion_chat(context: RequestContext) -> Response | EventStream:
    """POST /companion/{type}/chat: the same, with the companion fixed by the path."""
    fixed = context.path["type"]
    if context.body.companion not in (None, fixed):
        sessions.load_companion(context, fixed)
        raise RequestError(
            f"The field `companion` must be `{fixed}` here, or absent.", Code.INVALID_FIELDS
        )
    return await _chat(context, fixed)


async def _chat(context: RequestContext, name: str | None) -> Response | EventStream:
    is_streamed = translate.is_streamed(context.body, context.request.headers.getlist("accept"))
    key, last_event = idempotency(context), _last_event_id(context)
    if last_event is not None:
        receipt = await resume.receipt(
            context.state.redis, context.caller, last_event, key, _origin(context)
        )
        context.drop_body()
        return await _answer_repeated(context, receipt, last_event.number, is_streamed=is_streamed)
    submissions = context.state.submissions
    with ExitStack() as waiting:
        try:
            intent = await _intent(context, name)
            # Without a place to wait, the message is not accepted.
            waiting.enter_context(
                context.state.open_waits.hold(context.caller.account, _ignore_eviction)
            )
            receipt = await submissions.accept(
                context.caller, intent, key, context.request_id, origin=_origin(context)
            )
        except PolluxError as refused:
            receipt = await submissions.receipt_of_first_request(context.caller, key, refused)
            context.drop_body()
            return await _answer_repeated(context, receipt, BEGINNING, is_streamed=is_streamed)
        model = intent.model
        # There may be thousands of long waits: none keeps its message in memory.
        del intent
        context.drop_body()
        if not is_streamed:
            return await _wait_for_answer(context, model, receipt)
    return await _follow_stream(context, model, receipt, BEGINNING)


async def _intent(context: RequestContext, name: str | None) -> intent.Intent:
    companion = None
    if name is not None:
        companion = sessions.load_companion(context, name)
        await require_live_worker(context)
    else:
        await _require_worker_for_session(context)
    return options.intent(
        context.body,
        context.state.settings.limits,
        model=await _model(context, companion),
        companion=name,
    )


async def _answer_repeated(
    context: RequestContext, receipt: accept.Receipt, after: EventNumber, *, is_streamed: bool
) -> Response | EventStream:
    """Answer for a message that was accepted before: wait, or stream after an event."""
    if is_streamed:
        return await _follow_stream(context, AUTO, receipt, after)
    with ExitStack() as waiting:
        try:
            waiting.enter_context(
                context.state.open_waits.hold(context.caller.account, _ignore_eviction)
            )
        except RefusedError:
            return await _pending_response(context, AUTO, receipt)
        return await _wait_for_answer(context, AUTO, receipt)


async def require_live_worker(context: RequestContext) -> Fleet:
    """Return the live workers. Raises RefusedError (BRAIN_UNAVAILABLE) if there are none."""
    fleet = await context.state.live_fleet.current()
    if not fleet.workers:
        raise RefusedError(
            "No agent can answer now.",
            Code.BRAIN_UNAVAILABLE,
            retry_after_seconds=_BRAIN_RETRY_AFTER_SECONDS,
        )
    return fleet


async def _require_worker_for_session(context: RequestContext) -> None:
    """Refuse if no worker is alive and the session's companion would answer.

    The session is read only in that case.
    """
    session = context.body.session_id
    if (
        session is None
        or not ids.is_id(session)
        or (await context.state.live_fleet.current()).workers
    ):
        return
    if (await sessions.load(context, session)).companion is not None:
        await require_live_worker(context)


def idempotency(context: RequestContext) -> accept.Idempotency | None:
    """Return the caller's Idempotency-Key, if any, for the request's whole path and body."""
    return parameters.idempotency(context, _route(context))


def _last_event_id(context: RequestContext) -> EventId | None:
    """Return the event after which a request continues, or None for a request that begins."""
    text = context.fields.get(b"last-event-id")
    return event_ids.read(text) if text else None


def _origin(context: RequestContext) -> str:
    return resume.origin(context.caller, _route(context), context.raw)


def _route(context: RequestContext) -> str:
    return f"{context.request.method} {context.request.scope['path']}"


async def _model(context: RequestContext, companion: CompanionSettings | None) -> str:
    """Return the model to ask for: the caller's, else a preferred one that is still offered."""
    catalogue, account = context.state.catalogue, context.caller.account
    fleet = await context.state.live_fleet.current()
    if context.body.model is not None:
        return translate.identifier(context.body.model, catalogue, fleet)
    preferred = account.preferred_model
    if preferred == AUTO or (preferred and pricing.is_offered(catalogue, preferred, fleet)):
        return preferred
    companion = companion or await _companion_of_session(context)
    companion_model = companion.model if companion is not None else None
    return (
        companion_model
        if companion_model is not None and pricing.is_offered(catalogue, companion_model, fleet)
        else AUTO
    )


async def _companion_of_session(context: RequestContext) -> CompanionSettings | None:
    """Return the session's companion, read only if some companion has a model of its own."""
    settings, session = context.state.settings, context.body.session_id
    if session is None or not ids.is_id(session):
        return None
    if all(companion.model is None for companion in settings.companions):
        return None
    name = (await sessions.load(context, session)).companion
    return settings.companion(name) if name is not None else None


async def _wait_for_answer(
    context: RequestContext, model: str, receipt: accept.Receipt
) -> Response:
    """Return the answer, if it is there in time.

    The message is accepted: only the end of the caller's key refuses the request now.
    """
    state, caller = context.state, context.caller
    ref = GenerationRef(caller.root, caller.account.id, receipt.generation)
    wait_deadline = wait.WaitDeadline(context.request, float(state.settings.api.wait_seconds_max))
    try:
        generation = await state.waits.until(caller, ref, wait_deadline)
    except UnavailableError:
        return await _pending_response(context, model, receipt)
    if generation is None:
        # Its session was deleted meanwhile.
        raise _failed(receipt, CANCELLED)
    if generation.stage == "completed":
        return Response(
            translate.answer(generation, state.url_signer.sign_media), headers=receipt.headers()
        )
    if generation.is_final:
        assistant = generation.assistant
        raise _failed(receipt, (assistant.failure if assistant else None) or CANCELLED)
    return await _pending_response(context, model, receipt, generation)


async def _follow_stream(
    context: RequestContext, model: str, receipt: accept.Receipt, after: EventNumber
) -> Response | EventStream:
    """Return the events after a number. The message is accepted: no failure refuses it now."""
    started = None
    if receipt.deadline_seconds is not None:
        started = stream.StartedGeneration(receipt.session, receipt.deadline_seconds)
    try:
        streamed_response = await context.state.streams.follow(
            context.caller, context.request, receipt.generation, EVENTS, after, started=started
        )
    except (UnavailableError, RefusedError):
        # Redis is away, or another stream took the last place.
        return await _pending_response(context, model, receipt)
    except RequestError as error:
        if error.code is Code.INVALID_API_KEY:
            raise
        # Its session was deleted meanwhile.
        raise _failed(receipt, CANCELLED) from None
    if isinstance(streamed_response, Response):
        # Clients that stream by POST treat any other response as a failure, and retry.
        streamed_response = await EventStream.begin(_empty_stream())
    return streamed_response._replace(headers=receipt.headers())


async def _empty_stream() -> AsyncGenerator[bytes, None]:
    yield b""


async def _pending_response(
    context: RequestContext,
    model: str,
    receipt: accept.Receipt,
    generation: Generation | None = None,
) -> Response:
    """Return a 202 that says where the answer will be."""
    state, root = context.state, context.caller.root
    try:
        if generation is None:
            hint = await state.hints.for_receipt(root, model, receipt.position)
        else:
            hint, _ = await state.hints.for_generation(root, generation)
    except UnavailableError:
        hint = eta.HINT_SECONDS_UNKNOWN
    reply = wire.LaterReply(
        id=receipt.generation,
        session_id=receipt.session,
        poll_url=LINKS.poll_url(receipt.generation),
        poll_interval_hint=hint,
        events_url=LINKS.events_url(receipt.generation),
        cancel_url=LINKS.cancel_url(receipt.generation),
    )
    return Response(reply, status=202, headers=receipt.headers())


def _failed(receipt: accept.Receipt, failure: Failure) -> FailedError:
    is_overload = failure.category in {"rate_limit", "overloaded"}
    return FailedError(
        failure,
        retry_after_seconds=_OVERLOADED_RETRY_AFTER_SECONDS if is_overload else None,
        headers=receipt.headers(),
        details={
            "id": receipt.generation,
            "session_id": receipt.session,
            "failure": stream_events.failure(failure),
        },
    )
