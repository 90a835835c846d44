"""Has the model answer, calls the tools that it asks for, and has it answer with their results.

Owns the rounds: each model turn that ends with calls of the deployment's tools is kept, then each
result, and only then the model is called again. A caller's own tools are the caller's to run: such
calls are the answer. Owns what bounds the rounds: their number, the context window, and the hold.
Where the next one would exceed these, the text so far is the answer, cut off (`length`); without
any text the generation fails, and what was shown is charged. The last round is offered no tools.
An answer of another form than was asked for is dropped, and made once more.
"""

from collections.abc import Awaitable
from functools import partial
from typing import Final

import msgspec

from shared.errors import CRASHED, Failure
from shared.wire import event as events
from shared.wire.conversation import Message
from worker.model_call import call_model, fail_over
from worker.outcome import Failed, Outcome
from worker.resilience.retry_policy import CALLS_PER_TURN_MAX
from worker.run import Run
from worker.steps.build_request import ROUNDS_MAX, build_request, has_room
from worker.steps.call_tools import call_tools
from worker.steps.check_form import find_flaw, may_ask_again, wrong_form
from worker.steps.own_parts import own_parts
from worker.steps.round_log import keep_call, show_again

# Earlier attempts, whose workers died, have made all the calls.
_CALLS_USED_UP: Final = msgspec.structs.replace(
    CRASHED, message="The upstream calls that a message may make were used up as workers died."
)
_SPENT_ON_TOOLS: Final = Failure(
    message="The limit of the answer was spent on calls of tools: nothing was left for an answer.",
    category="invalid_request",
    code="ANSWER_SPENT_ON_TOOLS",
)


def answer(run: Run) -> Awaitable[Outcome | None]:
    """Stream the answer into `run.writer` and fill `run.usage`; None when it is complete."""
    is_free = run.submission.form.kind == "text"
    return _answer_in_rounds(run) if is_free else _answer_in_form(run)


async def _answer_in_form(run: Run) -> Outcome | None:
    """Answer, and answer once more where the first answer has another form."""
    outcome = await _answer_in_rounds(run)
    if outcome is not None or (flaw := find_flaw(run)) is None:
        return outcome
    if may_ask_again(run):
        await run.writer.drop_round()
        run.text_start, run.media = len(run.writer.text()), list(run.rounds.media)
        outcome = await _answer_in_rounds(run)
        if outcome is not None or (flaw := find_flaw(run)) is None:
            return outcome
    return wrong_form(run, flaw)


async def _answer_in_rounds(run: Run) -> Outcome | None:
    """Call the model, and tools as long as it asks for any; None when the answer is complete."""
    if run.calls >= CALLS_PER_TURN_MAX:
        return Failed(_CALLS_USED_UP)
    if run.rounds.finished:
        run.searches = 0
        await show_again(run)
    while True:
        if run.rounds.finished:
            outcome = await _call_open_tools(run)
            if outcome is not None:
                return outcome
            if not _may_continue(run):
                return _cut_off(run)
        run.writer.begin_round()
        run.writer.append_event(events.StageChanged("generating"), stage="generating")
        outcome = await call_model(run, partial(build_request, run))
        if outcome is not None or not _has_called(run):
            return outcome
        keep_call(run, Message(role="assistant", parts=own_parts(run)))


async def _call_open_tools(run: Run) -> Outcome | None:
    """Run the calls of the last round that have no result, if there are any."""
    if not run.rounds.open_calls:
        return None
    return await call_tools(run, run.dependencies.tools.offered(run.submission))


def _has_called(run: Run) -> bool:
    """Tell whether the model waits for results of the deployment's tools."""
    if run.finish_reason != "tool_calls":
        return False
    return bool(run.dependencies.tools.offered(run.submission)) and bool(run.call_ids)


def _may_continue(run: Run) -> bool:
    """Tell whether another round may begin, by any model of the route that has room for it."""
    assert run.model is not None  # noqa: S101  `choose_model` went before
    run.fallbacks = tuple(each for each in run.fallbacks if has_room(run, each))
    if not has_room(run, run.model) and run.fallbacks:
        fail_over(run, run.model, "max_credits")
    return len(run.rounds.finished) <= ROUNDS_MAX and has_room(run, run.model)


def _cut_off(run: Run) -> Failed | None:
    """End the answer where it stands; without any text there is none."""
    if run.writer.text() or run.media:
        run.finish_reason = "length"
        # A later attempt that finds nothing left to do has entered no stage that can complete.
        run.writer.append_event(events.StageChanged("generating"), stage="generating")
        return None
    run.has_no_answer = True
    return Failed(_SPENT_ON_TOOLS)
