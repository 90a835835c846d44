"""What a message that was not taken in comes to: the sentence, the code, and when to come again.

Owns the translation of each reason that the accepting call may give. Pure but for what the moment's
pressure says of patience.
"""

from typing import Final

from api.accept import load_shedding
from api.guards import rate_limits
from api.guards.identify import Caller
from api.state import State
from shared.errors import Code, RefusedError, RequestError, StoreError
from shared.redis.functions import AcceptAsk, CreateSessionAsk, Rate, Rejected
from shared.stores.partition_load import has_memory
from shared.wire.account import MICROCREDITS_PER_CREDIT

_MEGABYTE: Final = 1_000_000
_QUEUE_FULL_SENTENCE: Final = "There is no room for more at the moment."


async def error(
    state: State, root: str, ask: AcceptAsk, refused: Rejected
) -> RequestError | RefusedError:
    """Return what a refusal of `accept` comes to."""
    match refused.reason:
        case "mismatch":
            return idempotency_mismatch()
        case "no_session":
            return RequestError("There is no such session.", Code.SESSION_NOT_FOUND)
        case "quota":
            return quota_exceeded(ask, refused)
        case "busy":
            return RefusedError(
                "The session is answering another message.",
                Code.SESSION_BUSY,
                details={"generation_id": refused.about},
            )
        case "unpaid":
            least, given = _credits(int(refused.about)), _credits(ask.budget or 0)
            return RequestError(
                f"The field `max_credits` is {given}, but an answer to this conversation costs at "
                f"least {least}: it is sent whole.",
                Code.INVALID_FIELDS,
            )
        case "poor":
            needed, available = _credits(refused.hold), _credits(int(refused.about))
            return RefusedError(
                f"The answer may cost {needed} credits; {available} are available.",
                Code.INSUFFICIENT_CREDITS,
                headers=rate_headers(refused.rate),
            )
        case _:
            return await _retryable_rejection(state, root, ask, refused)


def quota_exceeded(ask: AcceptAsk | CreateSessionAsk, refused: Rejected) -> RefusedError:
    """Return the refusal of what would be more than the account may store; deleting makes room."""
    limit = ask.sessions_max if refused.about == "sessions" else ask.stored_bytes_max
    if refused.about == "sessions":
        sentence = f"The account has {refused.used:,} sessions; {limit:,} are allowed."
    else:
        sentence = (
            f"The account's sessions hold {refused.used / _MEGABYTE:,.1f} MB; with this they would "
            f"hold more than the {limit / _MEGABYTE:,.1f} MB that are allowed."
        )
    return RefusedError(
        f"{sentence} Deleting sessions makes room.",
        Code.QUOTA_EXCEEDED,
        headers=rate_headers(refused.rate),
        details={"quota": refused.about, "used": refused.used, "limit": limit},
    )


async def check_memory(state: State, caller: Caller) -> None:
    """Refuse to store anything more while the server is as full as `accept` lets it become."""
    now = await state.load_monitor.of(caller.root)
    if not has_memory(now, state.settings.limits, "interactive", caller.account.tier):
        seconds = load_shedding.seconds_until_room(now, state.load_monitor.rate(caller.root))
        raise RefusedError(_QUEUE_FULL_SENTENCE, Code.QUEUE_FULL, retry_after_seconds=seconds)


def idempotency_mismatch() -> RequestError:
    """Return the refusal of a key that stands for another request."""
    return RequestError(
        "This Idempotency-Key was used for another request.", Code.IDEMPOTENCY_MISMATCH
    )


def _credits(microcredits: int) -> str:
    """Return credits with every digit that counts."""
    return f"{microcredits / MICROCREDITS_PER_CREDIT:.6f}".rstrip("0").rstrip(".")


async def _retryable_rejection(
    state: State, root: str, ask: AcceptAsk, refused: Rejected
) -> RefusedError:
    """Return a refusal that says when to come again; the account's own limits are no fault here."""
    match refused.reason:
        case "limited":
            return rate_limited(state, ask.account, refused.rate)
        case "crowded":
            return await _too_many_unfinished(state, root, ask, refused.rate)
        case "waiting":
            return await _too_many_waiting(state, root, ask, refused.rate)
        case _:
            return await _queue_full(state, root, ask, refused)


async def _queue_full(state: State, root: str, ask: AcceptAsk, refused: Rejected) -> RefusedError:
    """Return the refusal for which the deployment is to blame, or a deadline that is too near."""
    sentence = _QUEUE_FULL_SENTENCE
    if refused.reason == "late":
        sentence = f"It could not be answered within {ask.deadline_ms / 1000:g} s."
    now, rate = await state.load_monitor.of(root), state.load_monitor.rate(root)
    seconds = load_shedding.seconds_until_room(now, rate)
    headers = rate_headers(refused.rate)
    return RefusedError(sentence, Code.QUEUE_FULL, retry_after_seconds=seconds, headers=headers)


async def _too_many_unfinished(
    state: State, root: str, ask: AcceptAsk, rate: Rate | None
) -> RefusedError:
    """Return the refusal of one unfinished generation too many.

    The account's work ends at its share of the rate at which the partition's was seen to end.
    """
    allowed_max = ask.unfinished_max
    share = allowed_max / max(allowed_max, (await state.load_monitor.of(root)).unfinished)
    seconds = load_shedding.seconds_until_ended(1, state.load_monitor.rate(root) * share)
    sentence = f"The account has {allowed_max} unfinished generations, as many as it may."
    return _concurrency_rejection(sentence, allowed_max, seconds, rate)


async def _too_many_waiting(
    state: State, root: str, ask: AcceptAsk, rate: Rate | None
) -> RefusedError:
    """Return the refusal of one waiting message too many: a session answers one at a time."""
    allowed_max = ask.waiting_max
    known = await state.model_durations.durations(root, ask.model)
    seconds = load_shedding.seconds_until_ended(known.typical_seconds, 1.0)
    sentence = f"The session has {allowed_max} waiting messages, as many as it may."
    return _concurrency_rejection(sentence, allowed_max, seconds, rate)


def _concurrency_rejection(
    sentence: str, allowed_max: int, seconds: int, rate: Rate | None
) -> RefusedError:
    """Return the refusal of what waits for others to end; the submission limit holds as well."""
    if rate is not None:
        seconds = max(seconds, -(-rate.retry_ms // 1000))
    return RefusedError(
        sentence,
        Code.RATE_LIMITED,
        retry_after_seconds=seconds,
        headers=rate_limits.headers(allowed_max, seconds),
    )


def rate_limited(state: State, account: str, rate: Rate | None) -> RefusedError:
    """Return the refusal of what is beyond the account's submission limit, and note it."""
    if rate is None:
        raise StoreError("a refusal by the submission limit came without its figures")
    state.rate_limits.note_limited(account, rate)
    return RefusedError(
        f"More than {rate.limit} messages, sessions and keys a minute.",
        Code.RATE_LIMITED,
        retry_after_seconds=max(1, -(-rate.retry_ms // 1000)),
        headers=rate_headers(rate),
    )


def rate_headers(rate: Rate | None) -> dict[str, str]:
    """Return the headers that tell where an account stands against its submission limit."""
    if rate is None:
        return {}
    return {
        "ratelimit-limit": str(rate.limit),
        "ratelimit-remaining": str(rate.remaining),
        "ratelimit-reset": str(-(-rate.reset_ms // 1000)),
    }
