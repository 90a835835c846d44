"""Append-only files cut in the middle, as by a power failure: `python -m tests.chaos.torn_files`.

Scenarios write under `fsync`. Now and then the acknowledged writes and the size of the file are
noted; a little later its files are copied, and the last one is cut at a random byte between that
size and its end. A server is started on the copy: it must hold everything acknowledged, and no
function's writes in part; and once everything has ended, the invariants must find nothing.

Owns the cuts and what is known at each. `invariants` judges.

DESIGN. With `appendfsync always` no reply is sent before its write is synced, so a size that is
read after a reply covers that write. What was posted meanwhile may be in the copy or not: it is
expected only if it is there.
"""

import asyncio
import random
import re
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import uvloop
from typing_extensions import override

from shared.clock import SystemClock
from shared.redis import keys, library
from shared.redis.client import Argument, Connection, Redis, Reply
from shared.settings import RedisSettings
from tests.chaos import invariants
from tests.chaos.evidence import Evidence, UpstreamCall
from tests.chaos.full_scenario import FullScenario
from tests.support import command_line, redis_invariants, waiting
from tests.support.redis_functions import RedisFunctions
from tests.support.redis_server import RawClient, Server

LOADS: Final = 6
_FILES: Final = "appendonlydir"
_MANIFEST: Final = "appendonly.aof.manifest"
_TAIL_SECONDS: Final = 0.3
_CUTS_PER_REWRITE: Final = 20
_CRASHES_MAX: Final = 1_000
_SHOWN_MAX: Final = 20
_KEPT: Final = re.compile(r"[Tt]runcat.* at offset (\d+)")
_LOADED_PER_WHOLE: Final = 4


class Tally(msgspec.Struct):
    """The results of all cuts: how many tore a record, how much was dropped, and what is wrong.

    `blocks` counts cuts within the writes of one function, `states` the states between functions;
    `kept` the acknowledged messages that were looked for, `extra` the unacknowledged ones found.
    """

    cuts: int = 0
    torn: int = 0
    blocks: int = 0
    dropped_max: int = 0
    states: int = 0
    kept: int = 0
    extra: int = 0
    faults: list[str] = []

    def note(self, copy: "Copy") -> None:
        """Count a cut."""
        self.cuts += 1
        self.torn += copy.dropped > 0
        self.blocks += copy.is_block
        self.dropped_max = max(self.dropped_max, copy.dropped)


class Acknowledged(NamedTuple):
    """What a scenario's clients had been acknowledged at one moment."""

    full_scenario: FullScenario
    evidence: Evidence

    @classmethod
    def of(cls, full_scenario: FullScenario) -> "Acknowledged":
        """Return it for one scenario."""
        known = full_scenario.evidence
        return cls(
            full_scenario,
            Evidence(
                granted=dict(known.granted),
                accepted_messages=list(known.accepted_messages),
                samples=list(known.samples),
                shown=dict(known.shown),
                cancelled=dict(known.cancelled),
            ),
        )


class Load:
    """Scenarios that run on a server one after the other, each under a prefix of its own."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._begun = 0
        self._finished: list[FullScenario] = []
        self.scenarios: list[FullScenario] = []

    async def keep_writing(self) -> None:
        """Run one scenario after the other, until cancelled."""
        while True:
            self._begun += 1
            settings = settings_of(self._server, f"d{self._begun}")
            redis = Redis(settings)
            try:
                await library.load(redis)
                full_scenario = FullScenario(RedisFunctions(redis, settings))
                self.scenarios.append(full_scenario)
                await full_scenario.run()
                self._finished.append(full_scenario)
            finally:
                await redis.close()

    def sweep(self, raw_client: RawClient) -> None:
        """Delete the finished scenarios, so that each copy is small."""
        for full_scenario in self._finished:
            redis_invariants.sweep(raw_client, full_scenario.queue.settings)
            self.scenarios.remove(full_scenario)
        self._finished.clear()


def settings_of(server: Server, prefix: str) -> RedisSettings:
    """Return settings for a prefix, with long timeouts for a busy machine."""
    return RedisSettings(
        url=server.url,
        prefix=prefix,
        durability="fsync",
        connect_seconds=15.0,
        timeout_seconds=15.0,
    )


def tail_of(folder: Path) -> Path:
    """Return the file that a server appends to."""
    lines = (folder / _FILES / _MANIFEST).read_text().splitlines()
    names = [line.split()[1] for line in lines if line.endswith("type i")]
    return folder / _FILES / names[-1]


class Copy(NamedTuple):
    """A server on a cut copy: the bytes that it dropped, and whether within a function's writes."""

    server: Server
    cut_at: int
    dropped: int
    is_block: bool


