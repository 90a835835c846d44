"""Requests a minute by account, counted in this process.

Owns the sizes of each tier's buckets and what each kind of request takes from them. Accepted
submissions are limited exactly, for all processes, by the Redis function that stores them; here
only those that are refused or repeated are limited, before their bodies are read.

DESIGN
- Reads: one bucket. Its size follows the tier, plus the generations that are unfinished or ended
  within the last minute.
- Polls are reads. When the reads are used up, a poll still passes if the last poll of that
  generation was at least its hint ago. Polls are recorded only while the reads are used up; a
  generation without a record passes a limited number of times a minute.
- Cancels and deletions have a bucket of their own, and take a read when it is empty.
- A submission takes a token before its body is read, and gives it back when it is accepted. When
  Redis rejects one by the submission limit, all others are refused here until that limit allows
  them; except those with an Idempotency-Key or Last-Event-ID, which may be repeats.
- Repeated submissions have a bucket of their own. When it is empty, Redis is asked whether a key
  was used before.
"""

import math
from collections import OrderedDict
from typing import Final, Literal, NamedTuple

from api.guards.token_buckets import RecentGenerations, TokenBucket
from shared import ids
from shared.clock import Clock
from shared.errors import Code, RefusedError, RequestError
from shared.redis.functions import Rate
from shared.settings import Settings
from shared.tiers import TierName
from shared.wire.account import Account

RequestKind = Literal["read", "poll", "cancel", "submission"]

READS_PER_SUBMISSION: Final = 10
_REFUSED_PER_SUBMISSION: Final = 2
_REFUSED_MIN: Final = 60
_ACCOUNTS_MAX: Final = 10_000
# Generations of an account whose polls are recorded while its reads are used up.
_NOTED_POLLS_MAX: Final = 4_096
# A poll may be this early: clocks and networks are not exact.
_EARLY_SECONDS: Final = 0.1
_HINT_SECONDS_MIN: Final = 1.0


class Allowance(NamedTuple):
    """What an account of a tier may do: requests a minute, and `waits` open at once."""

    submissions: int
    reads: int
    cancels: int
    refused: int
    waits: int

    @classmethod
    def of(cls, settings: Settings, name: TierName) -> "Allowance":
        """Return what the settings give a tier; what they leave out follows from the rest."""
        tier, api = settings.limits.of(name), settings.api
        submissions = tier.submissions_per_minute
        reads = max(api.reads_per_minute, READS_PER_SUBMISSION * submissions)
        refused = max(_REFUSED_MIN, _REFUSED_PER_SUBMISSION * submissions)
        waits = max(api.waits_per_account, tier.running_max)
        return cls(
            submissions=submissions,
            reads=_configured_or(tier.reads_per_minute, reads),
            cancels=_configured_or(tier.cancels_per_minute, reads),
            refused=_configured_or(tier.refused_per_minute, refused),
            waits=_configured_or(tier.waits_max, waits),
        )


def _configured_or(configured: int | None, derived: int) -> int:
    return derived if configured is None else configured


def allowances(settings: Settings) -> dict[TierName, Allowance]:
    """Return the allowance of every tier."""
    names: tuple[TierName, ...] = ("free", "pro", "enterprise")
    return {name: Allowance.of(settings, name) for name in names}


