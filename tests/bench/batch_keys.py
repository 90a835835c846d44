"""Many uploads at once with each of many Idempotency-Keys: one batch for each key.

Each upload is sent again while another one with its key is under way (409), as its `Retry-After`
asks, only sooner.
"""

import asyncio
import time
from typing import Final

import httpx

from tests.bench import bounds, figures, system_rig
from tests.bench.figures import Figure
from tests.support.api_client import ApiClient

KEYS: Final = 1_000
COPIES: Final = 100
_KEYS_AT_ONCE: Final = 4
_LINES: Final = b'{"message": "one"}\n{"message": "two"}\n'


async def measure(keys: int = KEYS, copies: int = COPIES) -> list[Figure]:
    """Send every upload, and compare what the answers name with what is stored."""
    async with system_rig.running() as system, system.customer() as customer:
        began, gate = time.perf_counter(), asyncio.Semaphore(_KEYS_AT_ONCE)

        async def send_all(number: int) -> set[str]:
            async with gate:
                sent = (_send(customer, f"key-{number}") for _ in range(copies))
                return set(await asyncio.gather(*sent))

        named = await asyncio.gather(*map(send_all, range(keys)))
        listed = (await customer.get("/api/v1/batches")).json()["pagination"]["total"]
        wrong = sum(len(each) - 1 for each in named) + abs(listed - keys)
        count = len(set().union(*named))
        return [
            Figure(
                "batches of one key too many, or too few",
                f"{wrong}",
                f"{keys:,} keys, {copies} uploads at once with each: {count:,} batches in "
                f"{time.perf_counter() - began:.0f} s",
                f"<= {bounds.FAULTS}",
                wrong <= bounds.FAULTS and count == keys,
            )
        ]


async def _send(customer: ApiClient, key: str) -> str:
    headers = {"content-type": "application/x-ndjson", "idempotency-key": key}
    while True:
        answer = await customer.post("/api/v1/batches", content=_LINES, headers=headers)
        if answer.status_code != httpx.codes.CONFLICT:
            answer.raise_for_status()
            return str(answer.json()["batch_id"])


async def report() -> None:
    """Measure and print."""
    figures.print_line(figures.table("batch_keys", await measure()))


if __name__ == "__main__":
    figures.print_line(figures.machine())
    asyncio.run(report())
