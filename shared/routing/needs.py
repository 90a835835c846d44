"""What a request needs of a model beyond a text answer, and what upstreams do not carry.

Owns the one table of it. Capabilities are the catalogue's; what a request may say beside its
messages (sampling, stop texts, the form of the answer) depends on the dialect of the provider, on
the family of the model, or on something else in the same request. A model that lacks a need is
excluded from the route by the need's name, so nothing is dropped silently. `refuses` of a model in
the catalogue adds to the table.

Example: `temperature` and `deep_think` together exclude Anthropic's models by `temperature`.
"""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol, get_args

from shared.search_settings import SearchSettings
from shared.settings import Capability, Dialect, ModelSettings, RequestNeed
from shared.wire.conversation import (
    DEFAULT_SAMPLING,
    FREE_TEXT,
    AnswerForm,
    Message,
    Sampling,
    ToolChoice,
    ToolDefinition,
    images,
)
from shared.wire.submission import PLAIN, Features

Need = Capability | RequestNeed

# Anthropic's range of temperatures ends here; that of the others ends at 2.
_TEMPERATURE_MAX: Final = 1.0


class Asked(Protocol):
    """What a caller asks for, as far as it may need something of the model."""

    @property
    def features(self) -> Features:
        """Thinking, web search, pictures."""

    @property
    def conversation(self) -> Sequence[Message] | None:
        """The explicit conversation, if that is what is asked."""

    @property
    def tools(self) -> Sequence[ToolDefinition]:
        """The caller's own tools."""

    @property
    def tool_choice(self) -> ToolChoice:
        """Whether one must be called."""

    @property
    def sampling(self) -> Sampling:
        """How tokens are drawn, and what ends the answer."""

    @property
    def form(self) -> AnswerForm:
        """The form of the answer."""


class _Lack(NamedTuple):
    """Needs that models of a dialect do not carry: of names that match, beside another need."""

    dialect: Dialect
    needs: frozenset[Need]
    models: re.Pattern[str] | None = None
    beside: Need | None = None


_SAMPLING: Final[frozenset[Need]] = frozenset({"temperature", "top_p"})
_FORMS: Final[frozenset[Need]] = frozenset({"json_object", "json_schema"})
_TABLE: Final = (
    # OpenAI's models that reason refuse all of it; xAI's refuse stop texts.
    _Lack("openai", _SAMPLING | {"stop"}, re.compile(r"(^|/)(o[1-9]|gpt-([5-9]|\d\d))")),
    _Lack("openai", frozenset({"stop"}), re.compile(r"(^|/)grok-[4-9]")),
    # While they think, others refuse sampling or ignore it.
    _Lack("openai", _SAMPLING, beside="reasoning"),
    # Claude refuses sampling since 4.7; before, while it thinks, and both values together.
    _Lack("anthropic", _SAMPLING, re.compile(r"claude-([a-z]+-)?(4-[7-9]|[5-9]|\d\d)")),
    _Lack("anthropic", _SAMPLING, beside="reasoning"),
    _Lack("anthropic", frozenset({"top_p"}), beside="temperature"),
    _Lack("anthropic", frozenset({"temperature_above_1", "stop_blank", "json_object"})),
    # Its searches come with citations, which no form allows.
    _Lack("anthropic", frozenset({"json_schema"}), beside="web_search"),
    # Gemini before 3 takes a form only without tools.
    _Lack("gemini", _FORMS, re.compile(r"gemini-[12]\b"), beside="tools"),
    _Lack("gemini", _FORMS, re.compile(r"gemini-[12]\b"), beside="web_search"),
)
_CAPABILITY_OF_FORM: Final[Capability] = "json"
_CAPABILITIES: Final[frozenset[str]] = frozenset(get_args(Capability))


def needs(asked: Asked, search: SearchSettings) -> tuple[Need, ...]:
    """Return what a turn needs of its model; nothing for plain chat.

    Web search is not one of them where a search service is configured, whose results are added to
    the prompt: an explicit conversation stays as it is.
    """
    features, sampling, messages = asked.features, asked.sampling, asked.conversation or ()
    is_plain = features == PLAIN and sampling == DEFAULT_SAMPLING and asked.form == FREE_TEXT
    if is_plain and not (messages or asked.tools):
        return ()
    is_explicit = asked.conversation is not None
    found: tuple[tuple[Need, bool], ...] = (
        ("reasoning", features.deep_think),
        ("vision", bool(features.media_urls or images(messages))),
        ("web_search", features.web_search and (is_explicit or search.service is None)),
        ("tools", bool(asked.tools) or any(message.calls for message in messages)),
        ("tool_choice", asked.tool_choice.mode not in {"auto", "none"}),
        ("temperature", sampling.temperature is not None),
        ("temperature_above_1", (sampling.temperature or 0.0) > _TEMPERATURE_MAX),
        ("top_p", sampling.top_p is not None),
        ("stop", bool(sampling.stop)),
        ("stop_blank", any(not each.strip() for each in sampling.stop)),
        ("json_object", asked.form.kind == "json_object"),
        ("json_schema", asked.form.kind == "json_schema"),
    )
    return tuple(need for need, is_asked in found if is_asked)


def first_lack(model: ModelSettings, dialect: Dialect, needed: Sequence[Need]) -> Need | None:
    """Return the first need that a model does not meet, or None."""
    return next((need for need in needed if _lacks(model, dialect, need, needed)), None)


def _lacks(model: ModelSettings, dialect: Dialect, need: Need, needed: Sequence[Need]) -> bool:
    if need in _CAPABILITIES:
        return need not in model.capabilities
    if need in model.refuses or (need in _FORMS and _CAPABILITY_OF_FORM not in model.capabilities):
        return True
    return any(
        need in lack.needs
        and lack.dialect == dialect
        and (lack.beside is None or lack.beside in needed)
        and (lack.models is None or lack.models.search(model.upstream) is not None)
        for lack in _TABLE
    )
