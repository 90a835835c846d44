"""A generation as a poll shows it."""

from typing import NamedTuple

import msgspec

from shared.lifecycle import Stage, stage_in
from shared.redis import functions, keys
from shared.redis.client import Connection
from shared.wire import event as events
from shared.wire.generation import Generation, QueuePosition
from shared.wire.message import decode_assistant, decode_user
from shared.wire.routing import Routing


async def find(redis: Connection, root: str, account: str, generation: str) -> Generation | None:
    """Return an account's generation at this moment; None where the account has none of that id."""
    reply = await functions.status(redis, root, functions.StatusAsk(account=account, id=generation))
    return None if reply is None else _generation_from(generation, reply)


def session_of(generation: str, stored: str) -> str | None:
    """Return a generation's session by what its record stores; None where it has none.

    Then its own id stands there, or a dash where damage has left the session unknown.
    """
    return None if stored in {generation, "-"} else stored


class RequestOrigin(NamedTuple):
    """A generation's session, and what was kept of the request that made it, possibly nothing."""

    session: str | None
    request: str


async def origin(
    redis: Connection, root: str, account: str, generation: str
) -> RequestOrigin | None:
    """Return where an account's generation comes from; None where it has none of that id."""
    where = keys.GENERATION(root, account, generation)
    session, request = await redis.call("HMGET", where, "session", "origin")
    if session is None:
        return None
    return RequestOrigin(session_of(generation, session.decode()), (request or b"").decode())


def _generation_from(generation: str, reply: functions.StatusReply) -> Generation:
    record = reply.record
    assistant, text = None, ""
    if "finished" in record:
        assistant = decode_assistant(reply.body) if reply.body else None
        text = assistant.content if assistant is not None else ""
    elif reply.body:
        text = reply.body.decode()
    stage = stage_in(record)
    position = _position(reply, stage)
    return Generation(
        id=generation,
        seen=reply.now_ms,
        session=session_of(generation, record["session"]),
        turn=int(record["turn"]),
        lane="batch" if record["lane"] == "batch" else "interactive",
        stage=stage,
        model=record["model"],
        attempt=int(record["attempt"]),
        accepted=int(record["accepted"]),
        deadline=_number(record.get("deadline")),
        started=_number(record.get("started")),
        finished=_number(record.get("finished")),
        captured=int(record.get("captured", 0)),
        hold=int(record.get("hold", 0)),
        progress=int(record.get("progress", 0)),
        ahead=None if position is None else position.ahead,
        position=position,
        position_when_accepted=_position_when_accepted(record.get("before"), reply.running_max),
        retry_in_seconds=reply.retry_in_ms / 1000,
        unfinished=reply.unfinished,
        is_cancelling="cancel" in record,
        last_event=record.get("last") or f"{record['attempt']}-{record.get('seq', 0)}",
        text=text,
        user=decode_user(reply.user_message) if reply.user_message else None,
        assistant=assistant,
        routed=_routed(reply.routed),
    )


def _routed(event: bytes | None) -> Routing | None:
    """Return the routing of a stored event, or None where this version cannot read it."""
    if not event:
        return None
    try:
        decoded = events.decode(event)
    except msgspec.MsgspecError:
        return None
    return decoded.routing if isinstance(decoded, events.Routed) else None


def _position(reply: functions.StatusReply, stage: Stage) -> QueuePosition | None:
    """Return what a waiting turn waits for; None for one that does not wait.

    Of the account's generations that were accepted earlier, those that run are not ahead any more.
    """
    if stage not in {"queued", "retrying"}:
        return None
    return QueuePosition(
        ahead=max(0, reply.rank - reply.running),
        running=min(reply.running, reply.rank),
        running_max=reply.running_max,
        lane_accounts=reply.lane_accounts,
        session_turns_before=reply.session_turns_before,
        is_behind_head=reply.is_behind_head,
        first_age_seconds=seconds_or_none(reply.first_age_ms),
    )


def _position_when_accepted(stored_position: str | None, running_max: int) -> QueuePosition | None:
    """Parse the position that `accept` stored; older versions stored none."""
    if stored_position is None:
        return None
    running, ahead, lane_accounts, session_turns_before, is_behind_head, first_age = map(
        int, stored_position.split()
    )
    return QueuePosition(
        ahead=ahead,
        running=running,
        running_max=running_max,
        lane_accounts=lane_accounts,
        session_turns_before=session_turns_before,
        is_behind_head=is_behind_head == 1,
        first_age_seconds=seconds_or_none(first_age),
    )


def seconds_or_none(ms: int) -> float | None:
    """Return milliseconds as seconds; None for a negative number, the functions' "unknown"."""
    return None if ms < 0 else ms / 1000


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)
