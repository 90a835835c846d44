"""From an error to a response: status, headers, and a body in the mount's own shape.

Owns the tables from codes and failure categories to statuses. A dialect registers the shape of its
error bodies under its path prefix; a path under no prefix gets the last shape.
"""

import random
from collections.abc import Callable
from typing import Final

import msgspec

from shared.clock import SystemClock, iso
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
    Code.NOT_FOUND: 404,
    Code.METHOD_NOT_ALLOWED: 405,
    Code.REQUEST_TIMEOUT: 408,
    Code.ALREADY_FINISHED: 409,
    Code.SESSION_BUSY: 409,
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

ErrorShape = Callable[[Code, str, str, dict[str, object]], object]
# An error sentence may quote the request; a longer one is cut.
_MESSAGE_CHARACTERS_MAX: Final = 500
_encode = msgspec.json.Encoder().encode
_CLOCK: Final = SystemClock()


def kolbo_shape(code: Code, message: str, request_id: str, details: dict[str, object]) -> object:
    """Return the error body of the Kolbo dialect; `details` follow its fixed fields."""
    fixed: dict[str, object] = {
        "success": False,
        "error": message,
        "code": code.value,
        "request_id": request_id,
    }
    return fixed | details | fixed


def kombify_shape(code: Code, message: str, request_id: str, details: dict[str, object]) -> object:
    """Return the error body of the Kombify dialect."""
    return {
        "status": "error",
        "code": code.value,
        "message": message,
        "error": {"code": code.value, "message": message, "details": details},
        "meta": {"request_id": request_id, "timestamp": iso(_CLOCK.now_ms())},
    }


# (prefix, shape): the first prefix that a path begins with decides; the last matches every path.
ERROR_SHAPES: Final[tuple[tuple[str, ErrorShape], ...]] = (
    ("/v1/ai/", kombify_shape),
    ("", kolbo_shape),
)


def error_body(
    path: str, code: Code, message: str, request_id: str, details: dict[str, object] | None = None
) -> bytes:
    """Return the JSON body of an error for a request to `path`."""
    shape = next(shape for prefix, shape in ERROR_SHAPES if f"{path}/".startswith(prefix))
    return _encode(shape(code, message, request_id, details or {}))


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


def describe(error: PolluxError) -> tuple[int, dict[str, str], dict[str, object]]:
    """Return an error's status, headers and extra body fields."""
    headers: dict[str, str] = {}
    details: dict[str, object] = {}
    if isinstance(error, RefusedError | RequestError):
        details = error.details
    if isinstance(error, RefusedError):
        headers = dict(error.headers)
    retry_after = _retry_after_seconds(error)
    if retry_after is not None:
        headers["retry-after"] = str(retry_after)
    if error.code is Code.INVALID_API_KEY:
        headers["www-authenticate"] = "Bearer"
    return _status(error), headers, details


def _retry_after_seconds(error: PolluxError) -> int | None:
    if isinstance(error, WrongTypeError):
        return random.randint(*_OPERATOR_RETRY_SECONDS)  # noqa: S311  jitter
    if not isinstance(error, RefusedError | UnavailableError):
        return None
    if error.retry_after_seconds is None and isinstance(error, UnavailableError):
        return random.randint(*_RETRY_SECONDS)  # noqa: S311  jitter
    return error.retry_after_seconds


def _status(error: PolluxError) -> int:
    if isinstance(error, FailedError):
        return FAILURE_STATUS[error.failure.category]
    return STATUS[error.code]


def unknown_generation() -> RequestError:
    """Return the refusal of a generation that the account does not have."""
    return RequestError("There is no such generation.", Code.GENERATION_NOT_FOUND)


def unknown_session() -> RequestError:
    """Return the refusal of a session that the account does not have."""
    return RequestError("There is no such session.", Code.SESSION_NOT_FOUND)
