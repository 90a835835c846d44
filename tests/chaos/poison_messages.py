"""Messages that kill whichever worker runs them, among innocent messages.

`python -m tests.chaos.poison_messages --workers 2`: a table of runs, one for each position of the
poison among the messages; exit code 1 if an innocent message failed, or a poison did not.

DESIGN. A worker is forked with a hook in its last step: a message that begins with "poison" kills
the process there after a moment, while everything else that it claimed is running. A worker that is
gone is replaced at once.
"""

import asyncio
import os
import signal
import sys
from typing import Final

import msgspec

from shared.clock import SystemClock
from shared.settings import WorkerSettings
from shared.wire.submission import Lane
from tests.chaos.scene import Scene, running_scene
from tests.support import command_line, waiting
from tests.worker.front import Front, Ticket
from worker import pipeline
from worker.outcome import Outcome
from worker.run import Run

_CRASHES_MAX: Final = 3
# The name of this module, also where it runs as __main__.
_TRAP: Final = "tests.chaos.poison_messages:plant"
_POLL_SECONDS: Final = 0.05
_GIVE_UP_SECONDS: Final = 120.0
_ACCOUNTS: Final = ("ann", "bob", "cem")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent to how many workers: the poisons are at the positions `places`.

    `per_session` messages in a row are turns of one session; every third session is a batch.
    """

    workers: int = 1
    innocents: int = 12
    places: tuple[int, ...] = (0,)
    per_session: int = 1
    kill_after_seconds: float = 0.2
    words: tuple[int, int] = (8, 12)
    pace: tuple[float, float] = (0.05, 0.1)
    worker: WorkerSettings = WorkerSettings(concurrency=16)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The results: innocent messages that failed, poisons given up, workers that died."""

    innocents_failed: int
    poisons_given_up: int
    deaths: int
    seconds: float


def plant(kill_after_seconds: str) -> None:
    """Install the hook; called in the forked process before the worker starts."""
    *before, generate = pipeline.STEPS

    async def kill_on_poison(run: Run) -> Outcome | None:
        if run.user.content.startswith("poison"):
            await run.dependencies.clock.sleep(float(kill_after_seconds))
            os.kill(os.getpid(), signal.SIGKILL)
        return await generate(run)

    pipeline.STEPS = (*before, kill_on_poison)  # type: ignore[misc]  # in the child alone


async def run(plan: Plan) -> Report:
    """Send all messages, replace every worker that dies, and wait for each end."""
    clock = SystemClock()
    async with running_scene(
        plan.worker, words=plan.words, pace=plan.pace, crashes_max=_CRASHES_MAX
    ) as scene:
        front = Front(scene.redis, scene.settings)
        tickets = await _submit(front, plan)
        began = clock.monotonic()
        keeping = asyncio.create_task(_keep_workers(scene, plan))
        try:
            stages = await _wait_for_ends(front, tickets)
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
        seconds = clock.monotonic() - began
        ended = [(kind.startswith("poison"), stages[kind]) for kind in tickets]
        return Report(
            innocents_failed=sum(not bad and stage != "completed" for bad, stage in ended),
            poisons_given_up=sum(bad and stage == "failed" for bad, stage in ended),
            deaths=scene.pool.deaths,
            seconds=seconds,
        )


async def _submit(front: Front, plan: Plan) -> dict[str, Ticket]:
    """Send the messages in order; a poison has a session of its own."""
    tickets: dict[str, Ticket] = {}
    sent, session = 0, None
    for place in range(plan.innocents + len(plan.places)):
        account = _ACCOUNTS[place % len(_ACCOUNTS)] if plan.per_session == 1 else "ann"
        if place in plan.places:
            tickets[f"poison {place}"] = await front.submit(f"poison {place}", account=account)
            continue
        lane: Lane = "batch" if sent // plan.per_session % 3 == 2 else "interactive"
        session = session if sent % plan.per_session else None
        name = f"innocent {place}"
        tickets[name] = await front.submit(name, account=account, session=session, lane=lane)
        session, sent = tickets[name].session, sent + 1
    return tickets


async def _keep_workers(scene: Scene, plan: Plan) -> None:
    """Replace workers that die, until cancelled."""
    hooks = [(_TRAP, str(plan.kill_after_seconds))]
    children = [scene.pool.fork_worker(hooks) for _ in range(plan.workers)]
    clock = SystemClock()
    while True:
        children = [
            scene.pool.fork_worker(hooks) if child.ended_event.is_set() else child
            for child in children
        ]
        await clock.sleep(_POLL_SECONDS)


async def _wait_for_ends(front: Front, tickets: dict[str, Ticket]) -> dict[str, str]:
    """Return the last stage of each; after `_GIVE_UP_SECONDS` also of those that have not ended."""
    stages: dict[str, str] = {}

    async def all_ended() -> bool:
        for name, ticket in tickets.items():
            stages[name] = (await front.record(ticket))["stage"]
        return set(stages.values()) <= {"completed", "failed"}

    try:
        await waiting.until(all_ended, _GIVE_UP_SECONDS, what="the ends")
    except AssertionError:
        sys.stderr.write(f"not ended: {stages}\n")
    return stages


def main() -> int:
    """Run once for each position, and print a line for each."""
    parser = command_line.parser("tests.chaos.poison_messages", __doc__)
    parser.add_argument("--workers", type=int, default=1, help="number of workers")
    workers = parser.parse_args().workers
    plans = [
        *(Plan(workers=workers, places=places) for places in ((0,), (6,), (12,), (2, 9))),
        Plan(workers=workers, places=(4,), per_session=3),
    ]
    is_broken = False
    for plan in plans:
        report = asyncio.run(run(plan))
        is_broken |= report.innocents_failed > 0 or report.poisons_given_up < len(plan.places)
        sys.stdout.write(
            f"workers {plan.workers}, poison at {plan.places}, {plan.per_session} a session: "
            f"{report.innocents_failed} of {plan.innocents} innocents failed, "
            f"{report.poisons_given_up} poisons given up, {report.deaths} deaths, "
            f"{report.seconds:.1f} s\n"
        )
    return 1 if is_broken else 0


if __name__ == "__main__":
    sys.exit(main())
