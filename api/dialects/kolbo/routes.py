"""The route table of the Kolbo dialect, and a handler for each row.

A handler reads the request, calls one room (accept, polling, follow, resources), and translates the
result.
"""

from collections.abc import Sequence
from typing import Final

from api import errors
from api.dialects.kolbo import account, batch_upload, batches, translate, wire
from api.dialects.kolbo.links import LINKS
from api.endpoints import parameters
from api.endpoints.endpoint import Endpoint, Query, RequestContext
from api.follow import event_ids, stream_events, wait
from api.follow.server_sent_events import ServerSentEvents
from api.guards.body_kinds import JsonBody
from api.openapi.headers import ACCEPTED
from api.resources import message_pages, sessions
from api.server.responses import ChunkedResponse, EventStream, Response
from shared.errors import Code, PolluxError, RequestError
from shared.redis.functions import AlreadyEnded
from shared.stores.sessions import Session, Turn, TurnRange
from shared.wire.account import MICROCREDITS_PER_CREDIT
from shared.wire.generation import Generation

EVENTS: Final = ServerSentEvents(LINKS)


async def submit(context: RequestContext) -> Response:
    """POST /chat: accept a message."""
    state, caller = context.state, context.caller
    key, model = parameters.idempotency(context, context.route), translate.asked_model(context.body)
    try:
        intent = translate.intent(context.body, state.settings.limits)
        receipt = await state.submissions.accept(caller, intent, key, context.request_id)
    except PolluxError as refused:
        receipt = await state.submissions.receipt_of_first_request(caller, key, refused)
    hint = await state.hints.for_receipt(caller.root, model, receipt.position, receipt.outlook)
    return Response(
        translate.receipt(receipt.generation, receipt.session, model, hint),
        headers=receipt.headers(),
    )


async def status(context: RequestContext) -> Response:
    """GET /generate/{id}/status: poll, or wait for the end or the next change."""
    state, caller = context.state, context.caller
    generation = await _find_generation(context)
    if generation is None:
        raise errors.unknown_generation()
    state.rate_limits.note_unfinished(caller.account.id, generation.unfinished)
    hint, eta = await state.hints.for_generation(caller.root, generation)
    state.rate_limits.note_hint(caller.account.id, generation.id, hint)
    tag = translate.etag(generation, state.url_signer)
    if _matches_etag(tag, context.fields.get(b"if-none-match")):
        return Response(None, status=304, headers={"etag": tag, "poll-interval-hint": str(hint)})
    reply = translate.status(
        generation,
        hint,
        eta,
        state.url_signer.sign_media,
        catalogue=state.catalogue,
        may_reword=state.settings.enhancement.model is not None,
    )
    return Response(reply, headers={"etag": tag})


async def _find_generation(context: RequestContext) -> Generation | None:
    state, ref = context.state, parameters.generation_ref(context)
    seconds = _wait_seconds(context)
    if not seconds:
        return await state.generations.find(ref)

    known = context.fields.get(b"if-none-match")

    def has_changed(generation: Generation) -> bool:
        return not _matches_etag(translate.etag(generation, state.url_signer), known)

    wait_deadline = wait.WaitDeadline(context.request, seconds)
    with state.open_waits.hold(context.caller.account, wait_deadline.end):
        return await state.waits.until(
            context.caller, ref, wait_deadline, has_changed if known else None
        )


async def events(context: RequestContext) -> Response | EventStream:
    """GET /generate/{id}/events: stream its events as they come, from any of them on."""
    generation = parameters.generation_id(context)
    after = context.fields.get(b"last-event-id") or context.query.get("after") or None
    number = event_ids.after(after, generation)
    return await context.state.streams.follow(
        context.caller, context.request, generation, EVENTS, number
    )


async def cancel(context: RequestContext) -> Response:
    """POST /generate/{id}/cancel: end it, or ask its worker to stop."""
    done = await context.state.generations.cancel(parameters.generation_ref(context))
    if isinstance(done, AlreadyEnded):
        raise RequestError(
            f"The generation had already ended: {done.stage}.",
            Code.ALREADY_FINISHED,
            details={"state": done.stage},
        )
    if done.refunded is None:
        return Response(
            wire.CancelReply(state="processing", credits_refunded=None, effect="pending")
        )
    refunded = done.refunded / MICROCREDITS_PER_CREDIT
    return Response(
        wire.CancelReply(state="cancelled", credits_refunded=refunded, effect="immediate")
    )


