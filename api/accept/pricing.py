"""What an answer may cost before anybody knows which model gives it.

Owns the model that a hold is priced by, and why no model can answer. A worker chooses the model
that answers. Pure.
"""

from typing import Final, NamedTuple

import msgspec

from api.accept.intent import Intent
from shared.catalogue import Catalogue
from shared.errors import Code, RequestError
from shared.routing import price
from shared.routing.choose import (
    OUTPUT_TOKENS_MIN,
    RoutingQuery,
    choose,
    estimate_search,
    first_eligible,
    too_long,
)
from shared.routing.needs import Need, first_lack, needs
from shared.settings import ModelSettings, Settings
from shared.stores.fleet import Fleet
from shared.wire.submission import AUTO

# The fields that ask for what not every model is capable of.
_FIELD_OF_NEED: Final[dict[Need, str]] = {
    "reasoning": "deep_think",
    "vision": "media_urls",
    "web_search": "web_search",
    "tools": "tools",
    "tool_choice": "tool_choice",
    "temperature": "temperature",
    "temperature_above_1": "temperature",
    "top_p": "top_p",
    "stop": "stop",
    "stop_blank": "stop",
    "json_object": "response_format",
    "json_schema": "response_format",
}


class Pricing(NamedTuple):
    """What an answer may cost by the model that prices it, in tokens and microcredits.

    `tokens` are those of the message and of a search; `hold_min` pays for the shortest answer.
    """

    model: ModelSettings
    tokens: int
    paid_output_tokens: int
    hold: int
    hold_min: int


def quote(
    settings: Settings,
    catalogue: Catalogue,
    offered: tuple[ModelSettings, ...],
    intent: Intent,
    fleet: Fleet,
) -> Pricing:
    """Return what an answer may cost; the model that gives it is chosen later, by a worker.

    Raises RequestError where no model can give one.
    """
    model, question = _pricing_model(settings, catalogue, offered, intent, fleet)
    search = estimate_search(model, question)
    tokens = question.input_tokens + search.input_tokens
    longest = min(intent.max_output_tokens or model.max_output_tokens, model.max_output_tokens)
    hold, affordable = price.hold(model, tokens, longest, search.searches), longest
    if intent.budget is not None and intent.budget < hold:
        affordable = price.affordable_tokens(model, tokens, intent.budget, search.searches)
    shortest = min(OUTPUT_TOKENS_MIN, longest)
    return Pricing(
        model=model,
        tokens=tokens,
        paid_output_tokens=max(1, min(longest, affordable)),
        hold=hold,
        hold_min=price.hold(model, tokens, shortest, search.searches),
    )


def _pricing_model(
    settings: Settings,
    catalogue: Catalogue,
    offered: tuple[ModelSettings, ...],
    intent: Intent,
    fleet: Fleet,
) -> tuple[ModelSettings, RoutingQuery]:
    """Return the model that prices the hold, and the question as far as it is known now."""
    models = offered if intent.model == AUTO else (find_model(catalogue, intent.model, fleet),)
    tokens = _known_tokens(settings, intent)
    search = settings.search
    question = RoutingQuery(
        model=intent.model,
        input_tokens=tokens,
        needs=needs(intent, search),
        dialects=catalogue.dialects,
        budget=intent.budget,
        output_tokens=intent.max_output_tokens or OUTPUT_TOKENS_MIN,
        search=search if intent.features.web_search else None,
    )
    model = first_eligible(models, question)
    if model is None:
        _refuse_unavailable(offered, question, is_explicit=intent.conversation is not None)
        raise _no_suitable_model(models, question)
    if intent.model == AUTO and fleet.models and model.identifier not in fleet.models:
        # No live worker serves it: price by the first eligible model that one serves, if any.
        served = msgspec.structs.replace(question, served=fleet.models)
        model = first_eligible(models, served) or model
    return model, question


def _known_tokens(settings: Settings, intent: Intent) -> int:
    """Estimate the tokens that the model reads; the session's history is not known yet."""
    if intent.conversation is not None:
        return price.tokens_in_conversation(intent.conversation, intent.tools)
    images = price.IMAGE_TOKENS * len(intent.features.media_urls)
    tools = price.tokens_in_tools(intent.tools)
    return sum(map(price.tokens_in, _known_texts(settings, intent))) + images + tools


def _known_texts(settings: Settings, intent: Intent) -> list[str]:
    """Return the texts that the model reads."""
    companion = settings.companion(intent.companion) if intent.companion is not None else None
    persona = companion.persona if companion is not None else None
    return [text for text in (intent.message, intent.system_prompt, persona) if text]


def is_offered(catalogue: Catalogue, name: str, fleet: Fleet) -> bool:
    """Whether a message may name this model."""
    model = catalogue.by_identifier.get(name)
    return model is not None and fleet.may_take(model, catalogue.provider_of(model))


def find_model(catalogue: Catalogue, name: str, fleet: Fleet) -> ModelSettings:
    """Return a model by its name. Raises RequestError (MODEL_NOT_FOUND) if it is not offered."""
    if not is_offered(catalogue, name, fleet):
        raise RequestError(
            f"There is no model `{name}`; GET /api/v1/models lists those there are.",
            Code.MODEL_NOT_FOUND,
        )
    return catalogue.by_identifier[name]


def _refuse_unavailable(
    offered: tuple[ModelSettings, ...], question: RoutingQuery, *, is_explicit: bool
) -> None:
    """Refuse, by the name of its field, a need that no offered model meets by itself."""
    for need in question.needs:
        if not any(
            first_lack(model, question.dialect_of(model), (need,)) is None for model in offered
        ):
            field = _FIELD_OF_NEED[need]
            if is_explicit and need == "vision":
                field = "messages"
            raise RequestError(
                f"The field `{field}` asks for a feature that this deployment does not have.",
                Code.FEATURE_UNAVAILABLE,
            )


def _no_suitable_model(models: tuple[ModelSettings, ...], question: RoutingQuery) -> RequestError:
    routing = choose(models, question).routing
    capable = [
        model
        for model in models
        if first_lack(model, question.dialect_of(model), question.needs) is None
    ]
    exclusions = {each.model: each.excluded_by for each in routing.candidates}
    if capable and all(exclusions[model.identifier] == "context_window" for model in capable):
        exceeded = too_long(capable, question)
        return RequestError(
            exceeded.sentence, Code.CONTEXT_TOO_LONG, details=dict(exceeded._asdict())
        )
    return RequestError(
        "No model can answer this request; `routing` says what excluded each.",
        Code.NO_SUITABLE_MODEL,
        details={"routing": routing},
    )
