"""A generation as its caller sees it: accept, cancel, resume, expire, status."""

from typing import Literal, Self, cast

import msgspec

from shared import ids
from shared.errors import StoreError
from shared.lifecycle import Stage
from shared.redis import keys
from shared.redis.client import Connection, Reply
from shared.redis.functions.contract import Ask, KeepTimes, Rate, Rejected, text_of
from shared.redis.library import invoke
from shared.settings import Settings
from shared.wire.submission import Lane, OnConflict


class AcceptAsk(Ask, frozen=True, kw_only=True):
    """The arguments of `accept`; times are milliseconds, money microcredits.

    `stride` is the virtual time that a claim costs the account; half of it gives twice the share.
    `waiting_max` turns may wait in a session. `slots` are those of all live workers, 0 if unknown,
    and `rounds_max` is how often each can be used before the deadline. `sessions_max` and
    `stored_bytes_max` are quotas. `hold` excludes the session's history, whose price the function
    adds: `input_price` microcredits a token, for at most `history_max` tokens. `added` is the most
    that this turn adds to the history, `persona` the tokens of a session's companion; `least` is
    the least that an answer costs, for a caller's `budget`. `key` is the id of the API key.
    `origin` holds hashes of the request, which tell it from others later. `webhook` is the URL to
    which its end is reported. A generation without a
    `session` has none of the history.
    """

    account: str
    key: str
    generation: str
    session: str | None = None
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
    keep: KeepTimes | None = None
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
    webhook: str | None = None


class Accepted(msgspec.Struct, frozen=True):
    """The message is stored and queued: its turn, the time, and what it waits for.

    `ahead` generations of the account and lane wait before it, `running` run. `lane_accounts`
    counts the accounts that share the lane, itself included, in accounts of its weight (counted
    only where something is ahead). `is_behind_head`: an earlier turn of its session is not
    finished, and `session_turns_before` more wait between the two. That turn began `first_age_ms`
    ago (-1: it waits, too).
    """

    turn: int
    accepted_ms: int
    ahead: int
    lane_accounts: int
    session_turns_before: int
    running: int
    is_behind_head: bool
    first_age_ms: int
    unfinished: int
    rate: Rate


class Replayed(msgspec.Struct, frozen=True):
    """The same request was accepted before, with these ids."""

    generation: str
    session: str | None


async def accept(
    redis: Connection, root: str, ask: AcceptAsk, submission: bytes
) -> Accepted | Replayed | Rejected:
    """Store and queue one message, whole or not at all; safe to repeat with the same id."""
    reply: list[Reply] = await invoke(redis, "accept", root, ask, blob=submission)
    match [text_of(reply[0]), *reply[1:]]:
        case ["accepted", turn, accepted_ms, ahead, lane_accounts, session_turns_before, *rest]:
            running, is_behind_head, first_age, unfinished, rate = rest
            return Accepted(
                turn=turn,
                accepted_ms=accepted_ms,
                ahead=ahead,
                lane_accounts=lane_accounts,
                session_turns_before=session_turns_before,
                running=running,
                is_behind_head=is_behind_head == 1,
                first_age_ms=int(first_age),
                unfinished=unfinished,
                rate=Rate(*rate),
            )
        case ["replayed", generation, session]:
            return Replayed(text_of(generation), text_of(session) or None)
        case _:
            return _rejected(reply)


def _rejected(reply: list[Reply]) -> Rejected:
    match [text_of(reply[0]), *reply[1:]]:
        case ["poor", balance, hold, rate]:
            return Rejected("poor", text_of(balance), Rate(*rate), int(hold))
        case ["unpaid", least, rate]:
            return Rejected("unpaid", text_of(least), Rate(*rate))
        case ["quota", which, used, rate]:
            return Rejected("quota", text_of(which), Rate(*rate), used=int(used))
        case ["busy", generation]:
            return Rejected("busy", text_of(generation))
        case [("limited" | "crowded" | "waiting" | "late" | "full") as reason, rate]:
            return Rejected(reason, rate=Rate(*rate))
        case [("mismatch" | "no_session") as reason]:
            return Rejected(reason)
        case _:
            raise StoreError(f"accept answered {reply!r}")


