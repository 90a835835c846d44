"""The typed stubs of the Redis functions: an `Ask`, a coroutine and its answers for each.

Owns the translation between typed values and the words of `functions/*.lua`, whose headers say what
is atomic and why. A test holds the names and fields of both sides equal.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, Self

import msgspec

from shared import ids
from shared.errors import Failure, StoreError, WrongKey
from shared.lifecycle import Stage
from shared.redis import keys
from shared.redis.client import Connection, Redis, Reply
from shared.redis.library import command, invoke, load_again, tell, wrong_keys
from shared.redis.outage import FunctionMissingError
from shared.redis.types import CheckTypesAsk
from shared.settings import RedisSettings, RetentionSettings, Settings
from shared.wire.submission import LANE_BELL_WIRE, WIRE_BELL, Lane, OnConflict

LANES: tuple[Lane, ...] = ("interactive", "batch")

_REAP_LIMIT: Final = 64
_REAP_GAP_MS: Final = 1_000
ABSENT_MS: Final = 100
# After so long a parked turn is looked at again by whoever reaps, if nothing let it go earlier.
LOOK_AGAIN_MS: Final = 30_000
# What `throttled` answers for a provider that is throttled no more.
_FREE: Final = -2


class Keep(msgspec.Struct, frozen=True, array_like=True):
    """How long the record and the events of an ended generation stay, in milliseconds.

    What failed for no fault of its caller stays longer, and no more than `dead_max` in a partition.
    """

    record_ms: int
    events_ms: int
    dead_ms: int = 604_800_000
    dead_max: int = 100_000

    @classmethod
    def of(cls, settings: RetentionSettings) -> Self:
        """Return what an operator decided, in the functions' words."""
        return cls(
            settings.generation_seconds * 1000,
            settings.events_seconds * 1000,
            settings.dead_seconds * 1000,
            settings.dead_max,
        )


