"""One attempt at a generation: the list of its steps, and the single catch-all around them.

restore_rounds -> read_submission -> load_history -> enhance -> choose_model -> fetch_images ->
search_web -> answer, then `settle` with the outcome. The first step that returns an outcome ends
the list. Any exception ends this one generation and never the worker.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from shared.errors import ProviderError, UnavailableError
from shared.redis.functions import Claimed
from shared.telemetry import logs
from worker.outcome import INTERNAL, Failed, Finished, Outcome, Retry, StopSignal
from worker.run import Dependencies, Run
from worker.steps.answer import answer
from worker.steps.charge import encode_charge
from worker.steps.choose_model import choose_model
from worker.steps.enhance import enhance
from worker.steps.fetch_images import fetch_images
from worker.steps.load_history import load_history
from worker.steps.read_submission import read_submission
from worker.steps.round_log import restore_rounds
from worker.steps.search_web import search_web
from worker.steps.settle import settle
from worker.writer import Writer

Step = Callable[[Run], Awaitable[Outcome | None]]

STEPS: Final[tuple[Step, ...]] = (
    restore_rounds,
    read_submission,
    load_history,
    enhance,
    choose_model,
    fetch_images,
    search_web,
    answer,
)

# After a step that found Redis unavailable. Another worker may reach Redis sooner than this one.
_RETRY_SECONDS: Final = 1.0


async def run(dependencies: Dependencies, claimed: Claimed, stop_signal: StopSignal) -> None:
    """Make one attempt at a generation and settle it."""
    attempt = _begin(dependencies, claimed, stop_signal)
    outcome: Outcome
    try:
        stop_signal.attach()
        outcome = await _steps(attempt)
    except asyncio.CancelledError:
        outcome = stop_signal.outcome()
    except ProviderError as error:
        outcome = Failed(error.failure)
    except UnavailableError as error:
        logs.logger().warning("waiting for Redis", work="a step", error=error.message)
        outcome = Retry(_RETRY_SECONDS, code=error.code.value)
    except Exception:
        logs.logger().exception("a step failed")
        outcome = Failed(INTERNAL)
    stop_signal.disarm()
    await settle(attempt, outcome)


async def _steps(attempt: Run) -> Outcome:
    for step in STEPS:
        outcome = await step(attempt)
        if outcome is not None:
            return outcome
    return Finished()


def _begin(dependencies: Dependencies, claimed: Claimed, stop_signal: StopSignal) -> Run:
    worker = dependencies.settings.worker
    is_batch = claimed.lane == "batch"
    writer = Writer(
        dependencies.redis,
        claimed,
        clock=dependencies.clock,
        flush_seconds=worker.batch_flush_seconds if is_batch else worker.flush_seconds,
        on_stop=stop_signal.trigger,
    )
    attempt = Run(
        dependencies=dependencies,
        claimed=claimed,
        writer=writer,
        claimed_at=dependencies.clock.monotonic(),
        calls=claimed.calls,
        earlier_calls=claimed.calls,
    )
    writer.charge_with(partial(encode_charge, attempt))
    return attempt
