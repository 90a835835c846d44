"""How long an upstream asks to wait: by a header, a field of its error, a sentence, or a reset.

Owns which of several is believed: `Retry-After` and its variants first, then a field made for it,
then a sentence, then the reset of a limit that is used up. Pure; `rate_limit_headers` parses times.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from worker.providers.rate_limit_headers import (
    WAIT_SECONDS_MAX,
    parse_duration,
    parse_wait,
    read_rate_limits,
)
from worker.providers.refusal_text import RefusalExplanation

_DEPTH_MAX: Final = 8
_FIELDS: Final[dict[str, float]] = {
    # Google's RetryInfo; Discord, Azure and gateways; OpenRouter's metadata.
    **dict.fromkeys(("retrydelay", "retryafter", "retryafterseconds", "retryin"), 1.0),
    **dict.fromkeys(("retryafterms", "retryaftermillis", "retryafterinms"), 0.001),
    **dict.fromkeys(("retryinseconds", "waitseconds", "retrydelayseconds"), 1.0),
}
# OpenAI and Groq: try again in 6m0s; Azure: retry after 20 seconds; Google: retry in 37.4s.
_SENTENCE: Final = re.compile(
    r"(?:try (?:your request )?again|re-?try\w*|wait(?:ing)?|available again|come back|resets?"
    r"|next request)\b[^0-9.]{0,40}?"
    r"(?P<time>\d[\d.]*\s*(?:[a-z]+)(?:[\s,]*(?:and\s+)?\d[\d.]*\s*(?:[a-z]+))*)"
)
_TRAILING: Final = re.compile(r"[.,;!)]+$")


def find_retry_after(
    headers: Mapping[str, str], explanation: RefusalExplanation, *, now: float
) -> float | None:
    """Return how many seconds an upstream asks to wait, or None; `now` is in Unix seconds."""
    found_seconds = _by_header(headers, now)
    if found_seconds is None:
        found_seconds = _by_field(explanation, now)
    if found_seconds is None:
        found_seconds = _by_sentence(explanation.words)
    if found_seconds is None:
        found_seconds = _by_limits(headers, explanation, now)
    return found_seconds


def _by_header(headers: Mapping[str, str], now: float) -> float | None:
    """Read `Retry-After` in each of its forms; those in milliseconds first."""
    for name, unit in (("retry-after-ms", 0.001), ("x-ms-retry-after-ms", 0.001)):
        if name in headers and (found := parse_wait(headers[name], now=now, unit=unit)) is not None:
            return found
    header = headers.get("retry-after") or headers.get("x-retry-after")
    return parse_wait(header, now=now) if header is not None else None


def _by_field(explanation: RefusalExplanation, now: float) -> float | None:
    waits = [found for found in _fields(explanation.tree, now, 0) if found is not None]
    return max(waits, default=None)


def _fields(tree: object, now: float, depth: int) -> Iterator[float | None]:
    """Yield the waits in the fields of an error."""
    if isinstance(tree, list) and depth < _DEPTH_MAX:
        for item in tree[:16]:
            yield from _fields(item, now, depth + 1)
    if not isinstance(tree, dict) or depth >= _DEPTH_MAX:
        return
    for name, value in tree.items():
        unit = _FIELDS.get(re.sub(r"[^a-z]", "", str(name).lower()))
        if unit is not None:
            yield _time(value, now, unit)
        elif isinstance(value, dict | list):
            yield from _fields(value, now, depth + 1)


def _time(value: object, now: float, unit: float) -> float | None:
    """Read the time in a field: a text, a number, or an object with seconds."""
    if isinstance(value, dict):
        return _time(value.get("seconds", 0), now, unit)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    return parse_wait(str(value), now=now, unit=unit)


def _by_sentence(words: str) -> float | None:
    found = _SENTENCE.search(words)
    seconds = parse_duration(_TRAILING.sub("", found["time"])) if found else None
    return seconds if seconds is not None and seconds <= WAIT_SECONDS_MAX else None


def _by_limits(
    headers: Mapping[str, str], explanation: RefusalExplanation, now: float
) -> float | None:
    """Read when a limit is reset, also from headers that a gateway repeats in its error."""
    for header in (headers, *_repeated_headers(explanation.tree, 0)):
        limits = read_rate_limits(header, now=now)
        if limits is None:
            continue
        if limits.wait_seconds is not None:
            return limits.wait_seconds
        # In a refusal, limits that name only their reset are used up.
        bare = [each for each in limits if each is not None and each.remaining is None]
        resets = [each.reset_seconds for each in bare if each.reset_seconds is not None]
        if resets and len(bare) == sum(each is not None for each in limits):
            return min(resets)
    return None


def _repeated_headers(tree: object, depth: int) -> Iterator[dict[str, str]]:
    if not isinstance(tree, dict) or depth >= _DEPTH_MAX:
        return
    for name, value in tree.items():
        if name == "headers" and isinstance(value, dict):
            yield {str(key): str(inner) for key, inner in value.items()}
        elif isinstance(value, dict):
            yield from _repeated_headers(value, depth + 1)
