"""A worker's attempts: claim, renew leases, settle, release, suspend."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, NamedTuple

import msgspec

from shared.errors import Failure, StoreError
from shared.lifecycle import Stage
from shared.redis import keys
from shared.redis.client import Connection, Redis, Reply
from shared.redis.functions.appends import AppendAsk
from shared.redis.functions.contract import Ask, KeepTimes, text_of
from shared.redis.library import command, invoke, reload
from shared.redis.outage import FunctionMissingError
from shared.settings import RedisSettings
from shared.wire.submission import LANE_WAKEUP_WIRE, LANES, WIRE_WAKEUP, Lane


class ClaimAsk(Ask, frozen=True, kw_only=True):
    """How many generations a worker takes, how many of them of a batch, and how long leases last.

    `wire` is the newest form of a submission that it can read. `claim` numbers the worker's claims;
    `unacknowledged` are those whose reply was lost: what they took is requeued first. `room` says
    how many turns may begin with each resource that the worker has (`batch_room` of a batch, where
    that differs), `needs` which resources a model's turns use where these are limited or another
    worker's. A parked turn is checked again after `recheck_ms`. The worker runs `suspects`
    (generations that may have killed a worker), and may run `suspects_max`.
    """

    worker: str
    wire: int
    count: int
    batch: int
    lease_ms: int
    keep: KeepTimes
    claim: int
    unacknowledged: Sequence[int] = ()
    room: Mapping[str, int] | None = None
    batch_room: Mapping[str, int] | None = None
    needs: Mapping[str, str] | None = None
    recheck_ms: int = 0
    suspects: int = 0
    suspects_max: int | None = None


class Kept(msgspec.Struct, frozen=True):
    """What stands after the finished rounds of earlier attempts, from which an attempt starts.

    The log (`keys.ROUNDS`) has `rounds` entries, and the text key the first `text_bytes` bytes of
    the answer, `text_points` code points. `bill` is what is due for them, in the form of an
    append's `bill`, of the attempt that finished the last one.
    """

    rounds: int
    text_bytes: int
    text_points: int
    bill: str


class Claimed(msgspec.Struct, frozen=True):
    """A claimed generation; `attempt` is its fencing token, `root` its partition's.

    Times are milliseconds, money microcredits. `retries` counts its deferrals, `calls` the upstream
    calls of earlier attempts, at least one for each attempt whose worker died during a call.
    `suspects_max` is how many suspects may run in the worker beside it, 0 for one that killed no
    worker. `resource` is the one whose room it was given, if it needs any. `system_prompt` and
    `companion` are the session's. `kept` is set where rounds have finished: the text is cut to
    them, `calls` counts from the last of them, and their log is to be read.
    """

    root: str
    account: str
    id: str
    lane: Lane
    attempt: int
    turn: int
    hold: int
    deadline_ms: int
    accepted_ms: int
    claimed_ms: int
    retries: int
    calls: int
    submission: bytes
    user_message: bytes
    system_prompt: str | None
    companion: str | None
    suspects_max: int = 0
    resource: str = ""
    kept: Kept | None = None


class ClaimReply(NamedTuple):
    """The claimed generations; `is_more`: more may be ready than were asked for."""

    claimed: list[Claimed]
    is_more: bool


async def claim(redis: Connection, root: str, ask: ClaimAsk) -> ClaimReply:
    """Claim up to `count` ready generations, possibly none.

    Raises UnavailableError where no reply came: the next claim must list this one in
    `unacknowledged`.
    """
    return _claim_reply(root, await invoke(redis, "claim", root, ask, effect="once"))


async def claim_at_wakeup(
    redis: Redis, root: str, ask: ClaimAsk, time_limit_seconds: float
) -> ClaimReply:
    """Wait for a wakeup within the time limit, and claim in the same round trip.

    The connection must be the caller's own, since it blocks.
    """
    wakeup_keys = keys_to_wait_on((root,), ask.room or (), ask.wire, with_batch=ask.batch > 0)
    try:
        _, reply = await redis.pipeline(
            ("BLPOP", *wakeup_keys, time_limit_seconds), command("claim", root, ask)
        )
    except FunctionMissingError:
        await reload(redis)
        return await claim(redis, root, ask)
    return _claim_reply(root, reply)


async def wait_for_wakeups(
    redis: Redis, settings: RedisSettings, time_limit_seconds: float, ask: ClaimAsk
) -> None:
    """Wait within the time limit for a wakeup of any partition for what `ask` could take.

    The connection must be the caller's own, since it blocks.
    """
    roots = [keys.partition_root(settings, number) for number in range(settings.partitions)]
    wakeup_keys = keys_to_wait_on(roots, ask.room or (), ask.wire, with_batch=ask.batch > 0)
    await redis.call("BLPOP", *wakeup_keys, time_limit_seconds, repeat=False)


def keys_to_wait_on(
    roots: Sequence[str], resources: Iterable[str], wire: int, *, with_batch: bool
) -> list[str]:
    """Return the keys of the wakeup lists that a claim waits on."""
    lanes = LANES if with_batch else LANES[:1]
    wires = [f"{WIRE_WAKEUP}{number}" for number in range(LANE_WAKEUP_WIRE + 1, wire + 1)]
    own = (*wires, *resources)
    return [
        wakeup_key
        for lane in lanes
        for root in roots
        for wakeup_key in (
            keys.WAKEUP(root, lane),
            *(keys.WAKEUP_FOR(root, lane, each) for each in own),
        )
    ]


def _claim_reply(root: str, reply: list[Reply]) -> ClaimReply:
    now_ms, is_more, *entries = reply
    claimed = [_claimed(root, now_ms, entry) for entry in entries]
    return ClaimReply(claimed, bool(is_more))


def _claimed(root: str, now_ms: int, entry: list[Reply]) -> Claimed:
    account, id_, lane, attempt, turn, hold, deadline, accepted, retries, calls, *rest = entry
    suspects_max, resource, submission, user, system, companion, *kept = rest
    return Claimed(
        root=root,
        account=text_of(account),
        id=text_of(id_),
        lane="batch" if lane == b"batch" else "interactive",
        attempt=attempt,
        turn=turn,
        hold=int(hold),
        deadline_ms=int(deadline),
        accepted_ms=int(accepted),
        claimed_ms=now_ms,
        retries=int(retries),
        calls=int(calls),
        suspects_max=suspects_max,
        resource=text_of(resource),
        submission=submission or b"",
        user_message=user or b"",
        system_prompt=system.decode() if system is not None else None,
        companion=companion.decode() if companion is not None else None,
        kept=_kept(text_of(kept[0])) if kept else None,
    )


def _kept(text: str) -> Kept:
    rounds, text_bytes, text_points, bill = text.split(" ", 3)
    return Kept(int(rounds), int(text_bytes), int(text_points), bill)


class RenewLeasesAsk(Ask, frozen=True, kw_only=True):
    """The attempts that a worker holds, as (account, id, attempt).

    A worker whose listener is away says so: for `without_listener_ms` it is not declared dead.
    """

    lease_ms: int
    held: list[tuple[str, str, int]]
    worker: str = ""
    without_listener_ms: int = 0


class Stop(msgspec.Struct, frozen=True):
    """An attempt that must end: another attempt has its lease, or its caller cancelled it."""

    account: str
    id: str
    attempt: int
    why: Literal["lost", "cancel"]


async def renew_leases(redis: Connection, root: str, ask: RenewLeasesAsk) -> list[Stop]:
    """Renew the leases; return the attempts to stop."""
    reply: list[Reply] = await invoke(redis, "renew_leases", root, ask)
    return [
        Stop(text_of(account), text_of(id_), attempt, "cancel" if why == b"cancel" else "lost")
        for account, id_, attempt, why in reply
    ]


class Meter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The tokens that a generation used, and the model; of the input, those cached and written.

    `others` are models that made earlier calls of the same answer, each with what these `cost`.
    """

    model: str
    input: int
    output: int
    reasoning: int
    cached: int = 0
    written: int = 0
    cost: int = 0
    others: tuple["Meter", ...] = ()


