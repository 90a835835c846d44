"""Decide which model answers, among those this worker can reach."""

import random

from shared.errors import BarredError, Failure
from shared.routing import price
from shared.routing.choose import OUTPUT_TOKENS_MIN, Choice, Question, choose as decide, needs
from shared.settings import ModelSettings
from shared.wire.event import Routed
from shared.wire.submission import AUTO
from worker.run import Failed, Retry, Run
from worker.steps import patience

# Another worker may hold the key that this one lacks; until then the generation waits in the queue.
# Not always as long as an idle worker waits at its bell, or the same one would always be in time.
_ELSEWHERE_SECONDS = (0.2, 1.2)


async def choose(run: Run) -> Failed | Retry | None:
    """Fill `run.model` and `run.routing`; without a model, wait for another worker or fail."""
    tokens = tokens_of_prompt(run, run.prompt)
    candidates, (run.routing, open_) = weigh(run, tokens)
    if open_ and run.tools.gate.cooling() and not _is_paid_for(run, open_[0], tokens):
        # What was set aside was for a model that cools.
        _, (run.routing, open_) = weigh(run, tokens, budget=run.claimed.hold)
    if open_:
        run.model, *others = open_
        run.others = tuple(each for each in others if _is_paid_for(run, each, tokens))
        run.writer.say(Routed(run.routing))
        return None
    is_elsewhere = any(each.excluded_by == "unavailable" for each in run.routing.candidates)
    if is_elsewhere or (run.submission.model == AUTO and not candidates):
        return Retry(random.uniform(*_ELSEWHERE_SECONDS))  # noqa: S311  jitter
    if any(each.excluded_by == "cooling" for each in run.routing.candidates):
        return _await_cooling(run, candidates)
    if not candidates:
        return Failed(_NO_SUCH_MODEL)
    is_too_long = any(each.excluded_by == "context_window" for each in run.routing.candidates)
    return Failed(_NOTHING_FITS if is_too_long else _NOTHING_CAN)


def tokens_of_prompt(run: Run, prompt: str) -> int:
    """Estimate, high, what is sent whatever else is: the prompt, its pictures and the system's."""
    pictures = price.IMAGE_TOKENS * len(run.submission.features.media_urls)
    return price.tokens_in(prompt) + price.tokens_in(run.system_prompt or "") + pictures


def weigh(
    run: Run, tokens: int, *, budget: int | None = None
) -> tuple[tuple[ModelSettings, ...], Choice]:
    """Return who may answer a prompt of so many tokens, and the decision among them."""
    tools, name = run.tools, run.submission.model
    question = Question(
        model=name,
        input_tokens=tokens,
        needs=needs(run.submission.features),
        budget=budget,
        served=tools.registry.served,
        cooling=tools.gate.cooling(),
    )
    candidates = tools.catalogue.candidates(name, tools.offers)
    return candidates, decide(candidates, question)


def _await_cooling(run: Run, candidates: tuple[ModelSettings, ...]) -> Failed | Retry:
    """Wait in the queue for the model that may be called soonest, of those that only cool."""
    assert run.routing is not None  # noqa: S101  just decided
    cooling = {each.model for each in run.routing.candidates if each.excluded_by == "cooling"}
    found = (run.tools.gate.bar(each) for each in candidates if each.identifier in cooling)
    bars: list[BarredError] = [bar for bar in found if bar is not None]
    if not bars:
        return Retry(0.0)
    soonest = min(bars, key=lambda bar: bar.wait_seconds)
    at = patience.standing(run, calls=0)
    return patience.in_queue(soonest, at, random.random())  # noqa: S311  jitter


def _is_paid_for(run: Run, model: ModelSettings, tokens: int) -> bool:
    """Tell whether what was set aside for the first choice pays for an answer of another."""
    least = min(OUTPUT_TOKENS_MIN, model.max_output_tokens)
    return price.affordable_tokens(model, tokens, run.claimed.hold) >= least


_NOTHING_FITS = Failure(
    message="The message is longer than any model's context window.",
    category="invalid_request",
    code="CONTEXT_TOO_LONG",
)
_NOTHING_CAN = Failure(
    message="No model that could answer can do what the message asks for.",
    category="invalid_request",
    code="NO_SUITABLE_MODEL",
)
_NO_SUCH_MODEL = Failure(
    message="The model is no longer in the catalogue.",
    category="invalid_request",
    code="MODEL_NOT_FOUND",
)
