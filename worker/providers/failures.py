"""What an upstream's failures are in our words: the tables, for every dialect.

Owns the translation of a status, of what a line does, and of what an upstream says in words, into a
`ProviderError`. The words themselves go nowhere: they may hold keys, names and addresses.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import httpx
import msgspec

from shared.errors import Category, Failure, ProviderError, Retry
from worker.providers.sse import TooLargeError

Fault = tuple[Category, str, Retry]

# status -> (category, code, does trying again help). What is not here is told by its hundred.
_BY_STATUS: Final[dict[int, Fault]] = {
    400: ("invalid_request", "REFUSED_REQUEST", "never"),
    401: ("auth", "BAD_CREDENTIALS", "never"),
    402: ("auth", "PROVIDER_UNPAID", "never"),
    403: ("auth", "PROVIDER_FORBIDS", "never"),
    404: ("invalid_request", "UNKNOWN_UPSTREAM_MODEL", "never"),
    408: ("timeout", "PROVIDER_TIMEOUT", "backoff"),
    409: ("overloaded", "PROVIDER_CONFLICT", "backoff"),
    413: ("invalid_request", "CONTEXT_TOO_LONG", "never"),
    422: ("invalid_request", "REFUSED_REQUEST", "never"),
    429: ("rate_limit", "PROVIDER_RATE_LIMITED", "backoff"),
    503: ("overloaded", "PROVIDER_OVERLOADED", "backoff"),
    529: ("overloaded", "PROVIDER_OVERLOADED", "backoff"),
}
_BY_HUNDRED: Final[dict[int, Fault]] = {
    3: ("provider_error", "UNEXPECTED_REDIRECT", "never"),
    4: ("invalid_request", "REFUSED_REQUEST", "never"),
    5: ("provider_error", "PROVIDER_FAILED", "backoff"),
}
# What goes wrong on the way, the particular before the general.
_BY_EXCEPTION: Final[tuple[tuple[tuple[type[Exception], ...], Fault], ...]] = (
    ((TooLargeError,), ("provider_error", "RESPONSE_TOO_LARGE", "never")),
    ((msgspec.MsgspecError, RecursionError), ("provider_error", "MALFORMED_STREAM", "backoff")),
    ((httpx.ConnectTimeout,), ("timeout", "CONNECT_TIMEOUT", "backoff")),
    ((httpx.TimeoutException,), ("timeout", "PROVIDER_SILENT", "backoff")),
    ((httpx.ConnectError,), ("overloaded", "CONNECT_FAILED", "backoff")),
    ((httpx.HTTPError,), ("provider_error", "STREAM_CUT", "backoff")),
)
_FAILED: Final[Fault] = ("provider_error", "PROVIDER_FAILED", "backoff")
_BY_CATEGORY: Final[dict[str, str]] = {
    "rate_limit": "The provider limits how often it may be asked.",
    "overloaded": "The provider is overloaded.",
    "auth": "The provider refused the deployment's credentials.",
    "timeout": "The provider did not answer in time.",
    "invalid_request": "The provider refused the request.",
    "provider_error": "The provider failed.",
    "content_policy": "The provider's content policy forbids the answer.",
}
_BY_CODE: Final[dict[str, str]] = {
    "STREAM_CUT": "The provider's answer broke off.",
    "RESPONSE_TOO_LARGE": "The provider sent more than an answer may hold.",
}
_CONTEXT_WORDS: Final = (
    "context_length",
    "context length",
    "context size",
    "maximum context",
    "context limit",
    "too many tokens",
    "prompt is too long",
    "exceeds the maximum number of tokens",
)
# Only these may be told more exactly by words: a rate limit speaks of too many tokens, too.
_TOLD_BY_WORDS: Final = frozenset({"invalid_request", "provider_error"})
_POLICY_WORDS: Final = (
    "content_policy",
    "content_filter",
    "content filtering policy",
    "content management policy",
)
# Gemini has no status of its own for a key that it does not know, Anthropic none for no credit.
_STATUS_BY_WORDS: Final = {"api_key_invalid": 401, "credit balance is too low": 402}
# The types of errors that Anthropic names.
_STATUS_BY_TYPE: Final = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "timeout_error": 408,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "overloaded_error": 529,
}


class InBandError(Exception):
    """An upstream reports a failure inside a success; `error` is what it says, decoded from JSON.

    An object as a rule, whose `code`, `status`, `type` and `message` tell what it is about; with
    some servers only a text.
    """

    def __init__(self, error: object) -> None:
        super().__init__()
        self.error = error

    @property
    def status(self) -> int | None:
        """The HTTP status that the error stands for, where its code or its type names one."""
        if not isinstance(self.error, dict):
            return None
        code, kind = self.error.get("code"), self.error.get("type")
        by_type = _STATUS_BY_TYPE.get(kind) if isinstance(kind, str) else None
        return code if type(code) is int else by_type

    @property
    def words(self) -> str:
        """All that the error says."""
        return str(self.error)


class Failures:
    """The failures of one upstream, told under its name."""

    def __init__(self, provider: str) -> None:
        self._provider = provider

    def refusal(self, response: httpx.Response, head: bytes) -> ProviderError:
        """Return what an answer with another status than 200 comes to; `head` is its beginning."""
        status = response.status_code
        fault = _BY_STATUS.get(status) or _BY_HUNDRED.get(
            status // 100, ("provider_error", "PROVIDER_FAILED", "never")
        )
        after = _seconds(response.headers.get("retry-after"))
        return self.error(_refined(fault, head.decode(errors="replace")), after)

    def error(self, fault: Fault, retry_after_seconds: float | None = None) -> ProviderError:
        """Return a fault of this upstream."""
        category, code, retry = fault
        failure = Failure(
            message=_BY_CODE.get(code) or _BY_CATEGORY[category],
            category=category,
            code=code,
            retryable=retry != "never",
            provider=self._provider,
        )
        return ProviderError(failure, retry=retry, retry_after_seconds=retry_after_seconds)

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn whatever goes wrong in a call into a ProviderError; our own faults stay ours."""
        try:
            yield
        except InBandError as said:
            known = _BY_STATUS.get(said.status or 0, _FAILED)
            raise self.error(_refined(known, said.words)) from None
        except Exception as error:
            for kinds, fault in _BY_EXCEPTION:
                if isinstance(error, kinds):
                    raise self.error(fault) from error
            raise


def _refined(fault: Fault, words: str) -> Fault:
    """Let what an upstream says in words tell its status more exactly."""
    said = words.lower() if fault[0] in _TOLD_BY_WORDS else ""
    if any(known in said for known in _CONTEXT_WORDS):
        return "invalid_request", "CONTEXT_TOO_LONG", "never"
    if any(known in said for known in _POLICY_WORDS):
        return "content_policy", "CONTENT_POLICY", "never"
    told = (status for known, status in _STATUS_BY_WORDS.items() if known in said)
    return _BY_STATUS.get(next(told, 0), fault)


def _seconds(header: str | None) -> float | None:
    """Read `Retry-After` in seconds; its date form is left to our own backoff."""
    try:
        seconds = float(header) if header is not None else None
    except ValueError:
        return None
    return seconds if seconds is not None and math.isfinite(seconds) and seconds >= 0 else None
