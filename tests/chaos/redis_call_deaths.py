"""A scenario in which a worker dies before and after each Redis call that it makes.

Two turns of one session, streamed: undisturbed (`talk`), as two generations without a session
(`alone`), with the first one cancelled while it streams (`cancel`), with SIGTERM to the worker
meanwhile (`drain`), after another worker died in the middle of the first answer, which the client
cancels when this one has died too (`heir`), with a round of tools before each answer (`tools`), or
with a tool that waits for a person, who approves while the worker lives or after it died
(`approval`); and a batch of six (`batch`). First the calls that a worker makes are listed; then,
for each call and both sides of it, a worker dies there and a second one finishes. The invariants
must find nothing each time.

Owns the hook that counts calls and exits, in the forked child only, and the table of
`python -m tests.chaos.redis_call_deaths`. Calls that loops make by the clock (heartbeat, report,
reap) may come at another position the next time: a call that is never reached is printed as such.
"""

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Literal, NamedTuple, get_args

import msgspec
import uvloop

from shared.redis import functions
from shared.redis.client import Argument, Redis, Reply
from shared.redis.functions import Cancelled
from shared.settings import RedisSettings, Settings, WorkerSettings
from tests.chaos import batch_run, invariants
from tests.chaos.evidence import AcceptedMessage, Evidence, Finding, question
from tests.chaos.scene import Scene, running_scene
from tests.chaos.tool_rounds import KEPT_TEXT, install_tools
from tests.chaos.worker_pool import WorkerChild
from tests.support import command_line, waiting
from tests.worker.front import Front, Ticket

_MODULE: Final = "tests.chaos.redis_call_deaths"
_DEATH: Final = 99
_GIVE_UP_SECONDS: Final = 10.0
_TURNS: Final = 2
# The lease of a dead worker lapses soon; that of a live one does not, even on a busy machine.
_WORKER: Final = WorkerSettings(
    concurrency=4,
    lease_seconds=0.25,
    beat_seconds=0.05,
    reap_seconds=0.03,
    grace_seconds=0.02,
    flush_seconds=0.005,
)

Side = Literal["before", "after"]
Scenario = Literal["talk", "alone", "cancel", "drain", "heir", "tools", "approval", "batch"]
SCENARIOS: Final[tuple[Scenario, ...]] = get_args(Scenario)
_WITH_TOOLS: Final[frozenset[Scenario]] = frozenset({"tools", "approval"})


class Boundary(NamedTuple):
    """One side of the n-th call of a function or command, such as `append` or `BLPOP`."""

    name: str
    number: int
    side: Side


class Death(NamedTuple):
    """The result of a death at a boundary."""

    boundary: Boundary
    is_reached: bool
    seconds: float
    findings: list[Finding]


class TrapPlan(msgspec.Struct, frozen=True):
    """What the hook does: write the name of each call to a file, or exit at one of them."""

    path: str = ""
    name: str = ""
    number: int = 0
    side: Side = "before"


class _CallTrap:
    """The hook in a worker: it counts the Redis calls of both threads, and exits at one."""

    def __init__(self, plan: TrapPlan) -> None:
        self._plan = plan
        self._seen: Counter[str] = Counter()

    def count_call(self, command: tuple[Argument, ...]) -> bool:
        """Count a call, exit before it if it is chosen; else return whether to exit after it."""
        name = name_of(command)
        self._seen[name] += 1
        if self._plan.path:
            with open(self._plan.path, "a", encoding="utf-8") as names:  # noqa: PTH123  one write a line
                names.write(f"{name}\n")
        is_chosen = (name, self._seen[name]) == (self._plan.name, self._plan.number)
        if is_chosen and self._plan.side == "before":
            os._exit(_DEATH)
        return is_chosen


def install_trap(text: str) -> None:
    """Install the hook in this process: it sees every Redis call of the worker."""
    trap = _CallTrap(msgspec.json.decode(text, type=TrapPlan))
    call, send = Redis.call, Redis.send

    async def counted_call(self: Redis, *command: Argument, repeat: bool = True) -> Reply:
        is_chosen = trap.count_call(command)
        try:
            return await call(self, *command, repeat=repeat)
        finally:
            if is_chosen:
                os._exit(_DEATH)

    def sent(self: Redis, *command: Argument) -> None:
        is_chosen = trap.count_call(command)
        send(self, *command)
        if is_chosen:
            _flush_now(self)
            os._exit(_DEATH)

    Redis.call = counted_call  # type: ignore[method-assign]  # in the child alone
    Redis.send = sent  # type: ignore[method-assign]  # the same


def name_of(command: tuple[Argument, ...]) -> str:
    """Return the name of a call: the function's own, or the command's."""
    verb = str(command[0])
    return str(command[1]).partition("_")[2].partition("_")[2] if "FCALL" in verb else verb


