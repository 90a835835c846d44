"""How long an upstream asks to wait, in every form in which upstreams say so, and their limits."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Final

import httpx
import pytest

from tests.support.clocks import ManualClock
from tests.worker.providers.calls import REQUEST, Call
from tests.worker.providers.upstream import whole
from worker.providers.failures import FailureTranslator, UpstreamRefusalError
from worker.providers.rate_limit_headers import Limit, RateLimits, parse_wait, read_rate_limits

_DAY: Final = datetime(2026, 11, 30, 12, tzinfo=UTC)
_NOW: Final = _DAY.timestamp()
_SOON: Final = _DAY + timedelta(seconds=40)
_PAST: Final = _DAY - timedelta(hours=1)


def _refused(headers: dict[str, str], said: object = None, status: int = 429) -> float | None:
    response = httpx.Response(status, headers=headers)
    body = json.dumps(said if said is not None else {}).encode()
    return FailureTranslator("up", ManualClock(_NOW)).refusal(response, body).retry_after_seconds


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 7 "}, 7.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "20s"}, 20.0),
        ({"retry-after": "1m30s"}, 90.0),
        ({"retry-after": format_datetime(_SOON, usegmt=True)}, 40.0),
        ({"retry-after": _SOON.isoformat()}, 40.0),
        ({"retry-after": str(int(_SOON.timestamp()))}, 40.0),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "2"}, 2.0),
        ({"x-ms-retry-after-ms": "120"}, 0.12),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 360.0),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "120ms"}, 0.12),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1.5s"}, 1.5),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "12"}, 12.0),
        ({"x-ratelimit-reset": "12"}, 12.0),
        ({"x-ratelimit-reset": str(int(_SOON.timestamp()))}, 40.0),
        ({"x-ratelimit-reset": str(int(_SOON.timestamp() * 1000))}, 40.0),
        ({"anthropic-ratelimit-requests-remaining": "0",
          "anthropic-ratelimit-requests-reset": "2026-11-30T12:00:40Z"}, 40.0),
        ({"anthropic-ratelimit-input-tokens-remaining": "0",
          "anthropic-ratelimit-input-tokens-reset": "2026-11-30T12:00:40Z",
          "anthropic-ratelimit-requests-remaining": "9",
          "anthropic-ratelimit-requests-reset": "2026-11-30T13:00:00Z"}, 40.0),
        ({"ratelimit": '"default";r=0;t=30'}, 30.0),
        ({"ratelimit": "limit=100, remaining=0, reset=30"}, 30.0),
        ({"x-ratelimit-remaining-requests": "59", "x-ratelimit-reset-requests": "1h",
          "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6s"}, 6.0),
    ],
    ids=str,
)  # fmt: skip
def test_headers_tell_a_wait_in_every_form(headers: dict[str, str], seconds: float) -> None:
    assert _refused(headers) == pytest.approx(seconds)
    assert _refused(headers, status=503) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "headers",
    [
        *({"retry-after": text} for text in ("-5", "soon", "nan", "inf", "1e999", "", "1 bear")),
        {"retry-after": "1000000000"},
        {"retry-after": "99999999"},
        {"retry-after": "400 days"},
        {"retry-after": format_datetime(_PAST, usegmt=True)},
        {"retry-after": _PAST.isoformat()},
        {"retry-after": "Wed, 21 Oct 2099 07:28:00 GMT"},
        {"retry-after": "Wed, 99 Oct 2099 07:28:00 GMT"},
        {"retry-after-ms": "-1"},
        {"x-ratelimit-remaining-requests": "59", "x-ratelimit-reset-requests": "1h"},
        {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(_PAST.timestamp()))},
        {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "-3"},
        {"x-ratelimit-remaining": "0"},
        {"anthropic-ratelimit-tokens-remaining": "1",
         "anthropic-ratelimit-tokens-reset": "2026-11-30T12:00:40Z"},
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_a_wait_delays_nothing(headers: dict[str, str]) -> None:
    assert _refused(headers) is None


def _google(delay: object) -> dict[str, object]:
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}
    return {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": [{}, info]}}


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (_google("37.4s"), 37.4),
        (_google({"seconds": 37, "nanos": 0}), 37.0),
        ([_google("37.4s")], 37.4),
        ({"error": {"message": "slow", "retry_after": 12}}, 12.0),
        ({"retry_after_ms": 1500}, 1.5),
        ({"error": {"metadata": {"retry_after_seconds": "9"}}}, 9.0),
        ({"error": {"metadata": {"headers": {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset":
          str(int(_SOON.timestamp() * 1000))}}}}, 40.0),
        ({"error": {"message": "Please try again in 37.4s."}}, 37.4),
        ({"error": {"message": "Please try again in 120ms. Visit us."}}, 0.12),
        ({"error": {"message": "Please try again in 7m59.5s. Need more tokens?"}}, 479.5),
        ({"error": {"message": "Please retry after 20 seconds."}}, 20.0),
        ({"error": {"message": "Please retry in 26.125s."}}, 26.125),
        ({"error": {"message": "Retry in 1 minute and 30 seconds"}}, 90.0),
        ({"error": {"message": "Wait 2 hours"}}, 7200.0),
        ({"error": {"message": "Limit 9 requests. It resets in 5 s"}}, 5.0),
        ({"error": {"metadata": {"raw": '{"error": {"message": "try again in 3s"}}'}}}, 3.0),
        ({"error": {"message": "Retry now"}}, None),
        ({"error": {"message": "Please try again later. You used 300 s of compute"}}, None),
        ({"error": {"message": "Try again in 900 days"}}, None),
        ({"error": {"message": "slow down", "retry_after": -4}}, None),
        ({"error": {"message": "slow down", "retry_after": True}}, None),
        ({"error": {"message": "slow down", "retry_after": 1e300}}, None),
    ],
    ids=str,
)  # fmt: skip
def test_bodies_tell_a_wait_by_fields_and_words(said: object, seconds: float | None) -> None:
    found = _refused({}, said)
    assert found == (pytest.approx(seconds) if seconds is not None else None)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 413])
def test_a_refusal_without_retry_has_no_wait(status: int) -> None:
    said = {"error": {"message": "Insufficient balance, unknown role, invalid API key"}}
    assert _refused({"retry-after": "7"}, said, status) is None


async def test_wait_is_reported_in_every_dialect(call: Call) -> None:
    received = await call(
        whole(b'{"error": {"message": "slow"}}', status=429, retry_after_ms="1500")
    )
    assert received.error is not None
    assert received.error.retry_after_seconds == 1.5


async def test_wait_of_an_error_inside_a_success_is_reported(call: Call) -> None:
    script = whole(call.dialect.error_event(429, "Please try again in 20s"), call.dialect.done)
    received = await call(script)
    assert received.error is not None
    assert received.error.retry_after_seconds == 20.0


@pytest.mark.parametrize(
    ("headers", "limits"),
    [
        ({}, None),
        ({"content-type": "x"}, None),
        ({"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "59",
          "x-ratelimit-reset-requests": "1s", "x-ratelimit-limit-tokens": "9000",
          "x-ratelimit-remaining-tokens": "8000", "x-ratelimit-reset-tokens": "6m0s"},
         RateLimits(Limit(60, 59, 1.0), Limit(9000, 8000, 360.0))),
        ({"anthropic-ratelimit-requests-limit": "50",
          "anthropic-ratelimit-requests-remaining": "49",
          "anthropic-ratelimit-requests-reset": "2026-11-30T12:00:40Z",
          "anthropic-ratelimit-input-tokens-limit": "1000",
          "anthropic-ratelimit-input-tokens-remaining": "900",
          "anthropic-ratelimit-output-tokens-limit": "100",
          "anthropic-ratelimit-output-tokens-remaining": "1"},
         RateLimits(Limit(50, 49, 40.0), Limit(100, 1))),
        ({"x-ratelimit-limit-requests-day": "14400", "x-ratelimit-remaining-requests-day": "14370",
          "x-ratelimit-reset-requests-day": "33011.38",
          "x-ratelimit-remaining-tokens-minute": "0", "x-ratelimit-reset-tokens-minute": "11.38"},
         RateLimits(Limit(14400, 14370, 33011.38), Limit(None, 0, 11.38))),
        ({"x-ratelimit-limit-req-minute": "60", "x-ratelimit-remaining-req-minute": "3"},
         RateLimits(Limit(60, 3))),
        ({"ratelimitbysize-limit": "500000", "ratelimitbysize-remaining": "499",
          "ratelimitbysize-reset": "7"}, RateLimits(None, Limit(500000, 499, 7.0))),
        ({"x-ratelimit-limit": "20", "x-ratelimit-remaining": "0",
          "x-ratelimit-reset": str(int(_SOON.timestamp() * 1000))}, RateLimits(Limit(20, 0, 40.0))),
        ({"ratelimit-limit": "100", "ratelimit-remaining": "7", "ratelimit-reset": "30"},
         RateLimits(Limit(100, 7, 30.0))),
        ({"ratelimit": '"default";r=7;t=30'}, RateLimits(Limit(None, 7, 30.0))),
        ({"x-ratelimit-remaining-requests": "many", "x-ratelimit-reset-requests": "soon"}, None),
        ({"x-ratelimit-remaining-requests": "-1"}, None),
    ],
    ids=str,
)  # fmt: skip
def test_limits_are_read_of_every_vendor(
    headers: dict[str, str], limits: RateLimits | None
) -> None:
    assert read_rate_limits(headers, now=_NOW) == limits


@pytest.mark.parametrize("text", ["", "x", "-1", "1e400", "²", "9" * 400, "0x10", "1,5", "NaN"])
def test_times_that_are_none_are_none(text: str) -> None:
    assert parse_wait(text, now=_NOW) is None


async def test_limits_are_reported_of_refusals_and_of_answers(call: Call) -> None:
    refusal = whole(b"{}", status=429, x_ratelimit_limit_requests="60")
    received = await call(refusal)
    assert isinstance(received.error, UpstreamRefusalError)
    assert received.error.limits == RateLimits(Limit(60))
    left = {"x_ratelimit_remaining_requests": "4", "x_ratelimit_reset_tokens": "6m0s"}
    await call(whole(call.dialect.answer("Two"), status=200, **left))
    limits = call.provider.limits_of(REQUEST.model, now=_NOW)
    assert limits == RateLimits(Limit(None, 4), Limit(None, None, 360.0))
