"""What callers do to their sessions, whichever dialect they speak.

Owns the refusal of what is not theirs. A session made through one dialect is the same in another.
"""

from typing import NamedTuple

from api import accept, not_accepted, parameters
from api.endpoint import Call
from shared import ids
from shared.companions import CompanionSettings
from shared.errors import Code, PolluxError, RequestError
from shared.redis import functions, keys
from shared.redis.functions import Keep, NewSession, NotAccepted
from shared.stores import sessions
from shared.stores.sessions import Found, Session, Turn, Wanted


class Wish(NamedTuple):
    """What a caller wants of a new session."""

    name: str | None
    companion: str | None
    metadata: dict[str, str] | None


async def create(call: Call, wish: Wish, idempotency: accept.Idempotency | None) -> NewSession:
    """Begin an empty session, or return the one of a repeated request.

    Raises RequestError (COMPANION_NOT_FOUND, IDEMPOTENCY_MISMATCH), RefusedError (RATE_LIMITED,
    QUOTA_EXCEEDED, QUEUE_FULL).
    """
    try:
        return await _create(call, wish, idempotency)
    except PolluxError as refused:
        found = await accept.stored_receipt(call.state, call.caller, idempotency, refused)
        return NewSession(found.session, is_replayed=True)


async def _create(call: Call, wish: Wish, idempotency: accept.Idempotency | None) -> NewSession:
    if wish.companion is not None:
        named_companion(call, wish.companion)
    state, caller = call.state, call.caller
    await not_accepted.check_memory(state, caller)
    tier = state.settings.limits.of(caller.account.tier)
    ask = functions.CreateSessionAsk(
        account=caller.account.id,
        id=ids.new_id(),
        name=wish.name or accept.session_name(state),
        per_minute=tier.submissions_per_minute,
        sessions_max=tier.sessions_max,
        stored_bytes_max=tier.stored_bytes_max,
        companion=wish.companion,
        metadata=wish.metadata or None,
        idempotency=idempotency.key if idempotency else None,
        fingerprint=idempotency.fingerprint if idempotency else None,
        idempotency_ms=state.settings.retention.idempotency_seconds * 1000 if idempotency else None,
    )
    made = await functions.create_session(state.redis, caller.root, ask)
    if not isinstance(made, NotAccepted):
        return made
    if made.reason == "mismatch":
        raise not_accepted.mismatch()
    if made.reason == "quota":
        raise not_accepted.beyond_quota(ask, made)
    raise not_accepted.limited(state, caller.account.id, made.rate)


def named_companion(call: Call, name: str) -> CompanionSettings:
    """Return the companion of that type. Raises RequestError (COMPANION_NOT_FOUND)."""
    companion = call.state.settings.companion(name)
    if companion is None:
        raise RequestError(
            "There is no such companion; GET /v1/ai/agents lists those there are.",
            Code.COMPANION_NOT_FOUND,
        )
    return companion


async def load(call: Call, session: str) -> Session:
    """Return a session. Raises RequestError (SESSION_NOT_FOUND)."""
    found = await sessions.find(call.state.redis, call.caller.root, call.caller.account.id, session)
    if found is None:
        raise parameters.unknown_session()
    return found


async def page(call: Call, *, offset: int, limit: int) -> tuple[list[Session], int]:
    """Return the account's sessions, last active first, and how many there are."""
    caller = call.caller
    return await sessions.page(
        call.state.redis, caller.root, caller.account.id, offset=offset, limit=limit
    )


async def find_turns(call: Call, session: str, wanted: Wanted) -> Found:
    """Return a session and which of its turns there are.

    Raises:
        RequestError: SESSION_NOT_FOUND.

    """
    caller = call.caller
    place = (call.state.redis, caller.root, caller.account.id, session)
    found = await sessions.find_turns(*place, wanted)
    if found is None:
        raise parameters.unknown_session()
    return found


async def turns(call: Call, found: Found) -> list[Turn]:
    """Return those of the turns found that are read at once.

    Raises:
        RequestError: SESSION_NOT_FOUND when the session was deleted since they were found.

    """
    if found.first > found.fitting:
        return []
    caller = call.caller
    place = (call.state.redis, caller.root, caller.account.id, found.session.id)
    read = await sessions.turns(*place, first=found.first, last=found.fitting)
    if len(read) <= found.fitting - found.first:
        # A part must not look like the whole, unless the session itself has lost the rest.
        await load(call, found.session.id)
    return read


async def rename(call: Call, name: str) -> Session:
    """Give the path's session another name.

    Raises RequestError (SESSION_NOT_FOUND), RefusedError (QUEUE_FULL).
    """
    session = parameters.session_id(call)
    await not_accepted.check_memory(call.state, call.caller)
    place = (call.state.redis, call.caller.root, call.caller.account.id, session)
    if not await sessions.rename(*place, name):
        raise parameters.unknown_session()
    return await load(call, session)


async def delete(call: Call) -> str:
    """End what runs in the path's session and forget all of it. Return the session's id.

    Raises:
        RequestError: SESSION_NOT_FOUND.

    """
    session = parameters.session_id(call)
    ask = functions.DeleteSessionAsk(
        account=call.caller.account.id,
        id=session,
        keep=Keep.of(call.state.settings.retention),
        channels=keys.worker_channel(keys.system_root(call.state.settings.redis), ""),
    )
    if not await functions.delete_session(call.state.redis, call.caller.root, ask):
        raise parameters.unknown_session()
    return session
