"""What keeps a partition right: reap, restore, recount, check types and permissions."""

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


# After so long a parked turn is looked at again by whoever reaps, if nothing let it go earlier.
RECHECK_MS: Final = 30_000


class ReapAsk(Ask, frozen=True, kw_only=True):
    """How much to put right in one call, and after how many crashes a generation is given up.

    After `gap_ms` without a reap, leases are first given `lease_ms` again. A worker that nobody
    hears on its channel, the prefix `channels` and its id, for `absent_ms` has died, if what it
    holds was not renewed for `beat_ms` and those.
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
        """Return what an operator decided, and what is not to be had, in the function's words."""
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

    `dead` are the workers that were found to be gone; `missed` counts those of whom it will be
    known after `absent_ms`. `lines` are (lane, resource) of what is parked, `ready` the lanes in
    which something may be claimed, `damaged` what has been set aside since the last reap.
    """

    done: list[tuple[str, str, str]]
    dead: list[str]
    missed: int
    parked_queues: frozenset[tuple[Lane, str]] = frozenset()
    ready: frozenset[Lane] = frozenset()
    damaged: tuple[DamagedGeneration, ...] = ()


async def reap(redis: Connection, root: str, ask: ReapAsk) -> Reaped:
    """Put right what time has overtaken: lapsed leases, passed deadlines, due deferrals."""
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

    `cursor` is the time of the last session that it looked at; `chunk` and `bytes` say what was
    found of a `session` within which it ended.
    """

    account: str
    cursor: int = 0
    session: str | None = None
    chunk: int = 0
    bytes: int = 0


class Recounted(NamedTuple):
    """By how many bytes sessions had been counted wrong, and what is left to do: None for nothing.

    At the end, `gone_bytes` are those of sessions that were deleted without being subtracted;
    `is_first` if the account had never been counted.
    """

    corrected_bytes: int
    next: RecountAsk | None
    gone_bytes: int = 0
    is_first: bool = False


async def recount(redis: Connection, root: str, ask: RecountAsk) -> Recounted:
    """Count some more of what an account stores; repeating a call is safe."""
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
    """Nothing is asked."""


async def list_missing_commands(
    redis: Connection, root: str, ask: ListMissingCommandsAsk
) -> list[str]:
    """Return the commands that the connection's user may not send, of those that are needed."""
    return [text_of(name) for name in await invoke(redis, "list_missing_commands", root, ask)]


async def check_types(redis: Connection, root: str, ask: CheckTypesAsk) -> tuple[WrongKey, ...]:
    """Return which keys hold another type than they should; what is made again is removed."""
    return wrong_keys(await invoke(redis, "check_types", root, ask))


class RestoreAsk(Ask, frozen=True, kw_only=True):
    """Generations, by account and id, to be put back into lines that they are missing from.

    Those that a worker answers get a lease of `lease_ms`.
    """

    names: Sequence[tuple[str, str]]
    lease_ms: int


async def restore(redis: Connection, root: str, ask: RestoreAsk) -> int:
    """Put generations back where their records say; return how many places were missing."""
    return int(await invoke(redis, "restore", root, ask))
