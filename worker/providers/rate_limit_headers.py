"""Reads the rate-limit headers of all upstreams, and times in all the forms that they write.

Owns the parsing, for any response, refused or not. Implausible values are ignored: a time that is
past, negative or more than a week away.

The headers, with FIELD for each of limit, remaining and reset, and the form of a reset:

OpenAI, Azure, Groq, Together, xAI  x-ratelimit-FIELD-{requests,tokens}: 6m0s, 120ms
Anthropic                anthropic-ratelimit-{requests,tokens,input-tokens...}-FIELD: RFC 3339
Cerebras                 x-ratelimit-FIELD-{requests-day,tokens-minute}: seconds
Mistral                  x-ratelimit-FIELD-{req,tokens}-minute, ratelimitbysize-FIELD: seconds
OpenRouter, GitHub       x-ratelimit-FIELD: epoch, in seconds or milliseconds
IETF's draft             ratelimit-FIELD, or one `ratelimit: "p";r=0;t=30`: seconds
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final, Literal, NamedTuple

WAIT_SECONDS_MAX: Final = 604_800.0
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_DURATION: Final = re.compile(
    r"(\d+(?:\.\d+)?)\s*(milliseconds?|msecs?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h"
    r"|days?|d)(?![a-z])",
    re.IGNORECASE,
)
_BETWEEN: Final = re.compile(r"[\s,]*(and)?\s*", re.IGNORECASE)
# A number this large is no wait but a point in time: seconds, or milliseconds, since 1970.
_EPOCH_SECONDS: Final = 1e9
_COUNT_MAX: Final = 1e15
_EPOCH_MILLISECONDS: Final = 1e11
_FIELD: Final = re.compile(r"(?<![a-z])(limit|remaining|reset)(?![a-z])")
_FAMILY: Final = re.compile("rate-?limit")
_DRAFT: Final = re.compile(r"(?:^|[;,\s])(r|t|q|limit|remaining|reset)\s*=\s*\"?(\d+)")
# More remaining calls than this cannot run out with the calls that are under way.
_MANY_CALLS: Final = 256
_DRAFT_FIELDS: Final = {"r": "remaining", "t": "reset", "q": "limit"}

Scope = Literal["requests", "tokens"]


class Limit(NamedTuple):
    """One limit: its size, how much remains, and when it is reset."""

    limit: int | None = None
    remaining: int | None = None
    reset_seconds: float | None = None


class RateLimits(NamedTuple):
    """The limits that an upstream reports; of several of a kind, the one closest to its end."""

    requests: Limit | None = None
    tokens: Limit | None = None

    @property
    def wait_seconds(self) -> float | None:
        """How long until there is room again, if a limit is used up."""
        used_up = [each for each in self if each is not None and each.remaining == 0]
        waits = [each.reset_seconds for each in used_up if each.reset_seconds is not None]
        return max(waits, default=None)


def read_rate_limits(headers: Mapping[str, str], *, now: float) -> RateLimits | None:
    """Return the limits in the headers of a response, or None; `now` is in Unix seconds."""
    values_by_limit: dict[tuple[Scope, str], dict[str, str]] = {}
    for name, value in headers.items():
        lowered = name.lower()
        if "ratelimit" in lowered or "rate-limit" in lowered:
            for key, field, text in _fields(lowered, value):
                values_by_limit.setdefault(key, {}).setdefault(field, text)
    if not values_by_limit:
        return None
    limits = RateLimits(
        _nearest(
            _limit(each, now) for (scope, _), each in values_by_limit.items() if scope == "requests"
        ),
        _nearest(
            _limit(each, now) for (scope, _), each in values_by_limit.items() if scope == "tokens"
        ),
    )
    return limits if any(limits) else None


def may_run_out(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Tell whether headers report so few remaining calls that they may soon be used up.

    It is a cheap check: parsing all headers takes a tenth of the time of a short call.
    """
    left = [value for name, value in headers if _is_remaining_calls_header(name)]
    return any(not value.isdigit() or int(value[:18]) <= _MANY_CALLS for value in left)