def _flush_now(redis: Redis) -> None:
    """Hand the sent bytes to the kernel, which delivers them after the process has died."""
    if redis._protocol is not None:
        redis._protocol._flush()


class Passage(NamedTuple):
    """One run of the scenario, under a prefix of its own."""

    scene: Scene
    scenario: Scenario
    settings: RedisSettings
    front: Front
    evidence: Evidence

    @classmethod
    def of(cls, scene: Scene, scenario: Scenario, name: str) -> "Passage":
        """Return the passage of that name."""
        settings = msgspec.structs.replace(scene.settings.redis, prefix=f"{scenario}-{name}")
        whole = msgspec.structs.replace(scene.settings, redis=settings)
        evidence = Evidence(kept_text=KEPT_TEXT if scenario in _WITH_TOOLS else "")
        return cls(scene, scenario, settings, Front(scene.redis, whole), evidence)

    @property
    def hooks(self) -> list[tuple[str, str]]:
        """What each worker of this passage is changed by."""
        if self.scenario not in _WITH_TOOLS:
            return []
        approval = str(self.approval) if self.scenario == "approval" else ""
        return [(f"{install_tools.__module__}:{install_tools.__name__}", approval)]

    @property
    def approval(self) -> Path:
        """The file that says that the call was approved."""
        return self.scene.server.folder / f"approved-{self.settings.prefix}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a worker for this passage."""
        own = batch_run.ENVIRONMENT if self.scenario == "batch" else {}
        return {"POLLUX_REDIS__PREFIX": self.settings.prefix, **own}

    @property
    def account(self) -> str:
        """The account of this passage."""
        return f"of{self.settings.prefix}"

    @property
    def whole_settings(self) -> Settings:
        """The settings under this passage's prefix."""
        return msgspec.structs.replace(self.scene.settings, redis=self.settings)

    async def submit_turns(self, *, is_sessionless: bool) -> list[Ticket]:
        """Send both turns."""
        tickets: list[Ticket] = []
        account = self.account
        if self.scenario == "batch":
            root = self.front.root_of(account)
            await batch_run.store(self.scene.redis, self.whole_settings, root, account)
            return tickets
        for number in range(_TURNS):
            asked = question(account, f"turn {number}")
            session = tickets[0].session if tickets else None
            ticket = await self.front.submit(
                asked,
                account=account,
                session=None if is_sessionless else session,
                is_sessionless=is_sessionless,
            )
            self.evidence.accepted_messages.append(
                AcceptedMessage(account, ticket.session, ticket.id, asked)
            )
            tickets.append(ticket)
        self.evidence.granted[account] = (await self.front.credit_totals(account)).granted
        return tickets

    async def is_over(self, tickets: Sequence[Ticket]) -> bool:
        """Return whether these have ended; approve what waits for a person."""
        if self.scenario == "batch":
            root = self.front.root_of(self.account)
            return await batch_run.is_over(self.scene.redis, root, self.account)
        statuses = [await self.front.poll(ticket) for ticket in tickets]
        for ticket, polled in zip(tickets, statuses, strict=True):
            if polled.stage == "awaiting_approval":
                self.approval.touch()
                ask = functions.ResumeAsk(account=ticket.account, id=ticket.id)
                await functions.resume(self.scene.redis, ticket.root, ask)
        return all(polled.is_final for polled in statuses)

    async def wait_for_words(self, ticket: Ticket, worker: WorkerChild) -> None:
        """Wait until an answer has text, or the worker has died."""

        async def has_words() -> bool:
            return worker.code is not None or bool((await self.front.poll(ticket)).text)

        await waiting.until(has_words, _GIVE_UP_SECONDS, what="words")

    async def cancel(self, ticket: Ticket) -> None:
        """Cancel one, and note when it was confirmed."""
        if isinstance(await self.front.cancel(ticket), Cancelled):
            seconds, micros = await self.scene.redis.call("TIME")
            self.evidence.cancelled[ticket.id] = int(seconds) * 1000 + int(micros) // 1000

    def findings(self) -> list[Finding]:
        """Return what the invariants find in this passage."""
        evidence = self.evidence
        evidence.upstream_calls += self.scene.evidence.upstream_calls
        with self.scene.server.raw_client() as raw_client:
            if self.scenario == "batch":
                root = self.front.root_of(self.account)
                found = batch_run.findings(raw_client, self.settings, root, self.account)
            else:
                found = invariants.check(raw_client, self.settings, evidence)
        self.scene.evidence.upstream_calls.clear()
        return found


