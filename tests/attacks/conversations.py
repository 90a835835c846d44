"""A long conversation of cancelled turns: its pages, and a short message in it."""

import asyncio
import time
from pathlib import Path
from typing import Final

import httpx

from tests.attacks import bounds, flood, other_tenant, storage, target as targets
from tests.attacks.target import MIB, Plan, Target
from tests.bench.figures import Figure
from tests.support.api_client import ApiClient

_TURNS: Final = 110
_PAGES: Final = 8
_MESSAGES: Final = 20
_PATH: Final = "/api/v1/chat/conversations/{}/messages?limit=100"
_WHERE: Final = f"in a conversation of {_TURNS} cancelled turns of 0.8 MB"


async def read_pages(checkout: Path) -> list[Figure]:
    """Read the longest page eight times at once."""
    async with (
        targets.running(checkout, Plan()) as target,
        target.customer(await target.key("attacker", "enterprise")) as customer,
    ):
        first = await storage.store_cancelled(customer, _TURNS)
        with flood.growth(target.api) as grown:
            attack = _read_at_once(customer, _PATH.format(first["session_id"]))
            (size, seconds), tenant_report = await other_tenant.run_beside(target, attack)
            mib = grown()
    return [
        Figure(
            f"{_PAGES} pages of 100 messages {_WHERE}",
            f"front grows by {mib:.0f} MiB, {seconds:.1f} s",
            f"{size / MIB:.1f} MiB a page",
            f"<= {bounds.PAGE_MIB * _PAGES:g} MiB",
            mib <= bounds.PAGE_MIB * _PAGES,
        ),
        tenant_report.figure(),
    ]


async def _read_at_once(customer: ApiClient, path: str) -> tuple[float, float]:
    """Return the bytes of a page, and the seconds for all of them."""
    began = time.monotonic()
    sizes = await asyncio.gather(*(_page_size(customer, path) for _ in range(_PAGES)))
    return max(sizes), time.monotonic() - began


async def _page_size(customer: ApiClient, path: str) -> int:
    size = 0
    async with customer.stream("GET", path) as answer:
        assert answer.status_code == httpx.codes.OK, await answer.aread()
        async for piece in answer.aiter_raw():
            size += len(piece)
    return size


async def send_short_messages(checkout: Path) -> list[Figure]:
    """Send short messages in it: the worker reads the earlier turns each time."""
    async with (
        targets.running(checkout, Plan()) as target,
        target.customer(await target.key("attacker", "enterprise")) as customer,
    ):
        first = await storage.store_cancelled(customer, _TURNS)
        await storage.cancel(customer, first)
        await customer.wait_for_end(first)
        with flood.growth(target.workers[0]) as grown:
            (read_mib, seconds), tenant_report = await other_tenant.run_beside(
                target, _send_short_messages(target, customer, first["session_id"])
            )
            mib = grown()
    is_met = read_mib <= bounds.RECALL_MIB and seconds <= bounds.SHORT_SECONDS
    return [
        Figure(
            f'"hi" {_WHERE}',
            f"{read_mib:.1f} MiB read, worker grows by {mib:.0f} MiB, {seconds:.1f} s",
            "",
            f"<= {bounds.RECALL_MIB:g} MiB, {bounds.SHORT_SECONDS:g} s",
            is_met,
        ),
        tenant_report.figure(),
    ]


async def _send_short_messages(
    target: Target, customer: ApiClient, session: str
) -> tuple[float, float]:
    """Send it several times; return the largest read from Redis in MiB, and the longest time."""
    read_mib_max, slowest = 0.0, 0.0
    for _ in range(_MESSAGES):
        before, began = flood.sent_by_redis_mib(target), time.monotonic()
        status = await customer.submit_and_wait("hi", session_id=session)
        assert status["state"] == "completed", status
        read_mib_max = max(read_mib_max, flood.sent_by_redis_mib(target) - before)
        slowest = max(slowest, time.monotonic() - began)
    return read_mib_max, slowest
