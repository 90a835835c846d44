"""Submit and status requests a second of one API process, as a share of a bare server's.

Both are measured in turns in one run, by the same client, on the same Redis. Beside the rate stands
the CPU time of a request: on a busy machine it is the steadier of the two. No worker runs, so
submissions stay queued. Half of the polled statuses are of a running answer, half of an ended one.
"""

import asyncio
from typing import Final, NamedTuple

import msgspec

from shared.redis import functions
from shared.redis.functions import KeepTimes
from shared.wire.message import AssistantMessage, Usage, encode_assistant
from shared.wire.submission import WIRE
from tests.bench import bounds, figures, http_load, process_usage, system_rig
from tests.bench.figures import Figure
from tests.bench.http_load import Volley
from tests.bench.system_rig import Rig
from tests.support import processes

RUNS: Final = 3
SECONDS: Final = 5.0
CONNECTIONS: Final = 32
_GENERATIONS: Final = 64
_MESSAGE: Final = "What are the three laws of thermodynamics? Answer briefly, please."


class Shot(NamedTuple):
    """One measurement: requests a second, CPU microseconds of the process for each."""

    per_second: float
    cpu_us: float


async def measure(runs: int = RUNS, seconds: float = SECONDS) -> list[Figure]:
    """Measure both requests and their baselines."""
    async with system_rig.running() as system:
        port = processes.free_port()
        words = ["tests.bench.bare_front", "--port", str(port), "--redis", system.server.url]
        with system_rig.program(words, system.environment) as bare:
            url = f"http://127.0.0.1:{port}"
            await system_rig.answers(f"{url}/status")
            pids = (bare.pid, system.api.pid)
            found = []
            for name, bound, volleys in (
                ("status", bounds.STATUS_SHARE, await _statuses(system, url)),
                ("submit", bounds.SUBMIT_SHARE, _submissions(system, url)),
            ):
                turns = await _compare(volleys, pids, bound, runs=runs, seconds=seconds)
                found += _figures(name, turns, bound)
    return found


def _submissions(system: Rig, floor: str) -> tuple[Volley, Volley]:
    body = msgspec.json.encode({"message": _MESSAGE}).decode()
    theirs = Volley(url=floor, paths=("/submit",), method="POST", headers=system.headers, body=body)
    return theirs, msgspec.structs.replace(theirs, url=system.url, paths=("/api/v1/chat",))


async def _statuses(system: Rig, floor: str) -> tuple[Volley, Volley]:
    headers = {"x-api-key": system.key}
    paths = await _followed(system)
    return (
        Volley(url=floor, paths=("/status",), headers=headers),
        Volley(url=system.url, paths=paths, headers=headers),
    )


async def _compare(
    volleys: tuple[Volley, Volley],
    pids: tuple[int, int],
    bound: float,
    *,
    runs: int,
    seconds: float,
) -> list[tuple[Shot, Shot]]:
    """Send to the baseline and to the front in turns; the first round only warms up."""

    async def turn(seconds: float) -> tuple[Shot, Shot]:
        floor, ours = [
            await _shoot(volley, pid, seconds) for volley, pid in zip(volleys, pids, strict=True)
        ]
        return floor, ours

    await turn(min(1.0, seconds))
    return await figures.rounds(runs, lambda: turn(seconds), lambda turn: [_share(turn) >= bound])


def _share(turn: tuple[Shot, Shot]) -> float:
    floor, ours = turn
    return ours.per_second / floor.per_second


async def _shoot(volley: Volley, pid: int, seconds: float) -> Shot:
    before = process_usage.cpu_seconds([pid])
    hits = await http_load.fire(volley, connections=CONNECTIONS, seconds=seconds)
    cpu = process_usage.cpu_seconds([pid]) - before
    if hits.bad or not hits.good:
        message = f"{hits.bad} of {hits.good + hits.bad} requests to {volley.paths[0]} failed"
        raise AssertionError(message)
    return Shot(hits.per_second, cpu / hits.good * 1e6)


def _figures(name: str, turns: list[tuple[Shot, Shot]], bound: float) -> list[Figure]:
    floors, ours = zip(*turns, strict=True)
    ratio = figures.median(_share(turn) for turn in turns)
    rate, least = (figures.median(shot.per_second for shot in shots) for shots in (ours, floors))
    cpu, bare = (figures.median(shot.cpu_us for shot in shots) for shots in (ours, floors))
    return [
        Figure(
            f"{name} requests a second, one process",
            f"{rate:,.0f} = {ratio:.0%}",
            f"floor {least:,.0f}",
            f">= {bound:.0%}",
            ratio >= bound,
        ),
        Figure(f"CPU of the process for a {name}", f"{cpu:.0f} us", f"floor {bare:.0f} us"),
    ]


async def _followed(system: Rig) -> tuple[str, ...]:
    """Submit some messages and play the worker: half of them run, half have ended."""
    root = system.root
    async with system.customer() as customer:
        for _ in range(_GENERATIONS):
            await customer.submit(_MESSAGE)
    keep = KeepTimes.of(system.settings.retention)
    batch = await functions.claim(
        system.redis,
        root,
        functions.ClaimAsk(
            claim=1,
            worker="bench",
            wire=WIRE,
            count=_GENERATIONS,
            lease_ms=86_400_000,
            batch=0,
            keep=keep,
        ),
    )
    for index, one in enumerate(batch.claimed):
        await functions.append(
            system.redis,
            root,
            functions.AppendAsk(
                account=one.account,
                id=one.id,
                attempt=one.attempt,
                seq=1,
                events=['{"type":"delta","text":"..."}'],
                text="word " * 40,
                stage="generating",
                progress=10,
            ),
        )
        if index % 2:
            await _end(system, root, one, keep)
    return tuple(f"/api/v1/generate/{one.id}/status" for one in batch.claimed)


async def _end(system: Rig, root: str, one: functions.Claimed, keep: KeepTimes) -> None:
    ask = functions.SettleAsk(
        account=one.account,
        id=one.id,
        attempt=one.attempt,
        seq=2,
        stage="completed",
        event='{"type":"completed"}',
        cost=1,
        keep=keep,
    )
    answer = AssistantMessage(
        status="completed", content="word " * 40, created=one.claimed_ms, usage=Usage(cost=1)
    )
    await functions.settle(system.redis, root, ask, encode_assistant(answer))


async def report() -> None:
    """Measure and print."""
    figures.print_line(
        figures.table(f"front ({http_load.tool()}, {CONNECTIONS} connections)", await measure())
    )


if __name__ == "__main__":
    figures.print_line(figures.machine())
    asyncio.run(report())