class CancelAsk(Ask, frozen=True, kw_only=True):
    """Which generation to cancel; `channels` is the prefix of the workers' channels.

    `call` is the request's id: repeated with the same id, it gets the same answer. `is_abandoned`:
    no worker lives, so that a generation whose lease has expired is ended at once.
    """

    account: str
    id: str
    keep: KeepTimes
    channels: str
    call: str
    is_abandoned: bool = False

    @classmethod
    def of(
        cls, settings: Settings, account: str, generation: str, *, is_abandoned: bool = False
    ) -> Self:
        """Return the arguments for a generation under these settings, as a new request."""
        return cls(
            account=account,
            id=generation,
            keep=KeepTimes.of(settings.retention),
            channels=keys.worker_channels(settings.redis),
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
    """Cancel a generation; None where the account has none of that id."""
    reply: list[Reply] = await invoke(redis, "cancel", root, ask)
    match [text_of(reply[0]), *reply[1:]]:
        case ["unknown"]:
            return None
        case ["finished", stage]:
            return AlreadyEnded(msgspec.convert(text_of(stage), Stage))
        case ["pending"]:
            return Cancelled(None)
        case ["cancelled", refunded]:
            return Cancelled(int(refunded))
        case _:
            raise StoreError(f"cancel answered {reply!r}")


class ResumeAsk(Ask, frozen=True, kw_only=True):
    """Which suspended generation to continue."""

    account: str
    id: str


async def resume(
    redis: Connection, root: str, ask: ResumeAsk
) -> Literal["resumed", "not_suspended", "unknown"]:
    """End the wait of a suspended generation, for anybody and at any time.

    It is not suspended where the call is repeated, once its wait has ended by itself, or it has.
    """
    answer = text_of(await invoke(redis, "resume", root, ask))
    match answer:
        case "resumed" | "not_suspended" | "unknown":
            return answer
        case _:
            raise StoreError(f"resume answered {answer!r}")


class ExpireAsk(Ask, frozen=True, kw_only=True):
    """Which generation to end if its deadline has passed."""

    account: str
    id: str
    keep: KeepTimes


async def expire(redis: Connection, root: str, ask: ExpireAsk) -> bool:
    """End a generation whose deadline has passed. Return whether it has ended by now."""
    return text_of(await invoke(redis, "expire", root, ask)) == "ended"


class StatusAsk(Ask, frozen=True, kw_only=True):
    """Which generation to read."""

    account: str
    id: str


class StatusReply(msgspec.Struct, frozen=True):
    """A generation's record at `now_ms`; `body` is the text so far, or the final message.

    `unfinished` counts all of the account's generations, of which `running_max` may run (0:
    unknown); `rank` is its place among those of its lane. For one that waits, `lane_accounts`
    counts the accounts that share the lane, in accounts of its weight. `is_behind_head`: it waits
    for an earlier turn of its session, and `session_turns_before` more wait between the two. The
    first of what comes before it began `first_age_ms` ago (-1: it waits, too). A deferred one is
    tried again in `retry_in_ms`. `routed` is the event with this attempt's choice of a model.
    """

    now_ms: int
    unfinished: int
    rank: int
    running: int
    running_max: int
    lane_accounts: int
    session_turns_before: int
    is_behind_head: bool
    first_age_ms: int
    retry_in_ms: int
    body: bytes | None
    user_message: bytes | None
    routed: bytes | None
    record: dict[str, str]


async def status(redis: Connection, root: str, ask: StatusAsk) -> StatusReply | None:
    """Return everything that a poll may show of a generation, or None."""
    reply: list[Reply] = await invoke(redis, "status", root, ask, effect="none")
    if not reply:
        return None
    now, unfinished, rank, running, running_max, lane_accounts, session_turns_before, *rest = reply
    is_behind_head, first_age, retry_in, body, user, routed, *flat = rest
    words = list(map(bytes.decode, cast("list[bytes]", flat)))
    return StatusReply(
        now_ms=now,
        unfinished=unfinished,
        rank=rank,
        running=running,
        running_max=running_max,
        lane_accounts=lane_accounts,
        session_turns_before=session_turns_before,
        is_behind_head=is_behind_head == 1,
        first_age_ms=first_age,
        retry_in_ms=retry_in,
        body=body,
        user_message=user,
        routed=routed,
        record=dict(zip(words[::2], words[1::2], strict=True)),
    )
