"""`python -m tests.chaos.mixed_turns --kills 300`: turns of every form while workers are killed.

A turn is one of a session, one without a session, an explicit conversation, an answer that calls a
tool, or one whose tool waits for a person and is resumed. Owns the tools, which the workers are
given by a hook, the clients, and what must hold at the end: each turn has completed once, with its
whole text in record and stream, every result of a tool once, and the sum of its calls charged.
"""

import asyncio
import dataclasses
import random
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args

import uvloop

from shared import ids
from shared.clock import SystemClock
from shared.redis import functions, keys
from shared.redis.functions import ResumeAsk
from shared.settings import WorkerSettings
from shared.wire import submission as submissions
from shared.wire.conversation import Message, TextPart, ToolDefinition
from shared.wire.event import ApprovalRequired
from shared.wire.submission import TURN_WIRE, Submission
from tests.chaos.scene import Scene, running_scene
from tests.chaos.worker_pool import WorkerChild
from tests.support import command_line, redis_invariants
from tests.support.scripted_provider import Request, ScriptedAnswer
from tests.worker.front import GRANT, Front, Ticket, text_of
from worker.run import Dependencies
from worker.tools.contract import Suspend, ToolContext, ToolOutput
from worker.tools.registry import ToolRegistry

Kind = Literal["session", "alone", "explicit", "tool", "person"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
# Kinds whose answer has a round with one call of a tool.
_WITH_ROUND: Final = {"tool", "person"}

_ACCOUNTS: Final = ("ann", "bob", "cem")
_WAIT_SECONDS: Final = 120.0
_DEADLINE_MS: Final = 600_000
# Pays for the history of a long session, too.
_HOLD: Final = 50_000_000
# A person who never answers: the wait ends by itself.
_PERSON_SECONDS: Final = 4.0
_SILENT_SHARE: Final = 0.3
_TOOL_SECONDS: Final = 0.1
_BEFORE: Final = "Let me look."
_WORKER: Final = WorkerSettings(concurrency=64, grace_seconds=0.4)


class _Look:
    """A tool that may run twice."""

    definition = ToolDefinition(name="look", description="Looks it up.")
    is_repeatable = True
    timeout_seconds = 10.0

    async def run(self, _: dict[str, Any], context: ToolContext) -> ToolOutput | Suspend:
        await SystemClock().sleep(_TOOL_SECONDS)
        return _output(context)


class _Ask:
    """A tool that waits for a person: a file says when the wait ends, another that it has ended."""

    definition = ToolDefinition(name="ask", description="Asks a person.")
    is_repeatable = True
    timeout_seconds = 10.0

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def run(self, _: dict[str, Any], context: ToolContext) -> ToolOutput | Suspend:
        wait, decision = (self._folder / f"{context.call_id}.{each}" for each in ("wait", "yes"))
        if decision.exists():
            return _output(context)
        if not wait.exists():
            wait.write_text(str(int((time.time() + _PERSON_SECONDS) * 1000)))  # noqa: TID251  Redis' clock
        until_ms = int(wait.read_text() or 0)
        if until_ms <= time.time() * 1000:  # noqa: TID251  the same
            return _output(context)
        event = ApprovalRequired(context.call_id, "ask", {}, "2030-01-01T00:00:00Z")
        return Suspend(until_ms=until_ms, event=event)


def _output(context: ToolContext) -> ToolOutput:
    return ToolOutput(parts=(TextPart(f"result of {context.call_id}"),), summary="It was done.")


def offer_tools(folder: str) -> None:
    """Give the worker of this process the tools; called in the child alone."""
    original = Dependencies.of

    def of_with_tools(*arguments: Any) -> Dependencies:  # noqa: ANN401  those of the original
        tools = ToolRegistry([_Look(), _Ask(Path(folder))])
        return dataclasses.replace(original(*arguments), tools=tools)

    Dependencies.of = of_with_tools  # type: ignore[method-assign,assignment]  # in the child alone


def _answer(request: Request) -> ScriptedAnswer:
    """Call the tool that the question names, then answer; the answer repeats the question."""
    asked = [str(each["content"]) for each in request.messages if each["role"] == "user"][-1]
    kind, _, name = asked.partition(" ")
    pause = 0.03
    if kind in _WITH_ROUND and request.messages[-1]["role"] != "tool":
        tool = "look" if kind == "tool" else "ask"
        calls = ((f"call-{name}", tool, "{}"),)
        return ScriptedAnswer(text=_BEFORE, calls=calls, gap_seconds=pause)
    return ScriptedAnswer(text=f"the answer to {asked}", gap_seconds=pause)


class MixedTurns:
    """The clients and the workers of a run."""

    def __init__(self, scene: Scene, folder: Path, *, workers: int, seed: int) -> None:
        self.front = Front(scene.redis, scene.settings)
        self.tickets: dict[Ticket, tuple[Kind, str]] = {}
        self.goes_on = True
        self.unfinished: list[str] = []
        self._scene = scene
        self._folder = folder
        self._chance = random.Random(seed)
        # Run as a command, this module has another name here than in the worker.
        self._hooks = [(f"tests.chaos.mixed_turns:{offer_tools.__name__}", str(folder))]
        self._workers = workers
        self._children: list[WorkerChild] = []

    async def start(self) -> None:
        """Start the workers."""
        self._children = [self._scene.pool.fork_worker(self._hooks) for _ in range(self._workers)]
        for child in self._children:
            await self._scene.pool.until_ready(child)
            assert child.id, self._scene.worker_log()

    async def kill(self, times: int, per_second: float) -> None:
        """Kill a random worker so often; another takes its place at once."""
        for _ in range(times):
            await SystemClock().sleep(self._chance.expovariate(per_second))
            slot = self._chance.randrange(self._workers)
            await self._scene.pool.until_ready(self._children[slot])
            self._children[slot].kill()
            self._children[slot] = self._scene.pool.fork_worker(self._hooks)
        self.goes_on = False

    async def run_client(self) -> None:
        """Submit turns of random forms, one after the other, until the kills are over."""
        chance = random.Random(self._chance.random())
        account, session = chance.choice(_ACCOUNTS), None
        while self.goes_on:
            kind = chance.choice(KINDS)
            name = ids.new_id()
            ticket = await self._submit(kind, name, account, session)
            session = ticket.session if kind not in {"alone", "explicit"} else session
            if kind == "person" and chance.random() > _SILENT_SHARE:
                await SystemClock().sleep(chance.uniform(0.0, 1.5))
                await self._decide(ticket, name)
            try:
                await self.front.end(ticket, _WAIT_SECONDS)
            except AssertionError:
                self.unfinished.append(f"{kind} {ticket.id}: {await self.front.record(ticket)}")
                return

    async def _submit(self, kind: Kind, name: str, account: str, session: str | None) -> Ticket:
        asked = f"{kind} {name}"
        submit = partial(self.front.submit, account=account, deadline_ms=_DEADLINE_MS, hold=_HOLD)
        if kind == "explicit":
            conversation = (
                Message(role="system", parts=(TextPart("Be brief."),)),
                Message(role="user", parts=(TextPart(asked),)),
            )
            blob = submissions.encode(Submission(session=None, conversation=conversation))
            ticket = await submit("", is_sessionless=True, blob=blob)
        elif kind == "alone":
            ticket = await submit(asked, is_sessionless=True)
        else:
            wire = TURN_WIRE if kind in _WITH_ROUND else 1
            ticket = await submit(asked, session=session, wire=wire)
        self.tickets[ticket] = (kind, name)
        return ticket

    async def _decide(self, ticket: Ticket, name: str) -> None:
        """Answer as the person, and resume the turn if it waits by now."""
        (self._folder / f"call-{name}.yes").touch()
        ask = ResumeAsk(account=ticket.account, id=ticket.id)
        await functions.resume(self._scene.redis, ticket.root, ask)

    async def stop(self) -> None:
        """Terminate the workers."""
        for child in self._children:
            await self._scene.pool.until_ready(child)
            child.terminate()
        for child in self._children:
            await child.ended()

    async def faults(self) -> list[str]:
        """Return all that does not hold, once nothing runs."""
        found = list(self.unfinished)
        captured: Counter[str] = Counter()
        for ticket, (kind, name) in self.tickets.items():
            ended = await self.front.poll(ticket)
            captured[ticket.account] += ended.captured
            found += [f"{kind} {ticket.id}: {fault}" for fault in await self._check(ticket, name)]
        for account, cost in captured.items():
            totals = await self.front.credit_totals(account)
            if (totals.held, totals.balance) != (0, GRANT - cost):
                found.append(f"{account}: {totals}, {cost} captured")
        with self._scene.server.raw_client() as raw_client:
            found += redis_invariants.faults(raw_client, self._scene.settings.redis, frozenset())
            for family in keys.FAMILIES.values():
                if family.end == "deleted":
                    pattern = family(self._scene.root, *("*" for _ in family.parts))
                    found += [f"{name} is left" for name in raw_client.names(pattern)]
        return found

    async def _check(self, ticket: Ticket, name: str) -> list[str]:
        kind, _ = self.tickets[ticket]
        ended, stream = await self.front.poll(ticket), await self.front.stream_events(ticket)
        text = f"the answer to {kind} {name}"
        if kind in _WITH_ROUND:
            text = f"{_BEFORE}\n\n{text}"
        message = ended.assistant
        if (ended.stage, ended.text, text_of(stream)) != ("completed", text, text):
            return [f"{ended.stage}, {ended.text!r}, {text_of(stream)!r}, not {text!r}: {message}"]
        if message is None or message.usage is None:
            return ["it has no usage"]
        results = [each.call_id for each in message.rounds if each.role == "tool"]
        found = []
        if results != ([f"call-{name}"] if kind in _WITH_ROUND else []):
            found.append(f"its results are {results}")
        cost = sum(each.usage.cost for each in message.costs) if message.costs else ended.captured
        if not 0 < ended.captured == message.usage.cost == cost:
            found.append(f"{ended.captured} captured, {message.usage}, {message.costs}")
        return found


class Report(NamedTuple):
    """The results of a run: the turns by their kind, and all that does not hold."""

    seconds: float
    turns: dict[Kind, int]
    faults: list[str]


async def run(*, kills: int, workers: int, clients: int, seed: int, per_second: float) -> Report:
    """Carry out a run and return the results."""
    async with running_scene(_WORKER, seed=seed, words=(2, 5), pace=(0.0, 0.1)) as scene:
        scene.provider.answer = _answer
        folder = scene.server.folder / "people"
        folder.mkdir()
        turns = MixedTurns(scene, folder, workers=workers, seed=seed)
        await turns.start()
        began = SystemClock().monotonic()
        await asyncio.gather(
            turns.kill(kills, per_second), *(turns.run_client() for _ in range(clients))
        )
        seconds = SystemClock().monotonic() - began
        await turns.stop()
        counts = Counter(kind for kind, _ in turns.tickets.values())
        return Report(seconds, dict(counts), await turns.faults())


def main() -> int:
    """Read the options, run, print; 1 if anything does not hold."""
    parser = command_line.parser("tests.chaos.mixed_turns", __doc__)
    parser.add_argument("--kills", type=int, default=60, help="number of kills")
    parser.add_argument("--workers", type=int, default=4, help="number of workers")
    parser.add_argument("--clients", type=int, default=40, help="number of clients")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices")
    parser.add_argument("--per-second", type=float, default=2.0, help="kills a second")
    options = vars(parser.parse_args())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        report = runner.run(run(**options))
    total = sum(report.turns.values())
    sys.stdout.write(f"{total} turns in {report.seconds:.0f} s: {report.turns}\n")
    sys.stdout.write(f"{len(report.faults)} faults\n")
    sys.stdout.writelines(f"{fault}\n" for fault in report.faults)
    return int(bool(report.faults))


if __name__ == "__main__":
    sys.exit(main())
