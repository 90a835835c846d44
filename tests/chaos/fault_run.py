"""A run: clients talk while workers are killed, stopped and replaced, and Redis crashes and hangs.

Owns the faults and their times, and the counts of what they caused. Does not judge: `invariants`
does, once nothing is unfinished.

DESIGN. Faults follow the clients' progress as well as the clock: fault k of n is not injected
before k/n of the messages were sent, so that a slow machine is not hit faster than it can work; and
the clients go on until the last fault has been injected. A slot whose worker is killed or gets
SIGTERM gets the next worker at once; one that exited because Redis was away is started again, as a
supervisor would. Faults of Redis overlap with those of workers.
"""

import asyncio
import contextlib
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Literal, get_args

import httpx
import msgspec

from shared.clock import SystemClock
from shared.settings import Durability, WorkerSettings
from tests.chaos import invariants, planted_faults
from tests.chaos.chat_clients import ChatClients
from tests.chaos.evidence import Finding
from tests.chaos.redis_faults import DOWN_SECONDS, HUNG_SECONDS, RedisFault, RedisFaults
from tests.chaos.sampler import Sampler
from tests.chaos.scene import Scene, running_scene
from tests.chaos.worker_pool import WorkerChild
from tests.support import processes, waiting
from tests.support.processes import Process

_ACCOUNTS: Final = ("ann", "bob", "cem", "dee", "eva")
_SAMPLE_SECONDS: Final = 0.1
_STOP_MARGIN_SECONDS: Final = 0.5
_IDLE_SECONDS: Final = 60.0
_READY_SECONDS: Final = 30.0
_PROGRESS_SHARE: Final = 0.97
_HUNG_MS: Final = 6_000
_CRASHES_SECONDS: Final = 10.0

WorkerFault = Literal["kill", "stop", "deploy"]
Kind = WorkerFault | RedisFault
WORKER_FAULTS: Final[tuple[WorkerFault, ...]] = get_args(WorkerFault)
REDIS_FAULTS: Final[tuple[RedisFault, ...]] = get_args(RedisFault)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a run. `per_second` limits the rate of faults, `fault` is planted in workers.

    Workers are killed, stopped (SIGSTOP past their leases) and replaced (`deploys`); Redis is
    killed and restarted at once (`crashes`), stopped for 5 s (`hangs`), or down for 3 s
    (`outages`).
    """

    kills: int = 0
    stops: int = 0
    deploys: int = 0
    crashes: int = 0
    hangs: int = 0
    outages: int = 0
    durability: Durability = "process"
    generations: int = 100
    workers: int = 6
    seed: int = 0
    fault: str = ""
    clients: int = 100
    per_second: float = 3.2
    words: tuple[int, int] = (2, 5)
    pace: tuple[float, float] = (0.05, 0.17)
    worker: WorkerSettings = WorkerSettings(concurrency=64, grace_seconds=0.4)

    def faults(self) -> list[Kind]:
        """Return the faults in the order that the seed gives."""
        wanted: dict[Kind, int] = {
            "kill": self.kills,
            "stop": self.stops,
            "deploy": self.deploys,
            "crash": self.crashes,
            "hang": self.hangs,
            "outage": self.outages,
        }
        kinds = [kind for kind, count in wanted.items() for _ in range(count)]
        random.Random(self.seed).shuffle(kinds)
        return kinds

    @property
    def absent_seconds(self) -> float:
        """How long Redis is away at most; crashes in a row keep leases from lapsing for 10 s."""
        lengths = (
            HUNG_SECONDS * bool(self.hangs),
            DOWN_SECONDS * bool(self.outages),
            _CRASHES_SECONDS * bool(self.crashes),
        )
        return max(lengths)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The results of a run. Times in milliseconds, sorted."""

    plan: Plan
    seconds: float
    sent: int
    stages: dict[str, int]
    injected: dict[str, int]
    recovered_ms: list[int]
    back_ms: list[int]
    lost_writes: int
    overtaken: int
    took_ms: list[int]
    attempts: int
    wasted: int
    calls: int
    unexplained_attempts: int
    unexplained_calls: int
    consumed_attempts: int
    exits: list[int]
    failed_starts: int
    logged: dict[str, int]
    findings: list[Finding]
    unfinished: list[str]

    @property
    def slow_answers(self) -> int:
        """How many answers took far longer than the upstream and Redis' absences explain."""
        longest_ms = _HUNG_MS + 2_000 * self.plan.absent_seconds
        return sum(ms > longest_ms for ms in self.took_ms)

    @property
    def failed_ready(self) -> int:
        """How many workers did not start although Redis was available all the time."""
        return 0 if any(self.injected[kind] for kind in REDIS_FAULTS) else self.failed_starts

    @property
    def needless_calls(self) -> int:
        """How many upstream calls were repeated in a run with faults of Redis only."""
        return 0 if any(self.injected[kind] for kind in WORKER_FAULTS) else self.unexplained_calls


