"""The error codes and types of upstreams and their meaning, each with its source.

Owns the meaning of a code. Codes are compared as lower-case letters and digits only, because
vendors write one code in many ways (`rate_limit_exceeded`, `rateLimitExceeded`). Codes that name a
reason are read before any sentence. Those that only repeat a status are `STATUS_BY_CODE`.

A source is where to look. Those of OpenRouter, Moonshot, Alibaba, Zhipu, ZenMux and xAI were read
in November 2026, as excerpts of stored copies; the others are from general knowledge and were not
checked. "seen" is an error that users reported, not one that the vendor documents.
"""

import re
from typing import Final, Literal, NamedTuple

RefusalReason = Literal["unaffordable", "unpaid", "policy", "too long", "model", "key", "forbidden"]

_NOT_IN_A_CODE: Final = re.compile(r"[^a-z0-9]")


class Codes(NamedTuple):
    """Codes of one reason, as one vendor writes them."""

    reason: RefusalReason
    source: str
    codes: tuple[str, ...]


_ROWS: Final = (
    Codes(
        "unpaid",
        "OpenAI: developers.openai.com, error codes",
        (
            *("insufficient_quota", "credit_balance_exhausted", "billing_hard_limit_reached"),
            *("billing_not_active", "quota_exhausted"),
        ),
    ),
    Codes("unpaid", "Anthropic: platform.claude.com, errors", ("billing_error",)),
    Codes(
        "unpaid",
        "Google: cloud.google.com, ErrorReason of google.api",
        ("BILLING_DISABLED", "SPENDING_LIMIT_EXCEEDED"),
    ),
    Codes(
        "unpaid", "Moonshot: platform.kimi.ai/docs/api/errors", ("exceeded_current_quota_error",)
    ),
    Codes(
        "unpaid",
        "Alibaba: help.aliyun.com/en/model-studio/error-code",
        (
            *("Arrearage", "AllocationQuota.FreeTierOnly", "CommodityNotPurchased"),
            *("PrepaidBillOverdue", "PostpaidBillOverdue", "AccessDenied.Unpurchased"),
        ),
    ),
    Codes("unpaid", "Zhipu: docs.bigmodel.cn, error codes", ("1113",)),
    Codes("unpaid", "LiteLLM: docs.litellm.ai, budgets", ("budget_exceeded",)),
    Codes(
        "unpaid",
        "ZenMux: docs.zenmux.ai, error codes; Gatewayz and other gateways (seen)",
        (
            *("insufficient_credit", "insufficient_credits", "reject_no_credit"),
            *("insufficient_balance", "insufficient_funds", "payment_required"),
            *("insufficient_user_quota", "spending_limit_reached", "monthly_limit_exceeded"),
        ),
    ),
    Codes(
        "policy", "OpenAI and Azure: learn.microsoft.com, content filtering", ("content_filter",)
    ),
    Codes(
        "policy",
        "Azure OpenAI: learn.microsoft.com, content filtering",
        ("ResponsibleAIPolicyViolation", "content_filtered"),
    ),
    Codes(
        "policy",
        "OpenAI: developers.openai.com, images and safety",
        (
            *("content_policy_violation", "content_policy", "moderation_blocked"),
            *("safety_violation", "policy_violation", "usage_policy_violation"),
        ),
    ),
    Codes(
        "policy",
        "Alibaba: help.aliyun.com/en/model-studio/error-code",
        ("DataInspectionFailed", "data_inspection_failed"),
    ),
    Codes("policy", "Zhipu: docs.bigmodel.cn, content safety", ("1301",)),
    Codes(
        "policy", "MiniMax: platform.minimax.io, error codes", ("base_resp_1026", "base_resp_1027")
    ),
    Codes(
        "policy",
        "Volcengine Ark: volcengine.com, error codes",
        (
            *("InputTextSensitiveContentDetected", "OutputTextSensitiveContentDetected"),
            *("InputTextRiskDetection", "SensitiveContentDetected"),
        ),
    ),
    Codes(
        "policy",
        "Google: ai.google.dev, BlockReason and FinishReason",
        ("PROHIBITED_CONTENT", "SAFETY", "BLOCKLIST", "IMAGE_SAFETY", "blocked_by_safety"),
    ),
    Codes(
        "policy",
        "gateways (seen): ZenMux, Portkey, One API, LiteLLM, Bedrock's guardrails",
        (
            *("safety_check_failed", "hooks_failed", "sensitive_words_detected"),
            *("ContentPolicyViolationError", "guardrail_intervened", "content_blocked"),
            *("prompt_blocked", "content_moderation", "content_violation", "moderation_error"),
        ),
    ),
    Codes(
        "too long",
        "OpenAI: developers.openai.com, error codes",
        ("context_length_exceeded", "string_above_max_length"),
    ),
    Codes("too long", "llama.cpp: its server's README", ("exceed_context_size_error",)),
    Codes("too long", "GitHub Copilot (seen)", ("model_max_prompt_tokens_exceeded",)),
    Codes("too long", "GitHub Models (seen)", ("tokens_limit_reached",)),
    Codes(
        "too long",
        "Anthropic: platform.claude.com, errors",
        ("request_too_large", "context_window_exceeded"),
    ),
    Codes(
        "too long",
        "OpenRouter: openrouter.ai/docs, error codes",
        ("max_tokens_exceeded", "token_limit_exceeded", "string_too_long"),
    ),
    Codes("too long", "Zhipu: docs.bigmodel.cn, error codes", ("1261",)),
    Codes("too long", "MiniMax: platform.minimax.io, error codes", ("base_resp_1039",)),
    Codes(
        "too long",
        "gateways (seen): LiteLLM, Cohere, ZenMux",
        (
            *("ContextWindowExceededError", "context_window_overflow", "prompt_too_long"),
            *("input_too_long", "input_length_exceeded", "max_context_length_exceeded"),
        ),
    ),
    Codes(
        "model",
        "OpenAI and those who follow it: error codes; Groq: console.groq.com, deprecations",
        (
            *("model_not_found", "model_not_supported", "invalid_model", "unknown_model"),
            *("model_not_available", "model_not_exist", "model_decommissioned"),
            *("model_not_available_for_plan", "model_access_denied"),
        ),
    ),
    Codes("model", "Azure OpenAI: learn.microsoft.com", ("DeploymentNotFound",)),
    Codes("model", "Amazon Bedrock: API reference", ("ResourceNotFoundException",)),
    Codes("model", "Zhipu: docs.bigmodel.cn, error codes", ("1211",)),
    Codes("model", "Volcengine Ark: error codes", ("InvalidEndpointOrModel.NotFound",)),
    Codes(
        "key",
        "OpenAI: error codes; Moonshot: platform.kimi.ai; Alibaba: InvalidApiKey",
        (
            *("invalid_api_key", "incorrect_api_key_error", "invalid_authentication_error"),
            *("invalid_authentication", "expired_api_key", "InvalidApiKey"),
        ),
    ),
    Codes(
        "key",
        "Google: cloud.google.com, ErrorReason of google.api",
        ("API_KEY_INVALID", "ACCESS_TOKEN_EXPIRED", "ACCESS_TOKEN_TYPE_UNSUPPORTED"),
    ),
    Codes(
        "key",
        "Amazon Bedrock: common errors",
        (
            *("ExpiredTokenException", "UnrecognizedClientException", "InvalidClientTokenId"),
            *("InvalidSignatureException", "IncompleteSignature", "NotAuthorized"),
            *("MissingAuthenticationTokenException", "ExpiredToken"),
        ),
    ),
    Codes("key", "MiniMax: platform.minimax.io, error codes", ("base_resp_1004", "base_resp_2049")),
    Codes(
        "forbidden",
        "OpenAI: error codes",
        (
            *("unsupported_country_region_territory", "ip_not_authorized", "account_deactivated"),
            *("account_suspended", "insufficient_permissions", "missing_scope"),
            *("organization_restricted", "project_archived"),
        ),
    ),
    Codes(
        "forbidden",
        "Google: cloud.google.com, ErrorReason of google.api",
        (
            *("CONSUMER_SUSPENDED", "CONSUMER_INVALID", "SERVICE_DISABLED"),
            *("API_KEY_SERVICE_BLOCKED", "API_KEY_IP_ADDRESS_BLOCKED", "IAM_PERMISSION_DENIED"),
            *("API_KEY_HTTP_REFERRER_BLOCKED", "USER_PROJECT_DENIED"),
            *("ACCESS_TOKEN_SCOPE_INSUFFICIENT", "LOCATION_POLICY_VIOLATED"),
        ),
    ),
    Codes(
        "forbidden",
        "Moonshot: platform.kimi.ai/docs/api/errors",
        ("permission_denied_error", "access_terminated_error"),
    ),
    Codes("forbidden", "Amazon Bedrock: API reference", ("AccessDeniedException",)),
    Codes("unpaid", "MiniMax: platform.minimax.io, error codes", ("base_resp_1008",)),
)