@asynccontextmanager
async def cut_copy(server: Server, place: Callable[[int], int]) -> AsyncIterator[Copy]:
    """Copy a server's files, cut the last one, and start a server on them.

    `place` returns the byte to cut at, given the length.
    """
    copied_server = Server()
    try:
        shutil.copytree(server.folder / _FILES, copied_server.folder / _FILES)
        tail = tail_of(copied_server.folder)
        cut_at = place(tail.stat().st_size)
        with tail.open("r+b") as file:
            file.truncate(cut_at)
        await asyncio.to_thread(copied_server.start)
        # Read from the log, because the file grows again when expired keys are deleted.
        log = (copied_server.folder / "log").read_text()
        kept = _KEPT.search(log)
        dropped = cut_at - int(kept[1]) if kept else 0
        yield Copy(copied_server, cut_at, dropped, "incomplete MULTI" in log)
    finally:
        copied_server.stop()


async def run(cuts: int, *, seed: int, loads: int = LOADS) -> Tally:
    """Cut this many times under load, and return the results."""
    tally, chance = Tally(), random.Random(seed)
    with Server(appendfsync="always") as server, server.raw_client() as raw_client:
        load = Load(server)
        writing = [asyncio.create_task(load.keep_writing()) for _ in range(loads)]
        try:
            await waiting.until(lambda: len(load.scenarios) == loads, what="the load")
            while tally.cuts < cuts:
                if tally.cuts % _CUTS_PER_REWRITE == 0:
                    await _rewrite(raw_client)
                load.sweep(raw_client)
                await _cut(server, load, chance, tally)
                failed = [task for task in writing if task.done()]
                await asyncio.gather(*failed)
        finally:
            for task in writing:
                task.cancel()
            await asyncio.gather(*writing, return_exceptions=True)
    return tally


async def _rewrite(raw_client: RawClient) -> None:
    """Rewrite the file, so that there is a base file beneath the appended one."""
    raw_client("BGREWRITEAOF")
    await waiting.until(
        lambda: not raw_client("INFO", "persistence")["aof_rewrite_in_progress"], what="a rewrite"
    )


async def _cut(server: Server, load: Load, chance: random.Random, tally: Tally) -> None:
    """Cut once, and check every scenario that was running."""
    acknowledged = [Acknowledged.of(full_scenario) for full_scenario in load.scenarios]
    at_least = tail_of(server.folder).stat().st_size
    await SystemClock().sleep(chance.uniform(0, _TAIL_SECONDS))
    async with cut_copy(server, lambda size: chance.randint(at_least, size)) as copy:
        tally.note(copy)
        with copy.server.raw_client() as raw_client:
            for known in acknowledged:
                found = await judge(copy.server, raw_client, known, tally)
                tally.faults += [f"cut {tally.cuts} at {copy.cut_at}: {fault}" for fault in found]


async def judge(
    server: Server, raw_client: RawClient, known: Acknowledged, tally: Tally
) -> list[str]:
    """Return what is wrong with a scenario in a copy: at once, and once all of it has ended."""
    settings = settings_of(server, known.full_scenario.queue.settings.prefix)
    # These rules hold between any two functions, so a partly written function breaks them.
    found = redis_invariants.faults(raw_client, settings)
    acknowledged_count = len(known.evidence.accepted_messages)
    evidence = _expected(raw_client, settings, known)
    if not evidence.accepted_messages:
        return found
    tally.kept += acknowledged_count
    tally.extra += len(evidence.accepted_messages) - acknowledged_count
    redis = Redis(settings)
    try:
        await library.load(redis)
        await _drain(FullScenario(RedisFunctions(redis, settings), evidence))
    finally:
        await redis.close()
    return found + [str(finding) for finding in invariants.check(raw_client, settings, evidence)]


def _expected(raw_client: RawClient, settings: RedisSettings, known: Acknowledged) -> Evidence:
    """Return what must be in the copy: everything acknowledged, and what else was written."""
    full_scenario, evidence = known
    root = keys.partition_root(settings, 0)
    records = {
        accepted_message.generation: raw_client.fields(
            keys.GENERATION(root, accepted_message.account, accepted_message.generation)
        )
        for accepted_message in full_scenario.sent
    }
    acknowledged_count = set(evidence.accepted_messages)
    evidence.accepted_messages = [
        one for one in full_scenario.sent if one in acknowledged_count or records[one.generation]
    ]
    evidence.upstream_calls = [
        upstream_call
        if int(records[generation].get("attempt", 0)) >= attempt
        # The claim of this call is not in the copy.
        else UpstreamCall(upstream_call.call, "", 0, ())
        for upstream_call, (generation, attempt) in zip(
            full_scenario.evidence.upstream_calls, full_scenario.call_attempts, strict=True
        )
    ]
    return evidence


