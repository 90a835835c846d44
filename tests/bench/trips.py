"""How often one generation goes to Redis and back.

Counted twice. At load by the server itself, as reads of its sockets a POST: what a front sends
together is read together. At 20 POSTs a second by a tap before the server, write by write and by
name, for the front and for a worker apart.
"""

import asyncio
from collections import Counter
from typing import Final

import msgspec

from shared.clock import SystemClock
from shared.redis import keys
from tests.bench import aims, figures, load, rig
from tests.bench.figures import Figure
from tests.bench.load import Volley
from tests.bench.rig import Rig
from tests.bench.tap import Tap, tapped
from tests.support import processes
from tests.support.customer import Customer
from tests.support.provider import Answer, Request
from tests.support.server import Look

POSTS: Final = 200
LOAD_SECONDS: Final = 5.0
_A_SECOND: Final = 20
_CONNECTIONS: Final = 32
# What a worker sends for the sake of generations; the rest keeps it alive, busy or not.
_WORK: Final = {"claim", "HGET", "HGETALL", "HMGET", "append", "settle", "release"}
_MESSAGE: Final = "How often does this go to Redis and back?"


async def measure(posts: int = POSTS, seconds: float = LOAD_SECONDS) -> list[Figure]:
    """Count at a slow rate, then at load."""
    async with rig.running() as system:
        found = await _slow(system, posts)
        return found + await _at_load(system, seconds)


async def _slow(system: Rig, posts: int) -> list[Figure]:
    socket = system.server.socket
    async with tapped(socket, "f") as front, tapped(socket, "w") as back:
        port = processes.free_port()
        url = f"http://127.0.0.1:{port}"
        where = [system.environment | {"POLLUX_REDIS__URL": tap.url} for tap in (front, back)]
        with (
            rig.program(["api", "--port", str(port)], where[0]),
            rig.program(["worker"], where[1]),
        ):
            await rig.answers(f"{url}/readyz")
            await rig.reported(system, 1)
            async with Customer(base_url=url, headers=system.headers, trust_env=False) as customer:
                system.provider.answer = _at_once
                at_once = await _paced(system, customer, (front, back), posts)
                system.provider.answer = _in_a_second
                streamed = await _paced(system, customer, (front, back), posts)
    return [
        _front_figure(at_once[0], posts),
        _worker_figure("generation answered at once", at_once[1], posts),
        _worker_figure("generation streamed for 1 s", streamed[1], posts),
    ]


def _at_once(_request: Request) -> Answer:
    return Answer(text="Not often.")


def _in_a_second(_request: Request) -> Answer:
    return Answer(text=" ".join(["word"] * 50), gap_seconds=0.02)


async def _paced(
    system: Rig, customer: Customer, taps: tuple[Tap, Tap], posts: int
) -> list[list[tuple[str, ...]]]:
    """Send POSTs at a steady rate, wait for the last answer, return what went through each tap."""
    clock = SystemClock()
    last = await customer.ask(_MESSAGE)
    await customer.end(last)
    for tap in taps:
        tap.writes.clear()
    began = clock.monotonic()
    for number in range(posts):
        await clock.sleep(max(0.0, began + number / _A_SECOND - clock.monotonic()))
        last = await customer.ask(_MESSAGE)
    sent = list(taps[0].writes)
    await customer.end(last)
    await drained(system)
    return [sent, list(taps[1].writes)]


async def drained(system: Rig, seconds: float = 600.0) -> None:
    """Wait until the account has nothing under way."""
    where = keys.UNFINISHED(system.root, system.account.id, "interactive")
    clock = SystemClock()
    ends = clock.monotonic() + seconds
    while left := await system.redis.call("ZCARD", where):
        assert clock.monotonic() < ends, f"{left} generations are still under way"
        await clock.sleep(0.05)


def _front_figure(writes: list[tuple[str, ...]], posts: int) -> Figure:
    trips = len(writes) / posts
    return Figure(
        f"trips a POST, at {_A_SECOND} a second",
        f"{trips:.2f} ({_by_name(writes, posts)})",
        "",
        f"<= {aims.TRIPS_A_POST}",
        trips <= aims.TRIPS_A_POST,
    )


def _worker_figure(what: str, writes: list[tuple[str, ...]], posts: int) -> Figure:
    of_work = [write for write in writes if set(write) & _WORK]
    return Figure(
        f"trips of the worker, {what}",
        f"{len(of_work) / posts:.2f} ({_by_name(of_work, posts)})",
        f"upkeep {(len(writes) - len(of_work)) / posts:.2f}",
    )


def _by_name(writes: list[tuple[str, ...]], posts: int) -> str:
    counted = Counter("+".join(dict.fromkeys(write)) for write in writes)
    told = [f"{name} {count / posts:.2f}" for name, count in counted.most_common(5)]
    return ", ".join(told)


async def _at_load(system: Rig, seconds: float) -> list[Figure]:
    body = msgspec.json.encode({"message": _MESSAGE}).decode()
    volley = Volley(
        url=system.url, paths=("/api/v1/chat",), method="POST", headers=system.headers, body=body
    )
    with system.server.look() as look:
        before = _reads(look)
        hits = await load.fire(volley, connections=_CONNECTIONS, seconds=seconds)
        reads = _reads(look) - before - 1
    assert not hits.bad, hits
    trips = reads / hits.good
    return [
        Figure(
            f"trips a POST, at {hits.per_second:,.0f} a second",
            f"{trips:.2f}",
            "",
            f"<= {aims.TRIPS_A_POST}",
            trips <= aims.TRIPS_A_POST,
        )
    ]


def _reads(look: Look) -> int:
    stats: dict[str, int] = look("INFO", "stats")
    return stats["total_reads_processed"]


async def report() -> None:
    """Measure and print."""
    figures.say(figures.table("trips", await measure()))


if __name__ == "__main__":
    figures.say(figures.machine())
    asyncio.run(report())
