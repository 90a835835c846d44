"""Refusals of an upstream: by status, by its words, and in the body of a 200."""

import json
import time

import httpx
import pytest

from shared.errors import ProviderError
from tests.worker.providers.calls import PATIENT_SECONDS, Call
from tests.worker.providers.exchanges import IN_BAND, REFUSALS, Exchange, named
from tests.worker.providers.upstream import Line, endless, whole
from worker.providers.failures import FailureTranslator, InBandError, UpstreamRefusalError

_BY_STATUS = {
    301: ("provider_error", "UNEXPECTED_REDIRECT", "never"),
    302: ("provider_error", "UNEXPECTED_REDIRECT", "never"),
    307: ("provider_error", "UNEXPECTED_REDIRECT", "never"),
    400: ("invalid_request", "REFUSED_REQUEST", "never"),
    401: ("auth", "BAD_CREDENTIALS", "never"),
    402: ("invalid_request", "REFUSED_REQUEST", "never"),
    403: ("invalid_request", "REFUSED_REQUEST", "never"),
    404: ("invalid_request", "UNKNOWN_UPSTREAM_MODEL", "never"),
    408: ("timeout", "PROVIDER_TIMEOUT", "backoff"),
    409: ("overloaded", "PROVIDER_CONFLICT", "backoff"),
    413: ("invalid_request", "REFUSED_REQUEST", "never"),
    418: ("invalid_request", "REFUSED_REQUEST", "never"),
    422: ("invalid_request", "REFUSED_REQUEST", "never"),
    429: ("rate_limit", "PROVIDER_RATE_LIMITED", "backoff"),
    500: ("provider_error", "PROVIDER_FAILED", "backoff"),
    502: ("provider_error", "PROVIDER_FAILED", "backoff"),
    503: ("overloaded", "PROVIDER_OVERLOADED", "backoff"),
    529: ("overloaded", "PROVIDER_OVERLOADED", "backoff"),
    204: ("provider_error", "PROVIDER_FAILED", "never"),
    299: ("provider_error", "PROVIDER_FAILED", "never"),
    999: ("provider_error", "PROVIDER_FAILED", "never"),
}


@pytest.mark.parametrize("status", _BY_STATUS)
async def test_status_decides(call: Call, status: int) -> None:
    # One without content has none.
    body = b"" if status == 204 else call.dialect.refusal("some_code", "some message")
    received = await call(whole(body, status=status, location=call.upstream.url))
    assert received.fault == _BY_STATUS[status]
    assert received.parts == []
    assert len(call.upstream.lines) == 1


@pytest.mark.parametrize("status", [400, 413, 422, 500])
@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("context_length_exceeded", "no"),
        (
            "invalid_request_error",
            "This model's maximum context length is 8192 tokens. However, you requested 9000.",
        ),
        (
            "exceed_context_size_error",
            "the request exceeds the available context size (4096 tokens)",
        ),
    ],
)
async def test_conversation_that_is_too_long_is_known_by_words(
    call: Call, status: int, code: str, message: str
) -> None:
    received = await call(whole(call.dialect.refusal(code, message), status=status))
    assert received.fault == ("invalid_request", "CONTEXT_TOO_LONG", "never")


@pytest.mark.parametrize("status", [401, 429, 503])
async def test_words_never_overrule_who_must_wait_or_pay(call: Call, status: int) -> None:
    words = "Too many tokens per minute; the maximum context of your plan; content_policy"
    received = await call(whole(call.dialect.refusal("tokens", words), status=status))
    assert received.fault == _BY_STATUS[status]


@pytest.mark.parametrize("status", [400, 422])
async def test_content_policy_is_known_by_words(call: Call, status: int) -> None:
    body = call.dialect.refusal("content_filter", "Our content management policy forbids it.")
    received = await call(whole(body, status=status))
    assert received.fault == ("content_policy", "CONTENT_POLICY", "never")


async def test_nothing_that_an_upstream_says_reaches_the_failure(call: Call) -> None:
    body = call.dialect.refusal("sk-wholly-secret", "key sk-wholly-secret of ann@example.org")
    received = await call(whole(body, status=401))
    assert received.error is not None
    assert "secret" not in repr(received.error.failure)
    assert "example" not in repr(received.error.failure)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (429, ("rate_limit", "PROVIDER_RATE_LIMITED", "backoff")),
        (503, ("overloaded", "PROVIDER_OVERLOADED", "backoff")),
        (500, ("provider_error", "PROVIDER_FAILED", "backoff")),
        (401, ("auth", "BAD_CREDENTIALS", "never")),
        (12345, ("provider_error", "PROVIDER_FAILED", "backoff")),
    ],
)
@pytest.mark.parametrize("is_first", [True, False])
async def test_error_inside_a_success_is_an_error(
    call: Call, status: int, expected: tuple[str, str, str], *, is_first: bool
) -> None:
    before = b"" if is_first else call.dialect.text("Two ")
    script = whole(before, call.dialect.error_event(status, "no"), call.dialect.done)
    received = await call(script)
    assert received.fault == expected
    assert received.text == ("" if is_first else "Two ")


async def test_too_long_a_conversation_inside_a_success_is_known_by_words(call: Call) -> None:
    script = whole(call.dialect.error_event(400, "the maximum context length is 8192 tokens"))
    assert (await call(script)).fault == ("invalid_request", "CONTEXT_TOO_LONG", "never")


