"""A generation as a caller may look at it."""

from typing import NamedTuple

import msgspec

from shared.redis import functions, keys
from shared.redis.client import Connection
from shared.wire import event as events
from shared.wire.generation import Generation, Line
from shared.wire.message import decode_assistant, decode_user
from shared.wire.routing import Routing


async def find(redis: Connection, root: str, account: str, generation: str) -> Generation | None:
    """Return an account's generation at this moment, or None; somebody else's is None."""
    look = await functions.status(redis, root, functions.StatusAsk(account=account, id=generation))
    return None if look is None else _typed(generation, look)


class Origin(NamedTuple):
    """A generation's session, and what is kept of the request that made it; may be empty."""

    session: str
    request: str


async def origin(redis: Connection, root: str, account: str, generation: str) -> Origin | None:
    """Return where an account's generation comes from, or None; somebody else's is None."""
    where = keys.GENERATION(root, account, generation)
    session, request = await redis.call("HMGET", where, "session", "origin")
    return None if session is None else Origin(session.decode(), (request or b"").decode())


def _typed(generation: str, look: functions.Look) -> Generation:
    record = look.record
    assistant, text = None, ""
    if "finished" in record:
        assistant = decode_assistant(look.body) if look.body else None
        text = assistant.content if assistant is not None else ""
    elif look.body:
        text = look.body.decode()
    line = _line(look)
    return Generation(
        id=generation,
        seen=look.now_ms,
        session=record["session"],
        turn=int(record["turn"]),
        lane="batch" if record["lane"] == "batch" else "interactive",
        stage=record["stage"],  # type: ignore[arg-type]  # written by our own functions, from the same table
        model=record["model"],
        attempt=int(record["attempt"]),
        accepted=int(record["accepted"]),
        deadline=_number(record.get("deadline")),
        started=_number(record.get("started")),
        finished=_number(record.get("finished")),
        captured=int(record.get("captured", 0)),
        hold=int(record.get("hold", 0)),
        progress=int(record.get("progress", 0)),
        ahead=None if line is None else line.ahead,
        line=line,
        line_at_first=_line_at_first(record.get("before"), look.most),
        again_seconds=look.again_ms / 1000,
        unfinished=look.unfinished,
        is_cancelling="cancel" in record,
        last_event=record.get("last") or f"{record['attempt']}-{record.get('seq', 0)}",
        text=text,
        user=decode_user(look.user_message) if look.user_message else None,
        assistant=assistant,
        routed=_routed(look.routed),
    )


def _routed(event: bytes | None) -> Routing | None:
    """Return the choice that an event tells, as far as this process can read it."""
    if not event:
        return None
    try:
        told = events.decode(event)
    except msgspec.MsgspecError:
        return None
    return told.routing if isinstance(told, events.Routed) else None


def _line(look: functions.Look) -> Line | None:
    """Return what comes before a turn that waits: of the account's own, what was accepted before.

    What runs of it is ahead no more.
    """
    if look.record["stage"] not in {"queued", "retrying"}:
        return None
    return Line(
        ahead=max(0, look.rank - look.running),
        running=min(look.running, look.rank),
        most=look.most,
        crowd=look.crowd,
        behind=look.behind,
        follows=look.follows,
        front_seconds=seconds_since(look.front_ms),
    )


def _line_at_first(noted: str | None, most: int) -> Line | None:
    """Read what `accept` noted, if it did; what an older process took in has nothing."""
    if noted is None:
        return None
    running, ahead, crowd, behind, follows, front = map(int, noted.split())
    return Line(
        ahead=ahead,
        running=running,
        most=most,
        crowd=crowd,
        behind=behind,
        follows=follows == 1,
        front_seconds=seconds_since(front),
    )


def seconds_since(ms: int) -> float | None:
    """Return how many seconds ago something began; None for the functions' word for nothing."""
    return None if ms < 0 else ms / 1000


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)
