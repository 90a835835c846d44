"""A run: clients talk while workers are killed, stopped and replaced, and Redis falls and hangs.

Owns the faults and their times, and the figures of what they did. Refuses to say whether all held:
that is the ledger's, asked once nothing is under way any more.

DESIGN. Faults follow the clients' progress as well as the clock: the k-th is not thrown before its
share of the messages was sent, so that a slow machine is not hit faster than it can work; and the
clients talk on until the last has been thrown. A slot
whose worker is killed or told to go gets the next worker at once; one that ended because it found
no Redis is started again, as a supervisor would. What befalls Redis goes on while workers die.
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
from tests.chaos import ledger, planted
from tests.chaos.brood import Ward
from tests.chaos.crowd import Crowd
from tests.chaos.evidence import Finding
from tests.chaos.scene import Scene, standing
from tests.chaos.shocks import DOWN_SECONDS, HUNG_SECONDS, Shock, Shocks
from tests.chaos.survey import Survey
from tests.support import processes, waiting
from tests.support.processes import Process

_ACCOUNTS: Final = ("ann", "bob", "cem", "dee", "eva")
_LOOK_SECONDS: Final = 0.1
_STOP_MARGIN_SECONDS: Final = 0.5
_QUIET_SECONDS: Final = 60.0
_READY_SECONDS: Final = 30.0
_AHEAD: Final = 0.97
_HUNG_MS: Final = 6_000
_FALLS_SECONDS: Final = 10.0

Blow = Literal["kill", "stop", "deploy"]
Kind = Blow | Shock
BLOWS: Final[tuple[Blow, ...]] = get_args(Blow)
SHOCKS: Final[tuple[Shock, ...]] = get_args(Shock)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is asked for. `per_second` bounds the faults, `fault` is planted in workers.

    Workers are killed, stopped, deployed; Redis is killed and started again at once (`crashes`),
    stands still (`hangs`), or is away (`outages`).
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
        """Return the faults in their seeded order."""
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
        """How long Redis is away at a time, or falls so often that no lease lapses."""
        lengths = (
            HUNG_SECONDS * bool(self.hangs),
            DOWN_SECONDS * bool(self.outages),
            _FALLS_SECONDS * bool(self.crashes),
        )
        return max(lengths)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a run. Times in milliseconds, sorted."""

    plan: Plan
    seconds: float
    sent: int
    stages: dict[str, int]
    thrown: dict[str, int]
    recovered_ms: list[int]
    back_ms: list[int]
    unkept: int
    unseen: int
    took_ms: list[int]
    attempts: int
    wasted: int
    calls: int
    undisturbed: int
    uncalled_for: int
    consumed: int
    exits: list[int]
    turned_away: int
    logged: dict[str, int]
    findings: list[Finding]
    unfinished: list[str]

    @property
    def hung(self) -> int:
        """How many answers took far longer than the upstream and Redis' absences ever do."""
        longest_ms = _HUNG_MS + 2_000 * self.plan.absent_seconds
        return sum(ms > longest_ms for ms in self.took_ms)

    @property
    def unready(self) -> int:
        """How many workers could not start, though Redis was there all the time."""
        return 0 if any(self.thrown[kind] for kind in SHOCKS) else self.turned_away

    @property
    def needless(self) -> int:
        """How many answers were asked for again where nothing befell a worker, but Redis alone."""
        return 0 if any(self.thrown[kind] for kind in BLOWS) else self.uncalled_for


