"""An attempt in a worker's hands: claim, renew the leases, append, settle, release."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from shared.errors import Failure, StoreError
from shared.lifecycle import Stage
from shared.redis import keys
from shared.redis.client import Connection, Redis, Reply
from shared.redis.functions.contract import Ask, KeepTimes, text_of
from shared.redis.library import command, invoke, reload
from shared.redis.outage import FunctionMissingError
from shared.settings import RedisSettings
from shared.wire.submission import LANE_WAKEUP_WIRE, LANES, WIRE_WAKEUP, Lane


class ClaimAsk(Ask, frozen=True, kw_only=True):
    """How many a worker takes, how many of them of a batch, and for how long without a beat.

    `wire` is the newest form of a submission that it can read. `claim` is the call's number among
    the worker's, `unheard` are those of earlier calls whose reply was lost: what they took is given
    back first. `room` tells how many turns may begin with each resource that the worker has
    (`batch_room` of a batch, where that differs), `needs` which resources a model's turns take
    where that is limited or another worker's.
    The worker has so many `suspects`, and may have no more than `company` of them.
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


class Claimed(msgspec.Struct, frozen=True):
    """A generation in a worker's hands; `attempt` is its fencing token, `root` its partition's.

    Times are milliseconds, money microcredits; `retries` counts how often it was deferred,
    `calls` those of upstreams in earlier attempts, one at least of each that died while it called.
    `company` is how many suspects may run in the worker while it does, 0 for one that killed no
    worker yet. `resource` is the one with whose room it was taken, if its turn needed any.
    `system_prompt` and `companion` are the session's.
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


class ClaimReply(NamedTuple):
    """What a claim brought; `is_more` tells that more may be ready than was asked for."""

    claimed: list[Claimed]
    is_more: bool


async def claim(redis: Connection, root: str, ask: ClaimAsk) -> ClaimReply:
    """Take up to `count` ready generations, none if there are none.

    Raises UnavailableError when no reply came: the next claim should say so, in `unheard`.
    """
    return _claim_reply(root, await invoke(redis, "claim", root, ask, effect="once"))


async def claim_at_wakeup(
    redis: Redis, root: str, ask: ClaimAsk, time_limit_seconds: float
) -> ClaimReply:
    """Wait for the bell of what may be claimed, at most so long, and claim in the same round trip.

    The connection is the waiter's own: what others ask on it waits, too.
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
    """Wait for the bells of any partition, at most so long; the connection is the waiter's own.

    They are those that ring for what `ask` could take.
    """
    roots = [keys.partition_root(settings, number) for number in range(settings.partitions)]
    wakeup_keys = keys_to_wait_on(roots, ask.room or (), ask.wire, with_batch=ask.batch > 0)
    await redis.call("BLPOP", *wakeup_keys, time_limit_seconds, repeat=False)


def keys_to_wait_on(
    roots: Sequence[str], resources: Iterable[str], wire: int, *, with_batch: bool
) -> list[str]:
    """Return the keys of the wakeups that a claim waits on."""
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
    suspects_max, resource, submission, user, system, companion = rest
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
    )


class RenewLeasesAsk(Ask, frozen=True, kw_only=True):
    """The attempts a worker holds, as (account, id, attempt).

    A worker whose listener is away says so: for `deaf_ms` nobody takes it for dead.
    """

    lease_ms: int
    held: list[tuple[str, str, int]]
    worker: str = ""
    without_listener_ms: int = 0


class Stop(msgspec.Struct, frozen=True):
    """An attempt that must end: its lease is another's, or its caller cancelled it."""

    account: str
    id: str
    attempt: int
    why: Literal["lost", "cancel"]


async def renew_leases(redis: Connection, root: str, ask: RenewLeasesAsk) -> list[Stop]:
    """Keep the leases; return the attempts to stop."""
    reply: list[Reply] = await invoke(redis, "renew_leases", root, ask)
    return [
        Stop(text_of(account), text_of(id_), attempt, "cancel" if why == b"cancel" else "lost")
        for account, id_, attempt, why in reply
    ]


class AppendAsk(Ask, frozen=True, kw_only=True):
    """What an attempt produced: events from `seq` on, the text they add, stage, progress 0-99.

    `bill` is what would be due if the attempt ended now (`worker/steps/charge.py`), `routed` the
    number of the event that tells which model was chosen.
    """

    account: str
    id: str
    attempt: int
    seq: int
    events: list[str]
    text: str | None = None
    stage: Stage | None = None
    progress: int | None = None
    bill: str | None = None
    routed: int | None = None


async def append(
    redis: Connection, root: str, ask: AppendAsk
) -> Literal["appended", "cancel", "refused"]:
    """Write events and text under the fencing token; the same `seq` again changes nothing."""
    answer = text_of(await invoke(redis, "append", root, ask))
    match answer:
        case "appended" | "cancel" | "refused":
            return answer
        case _:
            raise StoreError(f"append answered {answer!r}")


class Meter(msgspec.Struct, frozen=True, kw_only=True):
    """What a generation used, in tokens, and of which model."""

    model: str
    input: int
    output: int
    reasoning: int


class SettleAsk(Ask, frozen=True, kw_only=True):
    """The end that an attempt reports; `cost` in microcredits, `event` as JSON.

    `events` come right before it and were not appended yet; they lead `through` a stage. A failure
    is told together with the model that was `chosen`, if one was. `history` are the tokens that a
    completed turn adds to its session's, those read before it, and whether these were all.
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
    """It has ended, and so many microcredits were captured."""

    captured: int


async def settle(redis: Connection, root: str, ask: SettleAsk, assistant: bytes) -> Settled | None:
    """End a generation with the assistant's message; None when the token is not current."""
    reply: list[Reply] = await invoke(redis, "settle", root, ask, blob=assistant)
    match [text_of(reply[0]), *reply[1:]]:
        case ["settled", captured]:
            return Settled(int(captured))
        case ["refused"]:
            return None
        case _:
            raise StoreError(f"settle answered {reply!r}")


class ReleaseAsk(Ask, frozen=True, kw_only=True):
    """Hand an attempt back: at once to the front of the line, or after `delay_ms`.

    `calls` are those made of upstreams by now; what `is_waiting` for room was not deferred. `why`
    is the code of what it is put off for. What is `parked` goes earlier if one of these resources
    has room; with `is_elsewhere` one of the workers that have them is woken.
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
    """Let a generation wait again, or end it if its caller had cancelled it."""
    answer = text_of(await invoke(redis, "release", root, ask))
    match answer:
        case "released" | "cancelled" | "refused":
            return answer
        case _:
            raise StoreError(f"release answered {answer!r}")
