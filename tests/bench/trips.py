"""Round trips to Redis of one generation.

Counted twice. Under load by the server itself, as reads of its sockets a POST: what a front sends
together is read together. At 20 POSTs a second by a tap before the server, write by write and by
name, for the front and for a worker separately.
"""

import asyncio
from collections import Counter
from typing import Final

import msgspec

from shared.clock import SystemClock
from shared.redis import keys
from tests.bench import bounds, figures, http_load, system_rig
from tests.bench.figures import Figure
from tests.bench.http_load import Volley
from tests.bench.redis_tap import RedisTap, tapped
from tests.bench.system_rig import Rig
from tests.support import processes
from tests.support.api_client import ApiClient
from tests.support.redis_server import RawClient
from tests.support.scripted_provider import Request, ScriptedAnswer

POSTS: Final = 200
LOAD_SECONDS: Final = 5.0
_A_SECOND: Final = 20
_CONNECTIONS: Final = 32
# Commands of a worker for its generations; the others are upkeep, busy or not.
_WORK: Final = {"claim", "HGET", "HGETALL", "HMGET", "append", "settle", "release"}
_MESSAGE: Final = "How often does this go to Redis and back?"


async def measure(posts: int = POSTS, seconds: float = LOAD_SECONDS) -> list[Figure]:
    """Count at a slow rate, then under load."""
    async with system_rig.running() as system:
        found = await _slow(system, posts)
        return found + await _at_load(system, seconds)


async def _slow(system: Rig, posts: int) -> list[Figure]:
    socket = system.server.socket
    async with tapped(socket, "f") as front, tapped(socket, "w") as back:
        port = processes.free_port()
        url = f"http://127.0.0.1:{port}"
        where = [system.environment | {"POLLUX_REDIS__URL": tap.url} for tap in (front, back)]
        with (
            system_rig.program(["api", "--port", str(port)], where[0]),
            system_rig.program(["worker"], where[1]),
        ):
            await system_rig.answers(f"{url}/readyz")
            await system_rig.reported(system, 1)
            async with ApiClient(base_url=url, headers=system.headers, trust_env=False) as customer:
                system.provider.answer = _at_once
                at_once = await _paced(system, customer, (front, back), posts)
                system.provider.answer = _in_a_second
                streamed = await _paced(system, customer, (front, back), posts)
    return [
        _front_figure(at_once[0], posts),
        _worker_figure("generation answered at once", at_once[1], posts),
        _worker_figure("generation streamed for 1 s", streamed[1], posts),
    ]


def _at_once(_request: Request) -> ScriptedAnswer:
    return ScriptedAnswer(text="Not often.")


def _in_a_second(_request: Request) -> ScriptedAnswer:
    return ScriptedAnswer(text=" ".join(["word"] * 50), gap_seconds=0.02)


async def _paced(
    system: Rig, customer: ApiClient, taps: tuple[RedisTap, RedisTap], posts: int
) -> list[list[tuple[str, ...]]]:
    """Send POSTs at a steady rate, wait for the last answer, return the writes at each tap."""
    clock = SystemClock()
    last = await customer.submit(_MESSAGE)
    await customer.wait_for_end(last)
    for tap in taps:
        tap.writes.clear()
    began = clock.monotonic()
    for number in range(posts):
        await clock.sleep(max(0.0, began + number / _A_SECOND - clock.monotonic()))
        last = await customer.submit(_MESSAGE)
    sent = list(taps[0].writes)
    await customer.wait_for_end(last)
    await drained(system)
    return [sent, list(taps[1].writes)]


async def drained(system: Rig, seconds: float = 600.0) -> None:
    """Wait until the account has nothing unfinished."""
    where = keys.UNFINISHED(system.root, system.account.id, "interactive")
    clock = SystemClock()
    ends = clock.monotonic() + seconds
    while left := await system.redis.call("ZCARD", where):
        assert clock.monotonic() < ends, f"{left} generations are still unfinished"
        await clock.sleep(0.05)


def _front_figure(writes: list[tuple[str, ...]], posts: int) -> Figure:
    trips = len(writes) / posts
    return Figure(
        f"trips a POST, at {_A_SECOND} a second",
        f"{trips:.2f} ({_by_name(writes, posts)})",
        "",
        f"<= {bounds.TRIPS_A_POST}",
        trips <= bounds.TRIPS_A_POST,
    )


def _worker_figure(what: str, writes: list[tuple[str, ...]], posts: int) -> Figure:
    work_writes = [write for write in writes if set(write) & _WORK]
    return Figure(
        f"trips of the worker, {what}",
        f"{len(work_writes) / posts:.2f} ({_by_name(work_writes, posts)})",
        f"upkeep {(len(writes) - len(work_writes)) / posts:.2f}",
    )


def _by_name(writes: list[tuple[str, ...]], posts: int) -> str:
    counted = Counter("+".join(dict.fromkeys(write)) for write in writes)
    described = [f"{name} {count / posts:.2f}" for name, count in counted.most_common(5)]
    return ", ".join(described)


async def _at_load(system: Rig, seconds: float) -> list[Figure]:
    body = msgspec.json.encode({"message": _MESSAGE}).decode()
    volley = Volley(
        url=system.url, paths=("/api/v1/chat",), method="POST", headers=system.headers, body=body
    )
    with system.server.raw_client() as raw_client:
        before = _reads(raw_client)
        hits = await http_load.fire(volley, connections=_CONNECTIONS, seconds=seconds)
        reads = _reads(raw_client) - before - 1
    assert not hits.bad, hits
    trips = reads / hits.good
    return [
        Figure(
            f"trips a POST, at {hits.per_second:,.0f} a second",
            f"{trips:.2f}",
            "",
            f"<= {bounds.TRIPS_A_POST}",
            trips <= bounds.TRIPS_A_POST,
        )
    ]


def _reads(raw_client: RawClient) -> int:
    stats: dict[str, int] = raw_client("INFO", "stats")
    return stats["total_reads_processed"]


async def report() -> None:
    """Measure and print."""
    figures.print_line(figures.table("trips", await measure()))


if __name__ == "__main__":
    figures.print_line(figures.machine())
    asyncio.run(report())
