"""Has the model answer, and streams its answer.

Owns that a turn whose upstream calls are used up ends. Only text, media and calls of tools count as
an answer.
"""

from functools import partial
from typing import Final

import msgspec

from shared.errors import CRASHED
from shared.wire import event as events
from worker.model_call import call_model
from worker.outcome import Failed, Outcome
from worker.resilience.retry_policy import CALLS_PER_TURN_MAX
from worker.run import Run
from worker.steps.build_request import build_request

# Earlier attempts, whose workers died, have made all the calls.
_CALLS_USED_UP: Final = msgspec.structs.replace(
    CRASHED, message="The upstream calls that a message may make were used up as workers died."
)


async def answer(run: Run) -> Outcome | None:
    """Stream the answer into `run.writer` and fill `run.usage`; None when it is complete."""
    run.calls = run.claimed.calls
    if run.calls >= CALLS_PER_TURN_MAX:
        return Failed(_CALLS_USED_UP)
    run.writer.append_event(events.StageChanged("generating"), stage="generating")
    return await call_model(run, partial(build_request, run))
