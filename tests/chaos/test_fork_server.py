"""The nursery leaves nobody behind, whatever ends it."""

import os
import signal
from pathlib import Path

import pytest

from shared.settings import RedisSettings, Settings
from tests.chaos.worker_pool import WorkerPool
from tests.support import process_tree, processes
from tests.support.redis_server import Server
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def environment(marked_server: Server, tmp_path: Path) -> dict[str, str]:
    """Return what makes a worker work on the server."""
    redis = RedisSettings(url=marked_server.url, prefix="nursery")
    return processes.environment(Settings(redis=redis), tmp_path)


async def test_workers_end_as_they_are_told(environment: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with WorkerPool(environment, log) as pool:
        killed, told = [await pool.until_ready(pool.fork_worker()) for _ in range(2)]
        assert killed.id != told.id
        killed.kill()
        assert await killed.ended() == -signal.SIGKILL
        await until(lambda: log.read_text().count("worker ready") == 2)
        told.terminate()
        assert await told.ended() == 0


async def test_workers_end_with_the_brood(environment: dict[str, str], tmp_path: Path) -> None:
    async with WorkerPool(environment, tmp_path / "log") as pool:
        runs, stopped = [await pool.until_ready(pool.fork_worker()) for _ in range(2)]
        stopped.pause()
        nursery = pool.pid
    await until(lambda: not any(map(process_tree.is_alive, (runs.pid, stopped.pid, nursery))))


async def test_workers_end_with_the_nursery(environment: dict[str, str], tmp_path: Path) -> None:
    async with WorkerPool(environment, tmp_path / "log") as pool:
        runs, stopped = [await pool.until_ready(pool.fork_worker()) for _ in range(2)]
        stopped.pause()
        os.kill(pool.pid, signal.SIGKILL)
        await until(lambda: not any(map(process_tree.is_alive, (runs.pid, stopped.pid, pool.pid))))


async def test_worker_that_cannot_start_is_told(
    environment: dict[str, str], tmp_path: Path
) -> None:
    async with WorkerPool(environment, tmp_path / "log") as pool:
        child = pool.fork_worker(environment={"POLLUX_WORKER__CONCURRENCY": "none"})
        assert await child.ended() == 1
    assert "concurrency" in (tmp_path / "log").read_text()
