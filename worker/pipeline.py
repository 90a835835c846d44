"""The life of a generation in a worker: the list of steps, and the single catch-all.

read -> recall -> enhance -> choose -> look -> search -> generate, then `settle` with whatever came
of them. A step that returns an outcome ends the line. Whatever else goes wrong ends this one
generation and never the worker.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from shared.errors import ProviderError, UnavailableError
from shared.redis.functions import Claimed
from shared.telemetry import logs
from worker.run import INTERNAL, Brake, Failed, Finished, Outcome, Retry, Run, Tools
from worker.steps.charge import bill
from worker.steps.choose import choose
from worker.steps.enhance import enhance
from worker.steps.generate import generate
from worker.steps.look import look
from worker.steps.read import read
from worker.steps.recall import recall
from worker.steps.search import search
from worker.steps.settle import settle
from worker.writer import Writer

Step = Callable[[Run], Awaitable[Outcome | None]]

STEPS: Final[tuple[Step, ...]] = (read, recall, enhance, choose, look, search, generate)

# After a step that Redis did not answer; it may be another worker that reaches it first.
_AGAIN_SECONDS: Final = 1.0


async def run(tools: Tools, claimed: Claimed, brake: Brake) -> None:
    """Make one attempt at a generation and settle it."""
    attempt = _begin(tools, claimed, brake)
    outcome: Outcome
    try:
        brake.grip()
        outcome = await _steps(attempt)
    except asyncio.CancelledError:
        outcome = brake.outcome()
    except ProviderError as error:
        outcome = Failed(error.failure)
    except UnavailableError as error:
        logs.logger().warning("waiting for Redis", work="a step", error=error.message)
        outcome = Retry(_AGAIN_SECONDS, code=error.code.value)
    except Exception:
        logs.logger().exception("a step failed")
        outcome = Failed(INTERNAL)
    brake.take_off()
    await settle(attempt, outcome)


async def _steps(attempt: Run) -> Outcome:
    for step in STEPS:
        outcome = await step(attempt)
        if outcome is not None:
            return outcome
    return Finished()


def _begin(tools: Tools, claimed: Claimed, brake: Brake) -> Run:
    worker = tools.settings.worker
    is_batch = claimed.lane == "batch"
    writer = Writer(
        tools.redis,
        claimed,
        clock=tools.clock,
        flush_seconds=worker.batch_flush_seconds if is_batch else worker.flush_seconds,
        on_stop=brake.pull,
    )
    attempt = Run(
        tools=tools,
        claimed=claimed,
        writer=writer,
        claimed_at=tools.clock.monotonic(),
    )
    writer.priced_by(partial(bill, attempt))
    return attempt
