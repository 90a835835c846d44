"""Decides which model answers, among those that this worker can reach."""

import random
from collections.abc import Sequence
from itertools import takewhile

import msgspec

from shared.errors import CallBlockedError, Failure
from shared.redis import functions
from shared.routing import price, search_estimate
from shared.routing.choose import (
    OUTPUT_TOKENS_MIN,
    Choice,
    RoutingQuery,
    TooLong,
    choose as decide,
    too_long,
)
from shared.routing.needs import needs
from shared.settings import ModelSettings
from shared.wire.event import Routed
from shared.wire.routing import Routing
from shared.wire.submission import AUTO
from worker.outcome import Failed, Retry
from worker.parking import may_park, resource_of
from worker.resilience import retry_policy
from worker.run import Run

# How long a generation waits in the queue for a worker with another key. Random, so that it does
# not keep step with an idle worker's polls, by which the same worker would always claim it first.
_ELSEWHERE_SECONDS = (0.2, 1.2)


async def choose_model(run: Run) -> Failed | Retry | None:
    """Fill `run.model`, `run.routing` and `run.searched_by`; without one, wait for another worker.

    Whoever searches the web for the first choice does so for the whole route.
    """
    question = question_of(run, run.prompt)
    candidates, (run.routing, open_) = rank_candidates(run, question)
    bars = _exclusions(run.routing)
    if open_ and _exceeds_hold(run, run.routing, open_[0], question):
        # The hold was made for a model whose circuit is open, or whose key another worker has.
        question = msgspec.structs.replace(question, budget=run.claimed.hold)
        _, (run.routing, open_) = rank_candidates(run, question)
    if not open_:
        return _no_open_model(run, bars, candidates)
    run.model, *fallbacks = open_
    if _is_searched_elsewhere(run, run.model, question):
        return _retry_elsewhere()
    if question.search is not None:
        run.searched_by = search_estimate.search_provider(run.model)
    run.fallbacks = tuple(each for each in fallbacks if _may_stand_in(run, each, question))
    run.writer.append_event(Routed(run.routing))
    return None


def _exclusions(routing: Routing) -> dict[str, str | None]:
    """Return what excludes each candidate."""
    return {each.model: each.excluded_by for each in routing.candidates}


def _exceeds_hold(
    run: Run, routing: Routing, chosen: ModelSettings, question: RoutingQuery
) -> bool:
    """Tell whether the hold does not pay for a model that stands in for an unavailable one."""
    before = takewhile(lambda each: each.model != routing.chosen, routing.candidates)
    stands_in = any(each.excluded_by in {"cooling", "unavailable"} for each in before)
    return stands_in and not _may_stand_in(run, chosen, question)


def _is_searched_elsewhere(run: Run, model: ModelSettings, question: RoutingQuery) -> bool:
    """Tell whether only another worker can call the search service that a model needs."""
    is_asked = question.search is not None and search_estimate.search_provider(model) == "service"
    return is_asked and run.dependencies.search_client is None


def _no_open_model(
    run: Run, bars: dict[str, str | None], candidates: tuple[ModelSettings, ...]
) -> Failed | Retry:
    """Return the outcome when no candidate is open."""
    name = run.submission.model
    # This worker's catalogue may be older than the fleet's and lack a model that others serve.
    if "unavailable" in bars.values() or (
        not bars and (name == AUTO or name in run.dependencies.configured)
    ):
        lacking = [each for each in candidates if bars[each.identifier] == "unavailable"]
        return _retry_elsewhere(run, lacking)
    if "cooling" in bars.values():
        return _retry_after_cooling(
            run, [each for each in candidates if bars[each.identifier] == "cooling"]
        )
    if not bars:
        return Failed(_NO_SUCH_MODEL)
    small = [each for each in candidates if bars[each.identifier] == "context_window"]
    return Failed(
        _context_too_long(too_long(small, question_of(run, run.prompt)))
        if small
        else _NO_SUITABLE_MODEL
    )


def _retry_elsewhere(run: Run | None = None, lacking: Sequence[ModelSettings] = ()) -> Retry:
    """Wait for a worker that has the keys which this one lacks: parked for their providers.

    If the lacking models are unknown, or only workers without parking serve them, retry soon.
    """
    soon = random.uniform(*_ELSEWHERE_SECONDS)  # noqa: S311  jitter
    if run is None or not lacking or not all(may_park(run.dependencies, each) for each in lacking):
        return Retry(soon, "elsewhere")
    parked = tuple(resource_of(each) for each in lacking)
    return Retry(functions.RECHECK_MS / 1000, "elsewhere", parked=parked)