class SettleAsk(Ask, frozen=True, kw_only=True):
    """The end that an attempt reports; `cost` in microcredits, `event` as JSON.

    `events` precede that event and were not appended yet; they may pass `through` a stage. A
    failure is stored with the model that was `chosen`, if any. `history` is the tokens that a
    completed turn adds to the session, the tokens read before it, and whether those were all.
    """

    account: str
    id: str
    attempt: int
    seq: int
    stage: Stage
    event: str
    cost: int
    keep: KeepTimes
    events: Sequence[str] = ()
    through: Stage | None = None
    meter: Meter | None = None
    failure: Failure | None = None
    chosen: str | None = None
    history: tuple[int, int, bool] | None = None


class Settled(msgspec.Struct, frozen=True):
    """It has ended, and so many microcredits were captured.

    Its worker shall let more items of the account's batches enter the queue (`wants_feed`), pack a
    chunk of a batch (`wants_pack`), or deliver the event of its end (`wants_delivery`).
    """

    captured: int
    wants_feed: bool = False
    wants_pack: bool = False
    wants_delivery: bool = False


_FEED: Final = 1
_PACK: Final = 2
_DELIVER: Final = 4


async def settle(redis: Connection, root: str, ask: SettleAsk, assistant: bytes) -> Settled | None:
    """End a generation with the assistant's message; None where the token is not current."""
    reply: list[Reply] = await invoke(redis, "settle", root, ask, blob=assistant)
    match [text_of(reply[0]), *reply[1:]]:
        case ["settled", captured]:
            return Settled(int(captured))
        case ["settled", captured, hint]:
            wants = (bool(hint & each) for each in (_FEED, _PACK, _DELIVER))
            return Settled(int(captured), *wants)
        case ["refused"]:
            return None
        case _:
            raise StoreError(f"settle answered {reply!r}")


