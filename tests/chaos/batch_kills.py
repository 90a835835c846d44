"""API processes, workers and Redis are killed while a batch is uploaded, runs and is downloaded.

`python -m tests.chaos.batch_kills --items 20000 --kills 5`: a front, two workers and a server that
syncs each write; each of the three kinds is killed so often with SIGKILL and started again: the
front in turn during an upload, a download and a cancel, a worker and the server after each share of
the batch. At the end there is one batch, each item is answered in its place and was delivered once
in either order, each cancelled batch has ended, and the ledger says what all of it cost. Prints
what it found, and how many further calls of the upstream were made. With `--old PATH` each other
process is of that checkout, so that both versions work on the same batch.
"""

import asyncio
import itertools
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import uvloop

from shared.errors import UnavailableError
from shared.redis import keys
from shared.settings import WorkerSettings
from tests.chaos import batch_run
from tests.chaos.batch_api_kills import MOMENTS, BatchClient, Moment
from tests.chaos.evidence import Finding
from tests.chaos.scene import Scene, running_scene
from tests.support import command_line, waiting
from tests.support.processes import Process

Order = Literal["input", "finished"]
ITEMS: Final = 20_000
KILLS: Final = 5
_OWN_PROGRAM: Final = (sys.executable, "-m")
_CHORE_SECONDS: Final = 30.0
_GIVE_UP_SECONDS: Final = 600.0
_WORKERS: Final = 2
_WORKER: Final = WorkerSettings(
    concurrency=64, lease_seconds=0.5, beat_seconds=0.1, reap_seconds=0.05, grace_seconds=0.1
)


class Kills(NamedTuple):
    """What was found, the calls of the upstream beyond one an item, and when fronts were killed."""

    findings: list[Finding]
    calls_more: int
    of_fronts: Counter[Moment]