async def list_boundaries(scene: Scene, scenario: Scenario = "talk") -> list[Boundary]:
    """Run a scenario once; return both sides of every call in it."""
    names = scene.server.folder / f"calls-{scenario}"
    passage = Passage.of(scene, scenario, "census")
    await _run_passage(passage, TrapPlan(path=str(names)))
    assert passage.findings() == []
    seen: Counter[str] = Counter()
    boundaries = []
    for name in names.read_text().split():
        seen[name] += 1
        boundaries += [Boundary(name, seen[name], "before"), Boundary(name, seen[name], "after")]
    return boundaries


async def die_at(scene: Scene, scenario: Scenario, boundary: Boundary) -> Death:
    """Run a scenario in which a worker dies at a boundary and a second one finishes."""
    began = asyncio.get_running_loop().time()
    name, number, side = boundary
    # A prefix of keys has at most 32 characters.
    passage = Passage.of(scene, scenario, f"{name[:12]}-{number}-{side}")
    code = await _run_passage(passage, TrapPlan(name=name, number=number, side=side))
    seconds = asyncio.get_running_loop().time() - began
    return Death(boundary, code == _DEATH, seconds, passage.findings())


async def _run_passage(passage: Passage, plan: TrapPlan) -> int:
    """Run a scenario with a worker that has this hook; return its exit code."""
    scenario = passage.scenario
    tickets = await passage.submit_turns(is_sessionless=scenario == "alone")
    if scenario == "heir":
        await _die_midway(passage, tickets[0])
    hook = f"{_MODULE}:{install_trap.__name__}", msgspec.json.encode(plan).decode()
    first = passage.scene.pool.fork_worker([hook, *passage.hooks], passage.environment)

    async def is_done() -> bool:
        return first.code is not None or await passage.is_over(tickets)

    if scenario in {"cancel", "drain"}:
        await passage.wait_for_words(tickets[0], first)
    if scenario == "cancel":
        await passage.cancel(tickets[0])
    if scenario != "drain":
        await waiting.until(is_done, _GIVE_UP_SECONDS, what=f"the end, or death at {plan}")
    if scenario == "heir":
        await passage.cancel(tickets[0])
    # The last calls of a worker come after SIGTERM.
    await passage.scene.pool.until_ready(first)
    first.terminate()
    code = await first.ended()
    await _finish(passage, tickets)
    return code


async def _die_midway(passage: Passage, ticket: Ticket) -> None:
    """Let a worker stream a part of an answer and die."""
    worker = passage.scene.pool.fork_worker((), passage.environment)
    await passage.wait_for_words(ticket, worker)
    worker.kill()
    await worker.ended()


async def _finish(passage: Passage, tickets: Sequence[Ticket]) -> None:
    """Let a second worker finish what is left."""

    async def is_over() -> bool:
        if passage.scenario == "batch":
            root = passage.front.root_of(passage.account)
            await batch_run.look_after(passage.scene.redis, passage.whole_settings, root)
        return await passage.is_over(tickets)

    if not await is_over():
        worker = passage.scene.pool.fork_worker(passage.hooks, passage.environment)
        await waiting.until(is_over, _GIVE_UP_SECONDS, what="the end")
        worker.kill()
        await worker.ended()


@asynccontextmanager
async def shared_scene() -> AsyncIterator[Scene]:
    """Start the server and the worker pool that all passages share."""
    async with running_scene(_WORKER, words=(3, 4), pace=(0.008, 0.012)) as scene:
        yield scene


async def _all(scenarios: Sequence[Scenario], every: int) -> int:
    tried = reached = broken = 0
    async with shared_scene() as scene:
        for scenario in scenarios:
            for boundary in (await list_boundaries(scene, scenario))[::every]:
                one = await die_at(scene, scenario, boundary)
                tried, reached = tried + 1, reached + one.is_reached
                broken += bool(one.findings)
                _print_death(scenario, one)
    sys.stdout.write(f"{tried} boundaries tried, {reached} reached, {broken} broken\n")
    return 1 if broken else 0


def _print_death(scenario: Scenario, one: Death) -> None:
    name, number, side = one.boundary
    word = "reached" if one.is_reached else "not reached"
    sys.stdout.write(f"{scenario}: {side} {name} {number}: {word}, {one.seconds:.2f} s\n")
    sys.stdout.writelines(f"    {finding}\n" for finding in one.findings)
    sys.stdout.flush()


def main() -> int:
    """Try all boundaries, or every k-th; return 1 if one broke an invariant."""
    parser = command_line.parser("tests.chaos.redis_call_deaths", __doc__)
    parser.add_argument("--every", type=int, default=1, help="try every k-th boundary")
    parser.add_argument("--scenario", choices=SCENARIOS, action="append", help="repeatable")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_all(options.scenario or SCENARIOS, options.every))


if __name__ == "__main__":
    sys.exit(main())
