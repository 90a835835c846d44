"""Requests that an upstream refuses or fails: whose fault it is, and what it costs others.

ONE_REQUEST  a refusal of one message concerns no other message
UNPAID       the deployment's account has no money
OVERFLOW     the conversation is too long
POLICY       what was asked is forbidden
IN_BAND      a failure inside a success
WAITS        how long to wait, in every form in which upstreams give it
"""

from collections.abc import Mapping
from typing import Final

from shared.settings import Dialect
from tests.exchanges.exchange import (
    DONE,
    SOON_DATE,
    SOON_TIME,
    Exchange,
    Expected,
    Json,
    failed,
    head,
    refusal,
    stream,
    waiting,
)

_REFUSED: Final = failed("invalid_request/REFUSED_REQUEST")
_POLICY: Final = failed("content_policy/CONTENT_POLICY")
_UNPAID: Final = failed("auth/PROVIDER_UNPAID")


def _one(
    name: str, status: int, body: object, expected: Expected, dialect: Dialect = "openai"
) -> Exchange:
    """Only the flagged message is refused; a message of another account is answered."""
    message = "these words are FLAGGED"
    return Exchange(name, refusal(status, body), expected, dialect, message, marker="FLAGGED")


def _error(message: str, **other: object) -> Json:
    return {"error": {"message": message, **other}}


ONE_REQUEST: Final = (
    _one("waf-page", 403, "<html><title>Attention Required!</title>blocked</html>", _REFUSED),
    _one("forbidden-empty", 403, "", _REFUSED),
    _one(
        "flagged-input",
        403,
        _error(
            "Your input was flagged by moderation.",
            code=403,
            metadata={"reasons": ["violence"], "flagged_input": "these words"},
        ),
        _POLICY,
    ),
    _one(
        "can-only-afford",
        402,
        _error("You requested up to 4096 tokens, but can only afford 120.", code=402),
        failed("invalid_request/REQUEST_UNAFFORDABLE"),
    ),
    _one("claude-forbidden-page", 403, "<h1>Request blocked</h1>", _REFUSED, dialect="anthropic"),
    _one("gemini-forbidden-empty", 403, "{}", _REFUSED, dialect="gemini"),
    _one("payment-without-words", 402, "", _REFUSED),
    _one(
        "moderated-by-a-gateway",
        403,
        _error("Request blocked by guardrail.", code="guardrail_intervened"),
        _POLICY,
    ),
    _one(
        "claude-waf-page",
        403,
        "<html><body>Access denied. Ray ID: 1</body></html>",
        _REFUSED,
        dialect="anthropic",
    ),
)
UNPAID: Final = (
    Exchange(
        "quota-429",
        refusal(
            429,
            _error(
                "You exceeded your current quota, please check your plan and billing details.",
                type="insufficient_quota",
                code="insufficient_quota",
            ),
        ),
        _UNPAID,
    ),
    Exchange(
        "claude-credit-balance",
        refusal(
            400,
            {
                "type": "error",
                **_error(
                    "Your credit balance is too low to access the API.",
                    type="invalid_request_error",
                ),
            },
        ),
        _UNPAID,
        "anthropic",
    ),
    Exchange(
        "claude-usage-limits",
        refusal(
            400,
            {
                "type": "error",
                **_error(
                    "You have reached your specified API usage limits.",
                    type="invalid_request_error",
                ),
            },
        ),
        _UNPAID,
        "anthropic",
    ),
    Exchange(
        "insufficient-balance",
        refusal(
            402, _error("Insufficient Balance", type="unknown_error", code="invalid_request_error")
        ),
        _UNPAID,
    ),
    Exchange(
        "kimi-quota",
        refusal(
            429,
            _error(
                "Your account is suspended, please check your plan and billing details",
                type="exceeded_current_quota_error",
            ),
        ),
        _UNPAID,
    ),
    Exchange(
        "billing-hard-limit",
        refusal(
            400,
            _error(
                "Billing hard limit has been reached",
                code="billing_hard_limit_reached",
                type="invalid_request_error",
            ),
        ),
        _UNPAID,
    ),
    Exchange(
        "xai-spending-limit",
        refusal(
            403,
            {
                "code": "The caller does not have permission",
                "error": "Your team has used all available credits or reached its spending limit.",
            },
        ),
        _UNPAID,
    ),
)


def _overflow(name: str, status: int, body: object, dialect: Dialect = "openai") -> Exchange:
    """Refused at every length: repeated once with half of the conversation, then failed."""
    expected = failed("invalid_request/CONTEXT_TOO_LONG", calls=2)
    refused = Exchange(name, refusal(status, body), expected, dialect, "and AGAIN please")
    return refused._replace(marker="AGAIN", before=("first words", "second words"))