_RATE_LIMITED: Final = (
    # OpenAI (`tokens` and `requests` are types), Anthropic, Moonshot, GitHub Models, gateways.
    *("rate_limit_exceeded", "rate_limit_error", "rate_limited", "rate_limit", "tokens"),
    *("requests", "too_many_requests", "rate_limit_reached_error", "RateLimitReached"),
    *("concurrency_limit_exceeded", "RateLimitError", "RequestsLimitReached"),
    # Google, of today and of before.
    *("RESOURCE_EXHAUSTED", "rateLimitExceeded", "userRateLimitExceeded", "RATE_LIMIT_EXCEEDED"),
    *("quotaExceeded", "dailyLimitExceeded"),
    # Amazon Bedrock, also by 400.
    *("ThrottlingException", "TooManyRequestsException", "ServiceQuotaExceededException"),
    # Alibaba, Zhipu, Mistral, MiniMax.
    *("Throttling", "Throttling.RateQuota", "Throttling.AllocationQuota", "Throttling.BurstRate"),
    *("limit_requests", "limit_burst_rate", "LimitRequests", "1302", "1303", "1300"),
    *("base_resp_1002", "base_resp_1041"),
)
_OVERLOADED: Final = (
    *("overloaded_error", "overloaded", "server_overloaded", "engine_overloaded_error"),
    *("engine_overloaded", "model_overloaded", "UNAVAILABLE", "service_unavailable"),
    *("ServiceUnavailableException", "service_unavailable_error", "ModelNotReadyException"),
    *("server_busy", "slow_down", "capacity_exceeded", "1305", "service_tier_capacity_exceeded"),
)
_FAILED: Final = (
    *("server_error", "internal_error", "internal_server_error", "api_error", "INTERNAL"),
    *("InternalServerException", "ModelErrorException", "ModelStreamErrorException", "UNKNOWN"),
    *("upstream_error", "bad_gateway", "provider_error", "api_connection_error"),
    *("base_resp_1000", "base_resp_1013"),
)
_INVALID: Final = (
    *("invalid_request_error", "invalid_request", "INVALID_ARGUMENT", "FAILED_PRECONDITION"),
    *("OUT_OF_RANGE", "UNIMPLEMENTED", "ValidationException", "bad_request", "BadRequestError"),
    *("validation_error", "validation", "unprocessable_entity", "base_resp_2013"),
)
# These codes name a field that the upstream does not accept: a shorter conversation does not help.
_PARAMETERS: Final = (
    *("invalid_value", "invalid_type", "unsupported_parameter", "unsupported_value"),
    *("missing_required_parameter", "unknown_parameter", "extra_forbidden", "invalid_parameter"),
    *("UnsupportedParamsError", "integer_below_min_value", "integer_above_max_value"),
    *("invalid_image", "invalid_image_url", "invalid_base64", "image_too_large"),
)
_PERMISSION: Final = ("permission_error", "PERMISSION_DENIED", "permission_denied")


