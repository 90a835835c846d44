"""Classifies a refusal: from its status, codes and sentences to our category and code.

Owns the order of evidence: an unambiguous status, then codes and types, then sentences, and last
the status alone. Pure; the tables are in `refusal_codes` and `refusal_words`.

DESIGN. Wrong classifications differ in cost: "refused credentials" closes a provider for all
accounts. So it is believed only of an upstream's own codes and sentences, never of a web page of
something in between, nor of a status that a single request may cause.
"""

import re
from http import HTTPStatus
from typing import Final

from shared.errors import Category, Retry
from worker.providers import refusal_words as words
from worker.providers.refusal_codes import (
    PARAMETER_CODES,
    PERMISSION_CODES,
    REASON_BY_CODE,
    STATUS_BY_CODE,
    RefusalReason,
)
from worker.providers.refusal_text import RefusalExplanation

Classification = tuple[Category, str, Retry]

# status -> (category, code, whether a retry helps). Other statuses count by their hundred.
# 402 and 403 alone do not accuse the deployment: they may be about one request.
BY_STATUS: Final[dict[int, Classification]] = {
    401: ("auth", "BAD_CREDENTIALS", "never"),
    404: ("invalid_request", "UNKNOWN_UPSTREAM_MODEL", "never"),
    408: ("timeout", "PROVIDER_TIMEOUT", "backoff"),
    409: ("overloaded", "PROVIDER_CONFLICT", "backoff"),
    424: ("provider_error", "PROVIDER_FAILED", "backoff"),
    425: ("overloaded", "PROVIDER_OVERLOADED", "backoff"),
    429: ("rate_limit", "PROVIDER_RATE_LIMITED", "backoff"),
    498: ("overloaded", "PROVIDER_OVERLOADED", "backoff"),
    503: ("overloaded", "PROVIDER_OVERLOADED", "backoff"),
    529: ("overloaded", "PROVIDER_OVERLOADED", "backoff"),
}
BY_HUNDRED: Final[dict[int, Classification]] = {
    3: ("provider_error", "UNEXPECTED_REDIRECT", "never"),
    4: ("invalid_request", "REFUSED_REQUEST", "never"),
    5: ("provider_error", "PROVIDER_FAILED", "backoff"),
}
_BY_REASON: Final[dict[RefusalReason, Classification]] = {
    "unaffordable": ("invalid_request", "REQUEST_UNAFFORDABLE", "never"),
    "unpaid": ("auth", "PROVIDER_UNPAID", "never"),
    "policy": ("content_policy", "CONTENT_POLICY", "never"),
    "too long": ("invalid_request", "CONTEXT_TOO_LONG", "never"),
    "model": ("invalid_request", "UNKNOWN_UPSTREAM_MODEL", "never"),
    "key": ("auth", "BAD_CREDENTIALS", "never"),
    "forbidden": ("auth", "PROVIDER_FORBIDS", "never"),
}
_NO_ANSWER: Final[Classification] = ("provider_error", "PROVIDER_FAILED", "never")
# These statuses decide alone, whatever the body says.
_PLAIN: Final = frozenset({401, 404, 408, 409, 425, 498, 503, 529})
# With one of these vague statuses, a code that a gateway passes on may be more exact.
_VAGUE: Final = frozenset({400, 403, 422, 500, 502, 504, 520})
_TELLING: Final = frozenset({408, 429, 503, 529})
# Of a 429, only codes about money or an account are believed.
_REASONS_OF_429: Final = frozenset({"unpaid", "forbidden"})
_LIMITED: Final = re.compile(r"rate.?limit|too many requests|throttl|please wait before")


