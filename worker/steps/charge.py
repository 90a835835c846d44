"""The charge for an answer, or for the part of it that was shown, however the attempt ends.

An attempt that ends by itself is charged at its settlement. If it is ended from outside (its
session is deleted, its deadline passes, its worker dies), the Redis functions know only what was
appended: so each append carries the charge that would be due if it were the last one.

The calls of finished rounds are due whenever what was shown is: each by the price list of its
model. Calls that showed nothing and whose answer was thrown away cost nothing.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from shared.errors import EXPIRED, Category, Failure
from shared.lifecycle import Stage
from shared.routing import price
from shared.settings import ModelSettings
from shared.wire.message import CallCost, Usage, total_usage
from worker.receive_answer import estimate_usage
from worker.resilience.failure_causes import cause_of
from worker.run import Run
from worker.steps.check_form import WRONG_FORM
from worker.steps.search_web import add_search_cost

# The message's own fault: reasoning that was shown before the refusal is charged.
_FAULTS_OF_MESSAGES: Final[frozenset[Category]] = frozenset({"content_policy", "invalid_request"})


def costs_due(run: Run, stage: Stage, failure: Failure | None) -> tuple[CallCost, ...]:
    """Return the calls to charge when an attempt ends: what was shown, unless the answer failed.

    A passed deadline is no failure of the answer, nor is a form that it has not. Reasoning that was
    shown without an answer is charged, unless the provider or Pollux failed meanwhile.
    """
    if not _is_paid(run, stage, failure):
        return ()
    if run.model is None or not run.writer.has_shown():
        return tuple(run.rounds.costs)
    present = CallCost(run.model.identifier, present_cost(run, run.model))
    return (*run.rounds.costs, present)


def present_cost(run: Run, model: ModelSettings) -> Usage:
    """Return what the present round's call of a model used, with its cost."""
    return add_search_cost(run, model, _plausible_usage(run, model))


def _is_paid(run: Run, stage: Stage, failure: Failure | None) -> bool:
    """Tell whether what was shown is charged."""
    if stage != "failed" or failure is None:
        return stage != "failed"
    if failure.code in {EXPIRED.code, WRONG_FORM}:
        return True
    if run.writer.text() or run.media:
        return False
    is_request = cause_of(failure).fault == "request" and failure.category in _FAULTS_OF_MESSAGES
    return run.has_no_answer or is_request


def encode_charge(run: Run) -> str | None:
    """Return what would be due if the attempt ended now; None if nothing was shown.

    That is the cost of the finished rounds' calls, and an estimate for the present one.
    """
    model, finished = run.model, run.rounds.costs
    if model is None or not run.writer.has_shown():
        return encode_bill(run, finished) if finished else None
    if finished or run.searched_by is not None or run.media or run.parts:
        used = add_search_cost(run, model, estimate_usage(run, model))
        return encode_bill(run, [*finished, CallCost(model.identifier, used)])
    # The same for the only call, of text alone: this is computed at each append.
    text_tokens, reasoning_tokens = run.writer.tokens()
    output_tokens = text_tokens + reasoning_tokens
    cost = price.cost(model, run.input_tokens, output_tokens)
    return (
        f"{run.claimed.attempt} {cost} {run.input_tokens} {output_tokens} {reasoning_tokens} "
        f"0 0 {model.identifier}"
    )


def encode_bill(run: Run, costs: Sequence[CallCost]) -> str:
    """Return the charge for calls as text that the Redis functions parse.

    Fields: attempt, cost in microcredits, input, output and reasoning tokens, searches, their part
    of the cost, model of the last call. Example: "1 420 900 150 0 0 0 gpt-5".
    """
    used = total_usage(costs)
    return (
        f"{run.claimed.attempt} {used.cost} {used.input_tokens} {used.output_tokens} "
        f"{used.reasoning_tokens} {used.searches} {used.search_cost} {costs[-1].model}"
    )


def _plausible_usage(run: Run, model: ModelSettings) -> Usage:
    """Return the usage that the provider reported, with impossible counts replaced by estimates.

    A count of 0 is impossible for the input, and for the output if something was shown.
    """
    reported = run.usage
    if reported is not None and reported.input_tokens > 0 and reported.output_tokens > 0:
        return reported
    guess = estimate_usage(run, model)
    if reported is None:
        return guess
    is_input_reported = reported.input_tokens > 0 or guess.input_tokens == 0
    is_output_reported = reported.output_tokens > 0 or guess.output_tokens == 0
    if is_input_reported and is_output_reported:
        return reported
    counts = msgspec.structs.replace(
        reported,
        input_tokens=reported.input_tokens if is_input_reported else guess.input_tokens,
        output_tokens=reported.output_tokens if is_output_reported else guess.output_tokens,
        reasoning_tokens=reported.reasoning_tokens or guess.reasoning_tokens,
        estimated=True,
    )
    return msgspec.structs.replace(counts, cost=price.usage_cost(model, counts))