class RateLimits:
    """What each account has used up."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._allowances = allowances(settings)
        self._per_unfinished = settings.api.reads_per_unfinished
        self._clock = clock
        self._accounts: OrderedDict[str, _AccountBuckets] = OrderedDict()

    def note_unfinished(self, account: str, count: int, *, is_new: bool = False) -> None:
        """Note how many unfinished generations an account has; `is_new` if one was accepted."""
        now = self._clock.monotonic()
        self._of(account, now).recent.note(count, now, is_new=is_new)

    def take_read(self, account: Account) -> None:
        """Take one read. Raises RefusedError (RATE_LIMITED) when there is none left."""
        now = self._clock.monotonic()
        account_buckets = self._of(account.id, now)
        size = self._read_size(account, account_buckets, now)
        wait = account_buckets.reads.wait_seconds(size, now)
        if wait:
            raise _refusal("reads", size, wait, account_buckets.reads.reset_seconds)
        account_buckets.reads.take()

    def take_further_read(self, account: Account) -> float:
        """Take another read for a request that has passed already; return 0.

        With none left, nothing is taken: return in how many seconds there will be one.
        """
        now = self._clock.monotonic()
        account_buckets = self._of(account.id, now)
        wait = account_buckets.reads.wait_seconds(
            self._read_size(account, account_buckets, now), now
        )
        if not wait:
            account_buckets.reads.take()
        return wait

    def take_poll(self, account: Account, generation: str) -> None:
        """Take one read, or none if the hint allows this poll. Raises as `take_read`."""
        now = self._clock.monotonic()
        account_buckets = self._of(account.id, now)
        size = self._read_size(account, account_buckets, now)
        wait = account_buckets.reads.wait_seconds(size, now)
        if not wait:
            account_buckets.reads.take()
            return
        if ids.is_id(generation):
            first_polls_max = 2 * self._allowances[account.tier].submissions
            wait = min(wait, account_buckets.wait_by_hint(generation, first_polls_max, now))
        if wait:
            raise _refusal("reads", size, wait, account_buckets.reads.reset_seconds)

    def note_hint(self, account: str, generation: str, seconds: int) -> None:
        """Record the hint that a poll was answered with, if the reads are used up."""
        account_buckets = self._accounts.get(account)
        if account_buckets is not None and generation in account_buckets.poll_due_at:
            account_buckets.poll_due_at[generation] = self._clock.monotonic() + seconds

    def take_cancel(self, account: Account) -> None:
        """Take one cancel, or else one read. Raises RefusedError (RATE_LIMITED) without either."""
        now = self._clock.monotonic()
        account_buckets = self._of(account.id, now)
        extra = self._per_unfinished * account_buckets.recent.count(now)
        size = self._allowances[account.tier].cancels + extra
        wait = account_buckets.cancels.wait_seconds(size, now)
        if not wait:
            account_buckets.cancels.take()
            return
        by_reads = account_buckets.reads.wait_seconds(
            self._read_size(account, account_buckets, now), now
        )
        if by_reads:
            reset = account_buckets.cancels.reset_seconds
            raise _refusal("cancels and deletions", size, min(wait, by_reads), reset)
        account_buckets.reads.take()

    def begin_submission(self, account: Account, *, may_repeat: bool) -> "SubmissionAttempt":
        """Begin a submission before its body is read; `may_repeat`: it may repeat an earlier one.

        Raises RefusedError (RATE_LIMITED).
        """
        now = self._clock.monotonic()
        account_buckets = self._of(account.id, now)
        allowance = self._allowances[account.tier]
        size = allowance.refused
        # The limit is still the one by which Redis rejected, so it would reject again.
        is_limited = (
            account_buckets.limited_until > now
            and account_buckets.limited_to == allowance.submissions
        )
        if is_limited and not may_repeat:
            raise account_buckets.rate_limited_error(now)
        wait = account_buckets.refused.wait_seconds(size, now)
        if wait:
            wait = max(wait, account_buckets.limited_until - now)
            reset = account_buckets.refused.reset_seconds
            raise _refusal("submissions that are refused", size, wait, reset)
        account_buckets.refused.take()
        return SubmissionAttempt(account_buckets, size)

    def replays_refusal(self, account: Account) -> RefusedError | None:
        """Return the refusal of a repeated submission, if there are no replays left."""
        now = self._clock.monotonic()
        account_buckets = self._of(account.id, now)
        size = self._allowances[account.tier].refused
        wait = account_buckets.replays.wait_seconds(size, now)
        if not wait:
            return None
        return _refusal("repeated submissions", size, wait, account_buckets.replays.reset_seconds)

    def note_limited(self, account: str, rate: Rate) -> None:
        """Note until when Redis accepts no further submission of the account."""
        now = self._clock.monotonic()
        account_buckets = self._of(account, now)
        account_buckets.limited_until = now + rate.retry_ms / 1000
        account_buckets.limited_reset = now + rate.reset_ms / 1000
        account_buckets.limited_to = rate.limit

    def _read_size(self, account: Account, account_buckets: "_AccountBuckets", now: float) -> int:
        extra = self._per_unfinished * account_buckets.recent.count(now)
        return self._allowances[account.tier].reads + extra

    def _of(self, account: str, now: float) -> "_AccountBuckets":
        account_buckets = self._accounts.get(account)
        if account_buckets is None:
            account_buckets = self._accounts[account] = _AccountBuckets(now)
            if len(self._accounts) > _ACCOUNTS_MAX:
                self._accounts.popitem(last=False)
        else:
            self._accounts.move_to_end(account)
        return account_buckets


class _AccountBuckets:
    """What one account has used."""

    __slots__ = (
        "cancels", "first_polls", "limited_reset", "limited_to", "limited_until", "poll_due_at",
        "reads", "recent", "refused", "replays",
    )  # fmt: skip

    def __init__(self, now: float) -> None:
        self.recent = RecentGenerations(now)
        self.reads = TokenBucket(now)
        self.cancels = TokenBucket(now)
        self.refused = TokenBucket(now)
        self.replays = TokenBucket(now)
        self.first_polls = TokenBucket(now)
        # By generation: when its hint allows the next poll.
        self.poll_due_at: OrderedDict[str, float] = OrderedDict()
        self.limited_until = self.limited_reset = now
        self.limited_to = 0

    def wait_by_hint(self, generation: str, first_polls_max: int, now: float) -> float:
        """Return in how many seconds the hint allows a poll; if 0, record that poll."""
        due = self.poll_due_at.get(generation)
        if due is None:
            wait = self.first_polls.wait_seconds(first_polls_max, now)
            if wait:
                return wait
            self.first_polls.take()
        elif due - _EARLY_SECONDS > now:
            return due - now
        self.poll_due_at[generation] = now + _HINT_SECONDS_MIN
        self.poll_due_at.move_to_end(generation)
        if len(self.poll_due_at) > _NOTED_POLLS_MAX:
            self.poll_due_at.popitem(last=False)
        return 0.0

    def rate_limited_error(self, now: float) -> RefusedError:
        """Return the refusal of a submission that Redis would reject."""
        return RefusedError(
            f"More than {self.limited_to} messages, sessions and keys a minute.",
            Code.RATE_LIMITED,
            retry_after_seconds=math.ceil(self.limited_until - now),
            headers=headers(self.limited_to, self.limited_reset - now),
        )


class SubmissionAttempt:
    """A submission under way; unless it is refused, its token is given back."""

    __slots__ = ("_account_buckets", "_is_decided", "_refused_size")

    def __init__(self, account_buckets: _AccountBuckets, refused_size: int) -> None:
        self._account_buckets = account_buckets
        self._refused_size = refused_size
        self._is_decided = False

    def give_back(self) -> None:
        """Give the token back: the submission was not refused."""
        if not self._is_decided:
            self._is_decided = True
            self._account_buckets.refused.give_back()

    def note_replayed(self) -> None:
        """Count the submission as a repeated one."""
        self.give_back()
        self._account_buckets.replays.take()

    def note_refused(self, error: RequestError | RefusedError, now: float) -> None:
        """Keep the token of a refused submission; its Retry-After covers this limit too."""
        if self._is_decided:
            return
        self._is_decided = True
        if isinstance(error, RefusedError) and error.retry_after_seconds is not None:
            wait = math.ceil(self._account_buckets.refused.wait_seconds(self._refused_size, now))
            error.retry_after_seconds = max(error.retry_after_seconds, wait)


def rate_headers(rate: Rate | None) -> dict[str, str]:
    """Return the headers with an account's use of its submission limit; none if not counted."""
    if rate is None:
        return {}
    return {
        "ratelimit-limit": str(rate.limit),
        "ratelimit-remaining": str(rate.remaining),
        "ratelimit-reset": str(-(-rate.reset_ms // 1000)),
    }


def headers(limit: int, reset_seconds: float) -> dict[str, str]:
    """Return the headers of a refusal by a limit: the limit, and when it is unused again."""
    return {
        "ratelimit-limit": str(limit),
        "ratelimit-remaining": "0",
        "ratelimit-reset": str(math.ceil(reset_seconds)),
    }


def _refusal(what: str, size: int, wait: float, reset: float) -> RefusedError:
    seconds = math.ceil(wait)
    return RefusedError(
        f"More than {size} {what} a minute; wait {seconds} s.",
        Code.RATE_LIMITED,
        retry_after_seconds=seconds,
        headers=headers(size, max(reset, wait)),
    )
