"""A scenario, and a worker that dies before and after each store call it makes in it.

Two turns of one session, streamed: just so (`talk`), with the first one cancelled while it is told
(`cancel`), with the worker told to go meanwhile (`drain`), or where another worker had told a part
and was killed, and the caller gives up when this one has died as well (`heir`). First the calls
that a worker makes are counted; then, for each of them and for both sides of it, a worker dies
there and a second one finishes. The ledger must find nothing each time.

Owns the trap that counts and dies, which is laid in the forked child only, and the table of
`python -m tests.chaos.redis_call_deaths`. What a loop does by the clock (a beat, a report, a
raw_client for
lapsed leases) may come at another place the next time: a boundary that is never reached is told.
"""

import argparse
import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, Literal, NamedTuple, get_args

import msgspec
import uvloop

from shared.redis.client import Argument, Redis, Reply
from shared.redis.functions import Cancelled
from shared.settings import RedisSettings, WorkerSettings
from tests.chaos import invariants
from tests.chaos.evidence import Evidence, Finding, Promise, question
from tests.chaos.scene import Scene, standing
from tests.chaos.worker_pool import WorkerChild
from tests.support import waiting
from tests.worker.front import Front, Ticket

_MODULE: Final = "tests.chaos.redis_call_deaths"
_DEATH: Final = 99
_PATIENCE_SECONDS: Final = 10.0
_TURNS: Final = 2
# A dead worker's lease lapses soon; a live one's does not, even on a machine that is busy.
_WORKER: Final = WorkerSettings(
    concurrency=4,
    lease_seconds=0.25,
    beat_seconds=0.05,
    reap_seconds=0.03,
    grace_seconds=0.02,
    flush_seconds=0.005,
)

Side = Literal["before", "after"]
Scenario = Literal["talk", "cancel", "drain", "heir"]
SCENARIOS: Final[tuple[Scenario, ...]] = get_args(Scenario)


class Boundary(NamedTuple):
    """A moment: one side of the n-th call of a name, such as `append` or `BLPOP`."""

    name: str
    number: int
    side: Side


class Death(NamedTuple):
    """What came of a death at a boundary."""

    boundary: Boundary
    is_reached: bool
    seconds: float
    findings: list[Finding]


class Counting(msgspec.Struct, frozen=True):
    """What the trap does: write each call's name to a file, or die at one of them."""

    path: str = ""
    name: str = ""
    number: int = 0
    side: Side = "before"


class _Trip:
    """The trap in a worker: it counts the store calls of both threads, and dies at one."""

    def __init__(self, plan: Counting) -> None:
        self._plan = plan
        self._seen: Counter[str] = Counter()

    def step(self, command: tuple[Argument, ...]) -> bool:
        """Count a call, die if it is the one and it must not be made; else tell if it is."""
        name = name_of(command)
        self._seen[name] += 1
        if self._plan.path:
            with open(self._plan.path, "a", encoding="utf-8") as names:  # noqa: PTH123  one write a line
                names.write(f"{name}\n")
        is_it = (name, self._seen[name]) == (self._plan.name, self._plan.number)
        if is_it and self._plan.side == "before":
            os._exit(_DEATH)
        return is_it


def lay(text: str) -> None:
    """Lay the trap in this process: every store call of the worker goes through it."""
    trip = _Trip(msgspec.json.decode(text, type=Counting))
    call, send = Redis.call, Redis.send

    async def counted(self: Redis, *command: Argument, repeat: bool = True) -> Reply:
        is_it = trip.step(command)
        try:
            return await call(self, *command, repeat=repeat)
        finally:
            if is_it:
                os._exit(_DEATH)

    def told(self: Redis, *command: Argument) -> None:
        is_it = trip.step(command)
        send(self, *command)
        if is_it:
            _push_out(self)
            os._exit(_DEATH)

    Redis.call = counted  # type: ignore[method-assign]  # in the child alone
    Redis.send = told  # type: ignore[method-assign]  # the same


def name_of(command: tuple[Argument, ...]) -> str:
    """Name a store call: the function's own name, or the command's."""
    verb = str(command[0])
    return str(command[1]).partition("_")[2].partition("_")[2] if "FCALL" in verb else verb


def _push_out(redis: Redis) -> None:
    """Give what was sent to the kernel, which delivers it though the process dies."""
    if redis._protocol is not None:
        redis._protocol._flush()


