"""Every error of Pollux, as one tree.

    PolluxError
    +-- RequestError            the caller's doing; `field` names what to mend
    +-- RefusedError            right request, wrong moment: limits, credits, a busy session
    |   +-- FailedError         what the caller waited for has ended without an answer
    +-- UnavailableError        our doing, for now: Redis away, not ready, too slow
    |   +-- NotReplicatedError  no replica confirmed in time (in shared/redis/replicated.py)
    +-- ProviderError           an upstream's doing, as told by the table of its adapter
    |   +-- BarredError         our own gate spares an upstream the call: it cools, or is busy
    +-- EgressError             a URL that was named to us: it leads nowhere, or must not be called
    +-- ConfigurationError      the operator's doing: settings, catalogue, environment
    +-- StoreError              a reply of Redis that our code does not expect: a fault in Pollux
        +-- WrongTypeError      somebody else wrote a key of ours: an operator mends it

A class states who is to blame and whether trying again helps; the instance carries the public code
of the contract. Which status line that makes is the front's knowledge, which failure of an upstream
maps to which error the adapter's; neither stands here.
"""

from enum import Enum
from typing import Final, Literal, NamedTuple, get_args

import msgspec

Retry = Literal["never", "soon", "backoff"]
Blame = Literal["caller", "provider", "us", "operator"]


class Code(Enum):
    """The public codes of the contract; the names are what callers read."""

    INVALID_API_KEY = "INVALID_API_KEY"
    FORBIDDEN = "FORBIDDEN"
    MISSING_FIELDS = "MISSING_FIELDS"
    INVALID_FIELDS = "INVALID_FIELDS"
    FEATURE_UNAVAILABLE = "FEATURE_UNAVAILABLE"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    WRONG_MODEL_TYPE = "WRONG_MODEL_TYPE"
    NO_SUITABLE_MODEL = "NO_SUITABLE_MODEL"
    CONTEXT_TOO_LONG = "CONTEXT_TOO_LONG"
    INSUFFICIENT_CREDITS = "INSUFFICIENT_CREDITS"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    SESSION_NOT_FOUND = "SESSION_NOT_FOUND"
    GENERATION_NOT_FOUND = "GENERATION_NOT_FOUND"
    COMPANION_NOT_FOUND = "COMPANION_NOT_FOUND"
    NOT_FOUND = "NOT_FOUND"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    REQUEST_TIMEOUT = "REQUEST_TIMEOUT"
    ALREADY_FINISHED = "ALREADY_FINISHED"
    SESSION_BUSY = "SESSION_BUSY"
    PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE"
    UNSUPPORTED_MEDIA_TYPE = "UNSUPPORTED_MEDIA_TYPE"
    IDEMPOTENCY_MISMATCH = "IDEMPOTENCY_MISMATCH"
    RATE_LIMITED = "RATE_LIMITED"
    HEADERS_TOO_LARGE = "HEADERS_TOO_LARGE"
    GENERATION_ERROR = "GENERATION_ERROR"
    QUEUE_FULL = "QUEUE_FULL"
    BRAIN_UNAVAILABLE = "BRAIN_UNAVAILABLE"
    UNAVAILABLE = "UNAVAILABLE"


class PolluxError(Exception):
    """The root: a sentence for a person, a code for a program."""

    retry: Retry = "never"
    blame: Blame = "us"

    def __init__(self, message: str, code: Code = Code.GENERATION_ERROR) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class RequestError(PolluxError):
    """The request cannot be served as it stands; repeating it changes nothing."""

    blame: Blame = "caller"

    def __init__(
        self, message: str, code: Code, *, details: dict[str, object] | None = None
    ) -> None:
        super().__init__(message, code)
        self.details = details or {}


class RefusedError(PolluxError):
    """The request is right and may be repeated; `retry_after_seconds` says when, if known."""

    retry: Retry = "backoff"
    blame: Blame = "caller"

    def __init__(
        self,
        message: str,
        code: Code,
        *,
        retry_after_seconds: int | None = None,
        headers: dict[str, str] | None = None,
        details: dict[str, object] | None = None,
    ) -> None:
        super().__init__(message, code)
        self.retry_after_seconds = retry_after_seconds
        self.headers = headers or {}
        self.details = details or {}


class UnavailableError(PolluxError):
    """Not now, and nothing was done or nobody can know whether it was: repeat with the same key.

    `retry_after_seconds` follows from how long that has lasted, where it was measured.
    """

    retry: Retry = "backoff"

    def __init__(self, message: str, *, retry_after_seconds: int | None = None) -> None:
        super().__init__(message, Code.UNAVAILABLE)
        self.retry_after_seconds = retry_after_seconds


