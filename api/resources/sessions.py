"""Creates, lists, renames and deletes an account's sessions.

A session that is not the account's is refused as unknown. Sessions are the same in every dialect.
"""

from typing import NamedTuple

from api import errors
from api.accept import accept, rejections
from api.endpoints import parameters
from api.endpoints.endpoint import RequestContext
from shared import ids
from shared.companions import CompanionSettings
from shared.errors import Code, PolluxError, RequestError
from shared.redis import functions
from shared.redis.functions import NewSession, Rejected
from shared.stores import sessions
from shared.stores.sessions import Session, Turn, TurnRange, TurnsFound


class NewSessionRequest(NamedTuple):
    """What a caller asks of a new session."""

    name: str | None
    companion: str | None
    metadata: dict[str, str] | None


async def create(
    context: RequestContext, new_session: NewSessionRequest, idempotency: accept.Idempotency | None
) -> NewSession:
    """Create an empty session, or return the one that the repeated request created.

    Raises RequestError (COMPANION_NOT_FOUND, IDEMPOTENCY_MISMATCH), RefusedError (RATE_LIMITED,
    QUOTA_EXCEEDED, QUEUE_FULL).
    """
    try:
        return await _create(context, new_session, idempotency)
    except PolluxError as refused:
        found = await context.state.submissions.stored_receipt(context.caller, idempotency, refused)
        if found.session is None:
            raise
        return NewSession(found.session, is_replayed=True)


async def _create(
    context: RequestContext, new_session: NewSessionRequest, idempotency: accept.Idempotency | None
) -> NewSession:
    if new_session.companion is not None:
        load_companion(context, new_session.companion)
    state, caller = context.state, context.caller
    await state.rejections.check_memory(caller)
    tier = state.settings.limits.of(caller.account.tier)
    ask = functions.CreateSessionAsk(
        account=caller.account.id,
        id=ids.new_id(),
        name=new_session.name or state.submissions.session_name(),
        per_minute=tier.submissions_per_minute,
        sessions_max=tier.sessions_max,
        stored_bytes_max=tier.stored_bytes_max,
        companion=new_session.companion,
        metadata=new_session.metadata or None,
        **accept.idempotency_arguments(idempotency, state.settings.retention),
    )
    created = await functions.create_session(state.redis, caller.root, ask)
    if not isinstance(created, Rejected):
        return created
    if created.reason == "mismatch":
        raise rejections.idempotency_mismatch()
    if created.reason == "quota":
        raise rejections.quota_exceeded(ask, created)
    raise state.rejections.rate_limited(caller.account.id, created.rate)


def load_companion(context: RequestContext, name: str) -> CompanionSettings:
    """Return the companion of that type. Raises RequestError (COMPANION_NOT_FOUND)."""
    companion = context.state.settings.companion(name)
    if companion is None:
        raise RequestError(
            "There is no such companion; GET /v1/ai/agents lists those there are.",
            Code.COMPANION_NOT_FOUND,
        )
    return companion


async def load(context: RequestContext, session: str) -> Session:
    """Return a session. Raises RequestError (SESSION_NOT_FOUND)."""
    found = await sessions.find(
        context.state.redis, context.caller.root, context.caller.account.id, session
    )
    if found is None:
        raise errors.unknown_session()
    return found


async def page(context: RequestContext, *, offset: int, limit: int) -> tuple[list[Session], int]:
    """Return the account's sessions, last active first, and how many there are."""
    caller = context.caller
    return await sessions.page(
        context.state.redis, caller.root, caller.account.id, offset=offset, limit=limit
    )


async def find_turns(context: RequestContext, session: str, wanted: TurnRange) -> TurnsFound:
    """Return a session and which of the wanted turns it has.

    Raises:
        RequestError: SESSION_NOT_FOUND.
    """
    caller = context.caller
    place = (context.state.redis, caller.root, caller.account.id, session)
    found = await sessions.find_turns(*place, wanted)
    if found is None:
        raise errors.unknown_session()
    return found


async def turns(context: RequestContext, found: TurnsFound) -> list[Turn]:
    """Return those of the found turns that are read at once.

    Raises:
        RequestError: SESSION_NOT_FOUND when the session was deleted since they were found.
    """
    if found.first > found.fitting:
        return []
    caller = context.caller
    place = (context.state.redis, caller.root, caller.account.id, found.session.id)
    read = await sessions.turns(*place, first=found.first, last=found.fitting)
    if len(read) <= found.fitting - found.first:
        # Fewer turns than found: refuse if the session was deleted meanwhile.
        await load(context, found.session.id)
    return read


async def rename(context: RequestContext, name: str) -> Session:
    """Rename the path's session.

    Raises RequestError (SESSION_NOT_FOUND), RefusedError (QUEUE_FULL).
    """
    session = parameters.session_id(context)
    await context.state.rejections.check_memory(context.caller)
    place = (context.state.redis, context.caller.root, context.caller.account.id, session)
    if not await sessions.rename(*place, name):
        raise errors.unknown_session()
    return await load(context, session)


async def delete(context: RequestContext) -> str:
    """Cancel what runs in the path's session and delete all of it. Return the session's id.

    Raises:
        RequestError: SESSION_NOT_FOUND.
    """
    session = parameters.session_id(context)
    ask = functions.DeleteSessionAsk.of(context.state.settings, context.caller.account.id, session)
    if not await functions.delete_session(context.state.redis, context.caller.root, ask):
        raise errors.unknown_session()
    return session
