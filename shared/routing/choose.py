"""The choice of a model: every candidate passes the gates or is told which one shut it out.

Until Smart Select ranks them, the first open candidate in the catalogue's order answers, and the
decision says so. A pure function: the same question over the same catalogue gives the same answer.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from shared.routing import price, search_estimate as search_estimates
from shared.search_settings import SearchSettings
from shared.settings import Capability, ModelSettings
from shared.wire.account import MICROCREDITS_PER_CREDIT
from shared.wire.routing import Candidate, Policy, Routing, reason
from shared.wire.submission import AUTO, Features

# A budget that pays for fewer tokens than this buys no answer.
OUTPUT_TOKENS_MIN: Final = 16


class RoutingQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be answered: the model asked for, the tokens going in, a budget in microcredits.

    `needs` is what a model must be capable of; `served` are the models that can answer now, None
    when that is not known. `cooling` are those whose provider has failed too often lately. `search`
    is set when the web is to be searched.
    """

    model: str
    input_tokens: int
    needs: tuple[Capability, ...] = ()
    budget: int | None = None
    served: frozenset[str] | None = None
    cooling: frozenset[str] = frozenset()
    search: SearchSettings | None = None


class TooLong(NamedTuple):
    """How many tokens a window must hold, and how many the largest one does."""

    tokens: int
    context_window: int

    @property
    def sentence(self) -> str:
        """Say both numbers; the tokens are estimated, and a little high."""
        return (
            f"The message and the shortest answer take about {self.tokens} tokens; the largest "
            f"context window of the models that it could go to has {self.context_window}."
        )


class Choice(NamedTuple):
    """The decision, and the catalogue entries of the open candidates: the chosen, then the next."""

    routing: Routing
    models: tuple[ModelSettings, ...]


def needs(features: Features, search: SearchSettings) -> tuple[Capability, ...]:
    """Return what a model must be capable of to do what a turn asks for.

    For one that does not search the web a service does, where there is one.
    """
    asked: tuple[tuple[Capability, bool], ...] = (
        ("reasoning", features.deep_think),
        ("vision", bool(features.media_urls)),
        ("web_search", features.web_search and search.service is None),
    )
    return tuple(capability for capability, is_asked in asked if is_asked)


def choose(models: tuple[ModelSettings, ...], question: RoutingQuery) -> Choice:
    """Decide which model answers; `routing.candidates` tells every model weighed, and its bar."""
    is_auto = question.model == AUTO
    policy: Policy = "catalogue_order" if is_auto else "requested"
    considered = [
        (model, _first_exclusion(model, question))
        for model in models
        if is_auto or model.identifier == question.model
    ]
    eligible = tuple(model for model, excluded_by in considered if excluded_by is None)
    chosen = eligible[0].identifier if eligible else None
    return Choice(
        Routing(
            policy=policy,
            chosen=chosen,
            category="chat",
            reason=reason(policy, chosen),
            candidates=tuple(_candidate(model, question, bar) for model, bar in considered),
        ),
        eligible,
    )


def after_failure(
    routing: Routing, failed: str, chosen: str, excluded_by: str = "failed"
) -> Routing:
    """Return the decision after a candidate has failed, and the next one was chosen."""
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


def first_eligible(
    models: tuple[ModelSettings, ...], question: RoutingQuery
) -> ModelSettings | None:
    """Return the model that `choose` chooses, without saying why."""
    is_auto = question.model == AUTO
    for model in models:
        if (is_auto or model.identifier == question.model) and _first_exclusion(
            model, question
        ) is None:
            return model
    return None


def estimate_search(
    model: ModelSettings, question: RoutingQuery
) -> search_estimates.SearchEstimate:
    """Return what a search adds when this model answers; nothing where none is asked for."""
    if question.search is None:
        return search_estimates.NONE
    return search_estimates.estimate_search(
        model, question.search, search_estimates.search_provider(model)
    )


def too_long(models: Iterable[ModelSettings], question: RoutingQuery) -> TooLong:
    """Return by how much a question exceeds the largest window; there is at least one model."""
    largest = max(models, key=lambda model: model.context_window)
    tokens = question.input_tokens + estimate_search(largest, question).input_tokens
    return TooLong(_tokens_needed(tokens), largest.context_window)


def _tokens_needed(tokens: int) -> int:
    """Return what a window must hold for so many tokens going in: the shortest answer, too."""
    return tokens + OUTPUT_TOKENS_MIN


def _first_exclusion(model: ModelSettings, question: RoutingQuery) -> str | None:
    """Name the first gate that shuts a model out, or None; a lacking capability is a gate."""
    for capability in question.needs:
        if capability not in model.capabilities:
            return capability
    added = estimate_search(model, question)
    tokens = question.input_tokens + added.input_tokens
    if _tokens_needed(tokens) > model.context_window:
        return "context_window"
    if question.budget is not None:
        affordable = price.affordable_tokens(model, tokens, question.budget, added.searches)
        if affordable < min(OUTPUT_TOKENS_MIN, model.max_output_tokens):
            return "max_credits"
    if question.served is not None and model.identifier not in question.served:
        return "unavailable"
    if model.identifier in question.cooling:
        return "cooling"
    return None


def _candidate(model: ModelSettings, question: RoutingQuery, excluded_by: str | None) -> Candidate:
    added = estimate_search(model, question)
    tokens = question.input_tokens + added.input_tokens
    searches = price.Searches(min(1, added.searches.count), added.searches.rate)
    typical = price.cost(model, tokens, min(500, model.max_output_tokens), searches)
    return Candidate(
        model=model.identifier,
        score=model.strengths.get("general", 0.5),
        est_credits=typical / MICROCREDITS_PER_CREDIT,
        est_seconds=model.estimated_duration_seconds,
        excluded_by=excluded_by,
    )
