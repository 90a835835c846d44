"""What an attempt has produced since its last append: events, text, finished rounds."""

from asyncio import Future, ensure_future
from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from shared.errors import StoreError
from shared.lifecycle import Stage
from shared.redis.client import Connection, Redis, Reply
from shared.redis.functions.contract import Ask
from shared.redis.library import command, invoke


class FinishedRounds(msgspec.Struct, frozen=True, kw_only=True):
    """Rounds that have finished since the last append, and what stands after them.

    `entries` are JSON texts for the log, opaque to Redis: a call of a model that ended with calls
    of tools, or a result. Until here, this call's text included, finished rounds have shown
    `text_bytes` bytes and `text_points` code points of text, for which `bill` is due.
    """

    entries: Sequence[str]
    text_bytes: int
    text_points: int
    bill: str


class AppendAsk(Ask, frozen=True, kw_only=True):
    """What an attempt produced: events from `seq` on, the text they add, stage, progress 0 to 99.

    `bill` is what would be charged if the attempt ended now (`worker/steps/charge.py`); `routed` is
    the number of the event with the choice of a model. `text_bytes_kept` is how much of the text so
    far stays, if not all: the rest is dropped first. `rounds` need at least one event; a later
    attempt starts from them, and `calls` counts from there.
    """

    account: str
    id: str
    attempt: int
    seq: int
    events: list[str]
    text: str | None = None
    text_bytes_kept: int | None = None
    stage: Stage | None = None
    progress: int | None = None
    bill: str | None = None
    routed: int | None = None
    rounds: FinishedRounds | None = None


AppendResult = Literal["appended", "cancel", "refused"]
_APPEND_RESULTS: Final[dict[Reply, AppendResult]] = {
    b"appended": "appended",
    b"cancel": "cancel",
    b"refused": "refused",
}


async def append(redis: Connection, root: str, ask: AppendAsk) -> AppendResult:
    """Write events and text under the fencing token; repeating the same `seq` changes nothing."""
    reply = await invoke(redis, "append", root, ask)
    if reply not in _APPEND_RESULTS:
        raise StoreError(f"append answered {reply!r}")
    return _APPEND_RESULTS[reply]


def begin_append(redis: Connection, root: str, ask: AppendAsk) -> Future[Reply]:
    """Send an append once; `append_result` reads what comes of it.

    A worker does this for each event of an answer: on its own connection it costs no coroutine.
    """
    call = command("append", root, ask)
    return redis.request(*call) if isinstance(redis, Redis) else ensure_future(redis.call(*call))


def append_result(reply: Future[Reply]) -> AppendResult | None:
    """Return what an append came to; None if it must be repeated by `append`. Raises StoreError."""
    error = None if reply.cancelled() else reply.exception()
    if type(error) is StoreError:
        raise error
    is_answered = error is None and not reply.cancelled()
    return _APPEND_RESULTS.get(reply.result()) if is_answered else None