class Ask(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The arguments of one function; absent fields are nil in Lua."""


class AcceptAsk(Ask, frozen=True, kw_only=True):
    """What `accept` needs beside the submission; times are milliseconds, money microcredits.

    `stride` is what a claim costs the account in virtual time: half of it is twice the share.
    `waiting_max` may wait behind the head of a session.
    `slots` are those of all live workers, 0 if that is not known; they can be taken `rounds_max`
    times one after the other before the deadline. `sessions_max` and `stored_bytes_max` are the
    account's quotas. `hold` is without the session's history, which
    the function adds: `input_price` microcredits a token, `history_max` tokens at most. `added`
    tokens are what the turn may add to it, `persona` a session's companion; `least` is what an
    answer costs at least, for a `budget` of the caller's. `origin` is kept of the request, so that
    it can be told from others.
    """

    account: str
    key: str
    generation: str
    session: str
    is_new: bool
    message: str
    content: str
    lane: Lane
    wire: int
    model: str
    hold: int
    deadline_ms: int
    per_minute: int
    unfinished_max: int
    waiting_max: int
    running_max: int
    stride: int
    total_max: int
    slots: int
    rounds_max: int
    sessions_max: int
    stored_bytes_max: int
    on_conflict: OnConflict | None = None
    keep: Keep | None = None
    channels: str | None = None
    name: str | None = None
    system_prompt: str | None = None
    companion: str | None = None
    metadata: dict[str, str] | None = None
    project: str | None = None
    media: tuple[str, ...] | None = None
    idempotency: str | None = None
    fingerprint: str | None = None
    idempotency_ms: int | None = None
    input_price: float = 0.0
    history_max: int = 0
    added: int = 0
    persona: int = 0
    budget: int | None = None
    least: int = 0
    origin: str | None = None


class Rate(msgspec.Struct, frozen=True, array_like=True):
    """Where an account stands against its submission limit; one more is allowed in `retry_ms`."""

    limit: int
    remaining: int
    reset_ms: int
    retry_ms: int


class Accepted(msgspec.Struct, frozen=True):
    """The message is in: turn, time, how many of the account's own come first, how many it has.

    `crowd` counts those who share its lane, itself too, in accounts of its weight, where anything
    comes first; `behind` what waits before it in its session, where it `follows` a head that began
    `front_ms` ago (-1: it waits, too); `running` are the account's own of the lane.
    """

    turn: int
    accepted_ms: int
    ahead: int
    crowd: int
    behind: int
    running: int
    follows: bool
    front_ms: int
    unfinished: int
    rate: Rate


class Replayed(msgspec.Struct, frozen=True):
    """The same request was accepted before, under these ids."""

    generation: str
    session: str


class NotAccepted(msgspec.Struct, frozen=True):
    """Nothing was stored. `about` is the busy generation, the balance, or the least budget.

    `hold` is what was to be held, where the balance does not cover it. Of a quota, `about` says
    which one and `used` how much of it there is.
    """

    reason: Literal[
        "mismatch",
        "no_session",
        "busy",
        "limited",
        "crowded",
        "waiting",
        "late",
        "full",
        "poor",
        "unpaid",
        "quota",
    ]
    about: str = ""
    rate: Rate | None = None
    hold: int = 0
    used: int = 0


async def accept(
    redis: Connection, root: str, ask: AcceptAsk, submission: bytes
) -> Accepted | Replayed | NotAccepted:
    """Take one message in, whole or not at all; repeating with the same generation id is safe."""
    reply: list[Reply] = await invoke(redis, "accept", root, ask, blob=submission)
    match [_text(reply[0]), *reply[1:]]:
        case ["accepted", turn, accepted_ms, ahead, crowd, behind, *rest]:
            running, follows, front, unfinished, rate = rest
            return Accepted(
                turn=turn,
                accepted_ms=accepted_ms,
                ahead=ahead,
                crowd=crowd,
                behind=behind,
                running=running,
                follows=follows == 1,
                front_ms=int(front),
                unfinished=unfinished,
                rate=Rate(*rate),
            )
        case ["replayed", generation, session]:
            return Replayed(_text(generation), _text(session))
        case _:
            return _not_accepted(reply)


def _not_accepted(reply: list[Reply]) -> NotAccepted:
    match [_text(reply[0]), *reply[1:]]:
        case ["poor", balance, hold, rate]:
            return NotAccepted("poor", _text(balance), Rate(*rate), int(hold))
        case ["unpaid", least, rate]:
            return NotAccepted("unpaid", _text(least), Rate(*rate))
        case ["quota", which, used, rate]:
            return NotAccepted("quota", _text(which), Rate(*rate), used=int(used))
        case ["busy", generation]:
            return NotAccepted("busy", _text(generation))
        case [("limited" | "crowded" | "waiting" | "late" | "full") as reason, rate]:
            return NotAccepted(reason, rate=Rate(*rate))
        case [("mismatch" | "no_session") as reason]:
            return NotAccepted(reason)
        case _:
            raise StoreError(f"accept answered {reply!r}")


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
    keep: Keep
    claim: int
    unheard: Sequence[int] = ()
    room: Mapping[str, int] | None = None
    batch_room: Mapping[str, int] | None = None
    needs: Mapping[str, str] | None = None
    look_again_ms: int = 0
    suspects: int = 0
    company: int | None = None


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
    company: int = 0
    resource: str = ""


class Batch(NamedTuple):
    """What a claim brought; `is_more` tells that more may be ready than was asked for."""

    claimed: list[Claimed]
    is_more: bool


async def claim(redis: Connection, root: str, ask: ClaimAsk) -> Batch:
    """Take up to `count` ready generations, none if there are none.

    Raises UnavailableError when no reply came: the next claim should say so, in `unheard`.
    """
    return _batch(root, await invoke(redis, "claim", root, ask, effect="once"))


async def claim_at_bell(redis: Redis, root: str, ask: ClaimAsk, patience_seconds: float) -> Batch:
    """Wait for the bell of what may be claimed, at most so long, and claim in the same round trip.

    The connection is the waiter's own: what others ask on it waits, too.
    """
    bells = _bells((root,), ask.room or (), ask.wire, with_batch=ask.batch > 0)
    try:
        _, reply = await redis.pipeline(
            ("BLPOP", *bells, patience_seconds), command("claim", root, ask)
        )
    except FunctionMissingError:
        await load_again(redis)
        return await claim(redis, root, ask)
    return _batch(root, reply)


async def wait_for_bells(
    redis: Redis, settings: RedisSettings, patience_seconds: float, ask: ClaimAsk
) -> None:
    """Wait for the bells of any partition, at most so long; the connection is the waiter's own.

    They are those that ring for what `ask` could take.
    """
    roots = [keys.partition_root(settings, number) for number in range(settings.partitions)]
    bells = _bells(roots, ask.room or (), ask.wire, with_batch=ask.batch > 0)
    await redis.call("BLPOP", *bells, patience_seconds, repeat=False)


def _bells(
    roots: Sequence[str], resources: Iterable[str], wire: int, *, with_batch: bool
) -> list[str]:
    lanes = LANES if with_batch else LANES[:1]
    wires = [f"{WIRE_BELL}{number}" for number in range(LANE_BELL_WIRE + 1, wire + 1)]
    own = (*wires, *resources)
    return [
        bell
        for lane in lanes
        for root in roots
        for bell in (keys.BELL(root, lane), *(keys.BELL_FOR(root, lane, each) for each in own))
    ]


def _batch(root: str, reply: list[Reply]) -> Batch:
    now_ms, is_more, *entries = reply
    claimed = [_claimed(root, now_ms, entry) for entry in entries]
    return Batch(claimed, bool(is_more))


def _claimed(root: str, now_ms: int, entry: list[Reply]) -> Claimed:
    account, id_, lane, attempt, turn, hold, deadline, accepted, retries, calls, *rest = entry
    company, resource, submission, user, system, companion = rest
    return Claimed(
        root=root,
        account=_text(account),
        id=_text(id_),
        lane="batch" if lane == b"batch" else "interactive",
        attempt=attempt,
        turn=turn,
        hold=int(hold),
        deadline_ms=int(deadline),
        accepted_ms=int(accepted),
        claimed_ms=now_ms,
        retries=int(retries),
        calls=int(calls),
        company=company,
        resource=_text(resource),
        submission=submission or b"",
        user_message=user or b"",
        system_prompt=system.decode() if system is not None else None,
        companion=companion.decode() if companion is not None else None,
    )


class BeatAsk(Ask, frozen=True, kw_only=True):
    """The attempts a worker holds, as (account, id, attempt).

    A worker whose listener is away says so: for `deaf_ms` nobody takes it for dead.
    """

    lease_ms: int
    held: list[tuple[str, str, int]]
    worker: str = ""
    deaf_ms: int = 0


class Stop(msgspec.Struct, frozen=True):
    """An attempt that must end: its lease is another's, or its caller cancelled it."""

    account: str
    id: str
    attempt: int
    why: Literal["lost", "cancel"]


async def beat(redis: Connection, root: str, ask: BeatAsk) -> list[Stop]:
    """Keep the leases; return the attempts to stop."""
    reply: list[Reply] = await invoke(redis, "beat", root, ask)
    return [
        Stop(_text(account), _text(id_), attempt, "cancel" if why == b"cancel" else "lost")
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
    answer = _text(await invoke(redis, "append", root, ask))
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
    keep: Keep
    events: list[str] = []
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
    match [_text(reply[0]), *reply[1:]]:
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
    keep: Keep
    calls: int = 0
    is_waiting: bool = False
    why: str | None = None
    parked: str | None = None
    is_elsewhere: bool = False


async def release(
    redis: Connection, root: str, ask: ReleaseAsk
) -> Literal["released", "cancelled", "refused"]:
    """Let a generation wait again, or end it if its caller had cancelled it."""
    answer = _text(await invoke(redis, "release", root, ask))
    match answer:
        case "released" | "cancelled" | "refused":
            return answer
        case _:
            raise StoreError(f"release answered {answer!r}")


class CancelAsk(Ask, frozen=True, kw_only=True):
    """Which generation to cancel; `channels` is the prefix of the workers' channels.

    `call` is the request's own id: the same one again is answered as before. Where no worker lives,
    it `is_abandoned` once its lease has expired.
    """

    account: str
    id: str
    keep: Keep
    channels: str
    call: str
    is_abandoned: bool = False

    @classmethod
    def of(
        cls, settings: Settings, account: str, generation: str, *, is_abandoned: bool = False
    ) -> Self:
        """Return what is asked for a generation, as a request of its own."""
        return cls(
            account=account,
            id=generation,
            keep=Keep.of(settings.retention),
            channels=keys.worker_channel(keys.system_root(settings.redis), ""),
            call=ids.new_id(),
            is_abandoned=is_abandoned,
        )


class Cancelled(msgspec.Struct, frozen=True):
    """What a cancel did: `refunded` microcredits, or None while a worker is asked to stop."""

    refunded: int | None


class AlreadyEnded(msgspec.Struct, frozen=True):
    """The generation had ended before."""

    stage: Stage


async def cancel(redis: Connection, root: str, ask: CancelAsk) -> Cancelled | AlreadyEnded | None:
    """Cancel a generation; None when the account has none of that id."""
    reply: list[Reply] = await invoke(redis, "cancel", root, ask)
    match [_text(reply[0]), *reply[1:]]:
        case ["unknown"]:
            return None
        case ["finished", stage]:
            return AlreadyEnded(msgspec.convert(_text(stage), Stage))
        case ["pending"]:
            return Cancelled(None)
        case ["cancelled", refunded]:
            return Cancelled(int(refunded))
        case _:
            raise StoreError(f"cancel answered {reply!r}")


class ExpireAsk(Ask, frozen=True, kw_only=True):
    """Which generation to end if its deadline has passed."""

    account: str
    id: str
    keep: Keep


async def expire(redis: Connection, root: str, ask: ExpireAsk) -> bool:
    """End a generation whose deadline has passed. Return whether it has ended by now."""
    return _text(await invoke(redis, "expire", root, ask)) == "ended"


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
    keep: Keep
    beat_ms: int = 0
    closed: Sequence[str] = ()
    look_again_ms: int = 0

    @classmethod
    def of(cls, settings: Settings, closed: Sequence[str] = ()) -> Self:
        """Return what an operator decided, and what is not to be had, in the function's words."""
        return cls(
            limit=_REAP_LIMIT,
            crashes_max=settings.worker.crashes_max,
            lease_ms=int(settings.worker.lease_seconds * 1000),
            gap_ms=max(_REAP_GAP_MS, int(settings.worker.reap_seconds * 3_000)),
            absent_ms=ABSENT_MS,
            channels=keys.worker_channel(keys.system_root(settings.redis), ""),
            keep=Keep.of(settings.retention),
            beat_ms=int(settings.worker.beat_seconds * 1000),
            closed=closed,
            look_again_ms=LOOK_AGAIN_MS,
        )


class Damaged(NamedTuple):
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
    lines: frozenset[tuple[Lane, str]] = frozenset()
    ready: frozenset[Lane] = frozenset()
    damaged: tuple[Damaged, ...] = ()


async def reap(redis: Connection, root: str, ask: ReapAsk) -> Reaped:
    """Put right what time has overtaken: lapsed leases, passed deadlines, due deferrals."""
    done, dead, missed, lines, ready, damaged = await invoke(redis, "reap", root, ask)
    return Reaped(
        [(_text(account), _text(id_), _text(what)) for account, id_, what in done],
        [_text(worker) for worker in dead],
        missed,
        frozenset(_line(_text(name)) for name in lines),
        frozenset(_lane(_text(name)) for name in ready),
        tuple(Damaged(*map(_text, each)) for each in damaged),
    )


def _lane(word: str) -> Lane:
    return "batch" if word == "batch" else "interactive"


def _line(name: str) -> tuple[Lane, str]:
    lane, _, resource = name.partition(":")
    return _lane(lane), resource


class StatusAsk(Ask, frozen=True, kw_only=True):
    """Which generation to look at."""

    account: str
    id: str


class Look(msgspec.Struct, frozen=True):
    """A generation's record at the moment `now_ms`; `body` is the text so far or the final message.

    `unfinished` counts all of the account's, of which `most` may run (0: unknown); `rank` is the
    place among those of its lane. What waits shares that with `crowd` accounts of its own one's
    weight, and has `behind` turns of its session before it, where it `follows` the head; the first
    of what comes before it began `front_ms` ago (-1: it waits, too). What was put off is tried
    again in `again_ms`. `routed` is the event that told this attempt's choice of a model.
    """

    now_ms: int
    unfinished: int
    rank: int
    running: int
    most: int
    crowd: int
    behind: int
    follows: bool
    front_ms: int
    again_ms: int
    body: bytes | None
    user_message: bytes | None
    routed: bytes | None
    record: dict[str, str]


async def status(redis: Connection, root: str, ask: StatusAsk) -> Look | None:
    """Return all that may be known of a generation, or None."""
    reply: list[Reply] = await invoke(redis, "status", root, ask, effect="none")
    if not reply:
        return None
    now, unfinished, rank, running, most, crowd, behind, *rest = reply
    follows, front, again, body, user, routed, *flat = rest
    words = [word.decode() for word in flat]
    return Look(
        now_ms=now,
        unfinished=unfinished,
        rank=rank,
        running=running,
        most=most,
        crowd=crowd,
        behind=behind,
        follows=follows == 1,
        front_ms=front,
        again_ms=again,
        body=body,
        user_message=user,
        routed=routed,
        record=dict(zip(words[::2], words[1::2], strict=True)),
    )


class CreateSessionAsk(Ask, frozen=True, kw_only=True):
    """A session to begin without a turn; it counts among the `per_minute` submissions."""

    account: str
    id: str
    name: str
    per_minute: int
    sessions_max: int
    stored_bytes_max: int
    companion: str | None = None
    metadata: dict[str, str] | None = None
    idempotency: str | None = None
    fingerprint: str | None = None
    idempotency_ms: int | None = None


class NewSession(NamedTuple):
    """Which session answers a request to create one; `is_replayed` when another call made it."""

    id: str
    is_replayed: bool
    rate: Rate | None = None


async def create_session(
    redis: Connection, root: str, ask: CreateSessionAsk
) -> NewSession | NotAccepted:
    """Begin an empty session; NotAccepted for a mismatch, or beyond the limit or a quota."""
    reply: list[Reply] = await invoke(redis, "create_session", root, ask)
    match [_text(reply[0]), *reply[1:]]:
        case ["created", rate]:
            return NewSession(ask.id, is_replayed=False, rate=Rate(*rate))
        case ["created"]:
            return NewSession(ask.id, is_replayed=False)
        case ["replayed", session]:
            return NewSession(_text(session), is_replayed=True)
        case ["limited", rate]:
            return NotAccepted("limited", rate=Rate(*rate))
        case ["quota", which, used, rate]:
            return NotAccepted("quota", _text(which), Rate(*rate), used=int(used))
        case ["mismatch"]:
            return NotAccepted("mismatch")
        case _:
            raise StoreError(f"create_session answered {reply!r}")


class DeleteSessionAsk(Ask, frozen=True, kw_only=True):
    """Which session to forget."""

    account: str
    id: str
    keep: Keep
    channels: str


async def delete_session(redis: Connection, root: str, ask: DeleteSessionAsk) -> bool:
    """End what runs in a session and forget all of it; False when there is none."""
    if _text(await invoke(redis, "delete_session", root, ask)) != "deleted":
        return False
    await forget_turns(redis, root, ForgetTurnsAsk(account=ask.account, id=ask.id))
    return True


class ForgetTurnsAsk(Ask, frozen=True, kw_only=True):
    """Of which deleted session."""

    account: str
    id: str


async def forget_turns(redis: Connection, root: str, ask: ForgetTurnsAsk) -> None:
    """Forget all that the turns of a deleted session left, in as many calls as that takes."""
    while await invoke(redis, "forget_turns", root, ask):
        pass


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
    match [_text(reply[0]), *reply[1:]]:
        case ["more", corrected, cursor, session, chunk, bytes_]:
            further = RecountAsk(
                account=ask.account,
                cursor=cursor,
                session=_text(session) or None,
                chunk=chunk,
                bytes=bytes_,
            )
            return Recounted(corrected, further)
        case ["done", corrected, gone, is_first]:
            return Recounted(corrected, None, gone, bool(is_first))
        case _:
            raise StoreError(f"recount answered {reply!r}")


class FindTurnsAsk(Ask, frozen=True, kw_only=True):
    """Turns of a session: from `first`, or else `count` of them, up to `last`."""

    account: str
    id: str
    last: int
    first: int | None = None
    count: int = 0
    bytes_max: int


class FoundTurns(NamedTuple):
    """The turns there are of those asked for; those up to `fitting` may be read at once.

    `session` has the fields of its record: name, created, active, companion, metadata, turns.
    """

    first: int
    last: int
    fitting: int
    session: list[bytes | None]


async def find_turns(redis: Connection, root: str, ask: FindTurnsAsk) -> FoundTurns | None:
    """Return a session's record and how many turns can be read at once; None if there is none."""
    reply: list[Reply] = await invoke(redis, "find_turns", root, ask, effect="none")
    if not reply:
        return None
    first, last, fitting, *session = reply
    return FoundTurns(first, last, fitting, session)


class RenameSessionAsk(Ask, frozen=True, kw_only=True):
    """Which session, and its new name."""

    account: str
    id: str
    name: str


async def rename_session(redis: Connection, root: str, ask: RenameSessionAsk) -> bool:
    """Return whether there was such a session to rename."""
    return bool(await invoke(redis, "rename_session", root, ask))


class CreateAccountAsk(Ask, frozen=True, kw_only=True):
    """An account to make, or to give another tier."""

    account: str
    tier: str | None = None


async def create_account(
    redis: Connection, root: str, ask: CreateAccountAsk, fresh: bytes
) -> bytes:
    """Return the account's record: `fresh` where there was none."""
    record: bytes = await invoke(redis, "create_account", root, ask, blob=fresh)
    return record


class CreateKeyAsk(Ask, frozen=True, kw_only=True):
    """The hash under which a new API key's record is kept."""

    hash: str


async def create_key(redis: Connection, root: str, ask: CreateKeyAsk, record: bytes) -> None:
    """Keep the record of a new API key."""
    await invoke(redis, "create_key", root, ask, blob=record)


class RevokeKeyAsk(Ask, frozen=True, kw_only=True):
    """Which API key to revoke at which time, and where fronts hear of it."""

    id: str
    now: int
    channel: str


async def revoke_key(redis: Connection, root: str, ask: RevokeKeyAsk) -> bool:
    """Return whether there was such a key."""
    return bool(await invoke(redis, "revoke_key", root, ask))


class TakeSubmissionAsk(Ask, frozen=True, kw_only=True):
    """One of the `per_minute` submissions, for what is created under another root as `id`."""

    account: str
    per_minute: int
    id: str
    idempotency: str | None = None
    fingerprint: str | None = None
    idempotency_ms: int | None = None


class Taken(NamedTuple):
    """What to create: the asked id, or the one that an earlier request reserved."""

    id: str
    rate: Rate | None = None


async def take_submission(
    redis: Connection, root: str, ask: TakeSubmissionAsk
) -> Taken | NotAccepted:
    """Count a submission and reserve its Idempotency-Key; NotAccepted: mismatch or limited."""
    reply: list[Reply] = await invoke(redis, "take_submission", root, ask)
    match [_text(reply[0]), *reply[1:]]:
        case ["taken", rate]:
            return Taken(ask.id, Rate(*rate))
        case ["reserved", id_]:
            return Taken(_text(id_))
        case ["limited", rate]:
            return NotAccepted("limited", rate=Rate(*rate))
        case ["mismatch"]:
            return NotAccepted("mismatch")
        case _:
            raise StoreError(f"take_submission answered {reply!r}")


class FreeReceiptAsk(Ask, frozen=True, kw_only=True):
    """The hash of an Idempotency-Key, and the id of the API key that it stands for."""

    account: str
    idempotency: str
    id: str


async def free_receipt(redis: Connection, root: str, ask: FreeReceiptAsk) -> None:
    """Forget an Idempotency-Key that was reserved."""
    await invoke(redis, "free_receipt", root, ask)


class CreateOwnKeyAsk(Ask, frozen=True, kw_only=True):
    """The hash of an API key that an account makes, and how many keys it may have."""

    hash: str
    keys_max: int


class NotAllowed(NamedTuple):
    """What a key may not do, or not now: `about` is a scope, a time in ms, a count or a record.

    `missing`: an older process made keys that are not in the lists of their accounts. `unknown`:
    `about` is what stands for the Idempotency-Key of a key that was deleted before, if it had one.
    """

    reason: Literal["exists", "gone", "ended", "lacks", "outlives", "quota", "missing", "unknown"]
    about: Any = None


async def create_own_key(
    redis: Connection, root: str, ask: CreateOwnKeyAsk, record: bytes
) -> NotAllowed | None:
    """Keep the record of an API key that another key asked for; None when it is in force."""
    reply: list[Reply] = await invoke(redis, "create_own_key", root, ask, blob=record)
    return _not_allowed(reply) if _text(reply[0]) != "created" else None


class DeleteOwnKeyAsk(Ask, frozen=True, kw_only=True):
    """Which API key to delete, which key and which request ask, and where fronts hear of it."""

    account: str
    by: str
    id: str
    call: str
    channel: str


async def delete_own_key(redis: Connection, root: str, ask: DeleteOwnKeyAsk) -> str | NotAllowed:
    """Delete a key; return the hash of the Idempotency-Key that it was made with, or nothing."""
    reply: list[Reply] = await invoke(redis, "delete_own_key", root, ask)
    match [_text(reply[0]), *reply[1:]]:
        case ["deleted", receipt]:
            return _text(receipt)
        case _:
            return _not_allowed(reply)


def _not_allowed(reply: list[Reply]) -> NotAllowed:
    match [_text(reply[0]), *reply[1:]]:
        case [("lacks" | "unknown") as reason, about]:
            return NotAllowed(reason, _text(about) or None)
        case [("exists" | "outlives" | "quota") as reason, about]:
            return NotAllowed(reason, about)
        case [("gone" | "ended" | "missing") as reason]:
            return NotAllowed(reason)
        case _:
            raise StoreError(f"a function about API keys answered {reply!r}")


class ListOwnKeysAsk(Ask, frozen=True, kw_only=True):
    """Which part of an account's API keys."""

    account: str
    offset: int
    limit: int


class OwnKeys(NamedTuple):
    """Records of keys, how many the account has, and how many keys are missing in the lists."""

    records: list[bytes]
    total: int
    missing: int


async def list_own_keys(redis: Connection, root: str, ask: ListOwnKeysAsk) -> OwnKeys:
    """Return a part of an account's keys, the last made first."""
    missing, total, records = await invoke(redis, "list_own_keys", root, ask)
    return OwnKeys(records, total, missing)


class AdoptKeysAsk(Ask, frozen=True, kw_only=True):
    """Ids of keys; with the last ones, how many were `missing` before the first ones."""

    ids: Sequence[str]
    missing: int | None = None


async def adopt_keys(redis: Connection, root: str, ask: AdoptKeysAsk) -> int:
    """Put keys into their accounts' lists; return how many are missing there now."""
    return int(await invoke(redis, "adopt_keys", root, ask))


class GrantAsk(Ask, frozen=True, kw_only=True):
    """Credits for an account, in microcredits."""

    account: str
    amount: int


NotGranted = Literal["poor", "too much"]
_NOT_GRANTED: Final[dict[int, NotGranted]] = {-1: "poor", -2: "too much"}


async def grant(redis: Connection, root: str, ask: GrantAsk) -> int | NotGranted:
    """Return the new balance, or why it stays: less can be taken, or no more be counted.

    Not to be repeated blindly.
    """
    balance = int(await invoke(redis, "grant", root, ask, effect="once"))
    return _NOT_GRANTED.get(balance, balance)


class PreferAsk(Ask, frozen=True, kw_only=True):
    """Which model an account prefers; absent for none."""

    account: str
    model: str | None = None


async def prefer(redis: Connection, root: str, ask: PreferAsk) -> bool:
    """Write an account's preference into its record; False when there is no such account."""
    return bool(await invoke(redis, "prefer", root, ask))


class UsageAsk(Ask, frozen=True, kw_only=True):
    """So many days in a row, from the first on; days are counted from 1970-01-01."""

    account: str
    first: int
    days: int


async def usage(
    redis: Connection, root: str, ask: UsageAsk
) -> list[tuple[int, dict[bytes, bytes]]]:
    """Return the fields of each day on which an account used something, the first day first."""
    reply: list[Reply] = await invoke(redis, "usage", root, ask, effect="none")
    return [(day, dict(zip(flat[::2], flat[1::2], strict=True))) for day, *flat in reply]


class AuthenticateAsk(Ask, frozen=True, kw_only=True):
    """The hash of the key that was shown."""

    hash: str


async def authenticate(
    redis: Connection, root: str, ask: AuthenticateAsk
) -> tuple[bytes, bytes] | None:
    """Return a key's record and its account's; None when no such key was ever made."""
    reply: list[bytes] = await invoke(redis, "authenticate", root, ask, effect="none")
    return (reply[0], reply[1]) if reply else None


def _text(word: Reply) -> str:
    return word.decode() if isinstance(word, bytes) else str(word)


class ReportAsk(Ask, frozen=True, kw_only=True):
    """A worker's word: `models` that it serves. After `alive_ms` without one it counts as dead.

    Of its calls: `slots` as (provider, lane, call) and `probes` as (circuit, call) are under way
    and leased for `lease_ms`; `answered` counts those that were, by circuit. `lengths` are of whole
    answers: model, how many, and their bytes together.
    """

    worker: str
    models: tuple[str, ...]
    alive_ms: int
    forget_ms: int
    lease_ms: int = 0
    slots: tuple[tuple[str, Lane, str], ...] = ()
    probes: tuple[tuple[str, str], ...] = ()
    answered: tuple[tuple[str, int], ...] = ()
    window_ms: int = 0
    lengths: tuple[tuple[str, int, int], ...] = ()


class Reported(NamedTuple):
    """How many workers live, the models that are or were lately served, the breakers not closed.

    `is_new` when the one who reports was not known to live. `throttles` are the circuits
    that have refused calls lately because they take fewer; `lengths` are the bytes of an average
    answer, by model, where that is known.
    """

    living: int
    served: list[str]
    breakers: dict[str, "Breaker"]
    is_new: bool
    throttles: frozenset[str] = frozenset()
    lengths: Mapping[str, int] = MappingProxyType({})


async def report(redis: Connection, root: str, ask: ReportAsk, pulse: bytes) -> Reported:
    """Write a worker's pulse, or take it back if it is empty."""
    living, served, breakers, is_new, throttles, lengths = await invoke(
        redis, "report", root, ask, blob=pulse
    )
    return Reported(
        int(living),
        [_text(model) for model in served],
        {_text(circuit): _breaker(rest) for circuit, *rest in breakers},
        bool(is_new),
        frozenset(map(_text, throttles)),
        {model: int(each) for model, each in zip(ask.models, lengths, strict=True) if each},
    )


class PressureAsk(Ask, frozen=True, kw_only=True):
    """Nothing is asked."""


class Pressed(msgspec.Struct, frozen=True, array_like=True):
    """A partition's counts, and its server's memory in bytes: `most_bytes` is 0 for no bound."""

    now_ms: int
    unfinished: int
    running: int
    ended: int
    used_bytes: int
    most_bytes: int


async def pressure(redis: Connection, root: str, ask: PressureAsk) -> Pressed:
    """Return how much waits, how much has ended, and how full the server is."""
    return Pressed(*await invoke(redis, "pressure", root, ask, effect="none"))


class CommandsAsk(Ask, frozen=True, kw_only=True):
    """Nothing is asked."""


async def commands(redis: Connection, root: str, ask: CommandsAsk) -> list[str]:
    """Return the commands that the connection's user may not send, of those that are needed."""
    return [_text(name) for name in await invoke(redis, "commands", root, ask)]


class FleetAsk(Ask, frozen=True, kw_only=True):
    """After how long a silence a worker is not among the living."""

    alive_ms: int


async def fleet(redis: Connection, root: str, ask: FleetAsk) -> tuple[list[str], list[bytes]]:
    """Return the models that are or were lately served, and the pulses of those who live."""
    served, *pulses = await invoke(redis, "fleet", root, ask, effect="none")
    return [_text(model) for model in served], pulses


class Breaker(NamedTuple):
    """How a circuit's breaker stands; `left_ms` until it is due for a probe, or its lease ends.

    A circuit is a provider's model under one credential; `why` is the category of the failure.
    """

    state: Literal["closed", "open", "probing", "due"]
    left_ms: int = 0
    why: str = ""


def _breaker(reply: list[Reply]) -> Breaker:
    match [_text(reply[0]), *reply[1:]]:
        case [("closed" | "open" | "probing" | "due") as state, left, why]:
            return Breaker(state, int(left), _text(why))
        case _:
            raise StoreError(f"a breaker stands at {reply!r}")


class FailAsk(Ask, frozen=True, kw_only=True):
    """An upstream's failure at a message, of the category `why`; `chance`, 0 to 1, is for jitter.

    With `at_once_ms` it opens the breaker by itself; with `is_shared` no prompt can cause it, and
    messages of one account open the breaker of all. `answered` calls weigh against it
    that this worker has not reported yet, and `answered_own` of the same account.
    """

    circuit: str
    call: str
    account: str
    message: str
    why: str
    window_ms: int
    failures_min: int
    failures_share: float
    account_min: int
    cooling_ms: int
    cooling_max_ms: int
    chance: float
    is_shared: bool = False
    at_once_ms: int | None = None
    answered: int = 0
    answered_own: int = 0


class Failed(NamedTuple):
    """Which circuit a failure counted for, how its breaker stands, whether it was opened now."""

    circuit: str
    breaker: Breaker
    is_new: bool


async def fail(redis: Connection, root: str, ask: FailAsk) -> Failed:
    """Count a failure, which may open the breaker of all or of the message's account."""
    circuit, *breaker, is_new = await invoke(redis, "fail", root, ask)
    return Failed(_text(circuit), _breaker(breaker), bool(is_new))


class ThrottleAsk(Ask, frozen=True, kw_only=True):
    """A call that a circuit refused because it takes fewer.

    The worker had got `taken` calls through since `taken_ms` ago. `told_ms` is when the provider
    wants to be asked again, if it said so. `is_spent`: nothing was refused, an answer said that no
    calls are left until then. `is_false`: what answers said of that has proved false.
    """

    circuit: str
    taken: int
    taken_ms: int
    told_ms: int | None = None
    is_spent: bool = False
    is_false: bool = False


async def throttle(redis: Connection, root: str, ask: ThrottleAsk) -> int:
    """Slow the fleet's calls down; return in how many ms the next one may be made."""
    return int(await invoke(redis, "throttle", root, ask))


class ThrottledAsk(Ask, frozen=True, kw_only=True):
    """A call to a circuit that is throttled.

    `is_again`: its message was turned away before. `passes_over`: another model is tried instead of
    waiting, so that no time is to be kept for it.
    """

    circuit: str
    lane: Lane
    is_again: bool = False
    passes_over: bool = False


class Pass(NamedTuple):
    """Whether a call may be made: at once where `wait_ms` is None.

    `is_free` when the circuit is throttled no more.
    """

    wait_ms: int | None
    is_free: bool = False


async def throttled(redis: Connection, root: str, ask: ThrottledAsk) -> Pass:
    """Take a call's place at the learned rate, or learn in how many ms there is one."""
    wait = int(await invoke(redis, "throttled", root, ask))
    return Pass(wait) if wait >= 0 else Pass(None, is_free=wait == _FREE)


class ProbeAsk(Ask, frozen=True, kw_only=True):
    """Which call would try a circuit, and for how long before it must be heard of again."""

    circuit: str
    call: str
    account: str
    lease_ms: int


async def probe(redis: Connection, root: str, ask: ProbeAsk) -> Breaker | None:
    """Make a call the circuit's one probe, and return None; else how the breaker stands."""
    reply = await invoke(redis, "probe", root, ask)
    return None if reply[0] == b"granted" else _breaker(reply)


class EndProbeAsk(Ask, frozen=True, kw_only=True):
    """What a probe came to: the provider `is_well`, or nothing was learnt."""

    circuit: str
    call: str
    is_well: bool


def end_probe(redis: Connection, root: str, ask: EndProbeAsk) -> None:
    """Close the breaker, or let another probe; its lease would end it, too, but later."""
    tell(redis, "end_probe", root, ask)


class AdmitAsk(Ask, frozen=True, kw_only=True):
    """A call to a provider with limits, those that it has; rates as microseconds, for GCRA."""

    provider: str
    lane: Lane
    call: str
    lease_ms: int
    concurrency_max: int | None = None
    batch_max: int | None = None
    request_us: int | None = None
    request_burst_us: int | None = None
    tokens_us: int | None = None
    tokens_burst_us: int | None = None


async def admit(redis: Connection, root: str, ask: AdmitAsk) -> int | None:
    """Take room for a call, and return None; else in how many ms there may be some, 0: unknown."""
    word, *wait = await invoke(redis, "admit", root, ask)
    return None if word == b"admitted" else int(wait[0])


class DepartAsk(Ask, frozen=True, kw_only=True):
    """A call that is over; `more_us` is what it took beyond what was reserved, in tokens' time.

    `request_us` is the time of the request that one took that was not made.
    """

    provider: str
    lane: Lane
    call: str
    more_us: int | None = None
    request_us: int | None = None


def depart(redis: Connection, root: str, ask: DepartAsk) -> None:
    """Give a call's room back; its lease would end, too, but later."""
    tell(redis, "depart", root, ask)


class DeadAsk(Ask, frozen=True, kw_only=True):
    """Which dead letters: `count` of them behind the name `after`, died between two times.

    A name is `account:id`; `after_ms` is when that one died. Both times are still in.
    """

    count: int
    keep: Keep
    after_ms: int | None = None
    after: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None


class Buried(NamedTuple):
    """A dead letter in the list; `record` is empty when it has gone before its place there."""

    died_ms: int
    account: str
    id: str
    record: dict[str, bytes]


async def dead(redis: Connection, root: str, ask: DeadAsk) -> list[Buried]:
    """Return a page of the dead letters, newest first; fewer than asked for are all."""
    reply: list[list[Reply]] = await invoke(redis, "dead", root, ask)
    return [
        Buried(
            int(died),
            _text(account),
            _text(id_),
            dict(zip(map(_text, told[::2]), told[1::2], strict=True)),
        )
        for died, account, id_, *told in reply
    ]


class ReviveAsk(Ask, frozen=True, kw_only=True):
    """Which dead letter to ask again, under which new ids, if the account has room for it."""

    account: str
    id: str
    generation: str
    message: str
    unfinished_max: int
    waiting_max: int
    total_max: int
    stored_bytes_max: int


class Revived(NamedTuple):
    """The generation that answers a dead letter, made now or by an earlier retry."""

    generation: str


class NotRevived(NamedTuple):
    """Nothing was done; `balance` in microcredits where that was the reason."""

    reason: Literal[
        "unknown", "unreadable", "no_session", "crowded", "waiting", "full", "quota", "poor"
    ]
    balance: int = 0


async def revive(redis: Connection, root: str, ask: ReviveAsk) -> Revived | NotRevived:
    """Make a new generation of a dead letter, once; repeating is safe, also with other ids."""
    reply: list[Reply] = await invoke(redis, "revive", root, ask)
    match [_text(word) for word in reply]:
        case ["revived", generation]:
            return Revived(generation)
        case ["poor", balance]:
            return NotRevived("poor", int(balance))
        case [
            (
                "unknown" | "unreadable" | "no_session" | "crowded" | "waiting" | "full" | "quota"
            ) as reason
        ]:
            return NotRevived(reason)
        case _:
            raise StoreError(f"revive answered {reply!r}")


class DiscardAsk(Ask, frozen=True, kw_only=True):
    """Dead letters to forget, as (account, id), at most a hundred."""

    names: list[tuple[str, str]]


async def discard(redis: Connection, root: str, ask: DiscardAsk) -> list[bool]:
    """Forget dead letters; return of each whether it was there. A repetition finds none."""
    return [bool(gone) for gone in await invoke(redis, "discard", root, ask)]


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
