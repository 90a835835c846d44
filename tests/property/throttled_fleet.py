"""A simulated fleet that calls an upstream which refuses calls, on the real Redis functions.

    python -m tests.property.throttled_fleet [--seeds 5] [--scene NAME]

Owns the fleet: two workers with the product's own throttles and retry policy, a clock that only the
simulation moves (the library is loaded with its time read from a key), messages that keep coming,
and the scenes with their bounds. Prints a line for each scene: accepted calls as a share of those
that the upstream would have taken (of the demand, if it takes all), refused calls as a share of all
calls after the first minutes, questions to Redis per accepted call, and how long messages took;
exit code 1 if a bound is missed.
"""

import asyncio
import heapq
import random
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec
from structlog.testing import capture_logs
from typing_extensions import override

from shared import ids
from shared.errors import CallBlockedError, Failure, ProviderError
from shared.redis import keys, library
from shared.redis.client import Argument, Connection, Redis, Reply
from shared.settings import ModelSettings, RedisSettings, RetrySettings
from shared.wire.submission import Lane
from tests.property.simulated_upstreams import (
    BucketLimit,
    ChanceRefusals,
    ConcurrencyLimit,
    OneAfterAnother,
    Upstream,
    WindowLimit,
)
from tests.support import command_line
from tests.support.clocks import ManualClock
from tests.support.redis_server import Server
from worker.outcome import Failed
from worker.resilience import retry_policy
from worker.resilience.circuits import Caller, bounded_retry_after
from worker.resilience.retry_budget import RetryBudget
from worker.resilience.retry_policy import RetryState, WaitHere
from worker.resilience.throttles import Throttles

_CIRCUIT: Final = "p/m/c"
_MODEL: Final = ModelSettings(identifier="m", provider="p", upstream="m")
_CLOCK: Final = "simulated-clock"
_LIBRARY: Final = "pollux_simulated"
_REAL_TIME: Final = """  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
"""
_BEGAN: Final = 1_000_000.0
_REPORT_SECONDS: Final = 1.0
_SLOTS: Final = 16
_WORKERS: Final = 2
# From a call's start to its arrival, and to the receipt of a refusal.
_ARRIVAL_SECONDS: Final = 0.02
_REFUSAL_SECONDS: Final = 0.1
_DEADLINE_SECONDS: Final = 86_400.0


class SimulatedRedis(Connection):
    """Calls the library whose clock is a key, and counts the calls."""

    def __init__(self, redis: Redis, clock: ManualClock) -> None:
        self._redis = redis
        self._clock = clock
        self._set_to = 0.0
        self.calls = 0

    async def load(self) -> None:
        """Load the library whose time is read from a key."""
        real, read = _REAL_TIME, f"  return tonumber(redis.call('GET', '{_CLOCK}'))\n"
        assert library.TEXT.count(real) == 1
        text = library.TEXT.replace(real, read).replace(library.NAME, _LIBRARY)
        await self._redis.call("FUNCTION", "LOAD", "REPLACE", text)

    async def unload(self) -> None:
        """Remove the library and the key."""
        await self._redis.call("FUNCTION", "DELETE", _LIBRARY)
        await self._redis.call("DEL", _CLOCK)

    def _as_simulated(self, command: tuple[Argument, ...]) -> tuple[Argument, ...]:
        if self._set_to != self._clock.now:
            self._set_to = self._clock.now
            self._redis.send("SET", _CLOCK, f"{self._clock.now * 1e6:.0f}")
        self.calls += 1
        return tuple(
            part.replace(library.NAME, _LIBRARY) if isinstance(part, str) else part
            for part in command
        )

    @override
    async def call(self, *command: Argument, repeat: bool = True) -> Reply:
        return await self._redis.call(*self._as_simulated(command), repeat=repeat)

    @override
    def send(self, *command: Argument) -> None:
        self._redis.send(*self._as_simulated(command))


class Scene(NamedTuple):
    """An upstream, what is asked of it, and the bounds that must hold.

    With `per_second` so many messages arrive each second; otherwise `waiting` messages are
    always unfinished. `settled_seconds`: refusals are counted after that.
    """

    upstream: Callable[[int], Upstream]
    share_min: float
    refused_max: float
    per_second: float | None = None
    waiting: int = 100
    answer_seconds: float = 1.0
    seconds: float = 600.0
    settled_seconds: float = 60.0