OVERFLOW: Final = (
    _overflow("code-context", 400, _error("Too much.", code="context_length_exceeded")),
    _overflow(
        "input-longer",
        400,
        _error(
            "This model's maximum prompt length is 131072 but the request contains 140000 tokens."
        ),
    ),
    _overflow(
        "vllm-words",
        400,
        _error("This model's maximum context length is 4096 tokens, you requested 5000."),
    ),
    _overflow(
        "llama-words",
        400,
        _error(
            "the request exceeds the available context size, try increasing it",
            type="exceed_context_size_error",
            n_ctx=2048,
        ),
    ),
    _overflow(
        "claude-long",
        400,
        {
            "type": "error",
            **_error(
                "prompt is too long: 210000 tokens > 200000 maximum", type="invalid_request_error"
            ),
        },
        dialect="anthropic",
    ),
    _overflow(
        "gemini-long",
        400,
        _error(
            "The input token count (40000) exceeds the maximum number of tokens allowed (32768).",
            code=400,
            status="INVALID_ARGUMENT",
        ),
        dialect="gemini",
    ),
    _overflow("seq-len", 400, _error("Prompt has 5000 tokens, which exceeds max_seq_len 4096")),
)
POLICY: Final = (
    _one(
        "code-content-filter",
        400,
        _error("The response was filtered.", code="content_filter"),
        _POLICY,
    ),
    _one(
        "policy-violation",
        400,
        _error(
            "Your request was rejected by the safety system.",
            code="content_policy_violation",
            type="invalid_request_error",
        ),
        _POLICY,
    ),
    _one(
        "content-exists-risk",
        400,
        _error("Content Exists Risk", type="invalid_request_error"),
        _POLICY,
    ),
    _one(
        "data-inspection",
        400,
        _error("Input data may contain inappropriate content.", code="data_inspection_failed"),
        _POLICY,
    ),
    _one(
        "usage-policies",
        400,
        _error(
            "Invalid prompt: your prompt was flagged as potentially violating our usage policy.",
            code="invalid_prompt",
        ),
        _POLICY,
    ),
    _one(
        "responsible-ai",
        400,
        _error(
            "The response was filtered due to the prompt triggering the content management policy.",
            code="content_filter",
            status=400,
            innererror={"code": "ResponsibleAIPolicyViolation"},
        ),
        _POLICY,
    ),
    _one(
        "code-is-a-number-in-words",
        400,
        _error("The input or the output may contain unsafe or sensitive content.", code="1301"),
        _POLICY,
    ),
    _one(
        "input-text-sensitive",
        400,
        _error(
            "The request failed because the input text may contain sensitive information.",
            code="InputTextSensitiveContentDetected",
            type="BadRequest",
        ),
        _POLICY,
    ),
    _one(
        "gemini-prohibited",
        400,
        _error("The prompt was blocked.", code=400, status="PROHIBITED_CONTENT"),
        _POLICY,
        dialect="gemini",
    ),
    _one(
        "claude-filtering",
        400,
        {
            "type": "error",
            **_error("Output blocked by content filtering policy", type="invalid_request_error"),
        },
        _POLICY,
        dialect="anthropic",
    ),
)


def _in_band(name: str, error: object, expected: Expected, dialect: Dialect = "openai") -> Exchange:
    return Exchange(name, stream({"error": error}, DONE), expected, dialect)


_LIMITED: Final = waiting(calls=None)
_WHOLE_ERROR: Final = b'{"error": {"message": "Slow down", "code": "rate_limit_exceeded"}}'

IN_BAND: Final = (
    _in_band(
        "in-band-limit-word", {"message": "slow down", "code": "rate_limit_exceeded"}, _LIMITED
    ),
    _in_band("in-band-limit-text", {"message": "slow down", "code": "429"}, _LIMITED),
    _in_band(
        "in-band-bad-request",
        {"message": "bad parameter", "type": "invalid_request_error", "code": None},
        _REFUSED,
    ),
    _in_band("in-band-policy", {"message": "no", "code": "content_filter"}, _POLICY),
    Exchange(
        "in-band-claude-policy",
        stream({"type": "error", "error": {"type": "invalid_request_error", "message": "bad"}}),
        _REFUSED,
        "anthropic",
    ),
    _in_band(
        "in-band-gemini-argument",
        {"code": 400, "message": "bad", "status": "INVALID_ARGUMENT"},
        _REFUSED,
        dialect="gemini",
    ),
    _in_band("in-band-limit-number", {"message": "slow down", "code": 429}, _LIMITED),
    _in_band(
        "in-band-too-long",
        {"message": "Too much.", "code": "context_length_exceeded"},
        failed("invalid_request/CONTEXT_TOO_LONG", calls=None),
    ),
    Exchange("whole-json-error", (head(200, length=len(_WHOLE_ERROR)) + _WHOLE_ERROR,), _LIMITED),
    Exchange(
        "error-field",
        (
            head(200, {"content-type": "text/event-stream"}),
            b'error: {"code": 400, "message": "bad", "type": "invalid_request_error"}\n\n',
        ),
        _REFUSED,
    ),
)


def _limited(
    name: str, headers: Mapping[str, str], body: object = "", dialect: Dialect = "openai"
) -> Exchange:
    return Exchange(name, refusal(429, body, headers), waiting(), dialect)


WAITS: Final = (
    _limited("wait-date", {"retry-after": SOON_DATE}),
    _limited("wait-milliseconds", {"retry-after-ms": "37000"}),
    _limited(
        "wait-reset-duration",
        {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m12s"},
    ),
    _limited("wait-seconds", {"retry-after": "40"}),
    _limited("wait-fraction", {"retry-after": "41.7"}),
    _limited(
        "wait-for-tokens",
        {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "42s"},
    ),
    _limited(
        "wait-in-words",
        {},
        _error("Rate limit reached. Please try again in 41.5s.", code="rate_limit_exceeded"),
    ),
    _limited(
        "claude-wait-reset",
        {
            "anthropic-ratelimit-requests-remaining": "0",
            "anthropic-ratelimit-requests-reset": SOON_TIME,
        },
        {"type": "error", **_error("limit", type="rate_limit_error")},
        dialect="anthropic",
    ),
    _limited(
        "gemini-wait-info",
        {},
        _error(
            "Quota exceeded. Please retry in 38.2s.",
            code=429,
            status="RESOURCE_EXHAUSTED",
            details=[{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "38.2s"}],
        ),
        dialect="gemini",
    ),
)