@pytest.mark.parametrize("status", [400, 401, 429, 500])
async def test_refusal_whose_body_breaks_off_is_still_that_refusal(call: Call, status: int) -> None:
    async def script(line: Line) -> None:
        await line.head(status=status, content_length="100000")
        await line.send(b'{"error":')
        line.reset()

    assert (await call(script)).fault == _BY_STATUS[status]


async def test_refusal_whose_body_never_comes_fails_soon(call: Call) -> None:
    async def script(line: Line) -> None:
        await line.head(status=400, content_length="100000")
        await line.gone.wait()

    received = await call(script)
    assert received.fault == _BY_STATUS[400]
    assert received.seconds < PATIENT_SECONDS / 2


async def test_refusal_that_drips_fails_soon(call: Call) -> None:
    received = await call(endless(b"x", status=400))
    assert received.fault == _BY_STATUS[400]
    assert received.seconds < PATIENT_SECONDS / 2


async def test_refusal_without_end_is_not_read_to_its_end(call: Call) -> None:
    received = await call(endless(b"x" * 65_536, status=401))
    assert received.fault == _BY_STATUS[401]
    assert received.seconds < PATIENT_SECONDS / 2
    assert call.upstream.line.sent_bytes < 20_000_000


async def test_compressed_refusal_is_not_unpacked(call: Call) -> None:
    received = await call(
        whole(b"\x1f\x8b\x08" + b"\0" * 1000, status=500, content_encoding="gzip")
    )
    assert received.fault == _BY_STATUS[500]


async def test_redirect_is_not_followed(call: Call) -> None:
    received = await call(whole(status=307, location=call.upstream.url + "/elsewhere"))
    assert received.fault == _BY_STATUS[307]
    assert len(call.upstream.lines) == 1


def _told(error: ProviderError | None) -> str:
    assert error is not None
    return f"{error.failure.category}/{error.failure.code}"


@pytest.mark.parametrize("exchange", REFUSALS, ids=named(REFUSALS))
def test_refusal_of_every_vendor_comes_to_what_it_is_about(exchange: Exchange) -> None:
    response = httpx.Response(exchange.status)
    error = FailureTranslator("up").refusal(response, exchange.body)
    assert _told(error) == exchange.fault
    assert error.failure.retryable == (error.retry != "never")


@pytest.mark.parametrize("exchange", REFUSALS[::7], ids=named(REFUSALS[::7]))
async def test_refusal_of_any_vendor_is_read_in_every_dialect(
    call: Call, exchange: Exchange
) -> None:
    received = await call(whole(exchange.body, status=exchange.status))
    assert _told(received.error) == exchange.fault


@pytest.mark.parametrize("exchange", IN_BAND, ids=named(IN_BAND))
def test_error_inside_a_success_is_reported_by_codes_types_and_words(exchange: Exchange) -> None:
    with pytest.raises(ProviderError) as raised, FailureTranslator("up").translated_errors():
        raise InBandError(exchange.said)
    assert _told(raised.value) == exchange.fault


def test_what_a_request_said_never_decides() -> None:
    # A caller whose words are repeated must not close a provider for everybody.
    quoted = "Incorrect API key provided. Your account is suspended: insufficient balance."
    for repeated in (f'"{quoted}"', f"'{quoted}'", f"input_value={quoted!r}"):
        body = json.dumps({"error": {"message": f"Unknown role {repeated}"}, "input": quoted})
        error = FailureTranslator("up").refusal(httpx.Response(400), body.encode())
        assert _told(error) == "invalid_request/REFUSED_REQUEST"


@pytest.mark.parametrize(
    ("status", "body", "is_unexplained"),
    [
        (400, b'{"error": {"message": "odd"}}', True),
        (400, b"", True),
        (413, b"<html>413</html>", True),
        (422, b"no", True),
        (400, b'{"error": {"message": "odd", "code": "unsupported_parameter"}}', False),
        (400, b'{"error": {"message": "prompt is too long"}}', False),
        (403, b"<html>403</html>", False),
        (429, b"", False),
        (500, b"", False),
    ],
)
def test_only_a_refusal_without_a_reason_may_be_one_of_length(
    status: int, body: bytes, *, is_unexplained: bool
) -> None:
    error = FailureTranslator("up").refusal(httpx.Response(status), body)
    assert isinstance(error, UpstreamRefusalError)
    assert error.is_unexplained == is_unexplained


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 60_000,
        b'{"error":' * 5_000 + b"1",
        b'{"error": {"message": "' + b"{'a': " * 8_000 + b'"}}',
        b'{"error": {"message": "' + b"a " * 30_000 + b'"}}',
        b'{"error": {"message": ["x", {"code": 1e999}], "code": {"a": []}, "status": null}}',
        b"\xff\xfe{",
        b'{"error": {"message": "\\ud800 {"}}',
        json.dumps({"error": [{"error": [{"error": "x"}] * 40}] * 40}).encode(),
    ],
    ids=["lists", "objects", "literals", "long", "odd", "no text", "surrogate", "many"],
)
def test_odd_refusal_is_read_in_a_moment_and_never_fails(body: bytes) -> None:
    began = time.process_time()
    error = FailureTranslator("up").refusal(httpx.Response(400), body[:65_536])
    assert _told(error) == "invalid_request/REFUSED_REQUEST"
    assert time.process_time() - began < 1.0
