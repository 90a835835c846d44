"""From an error to a response: status, headers, and a body in the mount's own shape.

Owns the tables from codes and failure categories to statuses, from which a dialect may differ, and
how the path of a request decides which shape its errors have.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from shared.errors import (
    Category,
    Code,
    FailedError,
    PolluxError,
    RefusedError,
    RequestError,
    UnavailableError,
    WrongTypeError,
)

STATUS: Final[dict[Code, int]] = {
    Code.INVALID_API_KEY: 401,
    Code.FORBIDDEN: 403,
    Code.MISSING_FIELDS: 400,
    Code.INVALID_FIELDS: 400,
    Code.FEATURE_UNAVAILABLE: 400,
    Code.MODEL_NOT_FOUND: 400,
    Code.WRONG_MODEL_TYPE: 400,
    Code.NO_SUITABLE_MODEL: 400,
    Code.CONTEXT_TOO_LONG: 400,
    Code.INSUFFICIENT_CREDITS: 402,
    Code.QUOTA_EXCEEDED: 403,
    Code.SESSION_NOT_FOUND: 404,
    Code.GENERATION_NOT_FOUND: 404,
    Code.COMPANION_NOT_FOUND: 404,
    Code.BATCH_NOT_FOUND: 404,
    Code.NOT_FOUND: 404,
    Code.METHOD_NOT_ALLOWED: 405,
    Code.REQUEST_TIMEOUT: 408,
    Code.ALREADY_FINISHED: 409,
    Code.SESSION_BUSY: 409,
    Code.UPLOAD_UNDER_WAY: 409,
    Code.PAYLOAD_TOO_LARGE: 413,
    Code.UNSUPPORTED_MEDIA_TYPE: 415,
    Code.IDEMPOTENCY_MISMATCH: 422,
    Code.RATE_LIMITED: 429,
    Code.HEADERS_TOO_LARGE: 431,
    Code.GENERATION_ERROR: 500,
    Code.QUEUE_FULL: 503,
    Code.BRAIN_UNAVAILABLE: 503,
    Code.UNAVAILABLE: 503,
}

# `Retry-After` where nothing was measured: soon, but not all callers in the same second.
_RETRY_SECONDS: Final = (1, 3)
# Where an operator has to repair something first.
_OPERATOR_RETRY_SECONDS: Final = (20, 40)

# Of a failed generation whose caller waited for it; the code is GENERATION_ERROR for each.
FAILURE_STATUS: Final[dict[Category, int]] = {
    "content_policy": 422,
    "invalid_request": 422,
    "cancelled": 409,
    "expired": 504,
    "timeout": 504,
    "rate_limit": 503,
    "overloaded": 503,
    "auth": 502,
    "provider_error": 502,
    "internal": 500,
}

# An error sentence may quote the request; a longer one is cut.
_MESSAGE_CHARACTERS_MAX: Final = 500


class ErrorReport(NamedTuple):
    """What the body of an error is made from; `details` are the further fields of its code."""

    code: Code
    message: str
    request_id: str
    details: dict[str, object]


def _as_they_are(_code: Code, headers: dict[str, str]) -> dict[str, str]:
    return headers


@dataclass(frozen=True, kw_only=True)
class ErrorShape:
    """How a dialect answers an error.

    `reply` is the type of a body, for the document, and `body` encodes one. `statuses` and
    `failure_statuses` are those that differ from the tables here. `headers` gets the code and the
    headers of an error, such as `retry-after`, and returns those to send.
    """

    reply: Any
    body: Callable[[ErrorReport], bytes]
    content_type: str = "application/json"
    statuses: Mapping[Code, int] = field(default_factory=dict)
    failure_statuses: Mapping[Category, int] = field(default_factory=dict)
    headers: Callable[[Code, dict[str, str]], dict[str, str]] = _as_they_are

    def status(self, code: Code) -> int:
        """Return the status of an error code."""
        return self.statuses.get(code) or STATUS[code]

    def failure_status(self, category: Category) -> int:
        """Return the status of a failed generation whose caller waited for it."""
        return self.failure_statuses.get(category) or FAILURE_STATUS[category]


class Refusal(NamedTuple):
    """An error as it is sent."""

    status: int
    content_type: str
    headers: dict[str, str]
    content: bytes


class ErrorShapes:
    """The shapes of all mounts; a path below none of their prefixes has the default."""

    def __init__(self, default: ErrorShape, by_prefix: Mapping[str, ErrorShape]) -> None:
        self._default = default
        # A prefix inside another one decides.
        longest_first = sorted(by_prefix.items(), key=lambda each: -len(each[0]))
        self._by_prefix = [(f"{prefix}/", shape) for prefix, shape in longest_first]

    def refusal(self, path: str, error: PolluxError, message: str, request_id: str) -> Refusal:
        """Return an error as the answer to a request for `path`."""
        shape = self._of(path)
        status = shape.status(error.code)
        if isinstance(error, FailedError):
            status = shape.failure_status(error.failure.category)
        details = error.details if isinstance(error, RefusedError | RequestError) else {}
        content = shape.body(ErrorReport(error.code, message, request_id, details))
        headers = shape.headers(error.code, headers_of(error))
        return Refusal(status, shape.content_type, headers, content)

    def _of(self, path: str) -> ErrorShape:
        path = f"{path}/"
        return next(
            (shape for prefix, shape in self._by_prefix if path.startswith(prefix)), self._default
        )


def public_message(error: PolluxError) -> str:
    """Return what the caller may read; of a fault that is ours, no internal detail."""
    if error.blame == "caller":
        message = error.message
        return (
            message
            if len(message) <= _MESSAGE_CHARACTERS_MAX
            else f"{message[:_MESSAGE_CHARACTERS_MAX]}..."
        )
    if isinstance(error, UnavailableError | WrongTypeError):
        return "Pollux cannot serve this now; send it again, with the same Idempotency-Key if any."
    return "Pollux failed to answer."


def headers_of(error: PolluxError) -> dict[str, str]:
    """Return an error's headers, by the names that they have in most dialects."""
    found = dict(error.headers) if isinstance(error, RefusedError) else {}
    retry_after = _retry_after_seconds(error)
    if retry_after is not None:
        found["retry-after"] = str(retry_after)
    if error.code is Code.INVALID_API_KEY:
        found["www-authenticate"] = "Bearer"
    return found


def _retry_after_seconds(error: PolluxError) -> int | None:
    if isinstance(error, WrongTypeError):
        return random.randint(*_OPERATOR_RETRY_SECONDS)  # noqa: S311  jitter
    if not isinstance(error, RefusedError | UnavailableError):
        return None
    if error.retry_after_seconds is None and isinstance(error, UnavailableError):
        return random.randint(*_RETRY_SECONDS)  # noqa: S311  jitter
    return error.retry_after_seconds


def unknown_generation() -> RequestError:
    """Return the refusal of a generation that the account does not have."""
    return RequestError("There is no such generation.", Code.GENERATION_NOT_FOUND)


def unknown_session() -> RequestError:
    """Return the refusal of a session that the account does not have."""
    return RequestError("There is no such session.", Code.SESSION_NOT_FOUND)


def unknown_batch() -> RequestError:
    """Return the refusal of a batch that the account does not have."""
    return RequestError("There is no such batch.", Code.BATCH_NOT_FOUND)
