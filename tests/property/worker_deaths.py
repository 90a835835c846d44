"""Workers that run messages of which some kill them, step by step, on the real Redis functions.

Owns a simulated fleet: what each worker holds, when a poison kills it, how soon a death is noticed
and how many leases one reap takes. Time is counted in steps and moved in Redis by hand, so that a
seed determines the schedule. `python -m tests.property.worker_deaths --seeds 100` prints a line for
each plan; exit code 1 if an innocent message failed, or a poison did not.
"""

import asyncio
import random
import sys
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

from shared import ids
from shared.redis import functions, keys, library
from shared.redis.client import Redis
from shared.redis.functions import Claimed
from shared.settings import RedisSettings, WorkerSettings
from shared.wire.submission import Lane
from tests.support import command_line
from tests.support.redis_functions import KEEP, LONG_MS, RedisFunctions
from tests.support.redis_server import Server
from worker.consumer.slots import Slots
from worker.resilience.retry_policy import CALLS_PER_TURN_MAX

STEP_MS: Final = 50
STEPS_MAX: Final = 4_000
# Steps between a claim and its upstream call.
_STEPS_TO_CALL: Final = 1
# No worker has a listener here, so none may count as absent by itself.
_NEVER_MS: Final = 10**12
_CLAIMS_SHARE: Final = 0.7


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent to how many workers. Times are ranges of steps, ends included.

    With `is_lapsing` a dead worker is not noticed as such: its leases lapse one by one. `limits`
    are the possible numbers of leases that one reap takes.
    """

    innocents: int = 12
    poisons: int = 2
    workers: int = 2
    concurrency: int = 16
    limits: tuple[int, ...] = (64,)
    poison_steps: tuple[int, int] = (2, 6)
    answer_steps: tuple[int, int] = (2, 12)
    notice_steps: tuple[int, int] = (2, 12)
    restart: tuple[int, int] = (1, 6)
    arrival_steps: tuple[int, int] = (0, 0)
    is_lapsing: bool = False


class Outcome(msgspec.Struct, kw_only=True):
    """The results of a run, with its events in `log`.

    `calls_max`, `falls_max` and `crashes_max` are the highest counts of an innocent message.
    """

    innocents_failed: int = 0
    poisons_given_up: int = 0
    unfinished: int = 0
    deaths: int = 0
    steps: int = 0
    calls_max: int = 0
    falls_max: int = 0
    crashes_max: int = 0
    log: list[str] = msgspec.field(default_factory=list)


@dataclass
class _Attempt:
    """One attempt in a worker, and the step at which it ends."""

    claimed: Claimed
    is_poison: bool
    began: int
    ends: int
    is_calling: bool = False

    @property
    def seq(self) -> int:
        """The number of its first own event; a later attempt's first event came with its claim."""
        return 1 if self.claimed.attempt == 1 else 2


@dataclass
class _Worker:
    """One process, and what it runs."""

    name: str
    starts_at: int
    slots: Slots
    attempts: list[_Attempt] = field(default_factory=list)
    claims: int = 0


