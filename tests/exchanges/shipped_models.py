"""Requests to shipped models: an upstream that refuses a parameter that its model does not take.

Every exchange is with a model of the shipped catalogue. Its upstream refuses requests with the
parameter and answers all others, so an answer shows that the request was without it.
"""

from typing import Any, Final

import msgspec

from deploy.local import catalogue
from shared.settings import ModelRequestSettings
from tests.exchanges.exchange import Exchange, completed, refusal

_REQUEST_FIELDS: Final = tuple(each.name for each in msgspec.structs.fields(ModelRequestSettings))
_SHIPPED: Final = catalogue.read(catalogue.with_shipped({"POLLUX_CONFIG": "/dev/null"}))


def as_shipped(identifier: str) -> dict[str, Any]:
    """Return the settings of a shipped model that decide its request."""
    model = _SHIPPED.by_identifier[identifier]
    request_settings = {name: getattr(model, name) for name in _REQUEST_FIELDS}
    return {"upstream": model.upstream, "capabilities": model.capabilities, **request_settings}


def _refuses(word: str, identifier: str) -> Exchange:
    sentence = f"{identifier} does not support the parameter {word}"
    error = {
        "message": sentence,
        "type": "invalid_request_error",
        "code": "unsupported_parameter",
    }
    body: dict[str, Any] = {"error": error}
    dialect = _SHIPPED.provider_of(_SHIPPED.by_identifier[identifier]).dialect
    if dialect == "anthropic":
        body["type"] = "error"
    elif dialect == "gemini":
        body = {"error": {"code": 400, "message": sentence, "status": "INVALID_ARGUMENT"}}
    return Exchange(
        f"{identifier.replace('/', '-')}-without-{word.replace('_', '-')}",
        refusal(400, body),
        completed(),
        dialect,
        fields={"deep_think": True},
        model=as_shipped(identifier),
        refuses=f'"{word}"',
    )


SHIPPED_MODELS: Final = (
    # They reason by themselves, and refuse the parameter.
    _refuses("reasoning_effort", "grok-4.7"),
    _refuses("reasoning_effort", "groq/qwen3.8-27b"),
    _refuses("reasoning_effort", "together/minimax-m3"),
    # They limit an answer by another field.
    _refuses("max_tokens", "gpt-6.1-terra"),
    _refuses("max_completion_tokens", "deepseek-v4-pro"),
    # They report token counts without the option.
    _refuses("stream_options", "mistral-small-4"),
    _refuses("stream_options", "together/kimi-k3.1-pro"),
    # They take other reasoning parameters than earlier models.
    _refuses("budget_tokens", "claude-sonnet-5-5"),
    _refuses("thinkingBudget", "gemini-3.8-flash"),
    _refuses("thinkingLevel", "gemini-2.5-flash"),
)