async def _drain(full_scenario: FullScenario) -> None:
    """Let all leases lapse, as after a power failure, and run everything to its end."""
    queue = full_scenario.queue
    # The first reap on a restarted server gives every lease its whole time again.
    await queue.reap(crashes_max=_CRASHES_MAX)
    for name in await queue.redis.call("ZRANGE", keys.LEASES(queue.root), 0, -1):
        await queue.redis.call("ZADD", keys.LEASES(queue.root), "XX", 1, name)
    await queue.reap(crashes_max=_CRASHES_MAX)
    await full_scenario.run_until_idle()


class State(NamedTuple):
    """The digests of all keys when the file had this size."""

    size: int
    digests: frozenset[tuple[str, bytes]]


def digests(raw_client: RawClient) -> frozenset[tuple[str, bytes]]:
    """Return the digest of every key except those that expire within moments."""
    short_lived = f":{keys.SUBMISSIONS.pattern.partition(':')[0]}:"
    names = [name for name in raw_client.names("*") if short_lived not in name]
    return frozenset(zip(names, raw_client("DEBUG", "DIGEST-VALUE", *names), strict=True))


class Traced(Connection):
    """A connection that notes the state after each command."""

    def __init__(self, redis: Redis, server: Server, raw_client: RawClient) -> None:
        self._redis = redis
        self._server = server
        self._raw_client = raw_client
        self.states: list[State] = []

    @override
    async def call(self, *command: Argument, repeat: bool = True) -> Reply:
        try:
            return await self._redis.call(*command, repeat=repeat)
        finally:
            size = tail_of(self._server.folder).stat().st_size
            self.states.append(State(size, digests(self._raw_client)))

    @override
    def send(self, *command: Argument) -> None:
        # A command without a reply has no known end, so no state could be noted for it.
        raise AssertionError(f"a traced scenario waits for each command: {command[0]!r}")


async def cut_single_writer(cuts: int, *, seed: int) -> Tally:
    """Cut the file of one scenario anywhere: the copy must be a state between two functions."""
    tally, chance = Tally(), random.Random(seed)
    with Server(appendfsync="always") as server, server.raw_client() as raw_client:
        settings = settings_of(server, "whole")
        redis = Redis(settings)
        try:
            await library.load(redis)
            traced = Traced(redis, server, raw_client)
            await traced.call("PING")
            await FullScenario(RedisFunctions(traced, settings)).run()
        finally:
            await redis.close()
        states = traced.states
        tally.states = len({state.digests for state in states})
        for _ in range(cuts):
            async with cut_copy(server, lambda size: chance.randint(states[0].size, size)) as copy:
                tally.note(copy)
                expected = [state.digests for state in states if state.size <= copy.cut_at][-1]
                with copy.server.raw_client() as found:
                    if digests(found) != expected:
                        tally.faults.append(f"cut at {copy.cut_at}: a state that never was")
    return tally


def main() -> int:
    """Read the options, cut, print."""
    parser = command_line.parser("tests.chaos.torn_files", __doc__)
    parser.add_argument("--cuts", type=int, default=200, help="number of cuts under load")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices")
    options = parser.parse_args()
    clock = SystemClock()
    began = clock.monotonic()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        one = runner.run(cut_single_writer(options.cuts // _LOADED_PER_WHOLE, seed=options.seed))
        many = runner.run(run(options.cuts, seed=options.seed))
    sys.stdout.write(f"seed {options.seed}, {clock.monotonic() - began:.0f} s\n")
    sys.stdout.write(
        f"one writer: {_describe_cuts(one)}; each left one of {one.states}"
        f" states that functions leave\n"
        f"under load: {_describe_cuts(many)}; {many.kept:,} acknowledged messages looked for,"
        f" {many.extra} unacknowledged ones found\n"
        f"faults: {len(one.faults) + len(many.faults)}\n"
    )
    for fault in (one.faults + many.faults)[:_SHOWN_MAX]:
        sys.stdout.write(f"{fault}\n")
    return 1 if one.faults or many.faults else 0


def _describe_cuts(tally: Tally) -> str:
    return (
        f"{tally.cuts} cuts, {tally.torn} in a record, {tally.blocks} of them in the middle of a"
        f" function's block, {tally.dropped_max:,} bytes dropped at most"
    )


if __name__ == "__main__":
    sys.exit(main())
