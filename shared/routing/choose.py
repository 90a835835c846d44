"""The choice of a model: every candidate passes the gates or is told which one shut it out.

Until Smart Select ranks them, the first open candidate in the catalogue's order answers, and the
decision says so. A pure function: the same question over the same catalogue gives the same answer.
"""

from typing import Final, NamedTuple

import msgspec

from shared.routing import price
from shared.settings import Capability, ModelSettings
from shared.wire.routing import Candidate, Policy, Routing, reason
from shared.wire.submission import AUTO, Features

# A budget that pays for fewer tokens than this buys no answer.
OUTPUT_TOKENS_MIN: Final = 16


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be answered: the model asked for, the tokens going in, a budget in microcredits.

    `needs` is what a model must be capable of; `served` are the models that can answer now, None
    when that is not known. `cooling` are those whose provider has failed too often lately.
    """

    model: str
    input_tokens: int
    needs: tuple[Capability, ...] = ()
    budget: int | None = None
    served: frozenset[str] | None = None
    cooling: frozenset[str] = frozenset()


class Choice(NamedTuple):
    """The decision, and the catalogue entries of the open candidates: the chosen, then the next."""

    routing: Routing
    models: tuple[ModelSettings, ...]


def needs(features: Features) -> tuple[Capability, ...]:
    """Return what a model must be capable of to do what a turn asks for."""
    asked: tuple[tuple[Capability, bool], ...] = (
        ("reasoning", features.deep_think),
        ("vision", bool(features.media_urls)),
        ("web_search", features.web_search),
    )
    return tuple(capability for capability, is_asked in asked if is_asked)


def choose(models: tuple[ModelSettings, ...], question: Question) -> Choice:
    """Decide which model answers; `routing.candidates` tells every model weighed, and its bar."""
    is_auto = question.model == AUTO
    policy: Policy = "catalogue_order" if is_auto else "requested"
    weighed = [
        (model, _gate(model, question))
        for model in models
        if is_auto or model.identifier == question.model
    ]
    open_ = tuple(model for model, excluded_by in weighed if excluded_by is None)
    chosen = open_[0].identifier if open_ else None
    return Choice(
        Routing(
            policy=policy,
            chosen=chosen,
            category="chat",
            reason=reason(policy, chosen),
            candidates=tuple(_candidate(model, question, bar) for model, bar in weighed),
        ),
        open_,
    )


def pass_over(routing: Routing, failed: str, chosen: str, excluded_by: str = "failed") -> Routing:
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


def pick(models: tuple[ModelSettings, ...], question: Question) -> ModelSettings | None:
    """Return the model that `choose` chooses, without saying why."""
    is_auto = question.model == AUTO
    for model in models:
        if (is_auto or model.identifier == question.model) and _gate(model, question) is None:
            return model
    return None


def _gate(model: ModelSettings, question: Question) -> str | None:
    """Name the first gate that shuts a model out, or None; a lacking capability is a gate."""
    for capability in question.needs:
        if capability not in model.capabilities:
            return capability
    if question.input_tokens + OUTPUT_TOKENS_MIN > model.context_window:
        return "context_window"
    if question.budget is not None:
        affordable = price.affordable_tokens(model, question.input_tokens, question.budget)
        if affordable < min(OUTPUT_TOKENS_MIN, model.max_output_tokens):
            return "max_credits"
    if question.served is not None and model.identifier not in question.served:
        return "unavailable"
    if model.identifier in question.cooling:
        return "cooling"
    return None


def _candidate(model: ModelSettings, question: Question, excluded_by: str | None) -> Candidate:
    typical = price.cost(model, question.input_tokens, min(500, model.max_output_tokens))
    return Candidate(
        model=model.identifier,
        score=model.strengths.get("general", 0.5),
        est_credits=typical / 1_000_000,
        est_seconds=model.estimated_duration_seconds,
        excluded_by=excluded_by,
    )
