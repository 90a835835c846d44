"""The route table of the Kombify dialect, and a handler for each row.

A handler reads the request, calls one room (accept, polling, follow, resources), and translates the
result.
"""

from functools import partial
from typing import Final

from api.accept import accept, pricing
from api.dialects.kombify import paging, translate, wire
from api.dialects.kombify.api_keys import create_key, delete_key, list_keys
from api.dialects.kombify.chat import (
    chat,
    companion_chat,
    idempotency,
    require_live_worker,
)
from api.endpoints import parameters
from api.endpoints.endpoint import Endpoint, Query, RequestContext
from api.follow import stream_events
from api.guards.body_kinds import JsonBody
from api.openapi.headers import ACCEPTED
from api.resources import message_pages, sessions
from api.server.responses import ChunkedResponse, Response
from shared.errors import Code
from shared.stores.sessions import TurnRange
from shared.wire.submission import AUTO

# Two messages a turn.
_TURNS_SHOWN: Final = 50
# More than any session has.
_TURN_MAX: Final = 10**12


async def agents(context: RequestContext) -> Response:
    """GET /agents: the companions that can be talked to."""
    limit, offset = paging.limit_and_offset(context)
    fleet = await require_live_worker(context)
    known = context.state.settings.companions
    items = [translate.agent(each, fleet) for each in known[offset : offset + limit]]
    return Response(wire.AgentsReply(items=items, total=len(known), limit=limit, offset=offset))


async def create_session(context: RequestContext) -> Response:
    """POST /sessions: create a session without a turn."""
    body = context.body
    new_session = sessions.NewSessionRequest(body.name, body.companion, body.metadata)
    created = await sessions.create(context, new_session, idempotency(context))
    headers = accept.receipt_headers(created.rate, is_replayed=created.is_replayed)
    headers["location"] = f"/v1/ai/sessions/{created.id}"
    found = await sessions.load(context, created.id)
    return Response(translate.session(found), status=201, headers=headers)


async def list_sessions(context: RequestContext) -> Response:
    """GET /sessions: the account's sessions, last active first."""
    limit, offset = paging.limit_and_offset(context)
    listed, total = await sessions.page(context, offset=offset, limit=limit)
    items = [translate.session(each) for each in listed]
    return Response(wire.SessionsReply(items=items, total=total, limit=limit, offset=offset))


async def read_session(context: RequestContext) -> Response | ChunkedResponse:
    """GET /sessions/{session_id}: a session and its last messages, or those before a turn."""
    before = parameters.whole_number(context, "before", _TURN_MAX, at_least=1)
    sign = context.state.url_signer.sign_media
    shape = message_pages.PageShape(partial(translate.messages, sign=sign), translate.whole_session)
    wanted = TurnRange(last=before - 1, count_max=_TURNS_SHOWN)
    return await message_pages.respond(context, parameters.session_id(context), wanted, shape)


async def rename_session(context: RequestContext) -> Response:
    """PATCH /sessions/{session_id}: give it another name."""
    return Response(translate.session(await sessions.rename(context, context.body.name)))


async def delete_session(context: RequestContext) -> Response:
    """DELETE /sessions/{session_id}: cancel what runs in it, and delete all of it."""
    await sessions.delete(context)
    return Response(None, status=204)


async def preferences(context: RequestContext) -> Response:
    """GET /preferences: the account's preferences."""
    return Response(wire.PreferencesReply(model=context.caller.account.preferred_model))


async def prefer_model(context: RequestContext) -> Response:
    """PUT /preferences/model: set the model of chats that name none."""
    state, model = context.state, context.body.model
    await state.rejections.check_memory(context.caller)
    if model is not None:
        catalogue, fleet = state.catalogue, await state.live_fleet.current()
        model = translate.identifier(model, catalogue, fleet)
        if model != AUTO:
            pricing.find_model(catalogue, model, fleet)
    await state.accounts.prefer(context.caller.account, model)
    state.identities.forget(context.fields)
    return Response(wire.PreferencesReply(model=model))


_CHAT_DESCRIPTION: Final = (
    "Waits for the answer. When it is not there in time: 202 and where to poll for it. When "
    "there will be none, `error.details` hold the generation's `id`, its `session_id` and the "
    "`failure`, and the status follows the failure's category: 422 content_policy and "
    "invalid_request, 409 cancelled, 504 timeout and expired, 503 rate_limit and overloaded, 502 "
    "auth and provider_error, 500 internal. With `stream: true`, or an Accept header that prefers "
    "text/event-stream, the events are sent as they happen, from the first; failures are events "
    "then. A repeated Idempotency-Key returns the same generation again, however it ended. The "
    "ids of such a stream's events are GENERATION:EPOCH-SEQ. A request with a Last-Event-ID "
    "starts nothing: made by the same API key with the same body, it continues the named "
    "generation after that event; another body is 422, an id that the key does not know is 404."
)
_CHAT_ERRORS: Final = (
    Code.MISSING_FIELDS,
    Code.FEATURE_UNAVAILABLE,
    Code.MODEL_NOT_FOUND,
    Code.NO_SUITABLE_MODEL,
    Code.CONTEXT_TOO_LONG,
    Code.INSUFFICIENT_CREDITS,
    Code.QUOTA_EXCEEDED,
    Code.SESSION_NOT_FOUND,
    Code.GENERATION_NOT_FOUND,
    Code.COMPANION_NOT_FOUND,
    Code.SESSION_BUSY,
    Code.IDEMPOTENCY_MISMATCH,
    Code.QUEUE_FULL,
    Code.BRAIN_UNAVAILABLE,
)

