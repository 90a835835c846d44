"""Every error of Pollux as one tree, with its public codes.

    PolluxError
    +-- RequestError            the caller must change the request; `details` names the field
    +-- RefusedError            a valid request at a wrong time: limits, credits, a busy session
    |   +-- FailedError         the generation that the caller waited for ended without an answer
    +-- UnavailableError        Pollux cannot serve now: Redis away, not ready, too slow
    |   +-- NotNowError         Redis answered that it cannot do this now
    |   +-- NotReplicatedError  no replica confirmed in time (in shared/redis/replicated.py)
    +-- ProviderError           an upstream failed, as the table of its adapter maps it
    |   +-- CallBlockedError    the circuit breaker or a limit kept the call from being made
    +-- EgressError             a URL named by a caller or a model fails or must not be called
    +-- ConfigurationError      the operator must change settings, catalogue or environment
    +-- StoreError              Redis replied something unexpected: a fault in Pollux
        +-- WrongTypeError      something else wrote one of our keys; an operator repairs it

A class states who is to blame and whether a retry may help; an instance carries the public code.
The API decides which HTTP status that becomes, an adapter which error an upstream's failure
becomes.
"""

from enum import Enum
from typing import Final, Literal, NamedTuple, get_args

import msgspec

Retry = Literal["never", "soon", "backoff"]
Blame = Literal["caller", "provider", "us", "operator"]


class Code(Enum):
    """The public codes, which callers read."""

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
    BATCH_NOT_FOUND = "BATCH_NOT_FOUND"
    NOT_FOUND = "NOT_FOUND"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    REQUEST_TIMEOUT = "REQUEST_TIMEOUT"
    ALREADY_FINISHED = "ALREADY_FINISHED"
    SESSION_BUSY = "SESSION_BUSY"
    UPLOAD_UNDER_WAY = "UPLOAD_UNDER_WAY"
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
    """The request cannot be served as it is; sending it again changes nothing."""

    blame: Blame = "caller"

    def __init__(
        self, message: str, code: Code, *, details: dict[str, object] | None = None
    ) -> None:
        super().__init__(message, code)
        self.details = details or {}


class RefusedError(PolluxError):
    """The request is valid and may be repeated; `retry_after_seconds` says when, if known."""

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
    """Pollux cannot serve now; repeat with the same Idempotency-Key, as the outcome is unknown.

    `retry_after_seconds` grows with how long this has lasted, where that was measured.
    """

    retry: Retry = "backoff"

    def __init__(self, message: str, *, retry_after_seconds: int | None = None) -> None:
        super().__init__(message, Code.UNAVAILABLE)
        self.retry_after_seconds = retry_after_seconds


class NotNowError(UnavailableError):
    """Redis answered that it cannot do this now; it may still serve reads."""


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
# Failures that leave a dead letter for an operator: not caused by the caller's request.
DEAD_CATEGORIES: Final[frozenset[Category]] = frozenset(get_args(Category)) - {
    "content_policy",
    "invalid_request",
    "cancelled",
    "expired",
}


class Failure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a generation failed, as callers see it and as it is stored.

    `message` is a sentence; `code` names the exact fault; `provider` is the provider's name in the
    catalogue.
    """

    message: str
    category: Category
    code: str
    retryable: bool = False
    severity: Literal["error", "fatal"] = "error"
    provider: str | None = None


# The failures that a Redis function may have to report by itself.
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
    message="The stored data of this generation is damaged, so it cannot be answered.",
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
    """An upstream failed; `failure` is what the caller reads if nothing else can be tried.

    `has_begun`: the upstream had accepted the call and begun an answer.
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
    """A call that was not made; `wait_seconds` estimates when one may be.

    `why`: `cooling` after failures; `probing`, while another call tests the provider; `busy`, at
    the limit of calls; `throttled`, while the provider refuses calls and one is admitted at a time;
    `slowed`, since it failed on this account's own messages.
    """

    def __init__(self, failure: Failure, why: BlockReason, retry_after_seconds: float) -> None:
        super().__init__(failure, retry="backoff", retry_after_seconds=retry_after_seconds)
        self.why = why
        self.wait_seconds = retry_after_seconds


EgressKind = Literal["forbidden", "unreachable", "too_large", "encoded"]


class EgressError(PolluxError):
    """A URL that a caller or a model named failed; the sentence does not reveal where it led."""

    blame: Blame = "caller"

    def __init__(self, message: str, kind: EgressKind, *, retry: Retry = "never") -> None:
        super().__init__(message)
        self.kind = kind
        self.retry = retry


class ConfigurationError(PolluxError):
    """Settings or environment cannot be used; `faults` lists every fault with its path."""

    blame: Blame = "operator"

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


class StoreError(PolluxError):
    """Redis replied something that our code never expects; always worth a bug report."""


class WrongKey(NamedTuple):
    """A key of another type than expected: something other than Pollux wrote it.

    `is_removed`: it is rebuilt by whoever needs it, and was deleted.
    """

    name: str
    expected: str
    found: str
    is_removed: bool = False

    @property
    def fault(self) -> str:
        """What is wrong, as a clause."""
        return f"{self.name} is a {self.found} where a {self.expected} should be"


class WrongTypeError(StoreError):
    """A key has another type than expected, so calls that need it fail; `keys` lists it."""

    blame: Blame = "operator"

    def __init__(self, message: str, keys: tuple[WrongKey, ...] = ()) -> None:
        text = "; ".join(key.fault for key in keys)
        super().__init__(text or message, Code.UNAVAILABLE)
        self.keys = keys