async def models(context: RequestContext) -> Response:
    """GET /models: the catalogue, as far as its providers are configured."""
    catalogue, fleet = context.state.catalogue, await context.state.live_fleet.current()
    kind = {"text": "chat"}.get(context.query.get("type", ""), context.query.get("type", ""))
    provider = context.query.get("provider", "").lower()
    listed = [
        translate.model(entry, catalogue, is_available=entry.identifier in fleet.models)
        for entry in catalogue.models
        if (not kind or kind in entry.types) and fleet.offers(entry, catalogue.provider_of(entry))
    ]
    if provider:
        listed = [item for item in listed if item.provider.lower() == provider]
    return Response(wire.ModelsReply(models=listed, count=len(listed)))


async def conversations(context: RequestContext) -> Response:
    """GET /chat/conversations: the account's sessions, last active first."""
    page, limit = _page(context, default=20, limit_max=50)
    listed, total = await sessions.page(context, offset=(page - 1) * limit, limit=limit)
    return Response(
        wire.ConversationsReply(
            conversations=[translate.conversation(session) for session in listed],
            pagination=_pagination(page, limit, total),
        )
    )


async def rename(context: RequestContext) -> Response:
    """PATCH /chat/conversations/{session_id}: give it another name."""
    session = await sessions.rename(context, context.body.name)
    return Response(wire.ConversationReply(conversation=translate.conversation(session)))


async def delete(context: RequestContext) -> Response:
    """DELETE /chat/conversations/{session_id}: cancel what runs in it, and delete all of it."""
    return Response(wire.DeletedReply(session_id=await sessions.delete(context)))