class ReleaseAsk(Ask, frozen=True, kw_only=True):
    """Hand an attempt back: to the front of its queue, or, after `delay_ms`, to be tried again.

    `calls` is how many upstream calls were made. `is_waiting`: it waits for room, which is no
    deferral. `why` is the code of the reason. A `parked` turn continues earlier if one of these
    resources gets room; `is_elsewhere`: another worker has them, and is woken.
    """

    account: str
    id: str
    attempt: int
    delay_ms: int
    keep: KeepTimes
    calls: int = 0
    is_waiting: bool = False
    why: str | None = None
    parked: str | None = None
    is_elsewhere: bool = False


async def release(
    redis: Connection, root: str, ask: ReleaseAsk
) -> Literal["released", "cancelled", "refused"]:
    """Requeue a generation, or end it if its caller has cancelled it."""
    answer = text_of(await invoke(redis, "release", root, ask))
    match answer:
        case "released" | "cancelled" | "refused":
            return answer
        case _:
            raise StoreError(f"release answered {answer!r}")


class SuspendAsk(AppendAsk, frozen=True, kw_only=True):
    """End an attempt that waits for a person, with what it has not appended yet.

    The wait ends by itself at `until_ms`, by the server's clock.
    """

    until_ms: int
    keep: KeepTimes


async def suspend(
    redis: Connection, root: str, ask: SuspendAsk
) -> Literal["suspended", "cancelled", "refused"]:
    """Let a generation wait without a worker, or end it if its caller has cancelled it."""
    answer = text_of(await invoke(redis, "suspend", root, ask))
    match answer:
        case "suspended" | "cancelled" | "refused":
            return answer
        case _:
            raise StoreError(f"suspend answered {answer!r}")
