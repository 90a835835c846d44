"""What an adapter makes of an upstream that refuses: by status, by words, and inside a 200."""

import pytest

from tests.worker.providers.calls import Call
from tests.worker.providers.upstream import Line, endless, whole

_BY_STATUS = {
    301: ("provider_error", "UNEXPECTED_REDIRECT", "never"),
    302: ("provider_error", "UNEXPECTED_REDIRECT", "never"),
    307: ("provider_error", "UNEXPECTED_REDIRECT", "never"),
    400: ("invalid_request", "REFUSED_REQUEST", "never"),
    401: ("auth", "BAD_CREDENTIALS", "never"),
    402: ("auth", "PROVIDER_UNPAID", "never"),
    403: ("auth", "PROVIDER_FORBIDS", "never"),
    404: ("invalid_request", "UNKNOWN_UPSTREAM_MODEL", "never"),
    408: ("timeout", "PROVIDER_TIMEOUT", "backoff"),
    409: ("overloaded", "PROVIDER_CONFLICT", "backoff"),
    413: ("invalid_request", "CONTEXT_TOO_LONG", "never"),
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
    heard = await call(whole(body, status=status, location=call.upstream.url))
    assert heard.fault == _BY_STATUS[status]
    assert heard.parts == []
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
    heard = await call(whole(call.dialect.refusal(code, message), status=status))
    assert heard.fault == ("invalid_request", "CONTEXT_TOO_LONG", "never")


@pytest.mark.parametrize("status", [401, 403, 429, 503])
async def test_words_never_overrule_who_must_wait_or_pay(call: Call, status: int) -> None:
    words = "Too many tokens per minute; the maximum context of your plan; content_policy"
    heard = await call(whole(call.dialect.refusal("tokens", words), status=status))
    assert heard.fault == _BY_STATUS[status]


@pytest.mark.parametrize("status", [400, 422])
async def test_content_policy_is_known_by_words(call: Call, status: int) -> None:
    body = call.dialect.refusal("content_filter", "Our content management policy forbids it.")
    heard = await call(whole(body, status=status))
    assert heard.fault == ("content_policy", "CONTENT_POLICY", "never")


async def test_nothing_that_an_upstream_says_reaches_the_failure(call: Call) -> None:
    body = call.dialect.refusal("sk-wholly-secret", "key sk-wholly-secret of ann@example.org")
    heard = await call(whole(body, status=401))
    assert heard.error is not None
    assert "secret" not in repr(heard.error.failure)
    assert "example" not in repr(heard.error.failure)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("0.25", 0.25),
        ("1000000000", 1e9),
        ("-5", None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("1e999", None),
        ("", None),
        ("Wed, 21 Oct 2099 07:28:00 GMT", None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_told_when_it_is_a_number(
    call: Call, status: int, header: str, seconds: float | None
) -> None:
    heard = await call(whole(b"{}", status=status, retry_after=header))
    assert heard.error is not None
    assert heard.error.retry_after_seconds == seconds
    assert heard.fault == _BY_STATUS[status]


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
    heard = await call(script)
    assert heard.fault == expected
    assert heard.text == ("" if is_first else "Two ")


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


async def test_refusal_whose_body_never_comes_is_told_soon(call: Call) -> None:
    async def script(line: Line) -> None:
        await line.head(status=400, content_length="100000")
        await line.gone.wait()

    heard = await call(script)
    assert heard.fault == _BY_STATUS[400]
    assert heard.seconds < 1.5


async def test_refusal_that_drips_is_told_soon(call: Call) -> None:
    heard = await call(endless(b"x", status=400))
    assert heard.fault == _BY_STATUS[400]
    assert heard.seconds < 1.5


async def test_refusal_without_end_is_not_read_to_its_end(call: Call) -> None:
    heard = await call(endless(b"x" * 65_536, status=401))
    assert heard.fault == _BY_STATUS[401]
    assert heard.seconds < 1.5
    assert call.upstream.line.sent_bytes < 20_000_000


async def test_compressed_refusal_is_not_unpacked(call: Call) -> None:
    heard = await call(whole(b"\x1f\x8b\x08" + b"\0" * 1000, status=500, content_encoding="gzip"))
    assert heard.fault == _BY_STATUS[500]


async def test_redirect_is_not_followed(call: Call) -> None:
    heard = await call(whole(status=307, location=call.upstream.url + "/elsewhere"))
    assert heard.fault == _BY_STATUS[307]
    assert len(call.upstream.lines) == 1
