"""From the reason that Redis gives for a rejection to an error: sentence, code, Retry-After.

Owns one sentence for each reason of `accept`, and the checks that reject before Redis is called.
"""

from typing import Final

from api.accept import load_shedding
from api.accept.load_shedding import LoadMonitor
from api.guards import rate_limits
from api.guards.identify import Caller
from api.guards.rate_limits import RateLimits
from api.polling.eta import ModelDurations
from shared.errors import Code, RefusedError, RequestError, StoreError
from shared.redis.functions import AcceptAsk, CreateSessionAsk, Rate, Rejected
from shared.stores.partition_load import has_memory
from shared.tiers import LimitSettings
from shared.wire.account import MICROCREDITS_PER_CREDIT

_MEGABYTE: Final = 1_000_000
_QUEUE_FULL_SENTENCE: Final = "There is no room for more at the moment."


class Rejections:
    """Rejections whose `Retry-After` is computed from the current load."""

    def __init__(
        self,
        limits: LimitSettings,
        load_monitor: LoadMonitor,
        model_durations: ModelDurations,
        rate_limits: RateLimits,
    ) -> None:
        self._limits = limits
        self._load_monitor = load_monitor
        self._model_durations = model_durations
        self._rate_limits = rate_limits

    async def error(
        self, root: str, ask: AcceptAsk, refused: Rejected
    ) -> RequestError | RefusedError:
        """Return the error for a rejection by `accept`."""
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
                    f"The field `max_credits` is {given}, but an answer to this conversation costs "
                    f"at least {least}: it is sent whole.",
                    Code.INVALID_FIELDS,
                )
            case "poor":
                needed, available = _credits(refused.hold), _credits(int(refused.about))
                return RefusedError(
                    f"The answer may cost {needed} credits; {available} are available.",
                    Code.INSUFFICIENT_CREDITS,
                    headers=rate_limits.rate_headers(refused.rate),
                )
            case _:
                return await self._retryable_rejection(root, ask, refused)

    async def check_memory(self, caller: Caller) -> None:
        """Reject a write while the server's memory is as full as `accept` lets it become."""
        now = (await self._load_monitor.loads())[caller.root]
        if not has_memory(now, self._limits, "interactive", caller.account.tier):
            seconds = load_shedding.seconds_until_room(now, self._load_monitor.rate(caller.root))
            raise RefusedError(_QUEUE_FULL_SENTENCE, Code.QUEUE_FULL, retry_after_seconds=seconds)

    async def check_batch_memory(self, caller: Caller, bytes_more: int = 0) -> None:
        """Reject a batch while the server's memory is as full as batches may make it.

        `bytes_more` is what the batch takes at least.
        """
        now, tier = (await self._load_monitor.loads())[caller.root], caller.account.tier
        if has_memory(now, self._limits, "batch", tier, bytes_more):
            return
        seconds = load_shedding.seconds_until_room(now, self._load_monitor.rate(caller.root))
        raise RefusedError(
            "There is no room for this batch at the moment.",
            Code.QUEUE_FULL,
            retry_after_seconds=seconds,
        )

    def rate_limited(self, account: str, rate: Rate | None) -> RefusedError:
        """Return the rejection of a submission beyond the account's limit, and note it."""
        if rate is None:
            raise StoreError("a refusal by the submission limit came without its figures")
        self._rate_limits.note_limited(account, rate)
        return RefusedError(
            f"More than {rate.limit} messages, sessions and keys a minute.",
            Code.RATE_LIMITED,
            retry_after_seconds=max(1, -(-rate.retry_ms // 1000)),
            headers=rate_limits.rate_headers(rate),
        )

    async def _retryable_rejection(
        self, root: str, ask: AcceptAsk, refused: Rejected
    ) -> RefusedError:
        """Return a rejection with the time after which to retry."""
        match refused.reason:
            case "limited":
                return self.rate_limited(ask.account, refused.rate)
            case "crowded":
                return await self._too_many_unfinished(root, ask, refused.rate)
            case "waiting":
                return await self._too_many_waiting(root, ask, refused.rate)
            case _:
                return await self._queue_full(root, ask, refused)

    async def _queue_full(self, root: str, ask: AcceptAsk, refused: Rejected) -> RefusedError:
        """Return the rejection for a full deployment, or for a deadline that is too near."""
        sentence = _QUEUE_FULL_SENTENCE
        if refused.reason == "late":
            sentence = f"It could not be answered within {ask.deadline_ms / 1000:g} s."
        now, rate = (await self._load_monitor.loads())[root], self._load_monitor.rate(root)
        seconds = load_shedding.seconds_until_room(now, rate)
        headers = rate_limits.rate_headers(refused.rate)
        return RefusedError(sentence, Code.QUEUE_FULL, retry_after_seconds=seconds, headers=headers)

    async def _too_many_unfinished(
        self, root: str, ask: AcceptAsk, rate: Rate | None
    ) -> RefusedError:
        """Return the rejection of one unfinished generation too many.

        The account's generations end at its share of the partition's completion rate.
        """
        allowed_max = ask.unfinished_max
        share = allowed_max / max(allowed_max, (await self._load_monitor.loads())[root].unfinished)
        seconds = load_shedding.seconds_until_ended(1, self._load_monitor.rate(root) * share)
        sentence = f"The account has {allowed_max} unfinished generations, as many as it may."
        return _concurrency_rejection(sentence, allowed_max, seconds, rate)

    async def _too_many_waiting(self, root: str, ask: AcceptAsk, rate: Rate | None) -> RefusedError:
        """Return the rejection of one waiting message too many: a session answers one at a time."""
        allowed_max = ask.waiting_max
        known = await self._model_durations.durations(root, ask.model)
        seconds = load_shedding.seconds_until_ended(known.typical_seconds, 1.0)
        sentence = f"The session has {allowed_max} waiting messages, as many as it may."
        return _concurrency_rejection(sentence, allowed_max, seconds, rate)


def quota_exceeded(ask: AcceptAsk | CreateSessionAsk, refused: Rejected) -> RefusedError:
    """Return the rejection of more than the account may store."""
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
        headers=rate_limits.rate_headers(refused.rate),
        details={"quota": refused.about, "used": refused.used, "limit": limit},
    )


def idempotency_mismatch() -> RequestError:
    """Return the refusal of an Idempotency-Key that was used for another request."""
    return RequestError(
        "This Idempotency-Key was used for another request.", Code.IDEMPOTENCY_MISMATCH
    )


def _credits(microcredits: int) -> str:
    """Return credits with all of their significant digits."""
    return f"{microcredits / MICROCREDITS_PER_CREDIT:.6f}".rstrip("0").rstrip(".")


def _concurrency_rejection(
    sentence: str, allowed_max: int, seconds: int, rate: Rate | None
) -> RefusedError:
    """Return a rejection that waits for others to end, and for the submission limit too."""
    if rate is not None:
        seconds = max(seconds, -(-rate.retry_ms // 1000))
    return RefusedError(
        sentence,
        Code.RATE_LIMITED,
        retry_after_seconds=seconds,
        headers=rate_limits.headers(allowed_max, seconds),
    )
