"""Every Redis failure, shortened, against processes that live through all of them in turn."""

from collections.abc import AsyncIterator
from typing import Final

import pytest

from tests.chaos.redis_failures import verdict
from tests.chaos.redis_failures.deployment import FailureDeployment, running_scene
from tests.chaos.redis_failures.failures import REDIS_FAILURES, RedisFailure
from tests.chaos.redis_failures.runner import play

# The first of a module waits for three programs to start.
pytestmark = pytest.mark.timeout(120)

_TIMEOUT_SECONDS: Final = 1.0
# A machine that is busy with other tests: only what hangs takes longer.
_MARGIN_SECONDS: Final = 20.0

_SERVER_FAILURES = [
    pytest.param(row, id=row.name) for row in REDIS_FAILURES if not row.is_on_network
]
_NETWORK_FAILURES = [pytest.param(row, id=row.name) for row in REDIS_FAILURES if row.is_on_network]


@pytest.fixture(scope="module")
async def deployment() -> AsyncIterator[FailureDeployment]:
    async with running_scene(timeout_seconds=_TIMEOUT_SECONDS) as deployment:
        yield deployment


@pytest.fixture(scope="module")
async def deployment_behind_proxy() -> AsyncIterator[FailureDeployment]:
    async with running_scene(is_behind_proxy=True, timeout_seconds=_TIMEOUT_SECONDS) as deployment:
        yield deployment


async def _nothing_broke(redis_failure: RedisFailure, deployment: FailureDeployment) -> None:
    result = await play(redis_failure, deployment, redis_failure.short_seconds)
    redis = deployment.settings.redis
    assert not [*verdict.breaches(redis_failure, result, redis, margin_seconds=_MARGIN_SECONDS)]


@pytest.mark.parametrize("redis_failure", _SERVER_FAILURES)
async def test_trouble_of_the_server(
    deployment: FailureDeployment, redis_failure: RedisFailure
) -> None:
    await _nothing_broke(redis_failure, deployment)


@pytest.mark.parametrize("redis_failure", _NETWORK_FAILURES)
async def test_trouble_on_the_way(
    deployment_behind_proxy: FailureDeployment, redis_failure: RedisFailure
) -> None:
    await _nothing_broke(redis_failure, deployment_behind_proxy)