class Outcome(NamedTuple):
    """The figures of one run: shares, Redis calls per accepted call, seconds of messages."""

    share: float
    refused: float
    refused_early: int
    asked: float
    typical_seconds: float
    longest_seconds: float


@dataclass
class _Message:
    id: str
    lane: Lane
    born: float
    is_again: bool = False
    deferrals: int = 0
    calls: int = 0
    waited: float = 0.0
    was_refused: bool = False


class _Worker:
    """One process: its throttles, its free slots, its budget of retries."""

    def __init__(self, redis: SimulatedRedis, root: str, clock: ManualClock) -> None:
        self.throttles = Throttles(redis, root, clock)
        self.free = _SLOTS
        self.budget = RetryBudget(RetrySettings(), clock.monotonic())


class Fleet:
    """All workers of a run, and the events still to come, by time."""

    def __init__(self, redis: SimulatedRedis, root: str, clock: ManualClock, scene: Scene) -> None:
        self._redis = redis
        self._root = root
        self._clock = clock
        self._scene = scene
        self._workers = [_Worker(redis, root, clock) for _ in range(_WORKERS)]
        self._ready: deque[_Message] = deque()
        self._events: list[tuple[float, int, Callable[[], Awaitable[None]]]] = []
        self._number = 0
        self.accepted: list[float] = []
        self.refused: list[float] = []
        self.durations: list[float] = []
        self.asked = 0

    async def run(self, seed: int) -> Outcome:
        """Let the scene's time pass, and return its figures."""
        self._random = random.Random(seed)
        self._upstream = self._scene.upstream(seed)
        await self._redis.call(
            "ZADD", keys.REPORT_TIMES(self._root), *(x for n in range(_WORKERS) for x in (1, n))
        )
        self._after(0.0, self._report)
        if self._scene.per_second is None:
            for _ in range(self._scene.waiting):
                self._arrive()
        else:
            self._after(0.0, self._arrive_again)
        end = self._clock.now + self._scene.seconds
        while self._events[0][0] < end:
            at, _, happen = heapq.heappop(self._events)
            self._clock.now = at
            await happen()
            await self._start_ready()
        return self._outcome()

    def _outcome(self) -> Outcome:
        scene, total = self._scene, len(self.accepted)
        possible = self._upstream.capacity(0.0, scene.seconds)
        if scene.per_second is not None:
            possible = min(possible, scene.per_second * scene.seconds)
        settled = [at for at in self.refused if at >= scene.settled_seconds]
        calls = len(settled) + sum(at >= scene.settled_seconds for at in self.accepted)
        durations = sorted(self.durations) or [0.0]
        return Outcome(
            share=total / possible,
            refused=len(settled) / max(1, calls),
            refused_early=len(self.refused) - len(settled),
            asked=self.asked / max(1, total),
            typical_seconds=durations[len(durations) // 2],
            longest_seconds=durations[-1],
        )

    def _after(self, seconds: float, happen: Callable[[], Awaitable[None]]) -> None:
        self._number += 1
        heapq.heappush(self._events, (self._clock.now + seconds, self._number, happen))

    async def _report(self) -> None:
        circuits = await self._redis.call("ZRANGE", keys.THROTTLES(self._root), 0, -1)
        for worker in self._workers:
            worker.throttles.update(frozenset(each.decode() for each in circuits), _WORKERS)
        self._after(_REPORT_SECONDS, self._report)

    def _arrive(self) -> None:
        lane: Lane = self._random.choice(("interactive", "batch"))
        self._ready.append(_Message(ids.new_id(), lane, self._clock.now))

    async def _arrive_again(self) -> None:
        assert self._scene.per_second is not None
        self._arrive()
        self._after(self._random.expovariate(self._scene.per_second), self._arrive_again)

    async def _start_ready(self) -> None:
        while self._ready:
            free = [worker for worker in self._workers if worker.free]
            if not free:
                return
            worker, message = self._random.choice(free), self._ready.popleft()
            worker.free -= 1
            message.calls, message.waited = 0, 0.0
            await self._try(worker, message)

    async def _try(self, worker: _Worker, message: _Message) -> None:
        caller = Caller("ann", message.id, is_again=message.is_again or message.waited > 0)
        before = self._redis.calls
        try:
            await worker.throttles.take_turn(_MODEL, _CIRCUIT, message.lane, caller)
        except CallBlockedError as error:
            self._go_on(worker, message, error)
            return
        finally:
            self.asked += self._redis.calls - before
        worker.throttles.note_sent(_CIRCUIT)
        if not message.was_refused:
            worker.budget.deposit()
        message.calls += 1
        seconds = self._scene.answer_seconds * self._random.uniform(0.8, 1.2)
        tokens = self._random.randint(200, 1_800)
        now = self._clock.now - _BEGAN
        refusal = self._upstream.take(now + _ARRIVAL_SECONDS, seconds, tokens)
        if refusal is None:
            self.accepted.append(now)
            self._after(_ARRIVAL_SECONDS + seconds, lambda: self._end(worker, message))
            return
        self.refused.append(now)
        message.was_refused = True
        asked_seconds = bounded_retry_after(refusal.retry_after_seconds)
        self._after(_REFUSAL_SECONDS, lambda: self._refuse(worker, message, asked_seconds))

    async def _end(self, worker: _Worker, message: _Message) -> None:
        worker.free += 1
        self.durations.append(self._clock.now - message.born)
        if self._scene.per_second is None:
            self._arrive()

    async def _refuse(
        self, worker: _Worker, message: _Message, asked_seconds: float | None
    ) -> None:
        seconds = await worker.throttles.note_refusal(_CIRCUIT, asked_seconds)
        failure = Failure(message="No.", category="rate_limit", code="PROVIDER_RATE_LIMITED")
        error = ProviderError(failure, retry="backoff", retry_after_seconds=seconds)
        self._go_on(worker, message, error)

    def _go_on(self, worker: _Worker, message: _Message, error: ProviderError) -> None:
        """Do what the retry policy says, within the budget of retries."""
        state = RetryState(
            calls=message.calls,
            turn_calls=0,
            deferrals=message.deferrals,
            left=_DEADLINE_SECONDS,
            age=self._clock.now - message.born,
            waited_seconds=message.waited,
        )
        what = retry_policy.decide_next(error, state, self._random.random())
        is_blocked = isinstance(error, CallBlockedError)
        if not is_blocked and not worker.budget.try_withdraw(self._clock.monotonic()):
            what = retry_policy.retry_later(error, state, self._random.random())
        assert not isinstance(what, Failed)
        if isinstance(what, WaitHere):
            message.waited += what.seconds if is_blocked else 0.0
            self._after(what.seconds, lambda: self._try(worker, message))
            return
        worker.free += 1
        message.is_again = True
        message.deferrals += not what.is_waiting
        self._after(what.delay_seconds, lambda: self._return(message))

    async def _return(self, message: _Message) -> None:
        self._ready.append(message)


def _noon(before: int, after: int) -> Callable[[int], Upstream]:
    return lambda _: OneAfterAnother([(900.0, BucketLimit(before)), (1e9, BucketLimit(after))])


def _outage(*, has_retry_after: bool) -> Callable[[int], Upstream]:
    """Nothing is taken from the 60th to the 120th second."""
    return lambda seed: OneAfterAnother(
        [
            (60.0, ChanceRefusals(0.0, seed)),
            (120.0, WindowLimit(0, has_retry_after=has_retry_after)),
            (1e9, ChanceRefusals(0.0, seed)),
        ]
    )


def _window(most: int, *, has_retry_after: bool) -> Callable[[int], Upstream]:
    return lambda seed: WindowLimit(most, offset=seed * 17 % 60, has_retry_after=has_retry_after)


def _bucket(most: int, *, has_retry_after: bool) -> Callable[[int], Upstream]:
    return lambda _: BucketLimit(most, has_retry_after=has_retry_after)


def _at_once(most: int) -> Callable[[int], Upstream]:
    return lambda _: ConcurrencyLimit(most, 2.0)


def _chance(percent: int, retry_after_seconds: float | None) -> Callable[[int], Upstream]:
    return lambda seed: ChanceRefusals(percent / 100, seed, retry_after_seconds)


def _scenes() -> dict[str, Scene]:
    found: dict[str, Scene] = {}
    for most in (10, 60, 600):
        seconds = 1_800.0 if most < 600 else 600.0
        # Few calls teach little.
        least, refused = (0.8, 0.05) if most > 10 else (0.65, 0.2)
        for has_retry_after in (False, True):
            name = f"{most} a minute{', with Retry-After' if has_retry_after else ''}"
            for kind, upstream in (
                ("window", _window(most, has_retry_after=has_retry_after)),
                ("bucket", _bucket(most, has_retry_after=has_retry_after)),
            ):
                found[f"{kind} of {name}"] = Scene(upstream, least, refused, seconds=seconds)
    for most, least in ((2, 0.65), (8, 0.7)):
        found[f"{most} at once"] = Scene(_at_once(most), least, 0.05, answer_seconds=2.0)
    found["60,000 tokens a minute"] = Scene(
        lambda _: WindowLimit(60_000, tokens_each=1_000), 0.8, 0.05, seconds=1_800.0
    )
    for percent, least in ((1, 0.95), (5, 0.9), (20, 0.8)):
        most_refused = percent / 100 * 1.3 + 0.01
        for after, suffix in ((None, ""), (1.0, ", with Retry-After")):
            found[f"chance {percent} %{suffix}"] = Scene(
                _chance(percent, after), least, most_refused, per_second=5.0
            )
    found["chance 5 %, seldom"] = Scene(_chance(5, None), 0.9, 0.1, per_second=0.2, seconds=1_800.0)
    for has_retry_after, suffix in ((False, ""), (True, ", with Retry-After")):
        outage = _outage(has_retry_after=has_retry_after)
        found[f"outage{suffix}"] = Scene(outage, 0.85, 0.02, per_second=5.0)
    found["from 600 to 60 at noon"] = Scene(_noon(600, 60), 0.8, 0.05, seconds=1_800.0)
    found["from 60 to 600 at noon"] = Scene(_noon(60, 600), 0.6, 0.05, seconds=1_800.0)
    return found


SCENES: Final = _scenes()


async def play(redis: Redis, settings: RedisSettings, scene: Scene, seed: int) -> Outcome:
    """Play a scene under a prefix of its own."""
    redis_settings = msgspec.structs.replace(settings, prefix=f"t{ids.new_id()}")
    clock = ManualClock(_BEGAN)
    simulated = SimulatedRedis(redis, clock)
    await simulated.load()
    try:
        root = keys.system_root(redis_settings)
        return await Fleet(simulated, root, clock, scene).run(seed)
    finally:
        await simulated.unload()


def faults(scene: Scene, outcome: Outcome) -> list[str]:
    """Return the bounds that an outcome misses."""
    found = []
    if outcome.share < scene.share_min:
        found.append(f"accepted {outcome.share:.0%} of {scene.share_min:.0%}")
    if outcome.refused > scene.refused_max:
        found.append(f"refused {outcome.refused:.1%} of at most {scene.refused_max:.1%}")
    return found


async def _main(seeds: int, chosen: str) -> int:
    wrong = 0
    with Server() as server, capture_logs():
        settings = RedisSettings(url=server.url)
        redis = Redis(settings)
        for name, scene in SCENES.items():
            if chosen not in name:
                continue
            outcomes = [await play(redis, settings, scene, seed) for seed in range(seeds)]
            missed = [fault for outcome in outcomes for fault in faults(scene, outcome)]
            wrong += len(missed)
            sys.stdout.write(
                f"{name:32}"
                f" accepted {min(each.share for each in outcomes):6.1%}"
                f" refused {max(each.refused for each in outcomes):6.1%}"
                f" (before {max(each.refused_early for each in outcomes):3})"
                f" asked {max(each.asked for each in outcomes):5.1f}"
                f" seconds {max(each.typical_seconds for each in outcomes):5.0f}"
                f" {max(each.longest_seconds for each in outcomes):6.0f}"
                f"  {'MISSED ' + str(len(missed)) if missed else ''}\n"
            )
            sys.stdout.flush()
        await redis.close()
    return wrong


if __name__ == "__main__":
    parser = command_line.parser("tests.property.throttled_fleet", __doc__)
    parser.add_argument("--seeds", type=int, default=5, help="runs of each scene")
    parser.add_argument("--scene", default="", help="only scenes whose name contains this")
    arguments = parser.parse_args()
    sys.exit(1 if asyncio.run(_main(arguments.seeds, arguments.scene)) else 0)