class Fleet:
    """All workers of a run, and the steps that they take."""

    def __init__(self, queue: RedisFunctions, plan: Plan, seed: int) -> None:
        self._queue = queue
        self._plan = plan
        self._chance = random.Random(seed)
        self._settings = WorkerSettings(concurrency=plan.concurrency)
        self._number = 0
        self._workers = [self._start_worker(0) for _ in range(plan.workers)]
        # Dead workers, or single leases, by the step in which they are noticed.
        self._unnoticed: dict[int, list[str]] = {}
        self._poisons: set[str] = set()
        self._names: dict[str, str] = {}
        self._outcome = Outcome()

    async def run(self) -> Outcome:
        """Send all messages, and take steps until all have ended, or `STEPS_MAX`."""
        order = [False] * self._plan.innocents + [True] * self._plan.poisons
        self._chance.shuffle(order)
        arrivals = sorted(self._chance.randint(*self._plan.arrival_steps) for _ in order)
        waiting = list(zip(arrivals, order, strict=True))
        left = len(order)
        for step in range(STEPS_MAX):
            self._outcome.steps = step
            while waiting and waiting[0][0] <= step:
                await self._send(waiting.pop(0)[1])
            left -= await self._step(step)
            if not left:
                break
            await self._pass_time()
        self._outcome.unfinished = left
        return self._outcome

    async def _send(self, is_poison: bool) -> None:
        lane: Lane = self._chance.choice(("interactive", "interactive", "batch"))
        account = self._chance.choice(("ann", "bob", "cem"))
        ticket = await self._queue.submit(account, lane=lane)
        self._names[ticket.id] = f"{'poison' if is_poison else 'innocent'} {len(self._names)}"
        if is_poison:
            self._poisons.add(ticket.id)

    async def _step(self, step: int) -> int:
        """Carry out one step; return how many generations have ended."""
        ended = await self._notice(step)
        for worker in list(self._workers):
            if worker.starts_at <= step:
                ended += await self._advance(worker, step)
        return ended

    async def _advance(self, worker: _Worker, step: int) -> int:
        """Advance what a worker runs, and let it claim; return how many ended."""
        ended = 0
        for attempt in list(worker.attempts):
            if not attempt.is_calling and step - attempt.began >= _STEPS_TO_CALL:
                await self._call(attempt)
            if attempt.ends > step:
                continue
            if attempt.is_poison:
                self._die(worker, step, self._names[attempt.claimed.id])
                return ended
            await self._end(worker, attempt, "completed")
            ended += 1
        # Sometimes it is busy with something else.
        if self._chance.random() < _CLAIMS_SHARE:
            ended += await self._claim(worker, step)
        return ended

    async def _end(
        self, worker: _Worker, attempt: _Attempt, stage: Literal["completed", "failed"]
    ) -> None:
        settled = await self._queue.settle(attempt.claimed, seq=attempt.seq + 1, stage=stage)
        assert settled is not None
        worker.attempts.remove(attempt)
        worker.slots.leave(attempt.claimed)
        if stage == "failed":
            self._note_failed(attempt.claimed.id)

    def _note_failed(self, id_: str) -> None:
        self._outcome.poisons_given_up += id_ in self._poisons
        self._outcome.innocents_failed += id_ not in self._poisons

    async def _claim(self, worker: _Worker, step: int) -> int:
        """Claim as a worker does: for all free slots, or for one after a wakeup."""
        free = worker.slots.free
        count = self._chance.choice((1, free)) if free else 0
        if not count:
            return 0
        worker.claims += 1
        ask = functions.ClaimAsk(
            worker=worker.name,
            wire=1,
            count=count,
            batch=worker.slots.free_for_batch,
            lease_ms=LONG_MS,
            keep=KEEP,
            claim=worker.claims,
            suspects=worker.slots.suspects,
            suspects_max=worker.slots.suspects_max,
        )
        batch = await functions.claim(self._queue.redis, self._queue.root, ask)
        if batch.claimed:
            names = [(self._names[each.id], each.suspects_max) for each in batch.claimed]
            self._outcome.log.append(f"{step} {worker.name} claims {names}")
        return sum([await self._begin(worker, claimed, step) for claimed in batch.claimed])

    async def _begin(self, worker: _Worker, claimed: Claimed, step: int) -> bool:
        """Run a claim; return whether that ended it, because no upstream call was left."""
        # A step takes less real time than the time it stands for.
        where = keys.GENERATION(self._queue.root, claimed.account, claimed.id)
        await self._queue.redis.call("HSET", where, "started", claimed.claimed_ms - STEP_MS)
        is_poison = claimed.id in self._poisons
        answer_steps = self._chance.randint(
            *(self._plan.poison_steps if is_poison else self._plan.answer_steps)
        )
        attempt = _Attempt(claimed, is_poison, step, step + answer_steps)
        worker.slots.take(claimed)
        worker.attempts.append(attempt)
        if not is_poison:
            self._outcome.calls_max = max(self._outcome.calls_max, claimed.calls)
        if claimed.calls < CALLS_PER_TURN_MAX:
            return False
        self._outcome.log.append(f"{step} {self._names[claimed.id]} used up its calls")
        await self._call(attempt)
        await self._end(worker, attempt, "failed")
        return True

    async def _call(self, attempt: _Attempt) -> None:
        attempt.is_calling = True
        await self._queue.append(attempt.claimed, attempt.seq, "Hi")

    def _start_worker(self, step: int) -> _Worker:
        self._number += 1
        return _Worker(f"w{self._number}", step, Slots(self._settings))

    def _die(self, worker: _Worker, step: int, why: str) -> None:
        """Kill a worker; another is started in its place, and the death is noticed later."""
        self._outcome.deaths += 1
        held = [self._names[each.claimed.id] for each in worker.attempts]
        self._outcome.log.append(f"{step} {worker.name} dies of {why} with {held}")
        slot = self._workers.index(worker)
        self._workers[slot] = self._start_worker(step + self._chance.randint(*self._plan.restart))
        if not self._plan.is_lapsing:
            when = step + self._chance.randint(*self._plan.notice_steps)
            self._unnoticed.setdefault(when, []).append(worker.name)
            return
        for attempt in worker.attempts:
            when = step + self._chance.randint(*self._plan.notice_steps)
            name = f"{attempt.claimed.account}:{attempt.claimed.id}"
            self._unnoticed.setdefault(when, []).append(name)

    async def _notice(self, step: int) -> int:
        """Reap what is noticed in this step; return how many generations were given up."""
        names = self._unnoticed.pop(step, [])
        if not names:
            return 0
        where = (keys.LEASES if self._plan.is_lapsing else keys.CLAIMING_WORKERS)(self._queue.root)
        await self._queue.redis.call("ZADD", where, "XX", *(w for name in names for w in (1, name)))
        return await self._reap(step, self._chance.choice(self._plan.limits))

    async def _reap(self, step: int, limit: int) -> int:
        ended = 0
        while True:
            done = (await self._queue.reap(limit=limit, absent_ms=_NEVER_MS)).done
            for account, id_, what in done:
                self._outcome.log.append(f"{step} {self._names[id_]} {what}")
                if what == "buried":
                    ended += 1
                    self._note_failed(id_)
                elif id_ not in self._poisons:
                    await self._note_counts(account, id_)
            if not done:
                return ended

    async def _note_counts(self, account: str, id_: str) -> None:
        where = keys.GENERATION(self._queue.root, account, id_)
        falls, crashes = await self._queue.redis.call("HMGET", where, "falls", "crashes")
        self._outcome.falls_max = max(self._outcome.falls_max, int(falls))
        self._outcome.crashes_max = max(self._outcome.crashes_max, int(crashes))

    async def _pass_time(self) -> None:
        """Move the recorded times of deaths back by one step."""
        where = keys.CLOCKS(self._queue.root)
        for name in ("died", "storm"):
            if await self._queue.redis.call("HEXISTS", where, name):
                await self._queue.redis.call("HINCRBY", where, name, -STEP_MS)