def tokens_of_prompt(run: Run, prompt: str) -> int:
    """Estimate, high, the tokens that are always sent: prompt, images, system prompt, tools.

    Of an explicit conversation, that is all of it.
    """
    tools = run.submission.tools
    if run.submission.conversation is not None:
        return price.tokens_in_conversation(run.submission.conversation, tools)
    image_tokens = price.IMAGE_TOKENS * len(run.submission.features.media_urls)
    system = price.tokens_in(run.system_prompt) if run.system_prompt else 0
    return price.tokens_in(prompt) + system + image_tokens + price.tokens_in_tools(tools)


def tokens_to_send(run: Run, model: ModelSettings, prompt: str) -> int:
    """Estimate the tokens sent to a model with a prompt, with the history as far as it fits.

    The history counts only if the hold was made for it.
    """
    tokens = tokens_of_prompt(run, prompt)
    if not run.submission.holds_history:
        return tokens
    answer = min(run.submission.max_output_tokens, model.max_output_tokens)
    return tokens + price.history_max(model, run.history_tokens, tokens + answer)


def question_of(run: Run, prompt: str) -> RoutingQuery:
    """Return what a prompt needs from a model, for the routing."""
    settings, features = run.dependencies.settings.search, run.submission.features
    return RoutingQuery(
        model=run.submission.model,
        input_tokens=tokens_of_prompt(run, prompt),
        needs=needs(run.submission, settings),
        dialects=run.dependencies.catalogue.dialects,
        output_tokens=run.submission.max_output_tokens,
        served=run.dependencies.registry.served,
        cooling=run.dependencies.circuit_breaker.cooling(run.claimed.account),
        search=settings if features.web_search else None,
    )


def first_choice(run: Run, prompt: str) -> ModelSettings | None:
    """Return the model that would answer a prompt now on this worker; None if it had to wait."""
    question = question_of(run, prompt)
    _, (routing, open_) = rank_candidates(run, question)
    if not open_ or _exceeds_hold(run, routing, open_[0], question):
        return None
    return None if _is_searched_elsewhere(run, open_[0], question) else open_[0]


def rank_candidates(run: Run, question: RoutingQuery) -> tuple[tuple[ModelSettings, ...], Choice]:
    """Return the candidates, and the routing decision among them."""
    candidates = run.dependencies.catalogue.candidates(question.model, run.dependencies.offers)
    return candidates, decide(candidates, question)


def _retry_after_cooling(run: Run, cooling: list[ModelSettings]) -> Failed | Retry:
    """Wait in the queue for the candidate whose circuit may be probed soonest."""
    found = (
        run.dependencies.circuit_breaker.find_bar(each, run.claimed.account) for each in cooling
    )
    bars: list[CallBlockedError] = [bar for bar in found if bar is not None]
    if not bars:
        return Retry(0.0)
    soonest = min(bars, key=lambda bar: bar.wait_seconds)
    state = run.retry_state(calls=0)
    outcome = retry_policy.retry_in_queue(soonest, state, random.random())  # noqa: S311  jitter
    if isinstance(outcome, Failed) or outcome.why not in {"cooling", "probing"}:
        return outcome
    return outcome._replace(parked=tuple(resource_of(each, is_circuit=True) for each in cooling))


def _may_stand_in(run: Run, model: ModelSettings, question: RoutingQuery) -> bool:
    """Tell whether a model may stand in for the first choice.

    The web must be searched in the same way for it, and the hold must pay for an answer.
    """
    added = search_estimate.NONE
    if question.search is not None:
        added = search_estimate.estimate_search(
            model, question.search, run.searched_by or search_estimate.search_provider(model)
        )
    tokens = question.input_tokens + added.input_tokens
    sent = tokens_to_send(run, model, run.prompt) + added.input_tokens
    if run.searched_by == "model" and not search_estimate.can_search(model):
        return False
    if tokens + OUTPUT_TOKENS_MIN > model.context_window:
        return False
    least = min(OUTPUT_TOKENS_MIN, model.max_output_tokens, run.submission.max_output_tokens)
    return price.affordable_tokens(model, sent, run.claimed.hold, added.searches) >= least


def _context_too_long(exceeded: TooLong) -> Failure:
    return Failure(message=exceeded.sentence, category="invalid_request", code="CONTEXT_TOO_LONG")


_NO_SUITABLE_MODEL = Failure(
    message="No model that is available supports what the message asks for.",
    category="invalid_request",
    code="NO_SUITABLE_MODEL",
)
_NO_SUCH_MODEL = Failure(
    message="The model is no longer in the catalogue.",
    category="invalid_request",
    code="MODEL_NOT_FOUND",
)