class Stage(NamedTuple):
    """One passage through the scenario, under a prefix of its own."""

    scene: Scene
    settings: RedisSettings
    front: Front
    evidence: Evidence

    @classmethod
    def of(cls, scene: Scene, name: str) -> "Stage":
        """Set the stage for the passage of that name."""
        settings = msgspec.structs.replace(scene.settings.redis, prefix=name)
        whole = msgspec.structs.replace(scene.settings, redis=settings)
        return cls(scene, settings, Front(scene.redis, whole), Evidence())

    @property
    def environment(self) -> dict[str, str]:
        """What makes a worker work on this stage."""
        return {"POLLUX_REDIS__PREFIX": self.settings.prefix}

    async def begin(self) -> list[Ticket]:
        """Send both turns."""
        tickets: list[Ticket] = []
        account = f"of{self.settings.prefix}"
        for number in range(_TURNS):
            asked = question(account, f"turn {number}")
            session = tickets[0].session if tickets else None
            ticket = await self.front.submit(asked, account=account, session=session)
            self.evidence.promises.append(Promise(account, ticket.session, ticket.id, asked))
            tickets.append(ticket)
        self.evidence.granted[account] = (await self.front.credit_totals(account)).granted
        return tickets

    async def is_over(self, tickets: Sequence[Ticket]) -> bool:
        """Whether these have ended."""
        looks = [await self.front.poll(ticket) for ticket in tickets]
        return all(polled.is_final for polled in looks)

    async def told(self, ticket: Ticket, worker: WorkerChild) -> None:
        """Wait until something of an answer is told, or the worker has died."""

        async def is_told() -> bool:
            return worker.code is not None or bool((await self.front.poll(ticket)).text)

        await waiting.until(is_told, _PATIENCE_SECONDS, what="words")

    async def cancel(self, ticket: Ticket) -> None:
        """Cancel one, and note when that was confirmed."""
        if isinstance(await self.front.cancel(ticket), Cancelled):
            seconds, micros = await self.scene.redis.call("TIME")
            self.evidence.cancelled[ticket.id] = int(seconds) * 1000 + int(micros) // 1000

    def findings(self) -> list[Finding]:
        """Return what the ledger finds, given what this stage's questions were answered."""
        evidence = self.evidence
        evidence.asked += self.scene.evidence.asked
        with self.scene.server.raw_client() as raw_client:
            found = invariants.check(raw_client, self.settings, evidence)
        self.scene.evidence.asked.clear()
        return found


async def census(scene: Scene, scenario: Scenario = "talk") -> list[Boundary]:
    """Go through a scenario once; return both sides of every call that was made in it."""
    names = scene.server.folder / f"calls-{scenario}"
    stage = Stage.of(scene, f"census-{scenario}")
    await _pass(stage, scenario, Counting(path=str(names)))
    assert stage.findings() == []
    seen: Counter[str] = Counter()
    boundaries = []
    for name in names.read_text().split():
        seen[name] += 1
        boundaries += [Boundary(name, seen[name], "before"), Boundary(name, seen[name], "after")]
    return boundaries


async def death(scene: Scene, scenario: Scenario, boundary: Boundary) -> Death:
    """Let a worker die at a boundary and a second one finish."""
    began = asyncio.get_running_loop().time()
    name, number, side = boundary
    stage = Stage.of(scene, f"{scenario}-{name}-{number}-{side}")
    code = await _pass(stage, scenario, Counting(name=name, number=number, side=side))
    seconds = asyncio.get_running_loop().time() - began
    return Death(boundary, code == _DEATH, seconds, stage.findings())


async def _pass(stage: Stage, scenario: Scenario, plan: Counting) -> int:
    """Go through a scenario with a worker that has this trap; return its exit code."""
    tickets = await stage.begin()
    if scenario == "heir":
        await _half_tell(stage, tickets[0])
    hook = f"{_MODULE}:{lay.__name__}", msgspec.json.encode(plan).decode()
    first = stage.scene.pool.fork_worker([hook], stage.environment)

    async def is_done() -> bool:
        return first.code is not None or await stage.is_over(tickets)

    if scenario in {"cancel", "drain"}:
        await stage.told(tickets[0], first)
    if scenario == "cancel":
        await stage.cancel(tickets[0])
    if scenario != "drain":
        await waiting.until(is_done, _PATIENCE_SECONDS, what=f"the end, or death at {plan}")
    if scenario == "heir":
        await stage.cancel(tickets[0])
    # What comes at the very end of a worker comes when it is told to go.
    await stage.scene.pool.until_ready(first)
    first.terminate()
    code = await first.ended()
    await _finish(stage, tickets)
    return code


async def _half_tell(stage: Stage, ticket: Ticket) -> None:
    """Let a worker tell a part of an answer and die."""
    worker = stage.scene.pool.fork_worker((), stage.environment)
    await stage.told(ticket, worker)
    worker.kill()
    await worker.ended()


async def _finish(stage: Stage, tickets: Sequence[Ticket]) -> None:
    """Let a worker bring to its end what is left."""
    is_over = partial(stage.is_over, tickets)
    if not await is_over():
        worker = stage.scene.pool.fork_worker((), stage.environment)
        await waiting.until(is_over, _PATIENCE_SECONDS, what="the end")
        worker.kill()
        await worker.ended()


@asynccontextmanager
async def scenery() -> AsyncIterator[Scene]:
    """Start what all passages share."""
    async with standing(_WORKER, words=(3, 4), pace=(0.008, 0.012)) as scene:
        yield scene


async def _all(scenarios: Sequence[Scenario], every: int) -> int:
    tried = reached = broken = 0
    async with scenery() as scene:
        for scenario in scenarios:
            for boundary in (await census(scene, scenario))[::every]:
                one = await death(scene, scenario, boundary)
                tried, reached = tried + 1, reached + one.is_reached
                broken += bool(one.findings)
                _tell(scenario, one)
    sys.stdout.write(f"{tried} boundaries tried, {reached} reached, {broken} broken\n")
    return 1 if broken else 0


def _tell(scenario: Scenario, one: Death) -> None:
    name, number, side = one.boundary
    word = "reached" if one.is_reached else "not reached"
    sys.stdout.write(f"{scenario}: {side} {name} {number}: {word}, {one.seconds:.2f} s\n")
    sys.stdout.writelines(f"    {finding}\n" for finding in one.findings)
    sys.stdout.flush()


def main() -> int:
    """Try all boundaries, or every k-th; return 1 if any of them broke something."""
    parser = argparse.ArgumentParser(prog="tests.chaos.redis_call_deaths", description=__doc__)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--scenario", choices=SCENARIOS, action="append")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_all(options.scenario or SCENARIOS, options.every))


if __name__ == "__main__":
    sys.exit(main())
