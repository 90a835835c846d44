"""The nursery leaves nobody behind, whatever ends it."""

import os
import signal
from pathlib import Path

import pytest

from shared.settings import RedisSettings, Settings
from tests.chaos.brood import Brood
from tests.support import family, processes
from tests.support.server import Server
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def environment(marked_server: Server, tmp_path: Path) -> dict[str, str]:
    """Return what makes a worker work on the server."""
    redis = RedisSettings(url=marked_server.url, prefix="nursery")
    return processes.environment(Settings(redis=redis), tmp_path)


async def test_workers_end_as_they_are_told(environment: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with Brood(environment, log) as brood:
        killed, told = [await brood.named(brood.bear()) for _ in range(2)]
        assert killed.id != told.id
        killed.kill()
        assert await killed.ended() == -signal.SIGKILL
        await until(lambda: log.read_text().count("worker ready") == 2)
        told.terminate()
        assert await told.ended() == 0


async def test_workers_end_with_the_brood(environment: dict[str, str], tmp_path: Path) -> None:
    async with Brood(environment, tmp_path / "log") as brood:
        runs, stopped = [await brood.named(brood.bear()) for _ in range(2)]
        stopped.pause()
        nursery = brood.pid
    await until(lambda: not any(map(family.is_alive, (runs.pid, stopped.pid, nursery))))


async def test_workers_end_with_the_nursery(environment: dict[str, str], tmp_path: Path) -> None:
    async with Brood(environment, tmp_path / "log") as brood:
        runs, stopped = [await brood.named(brood.bear()) for _ in range(2)]
        stopped.pause()
        os.kill(brood.pid, signal.SIGKILL)
        await until(lambda: not any(map(family.is_alive, (runs.pid, stopped.pid, brood.pid))))


async def test_worker_that_cannot_start_is_told(
    environment: dict[str, str], tmp_path: Path
) -> None:
    async with Brood(environment, tmp_path / "log") as brood:
        ward = brood.bear(environment={"POLLUX_WORKER__CONCURRENCY": "none"})
        assert await ward.ended() == 1
    assert "concurrency" in (tmp_path / "log").read_text()