@lru_cache(maxsize=1_024)
def _is_remaining_calls_header(name: bytes) -> bool:
    lowered = name.lower()
    is_of_limits = b"ratelimit" in lowered or b"rate-limit" in lowered
    if not is_of_limits or b"token" in lowered or b"bysize" in lowered:
        return False
    return b"remaining" in lowered or not (b"limit-" in lowered or b"-reset" in lowered)


def parse_duration(text: str) -> float | None:
    """Return the seconds of a duration like `6m0s`, `1.5s`, `120ms` or `2 minutes`, or None."""
    seconds, end = 0.0, 0
    for found in _DURATION.finditer(text):
        if not _BETWEEN.fullmatch(text, end, found.start()):
            break
        unit = found[2].lower()
        seconds += float(found[1]) * _SECONDS["ms" if unit.startswith(("ms", "mil")) else unit[0]]
        end = found.end()
    return seconds if end else None


def parse_wait(text: str, *, now: float, unit: float = 1.0) -> float | None:
    """Return how many seconds from now a time is, in any form; None if it is implausible.

    A bare number counts units of `unit` seconds, or is a point in time if it is too large.
    """
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return _plausible(_from_number(float(text), now, unit))
    if text[:1].isdigit() and _DURATION.match(text):
        return _plausible(parse_duration(text))
    moment = _parse_timestamp(text)
    # A time that is past comes from a wrong clock: it is ignored.
    return _plausible(moment - now if moment is not None and moment > now else None)


def _from_number(number: float, now: float, unit: float) -> float | None:
    if abs(number) < _EPOCH_SECONDS:
        return number * unit
    moment = number / 1000 if number >= _EPOCH_MILLISECONDS else number
    return moment - now if moment > now else None


def _plausible(seconds: float | None) -> float | None:
    if seconds is None or not math.isfinite(seconds):
        return None
    return seconds if 0 <= seconds <= WAIT_SECONDS_MAX else None


def _parse_timestamp(text: str) -> float | None:
    """Return a point in time in Unix seconds; without a time zone it is in UTC."""
    for read in (_parse_http_date, datetime.fromisoformat):
        try:
            found = read(text)
            zoned = found if found.tzinfo is not None else found.replace(tzinfo=UTC)
            return zoned.timestamp()
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
    return None


def _parse_http_date(text: str) -> datetime:
    # `parsedate_to_datetime` accepts texts that are no dates, unless they have a comma.
    if "," not in text and " GMT" not in text:
        raise ValueError(text)
    return parsedate_to_datetime(text)


def _fields(name: str, value: str) -> Iterator[tuple[tuple[Scope, str], str, str]]:
    """Yield the contents of a header: which limit, which of its fields, and the text."""
    scope: Scope = "tokens" if "token" in name or "bysize" in name else "requests"
    bare = _FAMILY.sub("rate", name)
    fields = _FIELD.findall(bare)
    if fields:
        family = _FIELD.sub("", bare).replace("--", "-").strip("-")
        yield (scope, family), fields[-1], value
        return
    for word, number in _DRAFT.findall(value.lower()):
        yield (scope, bare), _DRAFT_FIELDS.get(word, word), number


def _limit(values_by_limit: Mapping[str, str], now: float) -> Limit:
    reset = values_by_limit.get("reset")
    return Limit(
        _count(values_by_limit.get("limit")),
        _count(values_by_limit.get("remaining")),
        parse_wait(reset, now=now) if reset is not None else None,
    )


def _count(text: str | None) -> int | None:
    if text is None or not _NUMBER.fullmatch(text.strip().partition(",")[0]):
        return None
    number = float(text.strip().partition(",")[0])
    return int(number) if 0 <= number < _COUNT_MAX else None


def _nearest(limits: Iterable[Limit]) -> Limit | None:
    """Return the limit closest to its end: the least remaining, then the longest wait."""
    known = [each for each in limits if each != Limit()]
    return min(known, key=_nearness, default=None)


def _nearness(limit: Limit) -> tuple[float, float]:
    if limit.remaining is None:
        share = math.inf
    else:
        share = limit.remaining / limit.limit if limit.limit else float(limit.remaining > 0)
    return share, -(limit.reset_seconds or 0.0)
