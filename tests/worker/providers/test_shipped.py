"""The request that each model that ships would be sent, with deep thought and without.

One line a model: what its vendor documents, written down a second time, beside the catalogue.
"""

import json
from typing import Any, Final

import pytest

from deploy.local import catalogue as catalogues
from shared.catalogue import Catalogue
from shared.settings import ModelSettings
from worker.providers.contract import ChatRequest, text_message
from worker.providers.registry import DIALECTS

_TOKENS: Final = 4096
_UNREAD: Final = frozenset(
    {
        *("gpt-6.1-sol", "gpt-5.4-mini", "gpt-4o", "gpt-4o-mini", "gpt-audio-mini"),
        *("gemini-3.1-flash-lite-image", "codestral-2508", "openrouter/command-a-plus"),
    }
)
_SHIPPED: Final[Catalogue] = catalogues.read(
    catalogues.with_shipped({"POLLUX_CONFIG": "/dev/null"})
)
_USAGE: Final = {"stream_options": {"include_usage": True}}
_OLD: Final = {"max_tokens": _TOKENS, "stream": True}
_NEW: Final = {"max_completion_tokens": _TOKENS, "stream": True}
_EFFORT: Final = {"reasoning_effort": "high"}
_ADAPTIVE: Final = {
    "thinking": {"type": "adaptive", "display": "summarized"},
    "output_config": {"effort": "high"},
}
_LEVEL: Final = {"includeThoughts": True, "thinkingLevel": "high"}
_BUDGET: Final = {"includeThoughts": True, "thinkingBudget": _TOKENS // 2}
_SOUND: Final = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "pcm16"}}
# model -> what is said beside its name and the messages, and what deep thought adds.
_CHAT: Final[dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    **dict.fromkeys(
        ("gpt-6.1-terra", "gpt-6.1-sol", "gpt-6-luna", "gpt-5.4-mini", "grok-4.3"),
        (_NEW | _USAGE, _EFFORT),
    ),
    **dict.fromkeys(
        ("groq/gpt-oss-120b", "groq/gpt-oss-20b", "cerebras/gpt-oss-120b"), (_NEW | _USAGE, _EFFORT)
    ),
    **dict.fromkeys(("gpt-4o", "gpt-4o-mini"), (_NEW | _USAGE, {})),
    "gpt-audio-mini": (_NEW | _USAGE | _SOUND, {}),
    **dict.fromkeys(("grok-4.7", "grok-4.1-fast", "groq/qwen3.8-27b"), (_NEW | _USAGE, {})),
    **dict.fromkeys(("deepseek-flash", "deepseek-v4-pro"), (_OLD | _USAGE, _EFFORT)),
    **dict.fromkeys(("mistral-medium-3.5", "mistral-small-4"), (_OLD, _EFFORT)),
    **dict.fromkeys(("mistral-large-4", "codestral-2508"), (_OLD, {})),
    **dict.fromkeys(("together/kimi-k3.1-pro", "together/glm-5.3"), (_OLD, _EFFORT)),
    "together/minimax-m3": (_OLD, {}),
    **dict.fromkeys(("openrouter/qwen3.8-max", "openrouter/nova-2-lite"), (_OLD, _EFFORT)),
    "openrouter/command-a-plus": (_OLD, {}),
    **dict.fromkeys(
        ("claude-sonnet-5-5", "claude-opus-5-5", "claude-fable-5-2", "claude-haiku-5-5"),
        (_OLD, _ADAPTIVE),
    ),
}
_GEMINI: Final[dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    **dict.fromkeys(("gemini-3.8-flash", "gemini-3.5-flash-lite"), ({}, _LEVEL)),
    "gemini-2.5-flash": ({}, _BUDGET),
    "gemini-3.1-flash-lite-image": ({"responseModalities": ["TEXT", "IMAGE"]}, {}),
}


def _sent(model: ModelSettings, *, deep_think: bool) -> dict[str, Any]:
    dialect = DIALECTS[_SHIPPED.provider_of(model).dialect]
    messages = [text_message("user", "How many bears?")]
    request = ChatRequest(model=model, messages=messages, max_tokens=_TOKENS, deep_think=deep_think)
    sent: dict[str, Any] = json.loads(dialect.body(request))
    assert "bears" in json.dumps(sent.pop("messages", None) or sent.pop("contents"))
    return sent


@pytest.mark.parametrize("model", _SHIPPED.models, ids=lambda model: model.identifier)
@pytest.mark.parametrize("deep_think", [False, True])
def test_request_to_every_shipped_model_is_what_its_vendor_documents(
    model: ModelSettings, *, deep_think: bool
) -> None:
    sent = _sent(model, deep_think=deep_think)
    if model.identifier in _GEMINI:
        base, thought = _GEMINI[model.identifier]
        more = {"thinkingConfig": thought} if deep_think and thought else {}
        assert sent == {"generationConfig": {"maxOutputTokens": _TOKENS, **base, **more}}
    else:
        base, thought = _CHAT[model.identifier]
        assert sent == {"model": model.upstream, **base, **(thought if deep_think else {})}


def test_every_row_is_of_a_model_that_ships() -> None:
    assert _CHAT.keys() | _GEMINI.keys() == {model.identifier for model in _SHIPPED.models}


@pytest.mark.parametrize("model", _SHIPPED.models, ids=lambda model: model.identifier)
def test_every_shipped_model_says_how_it_is_asked_and_where_that_stands(
    model: ModelSettings,
) -> None:
    dialect = _SHIPPED.provider_of(model).dialect
    options = {
        "openai": {"none", "effort", "enabled"},
        "anthropic": {"none", "adaptive", "budget"},
        "gemini": {"none", "level", "budget"},
    }
    assert model.reasoning_option in options[dialect]
    assert (model.limit_option is not None) == (dialect == "openai")
    assert model.documentation.startswith("https://")
    # Without a date nobody has read it there; those are few, and known by name.
    assert (model.documentation_date is None) == (model.identifier in _UNREAD)
    # Who can be asked to think deeply is one that reasons, though perhaps unasked.
    assert model.reasoning_option == "none" or "reasoning" in model.capabilities


def test_entry_that_says_nothing_is_asked_as_ever() -> None:
    model = ModelSettings(identifier="m", provider="up", upstream="qwen")
    request = ChatRequest(model=model, messages=[], max_tokens=9, deep_think=True)
    sent = json.loads(DIALECTS["openai"].body(request))
    assert sent["max_tokens"] == 9
    assert sent["reasoning_effort"] == "high"
    assert sent["stream_options"] == {"include_usage": True}


def test_switch_and_words_of_ones_own_are_said() -> None:
    hybrid = ModelSettings(
        identifier="m", provider="up", upstream="hybrid", reasoning_option="enabled"
    )
    deepest = ModelSettings(
        identifier="m",
        provider="up",
        upstream="m",
        reasoning_option="effort",
        reasoning_effort="max",
    )
    dialect = DIALECTS["openai"]
    asked = [
        json.loads(
            dialect.body(ChatRequest(model=each, messages=[], max_tokens=9, deep_think=True))
        )
        for each in (hybrid, deepest)
    ]
    assert asked[0]["reasoning"] == {"enabled": True}
    assert "reasoning_effort" not in asked[0]
    assert asked[1]["reasoning_effort"] == "max"