async def messages(context: RequestContext) -> Response | ChunkedResponse:
    """GET /chat/conversations/{session_id}/messages: oldest first, two a turn."""
    page, limit = _page(context, default=50, limit_max=100)
    begin, end = (page - 1) * limit, page * limit
    catalogue, sign = context.state.catalogue, context.state.url_signer.sign_media

    def rows(turn: Turn) -> Sequence[wire.MessageItem]:
        both, place = translate.messages(turn, catalogue, sign), 2 * turn.number - 2
        return both[max(0, begin - place) : max(0, end - place)]

    def reply(session: Session, listed: list[wire.MessageItem]) -> wire.MessagesReply:
        return wire.MessagesReply(
            session_id=session.id,
            messages=listed,
            pagination=_pagination(page, limit, session.turns * 2),
        )

    wanted = TurnRange(first=begin // 2 + 1, last=(end + 1) // 2)
    return await message_pages.respond(
        context, parameters.session_id(context), wanted, message_pages.PageShape(rows, reply)
    )


def _matches_etag(tag: str, known: str | None) -> bool:
    """Whether If-None-Match names a tag; compared weakly, as HTTP requires for this header."""
    if not known:
        return False
    tags = {named.strip().removeprefix("W/") for named in known.split(",")}
    return "*" in tags or tag.removeprefix("W/") in tags


def _wait_seconds(context: RequestContext) -> float:
    wanted_seconds = parameters.whole_number(context, "wait", 0, at_least=0)
    return float(min(wanted_seconds, context.state.settings.api.wait_seconds_max))


def _page(context: RequestContext, *, default: int, limit_max: int) -> tuple[int, int]:
    page = parameters.whole_number(context, "page", 1, at_least=1)
    limit = parameters.whole_number(context, "limit", default, at_least=1)
    return page, min(limit, limit_max)


def _pagination(page: int, limit: int, total: int) -> wire.Pagination:
    return wire.Pagination(page, limit, total, -(-total // limit))


_PAGING: Final = (
    Query("page", "integer", "From 1."),
    Query("limit", "integer", "More than the cap is capped."),
)

ABOUT: Final = "The Kolbo chat API: submit a message, then poll its generation or follow it."
ENDPOINTS: Final = (
    Endpoint(
        operation="submit_message",
        method="POST",
        path="/chat",
        scope="chat",
        handler=submit,
        summary="Send a message",
        description="Returns a receipt at once; the answer will be at its `poll_url`.",
        body=JsonBody(wire.SubmitBody),
        replies=wire.SubmitReply,
        headers=("Idempotency-Key",),
        response_headers=ACCEPTED,
        errors=(
            Code.MISSING_FIELDS,
            Code.FEATURE_UNAVAILABLE,
            Code.MODEL_NOT_FOUND,
            Code.NO_SUITABLE_MODEL,
            Code.CONTEXT_TOO_LONG,
            Code.INSUFFICIENT_CREDITS,
            Code.QUOTA_EXCEEDED,
            Code.SESSION_NOT_FOUND,
            Code.SESSION_BUSY,
            Code.IDEMPOTENCY_MISMATCH,
            Code.QUEUE_FULL,
        ),
    ),
    Endpoint(
        operation="get_generation",
        method="GET",
        path="/generate/{generation_id}/status",
        scope="read",
        handler=status,
        limit="poll",
        summary="Poll a generation, or wait for it",
        description="Loop while `state` is `processing`, every `poll_interval_hint` seconds.",
        replies=wire.StatusReply,
        query=(
            Query(
                "wait",
                "integer",
                "Seconds to wait for the end, or with If-None-Match for a change.",
            ),
        ),
        headers=("If-None-Match",),
        response_headers=("ETag",),
        errors=(Code.GENERATION_NOT_FOUND,),
    ),
    Endpoint(
        operation="follow_generation",
        method="GET",
        path="/generate/{generation_id}/events",
        scope="read",
        handler=events,
        summary="Follow a generation as server-sent events",
        description="From the first event, or after one that was read before; when the events are "
        "no longer kept, as a `snapshot` and the end. Browsers' EventSource cannot send the key: "
        "follow with `fetch`.",
        replies=None,
        stream=stream_events.Event,
        query=(
            Query("after", "string", "Continue after this event; Last-Event-ID takes precedence."),
        ),
        headers=("Last-Event-ID",),
        errors=(Code.GENERATION_NOT_FOUND,),
    ),
    Endpoint(
        operation="cancel_generation",
        method="POST",
        path="/generate/{generation_id}/cancel",
        scope="chat",
        handler=cancel,
        limit="cancel",
        summary="Cancel a generation",
        replies=wire.CancelReply,
        errors=(Code.GENERATION_NOT_FOUND, Code.ALREADY_FINISHED, Code.FEATURE_UNAVAILABLE),
    ),
    Endpoint(
        operation="list_models",
        method="GET",
        path="/models",
        scope="read",
        handler=models,
        summary="List the models",
        replies=wire.ModelsReply,
        query=(
            Query("type", "string", "`chat`; `text` means the same."),
            Query("provider", "string", "A provider's name as listed."),
        ),
    ),
    Endpoint(
        operation="list_conversations",
        method="GET",
        path="/chat/conversations",
        scope="read",
        handler=conversations,
        summary="List conversations",
        replies=wire.ConversationsReply,
        query=_PAGING,
    ),
    Endpoint(
        operation="rename_conversation",
        method="PATCH",
        path="/chat/conversations/{session_id}",
        scope="chat",
        handler=rename,
        summary="Rename a conversation",
        body=JsonBody(wire.RenameBody),
        replies=wire.ConversationReply,
        errors=(Code.SESSION_NOT_FOUND, Code.QUEUE_FULL),
    ),
    Endpoint(
        operation="delete_conversation",
        method="DELETE",
        path="/chat/conversations/{session_id}",
        scope="chat",
        handler=delete,
        summary="Delete a conversation",
        replies=wire.DeletedReply,
        errors=(Code.SESSION_NOT_FOUND,),
    ),
    Endpoint(
        operation="list_messages",
        method="GET",
        path="/chat/conversations/{session_id}/messages",
        scope="read",
        handler=messages,
        summary="List a conversation's messages",
        replies=wire.MessagesReply,
        query=_PAGING,
        errors=(Code.SESSION_NOT_FOUND,),
    ),
    Endpoint(
        operation="get_credits",
        method="GET",
        path="/account/credits",
        scope="read",
        handler=account.credits_,
        summary="Get the account's credits",
        replies=wire.CreditsReply,
    ),
    Endpoint(
        operation="get_usage",
        method="GET",
        path="/account/usage",
        scope="read",
        handler=account.usage,
        summary="Get what the account's answers used and cost",
        replies=wire.UsageReply,
        query=(
            Query("from", "string", "The first day, `YYYY-MM-DD`; 30 days by default."),
            Query("to", "string", "The last day; today by default."),
            Query("by", "string", "What to add up by: `day` by default.", account.BY),
        ),
    ),
    batch_upload.CREATE,
    *batches.ENDPOINTS,
)