ABOUT: Final = (
    "The Kombify AI API: chat in one request, companions, sessions, preferences and API keys."
)
ENDPOINTS: Final = (
    Endpoint(
        operation="chat",
        method="POST",
        path="/chat",
        scope="chat",
        handler=chat,
        summary="Send a message",
        description=_CHAT_DESCRIPTION,
        body=JsonBody(wire.ChatBody),
        replies=wire.ChatReply,
        pending_reply=wire.LaterReply,
        stream=stream_events.Event,
        headers=("Idempotency-Key", "Last-Event-ID"),
        response_headers=ACCEPTED,
        errors=_CHAT_ERRORS,
    ),
    Endpoint(
        operation="chat_with_companion",
        method="POST",
        path="/companion/{type}/chat",
        scope="chat",
        handler=companion_chat,
        summary="Send a message to a companion",
        description=_CHAT_DESCRIPTION,
        body=JsonBody(wire.ChatBody),
        replies=wire.ChatReply,
        pending_reply=wire.LaterReply,
        stream=stream_events.Event,
        headers=("Idempotency-Key", "Last-Event-ID"),
        response_headers=ACCEPTED,
        errors=_CHAT_ERRORS,
    ),
    Endpoint(
        operation="list_agents",
        method="GET",
        path="/agents",
        scope="read",
        handler=agents,
        summary="List the agents",
        replies=wire.AgentsReply,
        query=paging.PAGING,
        errors=(Code.BRAIN_UNAVAILABLE,),
    ),
    Endpoint(
        operation="create_session",
        method="POST",
        path="/sessions",
        scope="chat",
        handler=create_session,
        summary="Create a session",
        body=JsonBody(wire.SessionBody),
        replies=wire.SessionReply,
        status=201,
        headers=("Idempotency-Key",),
        response_headers=("Location", *ACCEPTED),
        errors=(
            Code.QUOTA_EXCEEDED,
            Code.COMPANION_NOT_FOUND,
            Code.IDEMPOTENCY_MISMATCH,
            Code.QUEUE_FULL,
        ),
    ),
    Endpoint(
        operation="list_sessions",
        method="GET",
        path="/sessions",
        scope="read",
        handler=list_sessions,
        summary="List sessions",
        replies=wire.SessionsReply,
        query=paging.PAGING,
    ),
    Endpoint(
        operation="get_session",
        method="GET",
        path="/sessions/{session_id}",
        scope="read",
        handler=read_session,
        summary="Read a session and its messages",
        replies=wire.WholeSessionReply,
        query=(
            Query(
                "before",
                "integer",
                "Messages of the turns before this one: the `turn` of the first message you have.",
            ),
        ),
        errors=(Code.SESSION_NOT_FOUND,),
    ),
    Endpoint(
        operation="rename_session",
        method="PATCH",
        path="/sessions/{session_id}",
        scope="chat",
        handler=rename_session,
        summary="Rename a session",
        body=JsonBody(wire.SessionNameBody),
        replies=wire.SessionReply,
        errors=(Code.MISSING_FIELDS, Code.SESSION_NOT_FOUND, Code.QUEUE_FULL),
    ),
    Endpoint(
        operation="delete_session",
        method="DELETE",
        path="/sessions/{session_id}",
        scope="chat",
        handler=delete_session,
        summary="Delete a session and its messages",
        replies=None,
        status=204,
        errors=(Code.SESSION_NOT_FOUND,),
    ),
    Endpoint(
        operation="get_preferences",
        method="GET",
        path="/preferences",
        scope="read",
        handler=preferences,
        summary="Get the account's preferences",
        replies=wire.PreferencesReply,
    ),
    Endpoint(
        operation="prefer_model",
        method="PUT",
        path="/preferences/model",
        scope="chat",
        handler=prefer_model,
        summary="Prefer a model",
        body=JsonBody(wire.PreferredModelBody),
        replies=wire.PreferencesReply,
        errors=(Code.MISSING_FIELDS, Code.MODEL_NOT_FOUND, Code.QUEUE_FULL),
    ),
    Endpoint(
        operation="create_key",
        method="POST",
        path="/keys",
        scope="keys",
        handler=create_key,
        summary="Create an API key of the account",
        description=(
            "The key is shown this once. A request that is repeated with its Idempotency-Key "
            "returns the same object with `key: null`: delete that key if the first answer was "
            "lost. Expired keys make room by themselves."
        ),
        body=JsonBody(wire.KeyBody),
        replies=wire.NewKeyReply,
        status=201,
        headers=("Idempotency-Key",),
        response_headers=("Location", *ACCEPTED),
        errors=(Code.QUOTA_EXCEEDED, Code.IDEMPOTENCY_MISMATCH, Code.QUEUE_FULL),
    ),
    Endpoint(
        operation="list_keys",
        method="GET",
        path="/keys",
        scope="keys",
        handler=list_keys,
        summary="List the API keys of the account",
        replies=wire.KeysReply,
        query=paging.PAGING,
    ),
    Endpoint(
        operation="delete_key",
        method="DELETE",
        path="/keys/{key_id}",
        scope="keys",
        handler=delete_key,
        summary="Delete an API key of the account",
        description=(
            "Within a second the key is refused, and its open streams and waits end. A key may "
            "delete itself, but none that has a scope which it lacks. What a deleted key made "
            "stays: `created_by` names the key that made a key."
        ),
        replies=None,
        status=204,
        errors=(Code.NOT_FOUND,),
    ),
)