# A suspect that runs alone can meet one unsuspected poison in its worker, so two poisons cause it
# at most two deaths, never three.
PLANS: Final = {
    "one worker": Plan(workers=1),
    "two workers": Plan(),
    "four workers": Plan(workers=4),
    "few slots": Plan(innocents=5, concurrency=8, poison_steps=(2, 4), answer_steps=(3, 10)),
    "long answers": Plan(workers=1, answer_steps=(10, 30), arrival_steps=(0, 80)),
    "one after another": Plan(arrival_steps=(0, 80)),
    "deaths in quick succession": Plan(
        workers=4, poison_steps=(1, 2), answer_steps=(4, 12), notice_steps=(1, 2)
    ),
    "reaps of few leases": Plan(limits=(1, 2, 3, 64)),
    "leases that lapse one by one": Plan(arrival_steps=(0, 80), is_lapsing=True),
}


async def run(redis: Redis, settings: RedisSettings, plan: Plan, seed: int) -> Outcome:
    """Carry out a plan under a prefix of its own."""
    redis_settings = msgspec.structs.replace(settings, prefix=f"d{ids.new_id()}")
    return await Fleet(RedisFunctions(redis, redis_settings), plan, seed).run()


async def _explore(seeds: int) -> int:
    """Print a line for each plan; return how many runs failed an innocent or not a poison."""
    wrong = 0
    with Server() as server:
        settings = RedisSettings(url=server.url)
        redis = Redis(settings)
        await library.load(redis)
        for name, plan in PLANS.items():
            runs = [await run(redis, settings, plan, seed) for seed in range(seeds)]
            wrong_seeds = [
                seed
                for seed, each in enumerate(runs)
                if (each.innocents_failed, each.poisons_given_up) != (0, plan.poisons)
            ]
            wrong += len(wrong_seeds)
            sys.stdout.write(
                f"{name:30} innocents failed {sum(each.innocents_failed for each in runs)},"
                f" deaths at most {max(each.deaths for each in runs)},"
                f" falls {max(each.falls_max for each in runs)},"
                f" counted {max(each.crashes_max for each in runs)},"
                f" calls {max(each.calls_max for each in runs)}; wrong seeds {wrong_seeds[:8]}\n"
            )
            sys.stdout.flush()
        await redis.close()
    return wrong


if __name__ == "__main__":
    parser = command_line.parser("tests.property.worker_deaths", __doc__)
    parser.add_argument("--seeds", type=int, default=50, help="runs of each plan")
    sys.exit(1 if asyncio.run(_explore(parser.parse_args().seeds)) else 0)
