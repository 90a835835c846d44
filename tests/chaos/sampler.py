"""Samples the unfinished generations while a run goes on: worker, attempt, stage.

Owns one atomic read of everything unfinished, by Redis' own clock, and what samples alone show: the
stages, how soon the generations of a dead worker were claimed again, and which were hit by a fault.
Changes nothing.
"""

from collections import Counter
from typing import Final, NamedTuple

import msgspec

from shared.clock import SystemClock
from shared.errors import UnavailableError
from shared.lifecycle import Stage
from shared.redis import keys
from shared.redis.client import Argument, Reply
from tests.chaos.evidence import Sample, calls_in
from tests.chaos.scene import Scene

_RETRY_PAUSE_SECONDS: Final = 0.02
# One script, so that no worker is seen between two of its steps.
_SAMPLE_SCRIPT: Final = "\n".join(
    (
        *(
            family.lua(name)
            for name, family in keys.FAMILIES.items()
            if name in {"deadlines", "generation", "leases", "text"}
        ),
        """
local root, found = KEYS[1], {}
for _, member in ipairs(redis.call('ZRANGE', deadlines_key(root), 0, -1)) do
  local account, id = string.match(member, '^([^:]*):(.*)$')
  local fields = redis.call('HMGET', generation_key(root, account, id),
    'stage', 'attempt', 'worker', 'started')
  local is_leased = redis.call('ZSCORE', leases_key(root), member)
  table.insert(found, {account, id, fields[1], fields[2],
    is_leased and fields[3] or '', fields[4] or '0',
    redis.call('GET', text_key(root, account, id)) or ''})
end
return found
""",
    )
)


class Held(NamedTuple):
    """An unfinished generation; `worker` is empty where none has a lease on it."""

    account: str
    generation: str
    stage: Stage
    attempt: int
    worker: str
    started_ms: int


class Loss(NamedTuple):
    """What a worker held when it was killed, and the time in Redis' ms."""

    held: Held
    at_ms: int


class Sampler:
    """All samples of a run."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._clock = SystemClock()
        self._last: dict[str, Sample] = {}
        self._losses: list[Loss] = []
        self._disturbed: set[tuple[str, int]] = set()
        self._dead: set[str] = set()
        self.unfinished = 0
        self.recovered_ms: list[int] = []
        self.overtaken = 0

    def disturbed(self) -> Counter[str]:
        """Count the faults that hit each generation's worker."""
        return Counter(generation for generation, _ in self._disturbed)

    async def sample(self) -> list[Held]:
        """Return what is unfinished; while Redis is away, wait for it."""
        entries = await self._read_until_answered("EVAL", _SAMPLE_SCRIPT, 1, self._scene.root)
        found = [self._read_running(*(word.decode() for word in entry)) for entry in entries]
        self.unfinished = len(found)
        by_name = {held.generation: held for held in found}
        losses, self._losses = self._losses, []
        for loss in losses:
            await self._follow_loss(loss, by_name.get(loss.held.generation))
        return found

    async def held_by(self, worker: str) -> list[Held]:
        """Take a sample and return what a worker holds."""
        return [held for held in await self.sample() if held.worker == worker]

    async def follow_killed(self, worker: str, at_ms: int) -> None:
        """Note that a worker was killed, and follow what it held until another claims it."""
        self._dead.add(worker)
        held = await self.held_by(worker)
        self._losses += [Loss(one, at_ms) for one in held]

    def count_disturbance(self, held: list[Held]) -> None:
        """Note a fault of the worker of each."""
        self._disturbed.update((one.generation, one.attempt) for one in held)

    async def _read_until_answered(self, *command: Argument) -> Reply:
        while True:
            try:
                return await self._scene.redis.call(*command)
            except UnavailableError:
                await self._clock.sleep(_RETRY_PAUSE_SECONDS)

    def _read_running(self, *words: str) -> Held:
        account, generation, stage, attempt, worker, started, text = words
        held = Held(
            account,
            generation,
            msgspec.convert(stage, Stage),
            int(attempt),
            worker,
            int(started),
        )
        seen_sample = Sample(generation, held.stage, held.attempt, calls_in(text))
        if self._last.get(generation) != seen_sample:
            self._last[generation] = seen_sample
            self._scene.evidence.samples.append(seen_sample)
        if worker in self._dead:
            self._disturbed.add((generation, held.attempt))
        return held

    async def _follow_loss(self, loss: Loss, now: Held | None) -> None:
        """Note whether a lost generation was claimed again, or has ended without."""
        if now is None:
            where = keys.GENERATION(self._scene.root, loss.held.account, loss.held.generation)
            attempt, started = await self._read_until_answered("HMGET", where, "attempt", "started")
        else:
            attempt, started = now.attempt, now.started_ms
        if int(attempt or 0) == loss.held.attempt + 1:
            self.recovered_ms.append(int(started) - loss.at_ms)
        elif int(attempt or 0) > loss.held.attempt:
            self.overtaken += 1
        elif now is not None:
            self._losses.append(loss)
