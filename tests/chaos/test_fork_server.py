"""The fork server leaves no worker behind, whatever ends it."""

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
    redis = RedisSettings(url=marked_server.url, prefix="forked")
    return processes.environment(Settings(redis=redis), tmp_path)


async def test_workers_end_by_the_signal_they_get(
    environment: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    async with WorkerPool(environment, log) as pool:
        killed, terminated = [await pool.until_ready(pool.fork_worker()) for _ in range(2)]
        assert killed.id != terminated.id
        killed.kill()
        assert await killed.ended() == -signal.SIGKILL
        await until(lambda: log.read_text().count("worker ready") == 2)
        terminated.terminate()
        assert await terminated.ended() == 0


async def test_workers_end_when_the_pool_closes(
    environment: dict[str, str], tmp_path: Path
) -> None:
    async with WorkerPool(environment, tmp_path / "log") as pool:
        runs, stopped = [await pool.until_ready(pool.fork_worker()) for _ in range(2)]
        stopped.pause()
        fork_server = pool.pid
    await until(lambda: not any(map(process_tree.is_alive, (runs.pid, stopped.pid, fork_server))))


async def test_workers_end_when_the_fork_server_is_killed(
    environment: dict[str, str], tmp_path: Path
) -> None:
    async with WorkerPool(environment, tmp_path / "log") as pool:
        runs, stopped = [await pool.until_ready(pool.fork_worker()) for _ in range(2)]
        stopped.pause()
        os.kill(pool.pid, signal.SIGKILL)
        await until(lambda: not any(map(process_tree.is_alive, (runs.pid, stopped.pid, pool.pid))))


async def test_a_worker_that_cannot_start_reports_its_exit_code(
    environment: dict[str, str], tmp_path: Path
) -> None:
    async with WorkerPool(environment, tmp_path / "log") as pool:
        child = pool.fork_worker(environment={"POLLUX_WORKER__CONCURRENCY": "none"})
        assert await child.ended() == 1
    assert "concurrency" in (tmp_path / "log").read_text()