def normalize_code(code: str) -> str:
    """Return a code in the normal form of the tables."""
    return _NOT_IN_A_CODE.sub("", code.lower())


def _table(status: int, codes: tuple[str, ...]) -> dict[str, int]:
    return {normalize_code(code): status for code in codes}


REASON_BY_CODE: Final[dict[str, RefusalReason]] = {
    normalize_code(code): row.reason for row in _ROWS for code in row.codes
}
STATUS_BY_CODE: Final[dict[str, int]] = {
    **_table(400, _INVALID),
    **_table(400, _PARAMETERS),
    **_table(401, ("authentication_error", "UNAUTHENTICATED", "unauthorized")),
    **_table(403, _PERMISSION),
    **_table(404, ("not_found_error", "NOT_FOUND")),
    **_table(408, ("timeout_error", "timeout", "DEADLINE_EXCEEDED", "ModelTimeoutException")),
    **_table(408, ("request_timeout", "gateway_timeout", "base_resp_1001")),
    **_table(409, ("conflict_error", "ABORTED")),
    **_table(429, _RATE_LIMITED),
    **_table(500, _FAILED),
    **_table(503, _OVERLOADED),
}
PARAMETER_CODES: Final = frozenset(map(normalize_code, _PARAMETERS))
PERMISSION_CODES: Final = frozenset(map(normalize_code, _PERMISSION))
