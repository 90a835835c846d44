"""The choice of a model: every candidate passes all checks, or its first failed check is recorded.

The first candidate that passes, in the order of the catalogue, answers; the decision names that
policy. Pure: the same query over the same catalogue gives the same answer.
"""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import msgspec

from shared.routing import price, search_estimate as search_estimates
from shared.routing.needs import Need, first_lack
from shared.search_settings import SearchSettings
from shared.settings import Dialect, ModelSettings
from shared.wire.account import MICROCREDITS_PER_CREDIT
from shared.wire.routing import Candidate, Policy, Routing, reason
from shared.wire.submission import AUTO

# A budget that pays for fewer output tokens excludes a model.
OUTPUT_TOKENS_MIN: Final = 16


class RoutingQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be answered: the requested model, the input tokens, a budget in microcredits.

    `needs` are what a model must have or carry; `dialects` are those of the providers, which decide
    about some of them. `output_tokens` are those asked for, if few. `served` are the models that
    can answer now, None if unknown; `cooling` those whose provider failed too often lately.
    `search` is set when the web is to be searched.
    """

    model: str
    input_tokens: int
    needs: tuple[Need, ...] = ()
    dialects: Mapping[str, Dialect] = {}
    budget: int | None = None
    output_tokens: int = OUTPUT_TOKENS_MIN
    served: frozenset[str] | None = None
    cooling: frozenset[str] = frozenset()
    search: SearchSettings | None = None

    def dialect_of(self, model: ModelSettings) -> Dialect:
        """Return the dialect of a model's provider."""
        return self.dialects.get(model.provider, "openai")


class TooLong(NamedTuple):
    """How many tokens a window must hold, and how many the largest one holds."""

    tokens: int
    context_window: int

    @property
    def sentence(self) -> str:
        """A sentence with both numbers; the tokens are a high estimate."""
        return (
            f"The message and the shortest answer take about {self.tokens} tokens; the largest "
            f"context window of the models that it could go to has {self.context_window}."
        )


class Choice(NamedTuple):
    """The decision, and the eligible models: the chosen one first."""

    routing: Routing
    models: tuple[ModelSettings, ...]


def choose(models: tuple[ModelSettings, ...], query: RoutingQuery) -> Choice:
    """Choose the model that answers; `routing.candidates` lists every model with its exclusion."""
    is_auto = query.model == AUTO
    policy: Policy = "catalogue_order" if is_auto else "requested"
    considered = [
        (model, _first_exclusion(model, query))
        for model in models
        if is_auto or model.identifier == query.model
    ]
    eligible = tuple(model for model, excluded_by in considered if excluded_by is None)
    chosen = eligible[0].identifier if eligible else None
    return Choice(
        Routing(
            policy=policy,
            chosen=chosen,
            category="chat",
            reason=reason(policy, chosen),
            candidates=tuple(
                _candidate(model, query, excluded_by) for model, excluded_by in considered
            ),
        ),
        eligible,
    )


def after_failure(
    routing: Routing, failed: str, chosen: str, excluded_by: str = "failed"
) -> Routing:
    """Return the decision after a candidate has failed and the next one was chosen."""
    return msgspec.structs.replace(
        routing,
        chosen=chosen,
        reason=reason(routing.policy, chosen),
        candidates=tuple(
            msgspec.structs.replace(candidate, excluded_by=excluded_by)
            if candidate.model == failed
            else candidate
            for candidate in routing.candidates
        ),
    )


def first_eligible(models: tuple[ModelSettings, ...], query: RoutingQuery) -> ModelSettings | None:
    """Return the model that `choose` chooses, without recording the exclusions."""
    is_auto = query.model == AUTO
    for model in models:
        if (is_auto or model.identifier == query.model) and _first_exclusion(model, query) is None:
            return model
    return None


def estimate_search(model: ModelSettings, query: RoutingQuery) -> search_estimates.SearchEstimate:
    """Return what a search adds if this model answers; nothing where none is requested."""
    if query.search is None:
        return search_estimates.NONE
    return search_estimates.estimate_search(
        model, query.search, search_estimates.search_provider(model)
    )


def too_long(models: Iterable[ModelSettings], query: RoutingQuery) -> TooLong:
    """Return by how much a query exceeds the largest window; there is at least one model."""
    largest = max(models, key=lambda model: model.context_window)
    tokens = query.input_tokens + estimate_search(largest, query).input_tokens
    return TooLong(_tokens_needed(tokens), largest.context_window)


def _tokens_needed(tokens: int) -> int:
    """Return what a window must hold for these input tokens and the shortest answer."""
    return tokens + OUTPUT_TOKENS_MIN


def _first_exclusion(model: ModelSettings, query: RoutingQuery) -> str | None:
    """Return the name of the first check that excludes a model, or None."""
    if query.needs:
        lack = first_lack(model, query.dialect_of(model), query.needs)
        if lack is not None:
            return lack
    added = estimate_search(model, query)
    tokens = query.input_tokens + added.input_tokens
    if _tokens_needed(tokens) > model.context_window:
        return "context_window"
    if query.budget is not None:
        affordable = price.affordable_tokens(model, tokens, query.budget, added.searches)
        if affordable < min(OUTPUT_TOKENS_MIN, model.max_output_tokens, query.output_tokens):
            return "max_credits"
    if query.served is not None and model.identifier not in query.served:
        return "unavailable"
    if model.identifier in query.cooling:
        return "cooling"
    return None


def _candidate(model: ModelSettings, query: RoutingQuery, excluded_by: str | None) -> Candidate:
    added = estimate_search(model, query)
    tokens = query.input_tokens + added.input_tokens
    searches = price.Searches(min(1, added.searches.count), added.searches.rate)
    typical = price.cost(model, tokens, min(500, model.max_output_tokens), searches)
    return Candidate(
        model=model.identifier,
        score=model.strengths.get("general", 0.5),
        est_credits=typical / MICROCREDITS_PER_CREDIT,
        est_seconds=model.estimated_duration_seconds,
        excluded_by=excluded_by,
    )
