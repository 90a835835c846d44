"""Runs every bench and prints one table: half an hour on two cores."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from tests.bench import (
    adapters,
    backlog,
    batch_beside,
    batch_download,
    batch_engine,
    batch_keys,
    batch_million,
    batch_stop,
    batch_upload,
    cancel,
    conversations,
    engine,
    fairness,
    figures,
    followers,
    front,
    http_load,
    idle,
    memory,
    overdraft,
    pages,
    parked,
    pickup,
    poll_policy,
    polling,
    streams,
    trips,
    wakeup,
)
from tests.bench.figures import Figure
from tests.support.redis_server import Server


async def _policy() -> list[Figure]:
    return poll_policy.measure()


# A million take twelve minutes.
_ITEMS: Final = 100_000


async def _million() -> list[Figure]:
    return await batch_million.measure(_ITEMS)


BENCHES: Final[dict[str, Callable[[], Awaitable[list[Figure]]]]] = {
    "front": front.measure,
    "trips": trips.measure,
    "memory": memory.measure,
    "pickup": pickup.measure,
    "wakeup": wakeup.measure,
    "cancel": cancel.measure,
    "engine": engine.measure,
    "batches": batch_engine.measure,
    "adapters": adapters.measure,
    "fairness": fairness.measure,
    "backlog": backlog.measure,
    "idle": idle.measure,
    "conversations": conversations.measure,
    "conversations --local": conversations.measure_local,
    "overdraft": overdraft.measure,
    "polling": polling.measure_all,
    "streams": streams.measure,
    "followers": followers.measure,
    "policy": _policy,
    "parked": parked.measure,
    "pages": pages.measure,
    "batch_beside": batch_beside.measure,
    "batch_download": batch_download.measure,
    "batch_stop": batch_stop.measure,
    "batch_upload": batch_upload.measure,
    "batch_keys": batch_keys.measure,
    "batch_million": _million,
}


async def main() -> None:
    """Measure all, one after the other."""
    found: list[Figure] = []
    for name, measure in BENCHES.items():
        figures.print_line(f"{name} ...")
        found += [figure._replace(name=f"{name}: {figure.name}") for figure in await measure()]
    with Server() as server, server.raw_client() as raw_client:
        title = f"{figures.machine(raw_client)}, load by {http_load.tool()}"
    figures.print_line(figures.table(title, found))


if __name__ == "__main__":
    asyncio.run(main())
