"""Keeps a partition correct: reap, restore, recount, check types and permissions."""

from collections.abc import Sequence
from typing import Final, NamedTuple, Self

import msgspec

from shared.errors import StoreError, WrongKey
from shared.redis import keys
from shared.redis.client import Connection, Reply
from shared.redis.functions.contract import Ask, KeepTimes, text_of
from shared.redis.key_types import CheckTypesAsk
from shared.redis.library import invoke, wrong_keys
from shared.settings import Settings
from shared.wire.submission import Lane

_REAP_LIMIT: Final = 64
_REAP_GAP_MS: Final = 1_000
ABSENT_MS: Final = 100
# A parked turn is checked again after so long, if nothing released it earlier.
RECHECK_MS: Final = 30_000


class ReapAsk(Ask, frozen=True, kw_only=True):
    """How much to repair in one call, and after how many crashes a generation fails.

    After `gap_ms` without a reap (Redis was away), every lease first lasts `lease_ms` again. A
    worker that has not listened to its channel (the prefix `channels` and its id) for `absent_ms`
    has died, if it also renewed no lease for `beat_ms` and that time. Turns that are parked only
    for `closed` resources, which are known to be unavailable, stay parked; others are checked again
    after `recheck_ms`.
    """

    limit: int
    crashes_max: int
    lease_ms: int
    gap_ms: int
    absent_ms: int
    channels: str
    keep: KeepTimes
    beat_ms: int = 0
    closed: Sequence[str] = ()
    recheck_ms: int = 0

    @classmethod
    def of(cls, settings: Settings, closed: Sequence[str] = ()) -> Self:
        """Return the arguments under these settings."""
        return cls(
            limit=_REAP_LIMIT,
            crashes_max=settings.worker.crashes_max,
            lease_ms=int(settings.worker.lease_seconds * 1000),
            gap_ms=max(_REAP_GAP_MS, int(settings.worker.reap_seconds * 3_000)),
            absent_ms=ABSENT_MS,
            channels=keys.worker_channels(settings.redis),
            keep=KeepTimes.of(settings.retention),
            beat_ms=int(settings.worker.beat_seconds * 1000),
            closed=closed,
            recheck_ms=RECHECK_MS,
        )


class DamagedGeneration(NamedTuple):
    """A generation, `account:id`, that was set aside because a key or field of it was damaged.

    `fault` names what; `hold` says whether its credits were released.
    """

    name: str
    fault: str
    hold: str


class Reaped(msgspec.Struct, frozen=True):
    """What a reap did: `done` lists (account, id, what).

    `dead` are workers found to be gone; `missed` counts workers that will be known to be gone after
    `absent_ms`. `parked_queues` are the (lane, resource) that turns wait for, `ready` the lanes in
    which something may be claimed, `damaged` what was set aside since the last reap.
    """

    done: list[tuple[str, str, str]]
    dead: list[str]
    missed: int
    parked_queues: frozenset[tuple[Lane, str]] = frozenset()
    ready: frozenset[Lane] = frozenset()
    damaged: tuple[DamagedGeneration, ...] = ()


async def reap(redis: Connection, root: str, ask: ReapAsk) -> Reaped:
    """Handle what time has overtaken: lapsed leases, passed deadlines, due deferrals."""
    done, dead, missed, parked_queues, ready, damaged = await invoke(redis, "reap", root, ask)
    return Reaped(
        [(text_of(account), text_of(id_), text_of(what)) for account, id_, what in done],
        [text_of(worker) for worker in dead],
        missed,
        frozenset(_parked_queue(text_of(name)) for name in parked_queues),
        frozenset(_lane(text_of(name)) for name in ready),
        tuple(DamagedGeneration(*map(text_of, each)) for each in damaged),
    )


def _lane(word: str) -> Lane:
    return "batch" if word == "batch" else "interactive"


def _parked_queue(name: str) -> tuple[Lane, str]:
    lane, _, resource = name.partition(":")
    return _lane(lane), resource


class RecountAsk(Ask, frozen=True, kw_only=True):
    """Whose stored bytes to count again, and how far the last call came.

    `cursor` is the time of the last session counted; `chunk` and `bytes` are the state within a
    `session` that one call did not finish.
    """

    account: str
    cursor: int = 0
    session: str | None = None
    chunk: int = 0
    bytes: int = 0


class Recounted(NamedTuple):
    """By how many bytes sessions had been counted wrong, and the next call; None at the end.

    At the end, `gone_bytes` are those of sessions that were deleted without being subtracted;
    `is_first`: the account had never been counted.
    """

    corrected_bytes: int
    next: RecountAsk | None
    gone_bytes: int = 0
    is_first: bool = False


async def recount(redis: Connection, root: str, ask: RecountAsk) -> Recounted:
    """Count a part of what an account stores; safe to repeat."""
    reply: list[Reply] = await invoke(redis, "recount", root, ask)
    match [text_of(reply[0]), *reply[1:]]:
        case ["more", corrected, cursor, session, chunk, bytes_]:
            further = RecountAsk(
                account=ask.account,
                cursor=cursor,
                session=text_of(session) or None,
                chunk=chunk,
                bytes=bytes_,
            )
            return Recounted(corrected, further)
        case ["done", corrected, gone, is_first]:
            return Recounted(corrected, None, gone, bool(is_first))
        case _:
            raise StoreError(f"recount answered {reply!r}")


class ListMissingCommandsAsk(Ask, frozen=True, kw_only=True):
    """No arguments."""


async def list_missing_commands(
    redis: Connection, root: str, ask: ListMissingCommandsAsk
) -> list[str]:
    """Return the needed commands that the connection's user may not send."""
    return [text_of(name) for name in await invoke(redis, "list_missing_commands", root, ask)]


async def check_types(redis: Connection, root: str, ask: CheckTypesAsk) -> tuple[WrongKey, ...]:
    """Return the keys of a wrong type; those that are rebuilt when needed are deleted."""
    return wrong_keys(await invoke(redis, "check_types", root, ask))


class RestoreAsk(Ask, frozen=True, kw_only=True):
    """Generations, by account and id, to be restored to the queues that lack them.

    Those that a worker runs get a lease of `lease_ms`.
    """

    names: Sequence[tuple[str, str]]
    lease_ms: int


async def restore(redis: Connection, root: str, ask: RestoreAsk) -> int:
    """Restore generations to the queues that their records name; return how many lacked."""
    return int(await invoke(redis, "restore", root, ask))
