"""What is due for an answer, or for as much of one as was shown, however it ends.

An attempt that ends by itself is charged at its settlement. Of one that is ended from outside, by
the deletion of its session, by its deadline or after the death of its worker, the functions know
only what was written with it: so each append carries what would be due if it were the last.
"""

from typing import Final

import msgspec

from shared.errors import EXPIRED, Category, Failure
from shared.lifecycle import Stage
from shared.routing import price
from shared.settings import ModelSettings
from shared.wire.message import Usage
from worker.resilience.failure_causes import cause_of
from worker.run import Run
from worker.steps.receive_answer import estimate_usage
from worker.steps.search_web import add_search_cost

NOTHING_DUE: Final = Usage()
# The message's own fault: what the model thought of it before it was refused is paid for.
_FAULTS_OF_MESSAGES: Final[frozenset[Category]] = frozenset({"content_policy", "invalid_request"})


def usage_due(run: Run, stage: Stage, failure: Failure | None) -> Usage:
    """Return what is paid for at the end of an attempt: what was shown, unless the answer failed.

    A deadline is no failure of the answer. Reasoning that was shown without any answer is paid for
    unless the provider, or Pollux, broke down in the middle of it.
    """
    if run.model is None or not run.writer.has_shown() or not _is_paid(run, stage, failure):
        return NOTHING_DUE
    return add_search_cost(run, run.model, _plausible_usage(run, run.model))


def _is_paid(run: Run, stage: Stage, failure: Failure | None) -> bool:
    """Tell whether what was shown is paid for."""
    if stage != "failed" or failure is None:
        return stage != "failed"
    if failure.code == EXPIRED.code:
        return True
    if run.writer.text() or run.media:
        return False
    is_request = cause_of(failure).fault == "request" and failure.category in _FAULTS_OF_MESSAGES
    return run.has_no_answer or is_request


def encode_charge(run: Run) -> str | None:
    """Return what would be due if the attempt ended now, in words that a function can read.

    Its attempt, the cost in microcredits, tokens that went in, came out and were thought, searches
    and their part of the cost, then the model. None where nothing was shown.
    """
    if run.model is None or not run.writer.has_shown():
        return None
    used = add_search_cost(run, run.model, estimate_usage(run, run.model))
    return (
        f"{run.claimed.attempt} {used.cost} {used.input_tokens} {used.output_tokens} "
        f"{used.reasoning_tokens} {used.searches} {used.search_cost} {run.model.identifier}"
    )


def _plausible_usage(run: Run, model: ModelSettings) -> Usage:
    """Return the usage that the provider told, but for counts that cannot be.

    Something went in, and something that was shown came out.
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
    input_tokens = reported.input_tokens if is_input_reported else guess.input_tokens
    output_tokens = reported.output_tokens if is_output_reported else guess.output_tokens
    return msgspec.structs.replace(
        reported,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        reasoning_tokens=reported.reasoning_tokens or guess.reasoning_tokens,
        cost=price.cost(model, input_tokens, output_tokens),
        estimated=True,
    )