def classify_refusal(
    status: int, explanation: RefusalExplanation, *, has_retry_after: bool = False
) -> Classification:
    """Classify a refusal. A `Retry-After` is evidence against a lack of money."""
    status = _effective_status(status, explanation)
    if status in _PLAIN:
        return BY_STATUS[status]
    reason = _reason_by_code(status, explanation) or _reason_by_words(
        status, explanation, has_retry_after=has_retry_after
    )
    if reason is not None:
        return _BY_REASON[reason]
    if status in _VAGUE and _LIMITED.search(explanation.words):
        status = 429
    return BY_STATUS.get(status) or BY_HUNDRED.get(status // 100, _NO_ANSWER)


def classify_in_band_error(
    explanation: RefusalExplanation, *, has_retry_after: bool = False
) -> Classification:
    """Classify an error in the body of a 200, by the status that its codes stand for."""
    by_code = (STATUS_BY_CODE[code] for code in explanation.codes if code in STATUS_BY_CODE)
    status = next(iter(explanation.statuses), None) or next(by_code, None)
    classification = classify_refusal(status or 400, explanation, has_retry_after=has_retry_after)
    # Without code or known sentence, it is a failure of the upstream and no refusal.
    return (
        BY_HUNDRED[5]
        if status is None and classification[1] == "REFUSED_REQUEST"
        else classification
    )


def is_unexplained(
    status: int, explanation: RefusalExplanation, classification: Classification
) -> bool:
    """Tell whether a refusal gives no known reason: the request may be too long."""
    is_known = any(code in PARAMETER_CODES for code in explanation.codes)
    return status in {400, 413, 422} and classification[1] == "REFUSED_REQUEST" and not is_known


def _effective_status(status: int, explanation: RefusalExplanation) -> int:
    """Return the status that is meant, if a vague one comes with a more exact code."""
    if status not in _VAGUE:
        return status
    by_code = (STATUS_BY_CODE[code] for code in explanation.codes if code in STATUS_BY_CODE)
    return next((each for each in (*explanation.statuses, *by_code) if each in _TELLING), status)


def _reason_by_code(status: int, explanation: RefusalExplanation) -> RefusalReason | None:
    reasons = [REASON_BY_CODE[code] for code in explanation.codes if code in REASON_BY_CODE]
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        reasons = [reason for reason in reasons if reason in _REASONS_OF_429]
    if not reasons and status == HTTPStatus.FORBIDDEN:
        reasons = _reasons_of_permission(explanation)
    return next(iter(reasons), None)


def _reasons_of_permission(explanation: RefusalExplanation) -> list[RefusalReason]:
    """Return the reasons by the error type of a 403, such as `permission_error`; words go first."""
    clearer = _reason_by_words(HTTPStatus.FORBIDDEN, explanation, has_retry_after=False)
    if clearer is not None:
        return [clearer]
    by_status = {STATUS_BY_CODE.get(code) for code in explanation.codes}
    if HTTPStatus.UNAUTHORIZED in by_status:
        return ["key"]
    return ["forbidden"] if any(code in PERMISSION_CODES for code in explanation.codes) else []


def _reason_by_words(
    status: int, explanation: RefusalExplanation, *, has_retry_after: bool
) -> RefusalReason | None:
    is_limited = words.RATE.search(explanation.words) is not None
    for reason, pattern in _known(status, explanation):
        if (
            reason == "too long"
            and is_limited
            and not words.TOO_LARGE_EVER.search(explanation.words)
        ):
            continue
        if pattern.search(explanation.words):
            return reason
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE and words.OF_A_413.search(explanation.words):
        return "too long"
    if status == HTTPStatus.PAYMENT_REQUIRED and words.MONEY.search(explanation.words):
        return "unpaid"
    is_money = words.QUOTA.search(explanation.words) and not is_limited and not has_retry_after
    return "unpaid" if is_money and status < HTTPStatus.INTERNAL_SERVER_ERROR else None


def _known(status: int, explanation: RefusalExplanation) -> words.SentencePatterns:
    """Return the sentences that are believed of a status."""
    if status == HTTPStatus.FORBIDDEN and not explanation.is_bare_text:
        return words.OF_A_403
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return words.OF_A_FAILURE
    by_status = {402: words.OF_A_402, 429: words.OF_A_RATE_LIMIT}
    return by_status.get(status, words.OF_A_REQUEST)