class FaultRun:
    """The workers of a run, and the faults of workers and of Redis."""

    def __init__(self, scene: Scene, plan: Plan, chat_clients: ChatClients) -> None:
        self.sampler = Sampler(scene)
        rest_seconds = plan.worker.lease_seconds + _STOP_MARGIN_SECONDS
        self.redis_faults = RedisFaults(
            scene.server, chat_clients, seed=plan.seed, rest_seconds=rest_seconds
        )
        self.injected: dict[str, int] = dict.fromkeys((*WORKER_FAULTS, *REDIS_FAULTS), 0)
        self.consumed_attempts = 0
        self._scene = scene
        self._plan = plan
        self._chat_clients = chat_clients
        self._chance = random.Random(plan.seed)
        self._clock = SystemClock()
        self._slots: list[WorkerChild] = []
        self._stopped: set[WorkerChild] = set()
        self._under_way: set[asyncio.Task[None]] = set()

    async def run_to_end(self) -> None:
        """Start workers, run clients and faults, and shut everything down."""
        await self._start()
        watching = asyncio.create_task(self._watch_workers())
        try:
            await asyncio.gather(self._chat_clients.hold_conversations(), self._inject_faults())
            await self._wait_until_idle()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _start(self) -> None:
        """Start the workers of all slots."""
        self._slots = [self._fork_worker() for _ in range(self._plan.workers)]
        for child in self._slots:
            await self._scene.pool.until_ready(child)

    async def _inject_faults(self) -> None:
        """Inject every fault, none before its time."""
        faults = self._plan.faults()
        for number, kind in enumerate(faults):
            await self._clock.sleep(self._chance.expovariate(self._plan.per_second))
            share = self._plan.generations * _PROGRESS_SHARE * number / len(faults)
            await waiting.until(lambda: self._chat_clients.sent >= share, 120, what="the clients")  # noqa: B023  awaited here
            await self._inject(kind)
            self.injected[kind] += 1
        await self.redis_faults.rest()
        self._chat_clients.goes_on = False

    async def _inject(self, kind: Kind) -> None:
        """Inject one fault into Redis or a worker."""
        worker_faults: dict[WorkerFault, Callable[[int], Awaitable[None]]] = {
            "kill": self._kill,
            "stop": self._stop,
            "deploy": self._deploy,
        }
        match kind:
            case "kill" | "stop" | "deploy":
                await worker_faults[kind](await self._choose_slot(kind))
            case _:
                await self.redis_faults.inject(kind)

    async def _watch_workers(self) -> None:
        """Sample until cancelled, and restart workers that exited."""
        while True:
            await self.sampler.sample()
            for slot, child in enumerate(self._slots):
                if child.ended_event.is_set():
                    self._slots[slot] = self._fork_worker()
            await self._clock.sleep(_SAMPLE_SECONDS)

    async def _wait_until_idle(self) -> None:
        """Wait until nothing is unfinished, or time is up; then terminate all workers."""
        await asyncio.gather(*self._under_way)
        with contextlib.suppress(AssertionError):
            await waiting.until(self._is_idle, _IDLE_SECONDS, what="quiescence")
        slots, self._slots = self._slots, []
        for child in slots:
            await self._scene.pool.until_ready(child)
            child.terminate()
        for child in slots:
            await child.ended()

    def _fork_worker(self) -> WorkerChild:
        fault = self._plan.fault
        return self._scene.pool.fork_worker(
            [(f"{planted_faults.__name__}:plant", fault)] if fault else ()
        )

    async def _is_idle(self) -> bool:
        return not await self.sampler.sample()

    async def _choose_slot(self, kind: WorkerFault) -> int:
        """Choose a slot whose worker runs; at most half of them may be stopped at once."""

        def candidates() -> list[int]:
            running = [
                slot
                for slot, child in enumerate(self._slots)
                if child.id and not child.ended_event.is_set() and child not in self._stopped
            ]
            is_enough = kind != "stop" or len(self._stopped) < len(self._slots) // 2
            return running if is_enough else []

        found: list[int] = await waiting.until(candidates, 60, what="a victim")
        return self._chance.choice(found)

    async def _kill(self, slot: int) -> None:
        child = self._slots[slot]
        # Redis uses this machine's clock.
        at_ms = self._clock.now_ms()
        child.kill()
        self._slots[slot] = self._fork_worker()
        self._start_task(self.sampler.follow_killed(child.id, at_ms))

    async def _stop(self, slot: int) -> None:
        child = self._slots[slot]
        child.pause()
        self._stopped.add(child)
        self.sampler.count_disturbance(await self.sampler.held_by(child.id))
        self._start_task(self._resume(child))

    async def _resume(self, child: WorkerChild) -> None:
        await self._clock.sleep(self._plan.worker.lease_seconds + _STOP_MARGIN_SECONDS)
        self.sampler.count_disturbance(await self.sampler.held_by(child.id))
        child.resume()
        self._stopped.discard(child)

    async def _deploy(self, slot: int) -> None:
        child = self._slots[slot]
        self._slots[slot] = self._fork_worker()
        child.terminate()
        self._start_task(self._follow_replaced(child))

    async def _follow_replaced(self, child: WorkerChild) -> None:
        """Follow a worker after SIGTERM; what it still holds at its exit is an attempt consumed."""
        while not child.ended_event.is_set():
            self.sampler.count_disturbance(await self.sampler.held_by(child.id))
            await self._clock.sleep(_SAMPLE_SECONDS)
        left = await self.sampler.held_by(child.id)
        self.consumed_attempts += len(left)

    def _start_task(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)


