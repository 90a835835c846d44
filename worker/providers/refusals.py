"""Why an upstream refuses: from a status and what it says with it, to a fault in our words.

Owns the order in which that is read: a status that leaves no doubt, codes and types, sentences,
and last the status alone. Pure; the tables are `refusal_codes` and `refusal_words`.

DESIGN. What follows from a fault differs much in cost: refused credentials close a provider for
everybody. So they are believed only of an upstream's own codes and sentences, never of a page that
something on the way shows, nor of a status that one request may cause.
"""

import re
from http import HTTPStatus
from typing import Final

from shared.errors import Category, Retry
from worker.providers import refusal_words as words
from worker.providers.refusal_codes import (
    CAUSE_BY_CODE,
    PARAMETER_CODES,
    PERMISSION_CODES,
    STATUS_BY_CODE,
    Cause,
)
from worker.providers.refusal_text import Said

Fault = tuple[Category, str, Retry]

# status -> (category, code, does trying again help). What is not here is told by its hundred.
# 402 and 403 alone say nothing of the deployment: they may be about one request.
BY_STATUS: Final[dict[int, Fault]] = {
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
BY_HUNDRED: Final[dict[int, Fault]] = {
    3: ("provider_error", "UNEXPECTED_REDIRECT", "never"),
    4: ("invalid_request", "REFUSED_REQUEST", "never"),
    5: ("provider_error", "PROVIDER_FAILED", "backoff"),
}
_BY_CAUSE: Final[dict[Cause, Fault]] = {
    "unaffordable": ("invalid_request", "REQUEST_UNAFFORDABLE", "never"),
    "unpaid": ("auth", "PROVIDER_UNPAID", "never"),
    "policy": ("content_policy", "CONTENT_POLICY", "never"),
    "too long": ("invalid_request", "CONTEXT_TOO_LONG", "never"),
    "model": ("invalid_request", "UNKNOWN_UPSTREAM_MODEL", "never"),
    "key": ("auth", "BAD_CREDENTIALS", "never"),
    "forbidden": ("auth", "PROVIDER_FORBIDS", "never"),
}
_NO_ANSWER: Final[Fault] = ("provider_error", "PROVIDER_FAILED", "never")
# These say all there is to say, whatever is said beside them.
_PLAIN: Final = frozenset({401, 404, 408, 409, 425, 498, 503, 529})
# Where a gateway says one of these, a code that it passes on may tell more.
_VAGUE: Final = frozenset({400, 403, 422, 500, 502, 504, 520})
_TELLING: Final = frozenset({408, 429, 503, 529})
# Of a 429, codes are believed that say it is about money or an account.
_CAUSES_OF_429: Final = frozenset({"unpaid", "forbidden"})
_LIMITED: Final = re.compile(r"rate.?limit|too many requests|throttl|please wait before")


def fault_of(status: int, said: Said, *, is_wait_told: bool = False) -> Fault:
    """Return what a refusal comes to; a wait told with it speaks against a lack of money."""
    status = _told_status(status, said)
    if status in _PLAIN:
        return BY_STATUS[status]
    cause = _cause_by_code(status, said) or _cause_by_words(status, said, is_wait_told=is_wait_told)
    if cause is not None:
        return _BY_CAUSE[cause]
    if status in _VAGUE and _LIMITED.search(said.words):
        status = 429
    return BY_STATUS.get(status) or BY_HUNDRED.get(status // 100, _NO_ANSWER)


def fault_in_band(said: Said, *, is_wait_told: bool = False) -> Fault:
    """Return what an error inside a success comes to: its codes stand for a status, as a rule."""
    by_code = (STATUS_BY_CODE[code] for code in said.codes if code in STATUS_BY_CODE)
    status = next(iter(said.statuses), None) or next(by_code, None)
    fault = fault_of(status or 400, said, is_wait_told=is_wait_told)
    # Without any code, what no sentence explains is a failure and no refusal.
    return BY_HUNDRED[5] if status is None and fault[1] == "REFUSED_REQUEST" else fault


def is_unexplained(status: int, said: Said, fault: Fault) -> bool:
    """Tell whether a refusal of a request gives no reason that we know: it may be too long."""
    is_known = any(code in PARAMETER_CODES for code in said.codes)
    return status in {400, 413, 422} and fault[1] == "REFUSED_REQUEST" and not is_known


def _told_status(status: int, said: Said) -> int:
    """Return the status that is meant, where a vague one comes with a code that tells more."""
    if status not in _VAGUE:
        return status
    by_code = (STATUS_BY_CODE[code] for code in said.codes if code in STATUS_BY_CODE)
    return next((each for each in (*said.statuses, *by_code) if each in _TELLING), status)


def _cause_by_code(status: int, said: Said) -> Cause | None:
    causes = [CAUSE_BY_CODE[code] for code in said.codes if code in CAUSE_BY_CODE]
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        causes = [cause for cause in causes if cause in _CAUSES_OF_429]
    if not causes and status == HTTPStatus.FORBIDDEN:
        causes = _causes_of_permission(said)
    return next(iter(causes), None)


def _causes_of_permission(said: Said) -> list[Cause]:
    """Return what the type of a 403 is about, like `permission_error`; its words go before."""
    clearer = _cause_by_words(HTTPStatus.FORBIDDEN, said, is_wait_told=False)
    if clearer is not None:
        return [clearer]
    by_status = {STATUS_BY_CODE.get(code) for code in said.codes}
    if HTTPStatus.UNAUTHORIZED in by_status:
        return ["key"]
    return ["forbidden"] if any(code in PERMISSION_CODES for code in said.codes) else []


def _cause_by_words(status: int, said: Said, *, is_wait_told: bool) -> Cause | None:
    is_limited = words.RATE.search(said.words) is not None
    for cause, pattern in _known(status, said):
        if cause == "too long" and is_limited and not words.TOO_LARGE_EVER.search(said.words):
            continue
        if pattern.search(said.words):
            return cause
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE and words.OF_A_413.search(said.words):
        return "too long"
    if status == HTTPStatus.PAYMENT_REQUIRED and words.MONEY.search(said.words):
        return "unpaid"
    is_money = words.QUOTA.search(said.words) and not is_limited and not is_wait_told
    return "unpaid" if is_money and status < HTTPStatus.INTERNAL_SERVER_ERROR else None


def _known(status: int, said: Said) -> words.Known:
    """Return the sentences that are believed of a status."""
    if status == HTTPStatus.FORBIDDEN and not said.is_bare_text:
        return words.OF_A_403
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return words.OF_A_FAILURE
    by_status = {402: words.OF_A_402, 429: words.OF_A_RATE_LIMIT}
    return by_status.get(status, words.OF_A_REQUEST)
