"""Workers and Redis are killed while a batch runs: each item is answered once and charged once.

`python -m tests.chaos.batch_kills --items 20000 --kills 5`: two workers and a server that syncs
each write. After each share of the batch, first a worker and then the server is killed with SIGKILL
and started again. At the end the results are complete and in their places, and the ledger says what
they cost. Prints what it found, and how many further calls of the upstream were made.
"""

import asyncio
import sys
from collections import Counter
from typing import Final, NamedTuple

import uvloop

from shared.clock import SystemClock
from shared.errors import UnavailableError
from shared.redis import keys
from shared.settings import WorkerSettings
from tests.chaos import batch_run
from tests.chaos.evidence import Finding
from tests.chaos.scene import Scene, running_scene
from tests.support import command_line, waiting
from tests.worker.front import Front
from worker.batches.work import BatchWork

ITEMS: Final = 20_000
KILLS: Final = 5
_ACCOUNT: Final = "mill"
_CHUNK: Final = 128
_GIVE_UP_SECONDS: Final = 600.0
_WORKERS: Final = 2
_WORKER: Final = WorkerSettings(
    concurrency=64, lease_seconds=0.5, beat_seconds=0.1, reap_seconds=0.05, grace_seconds=0.1
)


class Kills(NamedTuple):
    """What was found, and the calls of the upstream beyond one for each item."""

    findings: list[Finding]
    calls_more: int


async def run(count: int = ITEMS, kills: int = KILLS, chunk: int = _CHUNK) -> Kills:
    """Run a batch with so many kills of workers, and as many of Redis."""
    async with running_scene(_WORKER, words=(1, 2), pace=(0.0, 0.0), durability="fsync") as scene:
        root = Front(scene.redis, scene.settings).root_of(_ACCOUNT)
        await batch_run.store_items(scene.redis, root, _ACCOUNT, count, chunk)
        workers = [scene.pool.fork_worker((), {}) for _ in range(_WORKERS)]
        for worker in workers:
            await scene.pool.until_ready(worker)
        await BatchWork(scene.redis, scene.settings, SystemClock()).advance(
            root, _ACCOUNT, batch_run.BATCH
        )
        for number in range(kills):
            await _until_ended(scene, root, count * (2 * number + 1) // (2 * kills + 1))
            workers[0].kill()
            await workers[0].ended()
            workers = [*workers[1:], scene.pool.fork_worker((), {})]
            await _until_ended(scene, root, count * (2 * number + 2) // (2 * kills + 1))
            scene.server.kill()
            await asyncio.to_thread(scene.server.start)
        await _until_packed(scene, root)
        for worker in workers:
            worker.kill()
            await worker.ended()
        with scene.server.raw_client() as raw_client:
            found = batch_run.findings(raw_client, scene.settings.redis, root, _ACCOUNT, count)
        calls = Counter(call.question for call in scene.evidence.upstream_calls)
        return Kills(found, sum(calls.values()) - count)


async def _until_ended(scene: Scene, root: str, count: int) -> None:
    async def have_ended() -> bool:
        try:
            where = keys.BATCH(root, _ACCOUNT, batch_run.BATCH)
            return int(await scene.redis.call("HGET", where, "seq") or 0) >= count
        except UnavailableError:
            return False

    await waiting.until(have_ended, _GIVE_UP_SECONDS, what=f"{count} ends")


async def _until_packed(scene: Scene, root: str) -> None:
    async def is_packed() -> bool:
        try:
            return await batch_run.is_over(scene.redis, root, _ACCOUNT)
        except UnavailableError:
            return False

    await waiting.until(is_packed, _GIVE_UP_SECONDS, what="the last chunk")


def main() -> int:
    """Run and print; return 1 if anything was found."""
    parser = command_line.parser("tests.chaos.batch_kills", __doc__)
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--kills", type=int, default=KILLS, help="of workers, and of Redis")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        done = runner.run(run(options.items, options.kills))
    sys.stdout.writelines(f"{finding}\n" for finding in done.findings[:20])
    sys.stdout.write(
        f"{options.items} items, {options.kills} kills of workers and of Redis: "
        f"{len(done.findings)} findings, {done.calls_more} further upstream calls\n"
    )
    return 1 if done.findings else 0


if __name__ == "__main__":
    sys.exit(main())