async def run(plan: Plan) -> Report:
    """Carry out a plan and return the results."""
    clock = SystemClock()
    async with running_scene(
        plan.worker,
        seed=plan.seed,
        words=plan.words,
        pace=plan.pace,
        durability=plan.durability,
    ) as scene:
        async with _front(scene) as url:
            chat_clients = ChatClients(
                scene, url, wanted=plan.generations, clients=plan.clients, seed=plan.seed
            )
            await chat_clients.open(_ACCOUNTS)
            fault_run = FaultRun(scene, plan, chat_clients)
            began = clock.monotonic()
            await fault_run.run_to_end()
        return _report(scene, plan, chat_clients, fault_run, clock.monotonic() - began)


@asynccontextmanager
async def _front(scene: Scene) -> AsyncIterator[str]:
    """Run a front as a process."""
    port = processes.free_port()
    url = f"http://127.0.0.1:{port}"
    with Process(["api", "--port", str(port)], scene.environment, Path(os.devnull)):
        async with httpx.AsyncClient(trust_env=False) as client:

            async def is_ready() -> bool:
                with contextlib.suppress(httpx.TransportError):
                    return (await client.get(f"{url}/readyz")).status_code == httpx.codes.OK
                return False

            await waiting.until(is_ready, _READY_SECONDS, what="the front")
        yield url


def _count_logged(scene: Scene) -> dict[str, int]:
    """Count the warnings and errors of the workers by event."""
    events: Counter[str] = Counter()
    for line in scene.worker_log().splitlines():
        # A kill may have cut a line.
        with contextlib.suppress(msgspec.DecodeError):
            events[str(msgspec.json.decode(line, type=dict[str, object]).get("event"))] += 1
    return dict(events)


def _report(
    scene: Scene, plan: Plan, chat_clients: ChatClients, fault_run: FaultRun, seconds: float
) -> Report:
    evidence = scene.evidence
    with scene.server.raw_client() as raw_client:
        findings = invariants.check(raw_client, scene.settings.redis, evidence)
        tally = invariants.tally(raw_client, scene.settings.redis, evidence)
        unfinished = invariants.dump(raw_client, scene.settings.redis)
    disturbances = fault_run.sampler.disturbed()
    calls = evidence.calls()
    return Report(
        plan=plan,
        seconds=seconds,
        sent=chat_clients.sent,
        stages=tally.stages,
        injected=fault_run.injected,
        recovered_ms=sorted(fault_run.sampler.recovered_ms),
        back_ms=sorted(fault_run.redis_faults.back_ms),
        lost_writes=tally.lost_writes,
        overtaken=fault_run.sampler.overtaken,
        took_ms=tally.took_ms,
        attempts=sum(tally.attempts.values()),
        wasted=sum(max(0, attempts - 1) for attempts in tally.attempts.values()),
        calls=len(evidence.upstream_calls),
        unexplained_attempts=sum(
            max(0, attempts - 1 - disturbances[name]) for name, attempts in tally.attempts.items()
        ),
        unexplained_calls=sum(
            max(0, calls[accepted_message.question] - 1 - disturbances[accepted_message.generation])
            for accepted_message in evidence.accepted_messages
        ),
        consumed_attempts=fault_run.consumed_attempts,
        exits=scene.pool.bad_exits,
        failed_starts=scene.pool.failed_starts,
        logged=_count_logged(scene),
        findings=findings,
        unfinished=unfinished,
    )
