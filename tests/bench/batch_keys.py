"""Many uploads at once with each of many Idempotency-Keys: one batch for each key.

Each upload has a connection of its own, and is sent again at once while another one with its key is
under way (409): nobody waits as long as `Retry-After` asks. The client is a bare one, since a pool
of hundreds of connections costs more than what is measured.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from tests.bench import bounds, figures, process_usage, system_rig
from tests.bench.figures import Figure
from tests.bench.system_rig import Rig

KEYS: Final = 1_000
COPIES: Final = 100
_KEYS_AT_ONCE: Final = 4
_LINES: Final = b'{"message": "one"}\n{"message": "two"}\n'
_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: (\d+)\r\n")
_BATCH: Final = re.compile(rb'"batch_id":"([^"]+)"')
_CONFLICT: Final = b"HTTP/1.1 409 "
_OK: Final = b"HTTP/1.1 200 "


class _Sender(NamedTuple):
    """One connection to the front, with the header fields of its uploads."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    head: bytes

    async def send(self, key: str) -> tuple[str, int]:
        """Upload the lines until they are taken; return the batch, and how many tries it took."""
        request = self.head + f"idempotency-key: {key}\r\n\r\n".encode() + _LINES
        tries = 1
        while (answer := await self._ask(request)).startswith(_CONFLICT):
            tries += 1
        named = _BATCH.search(answer)
        assert answer.startswith(_OK), answer
        assert named is not None, answer
        return named[1].decode(), tries

    async def _ask(self, request: bytes) -> bytes:
        self.writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        assert length is not None, head
        return head + await self.reader.readexactly(int(length[1]))


async def measure(keys: int = KEYS, copies: int = COPIES) -> list[Figure]:
    """Send every upload, and compare what the answers name with what is stored."""
    async with system_rig.running() as system:
        cpu, began = process_usage.cpu_seconds([system.api.pid]), time.perf_counter()
        numbers = iter(range(keys))
        groups = [_send_all(system, numbers, copies) for _ in range(_KEYS_AT_ONCE)]
        sent = {key: each for group in await asyncio.gather(*groups) for key, each in group.items()}
        took = time.perf_counter() - began
        cpu = process_usage.cpu_seconds([system.api.pid]) - cpu
        async with system.customer() as customer:
            listed = (await customer.get("/api/v1/batches")).json()["pagination"]["total"]
    named = [{batch for batch, _ in each} for each in sent.values()]
    tries = sum(count for each in sent.values() for _, count in each)
    wrong = sum(len(each) - 1 for each in named) + abs(listed - keys)
    count = len(set().union(*named))
    uploads = keys * copies
    return [
        Figure(
            "batches of one key too many, or too few",
            f"{wrong}",
            f"{keys:,} keys, {copies} uploads at once with each: {count:,} batches",
            f"<= {bounds.FAULTS}",
            wrong <= bounds.FAULTS and count == keys,
        ),
        Figure(
            "  uploads a second, with those that repeat one",
            f"{uploads / took:,.0f}",
            f"{took:.0f} s, {tries - uploads:,} tries while one was under way, "
            f"{1000 * cpu / tries:.2f} ms of the front's CPU a try",
            "",
            None,
        ),
    ]


async def _send_all(
    system: Rig, numbers: Iterator[int], copies: int
) -> dict[int, list[tuple[str, int]]]:
    """Upload with one key after the other, by all connections at once."""
    sent = {}
    async with AsyncExitStack() as stack:
        senders = [await stack.enter_async_context(_connected(system)) for _ in range(copies)]
        for number in numbers:
            each = (sender.send(f"key-{number}") for sender in senders)
            sent[number] = await asyncio.gather(*each)
    return sent


@asynccontextmanager
async def _connected(system: Rig) -> AsyncIterator[_Sender]:
    where = urlsplit(system.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    fields = f"x-api-key: {system.key}\r\ncontent-type: application/x-ndjson\r\n"
    head = f"POST /api/v1/batches HTTP/1.1\r\nhost: bench\r\ncontent-length: {len(_LINES)}\r\n"
    yield _Sender(reader, writer, (head + fields).encode())
    writer.close()


async def report() -> None:
    """Measure and print."""
    figures.print_line(figures.table("batch_keys", await measure()))


if __name__ == "__main__":
    figures.print_line(figures.machine())
    asyncio.run(report())