class NotNowError(UnavailableError):
    """Redis answered that it cannot do this now; what it only reads, it may still answer."""


Category = Literal[
    "content_policy",
    "auth",
    "rate_limit",
    "overloaded",
    "timeout",
    "invalid_request",
    "provider_error",
    "cancelled",
    "expired",
    "internal",
]
# Failures that are an operator's to look into: nothing that the caller asked for or did.
DEAD_CATEGORIES: Final[frozenset[Category]] = frozenset(get_args(Category)) - {
    "content_policy",
    "invalid_request",
    "cancelled",
    "expired",
}


class Failure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a generation failed, as callers see it and as it is stored.

    `message` is a sentence; `code` names the exact fault; `provider` is the upstream's catalogue
    name.
    """

    message: str
    category: Category
    code: str
    retryable: bool = False
    severity: Literal["error", "fatal"] = "error"
    provider: str | None = None


# The failures that need no provider, and that Redis itself may have to report.
EXPIRED: Final = Failure(
    message="The deadline passed before the answer was complete.",
    category="expired",
    code="DEADLINE_EXCEEDED",
    retryable=True,
)
CRASHED: Final = Failure(
    message="Every worker that tried this generation died, so it was given up.",
    category="internal",
    code="CRASHED",
    severity="fatal",
)
DAMAGED: Final = Failure(
    message="What is stored of this generation was damaged, so it cannot be answered.",
    category="internal",
    code="DAMAGED",
    severity="fatal",
)
CANCELLED: Final = Failure(
    message="The generation was cancelled.", category="cancelled", code="CANCELLED"
)


class FailedError(RefusedError):
    """The generation that a caller waited for has no answer; `failure` says why."""

    def __init__(
        self,
        failure: Failure,
        *,
        retry_after_seconds: int | None = None,
        headers: dict[str, str] | None = None,
        details: dict[str, object] | None = None,
    ) -> None:
        super().__init__(
            failure.message,
            Code.GENERATION_ERROR,
            retry_after_seconds=retry_after_seconds,
            headers=headers,
            details=details,
        )
        self.failure = failure


class ProviderError(PolluxError):
    """An upstream failed; `failure` is what the caller will read if nothing else can be tried.

    `has_begun`: the upstream had taken the call on and begun an answer.
    """

    blame: Blame = "provider"

    def __init__(
        self, failure: Failure, *, retry: Retry = "never", retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.retry = retry
        self.retry_after_seconds = retry_after_seconds
        self.has_begun = False


BlockReason = Literal["cooling", "probing", "busy", "throttled", "slowed"]


class CallBlockedError(ProviderError):
    """A call that was not made: the gate to its upstream is shut for so long, as well as is known.

    `why`: cooling after failures; probing, by somebody else's call; busy, with no room for more;
    throttled, since the provider refused calls and takes one at a time; slowed, since it failed at
    the account's own messages.
    """

    def __init__(self, failure: Failure, why: BlockReason, retry_after_seconds: float) -> None:
        super().__init__(failure, retry="backoff", retry_after_seconds=retry_after_seconds)
        self.why = why
        self.wait_seconds = retry_after_seconds


EgressKind = Literal["forbidden", "unreachable", "too_large", "encoded"]


class EgressError(PolluxError):
    """A URL that was named to us brought nothing; the sentence tells nothing of where it led."""

    blame: Blame = "caller"

    def __init__(self, message: str, kind: EgressKind, *, retry: Retry = "never") -> None:
        super().__init__(message)
        self.kind = kind
        self.retry = retry


class ConfigurationError(PolluxError):
    """Settings or environment cannot be used; `faults` lists every fault, each with its path."""

    blame: Blame = "operator"

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


class StoreError(PolluxError):
    """Redis answered what our own code never expects; always worth a report."""


class WrongKey(NamedTuple):
    """A key that holds another type than it should: not by our doing, and not ours to lose.

    `is_removed`: it held nothing that is not made again, and is gone.
    """

    name: str
    expected: str
    found: str
    is_removed: bool = False

    @property
    def fault(self) -> str:
        """What is wrong, as a sentence without an end."""
        return f"{self.name} is a {self.found} where a {self.expected} should be"


class WrongTypeError(StoreError):
    """A key holds another type than it should, so what needs it waits; `keys` names those found."""

    blame: Blame = "operator"

    def __init__(self, message: str, keys: tuple[WrongKey, ...] = ()) -> None:
        text = "; ".join(key.fault for key in keys)
        super().__init__(text or message, Code.UNAVAILABLE)
        self.keys = keys