async def run(count: int = ITEMS, kills: int = KILLS, old: Path | None = None) -> Kills:
    """Run a batch with so many kills of fronts, of workers, and of Redis."""
    programs = [_OWN_PROGRAM] if old is None else [(str(old / ".venv/bin/pollux"),), _OWN_PROGRAM]
    async with (
        running_scene(_WORKER, words=(1, 2), pace=(0.0, 0.0), durability="fsync") as scene,
        BatchClient(scene, programs) as client,
    ):
        moments = [MOMENTS[number % len(MOMENTS)] for number in range(kills)]
        batch = await client.upload("the batch", count, moments.count("upload"))
        next_program = itertools.cycle(programs)
        workers = [client.start("worker", next(next_program)) for _ in range(_WORKERS)]
        delivered: dict[Order, list[Any]] = {"input": [], "finished": []}
        async with asyncio.TaskGroup() as group:
            for order, lines in delivered.items():
                group.create_task(client.download(batch, order, lines))
            for number in range(kills):
                workers.append(client.start("worker", next(next_program)))
                await _kill_each(scene, client, batch, count, (number, kills), workers.pop(0))
        calls = len(scene.evidence.upstream_calls)
        cancelled = [
            await _cancelled(scene, client, count // 4, number)
            for number in range(moments.count("cancel"))
        ]
        await _until_packed(scene, client.account, batch)
        found = [finding for each in cancelled for finding in each]
        found += await _list_faults(client, batch, len(cancelled))
        for worker in workers:
            worker.kill()
        with scene.server.raw_client() as raw_client:
            where = (scene.settings.redis, scene.root, client.account, batch)
            found += batch_run.findings(raw_client, *where, count, spent=await client.used())
        for order, lines in delivered.items():
            found += _delivery_faults(order, lines, count)
        return Kills(found, calls - count, client.kills)


async def _kill_each(
    scene: Scene,
    client: BatchClient,
    batch: str,
    count: int,
    round_: tuple[int, int],
    worker: Process,
) -> None:
    """Kill a worker, the server and, in a third of the rounds, the front."""
    number, kills = round_
    shares = [count * (2 * number + half) // (2 * kills + 1) for half in (1, 2)]
    await _until_ended(scene, client.account, batch, shares[0])
    worker.kill()
    if MOMENTS[number % len(MOMENTS)] == "download":
        await client.kill_in_download(batch)
    await _until_ended(scene, client.account, batch, shares[1])
    scene.server.kill()
    await asyncio.to_thread(scene.server.start)


async def _cancelled(scene: Scene, client: BatchClient, count: int, number: int) -> list[Finding]:
    """Cancel another batch with a kill, and return what does not hold once it has ended."""
    batch = await client.upload(f"cancelled {number}", count, 0)
    await client.cancel(batch, is_killed=True)

    async def has_ended() -> bool:
        return bool((await client.show(batch))["finished_at"])

    await waiting.until(has_ended, _GIVE_UP_SECONDS, what="the end of a cancelled batch")
    shown, lines = await client.show(batch), list[Any]()
    await client.download(batch, "finished", lines)
    await _until_packed(scene, client.account, batch)
    is_whole = sorted(line["line"] for line in lines) == list(range(1, count + 1))
    ended = {state: shown["counts"][state] for state in ("completed", "cancelled")}
    delivered = Counter(line["state"] for line in lines)
    if shown["state"] == "cancelled" and is_whole and ended == {s: delivered[s] for s in ended}:
        return []
    return [Finding("I1", batch, f"{shown} has the results {delivered}")]


async def _list_faults(client: BatchClient, batch: str, cancelled: int) -> list[Finding]:
    """The uploads that were killed leave nothing behind, once the chore has deleted them."""

    async def is_tidy() -> bool:
        return await client.listed() == 1 + cancelled

    try:
        await waiting.until(is_tidy, _CHORE_SECONDS, what="the end of broken uploads")
    except AssertionError:
        return [Finding("I8", batch, f"{await client.listed()} batches are listed")]
    return []


def _delivery_faults(order: Order, lines: list[Any], count: int) -> list[Finding]:
    numbers = [line["line"] for line in lines]
    expected = list(range(1, count + 1))
    if (numbers if order == "input" else sorted(numbers)) == expected:
        return []
    return [Finding("I1", order, f"{len(numbers)} lines came, {len(set(numbers))} different")]


async def _until_ended(scene: Scene, account: str, batch: str, count: int) -> None:
    async def have_ended() -> bool:
        try:
            where = keys.BATCH(scene.root, account, batch)
            return int(await scene.redis.call("HGET", where, "seq") or 0) >= count
        except UnavailableError:
            return False

    await waiting.until(have_ended, _GIVE_UP_SECONDS, what=f"{count} ends")


async def _until_packed(scene: Scene, account: str, batch: str) -> None:
    async def is_packed() -> bool:
        try:
            where = keys.BATCH(scene.root, account, batch)
            unfed, left = await asyncio.gather(
                scene.redis.call("HGET", where, "unfed"),
                scene.redis.call("EXISTS", keys.BATCH_CHUNKS_TO_PACK(scene.root)),
            )
        except UnavailableError:
            return False
        return unfed is None and not left

    await waiting.until(is_packed, _GIVE_UP_SECONDS, what="the last chunk")


def main() -> int:
    """Run and print; return 1 if anything was found."""
    parser = command_line.parser("tests.chaos.batch_kills", __doc__)
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument(
        "--kills", type=int, default=KILLS, help="of fronts, of workers, and of Redis"
    )
    parser.add_argument("--old", type=Path, help="folder of a checkout with its .venv")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        done = runner.run(run(options.items, options.kills, options.old))
    sys.stdout.writelines(f"{finding}\n" for finding in done.findings[:20])
    sys.stdout.write(
        f"{options.items} items, {options.kills} kills of workers and of Redis, of fronts "
        f"{dict(done.of_fronts)}: {len(done.findings)} findings, {done.calls_more} further "
        "upstream calls\n"
    )
    return 1 if done.findings else 0


if __name__ == "__main__":
    sys.exit(main())
