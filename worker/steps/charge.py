"""The charge for an answer, or for the part of it that was shown, however the attempt ends.

An attempt that ends by itself is charged at its settlement. If it is ended from outside (its
session is deleted, its deadline passes, its worker dies), the Redis functions know only what was
appended: so each append carries the charge that would be due if it were the last one.
"""

from typing import Final

import msgspec

from shared.errors import EXPIRED, Category, Failure
from shared.lifecycle import Stage
from shared.routing import price
from shared.settings import ModelSettings
from shared.wire.message import Usage
from worker.receive_answer import estimate_output, estimate_usage
from worker.resilience.failure_causes import cause_of
from worker.run import Run
from worker.steps.search_web import add_search_cost, searches_made

NOTHING_DUE: Final = Usage()
# The message's own fault: reasoning that was shown before the refusal is charged.
_FAULTS_OF_MESSAGES: Final[frozenset[Category]] = frozenset({"content_policy", "invalid_request"})


def usage_due(run: Run, stage: Stage, failure: Failure | None) -> Usage:
    """Return the usage to charge when an attempt ends: what was shown, unless the answer failed.

    A passed deadline is no failure of the answer. Reasoning that was shown without an answer is
    charged, unless the provider or Pollux failed meanwhile.
    """
    if run.model is None or not run.writer.has_shown() or not _is_paid(run, stage, failure):
        return NOTHING_DUE
    return add_search_cost(run, run.model, _plausible_usage(run, run.model))


def _is_paid(run: Run, stage: Stage, failure: Failure | None) -> bool:
    """Tell whether what was shown is charged."""
    if stage != "failed" or failure is None:
        return stage != "failed"
    if failure.code == EXPIRED.code:
        return True
    if run.writer.text() or run.media:
        return False
    is_request = cause_of(failure).fault == "request" and failure.category in _FAULTS_OF_MESSAGES
    return run.has_no_answer or is_request


def encode_charge(run: Run) -> str | None:
    """Return what would be due if the attempt ended now, as text that the Redis functions parse.

    Fields: attempt, cost in microcredits, input, output and reasoning tokens, searches, their part
    of the cost, model. Example: "1 420 900 150 0 0 0 gpt-5". None if nothing was shown.
    """
    model = run.model
    if model is None or not run.writer.has_shown():
        return None
    output_tokens, reasoning_tokens = estimate_output(run)
    searches = searches_made(run, model)
    cost = price.cost(model, run.input_tokens, output_tokens, searches)
    searched = f"{searches.count} {price.search_cost(searches)}" if searches.count else "0 0"
    return (
        f"{run.claimed.attempt} {cost} {run.input_tokens} {output_tokens} {reasoning_tokens} "
        f"{searched} {model.identifier}"
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