class Storm:
    """The workers of a run, and what befalls them and Redis."""

    def __init__(self, scene: Scene, plan: Plan, crowd: Crowd) -> None:
        self.survey = Survey(scene)
        rest_seconds = plan.worker.lease_seconds + _STOP_MARGIN_SECONDS
        self.shocks = Shocks(scene.server, crowd, seed=plan.seed, rest_seconds=rest_seconds)
        self.thrown: dict[str, int] = dict.fromkeys((*BLOWS, *SHOCKS), 0)
        self.consumed = 0
        self._scene = scene
        self._plan = plan
        self._crowd = crowd
        self._chance = random.Random(plan.seed)
        self._clock = SystemClock()
        self._slots: list[Ward] = []
        self._stopped: set[Ward] = set()
        self._under_way: set[asyncio.Task[None]] = set()

    async def live(self) -> None:
        """Go through all of it: workers, clients, faults, and the end of everything."""
        await self._start()
        watching = asyncio.create_task(self._watch())
        try:
            await asyncio.gather(self._crowd.talk(), self._rage())
            await self._come_to_rest()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _start(self) -> None:
        """Start the workers of all slots."""
        self._slots = [self._bear() for _ in range(self._plan.workers)]
        for ward in self._slots:
            await self._scene.brood.named(ward)

    async def _rage(self) -> None:
        """Throw every fault, none before its time."""
        faults = self._plan.faults()
        for number, kind in enumerate(faults):
            await self._clock.sleep(self._chance.expovariate(self._plan.per_second))
            share = self._plan.generations * _AHEAD * number / len(faults)
            await waiting.until(lambda: self._crowd.sent >= share, 120, what="the clients")  # noqa: B023  awaited here
            await self._throw(kind)
            self.thrown[kind] += 1
        await self.shocks.rest()
        self._crowd.goes_on = False

    async def _throw(self, kind: Kind) -> None:
        """Let one thing happen to Redis or to a worker."""
        blows: dict[Blow, Callable[[int], Awaitable[None]]] = {
            "kill": self._kill,
            "stop": self._stop,
            "deploy": self._deploy,
        }
        match kind:
            case "kill" | "stop" | "deploy":
                await blows[kind](await self._victim(kind))
            case _:
                await self.shocks.strike(kind)

    async def _watch(self) -> None:
        """Look on until cancelled, and start again who ended by himself."""
        while True:
            await self.survey.look()
            for slot, ward in enumerate(self._slots):
                if ward.is_gone.is_set():
                    self._slots[slot] = self._bear()
            await self._clock.sleep(_LOOK_SECONDS)

    async def _come_to_rest(self) -> None:
        """Wait until nothing is under way, or nothing more will end, then let all workers go."""
        await asyncio.gather(*self._under_way)
        with contextlib.suppress(AssertionError):
            await waiting.until(self._is_quiet, _QUIET_SECONDS, what="quiescence")
        slots, self._slots = self._slots, []
        for ward in slots:
            await self._scene.brood.named(ward)
            ward.terminate()
        for ward in slots:
            await ward.ended()

    def _bear(self) -> Ward:
        fault = self._plan.fault
        return self._scene.brood.bear([(f"{planted.__name__}:plant", fault)] if fault else ())

    async def _is_quiet(self) -> bool:
        return not await self.survey.look()

    async def _victim(self, kind: Blow) -> int:
        """Choose a slot whose worker runs; not too many may be stopped at once."""

        def candidates() -> list[int]:
            running = [
                slot
                for slot, ward in enumerate(self._slots)
                if ward.id and not ward.is_gone.is_set() and ward not in self._stopped
            ]
            is_enough = kind != "stop" or len(self._stopped) < len(self._slots) // 2
            return running if is_enough else []

        found: list[int] = await waiting.until(candidates, 60, what="a victim")
        return self._chance.choice(found)

    async def _kill(self, slot: int) -> None:
        ward = self._slots[slot]
        # Redis' time is this machine's.
        at_ms = self._clock.now_ms()
        ward.kill()
        self._slots[slot] = self._bear()
        self._begin(self.survey.lose(ward.id, at_ms))

    async def _stop(self, slot: int) -> None:
        ward = self._slots[slot]
        ward.pause()
        self._stopped.add(ward)
        self.survey.befall(await self.survey.held_by(ward.id))
        self._begin(self._resume(ward))

    async def _resume(self, ward: Ward) -> None:
        await self._clock.sleep(self._plan.worker.lease_seconds + _STOP_MARGIN_SECONDS)
        self.survey.befall(await self.survey.held_by(ward.id))
        ward.resume()
        self._stopped.discard(ward)

    async def _deploy(self, slot: int) -> None:
        ward = self._slots[slot]
        self._slots[slot] = self._bear()
        ward.terminate()
        self._begin(self._replaced(ward))

    async def _replaced(self, ward: Ward) -> None:
        """Follow a worker that was told to go; what it still holds then is an attempt consumed."""
        while not ward.is_gone.is_set():
            self.survey.befall(await self.survey.held_by(ward.id))
            await self._clock.sleep(_LOOK_SECONDS)
        left = await self.survey.held_by(ward.id)
        self.consumed += len(left)

    def _begin(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)


async def run(plan: Plan) -> Report:
    """Carry a plan out and return what came of it."""
    clock = SystemClock()
    async with standing(
        plan.worker,
        seed=plan.seed,
        words=plan.words,
        pace=plan.pace,
        durability=plan.durability,
    ) as scene:
        async with _front(scene) as url:
            crowd = Crowd(scene, url, wanted=plan.generations, clients=plan.clients, seed=plan.seed)
            await crowd.open(_ACCOUNTS)
            storm = Storm(scene, plan, crowd)
            began = clock.monotonic()
            await storm.live()
        return _report(scene, plan, crowd, storm, clock.monotonic() - began)


@asynccontextmanager
async def _front(scene: Scene) -> AsyncIterator[str]:
    """Run a front as a process of its own."""
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


def _logged(scene: Scene) -> dict[str, int]:
    """Count what the workers logged at which an operator would look up."""
    told: Counter[str] = Counter()
    for line in scene.told().splitlines():
        # A line that was cut by a kill says nothing.
        with contextlib.suppress(msgspec.DecodeError):
            told[str(msgspec.json.decode(line, type=dict[str, object]).get("event"))] += 1
    return dict(told)


def _report(scene: Scene, plan: Plan, crowd: Crowd, storm: Storm, seconds: float) -> Report:
    evidence = scene.evidence
    with scene.server.look() as look:
        findings = ledger.check(look, scene.settings.redis, evidence)
        tally = ledger.tally(look, scene.settings.redis, evidence)
        unfinished = ledger.dump(look, scene.settings.redis)
    befallen = storm.survey.disturbed()
    calls = evidence.calls()
    return Report(
        plan=plan,
        seconds=seconds,
        sent=crowd.sent,
        stages=tally.stages,
        thrown=storm.thrown,
        recovered_ms=sorted(storm.survey.recovered_ms),
        back_ms=sorted(storm.shocks.back_ms),
        unkept=tally.unkept,
        unseen=storm.survey.unseen,
        took_ms=tally.took_ms,
        attempts=sum(tally.attempts.values()),
        wasted=sum(max(0, attempts - 1) for attempts in tally.attempts.values()),
        calls=len(evidence.asked),
        undisturbed=sum(
            max(0, attempts - 1 - befallen[name]) for name, attempts in tally.attempts.items()
        ),
        uncalled_for=sum(
            max(0, calls[promise.question] - 1 - befallen[promise.generation])
            for promise in evidence.promises
        ),
        consumed=storm.consumed,
        exits=scene.brood.failed,
        turned_away=scene.brood.turned_away,
        logged=_logged(scene),
        findings=findings,
        unfinished=unfinished,
    )
