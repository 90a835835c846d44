"""Every trouble of Redis, made short, against processes that live through all of them in turn."""

from collections.abc import AsyncIterator
from typing import Final

import pytest

from tests.chaos.troubles import verdict
from tests.chaos.troubles.play import play
from tests.chaos.troubles.scene import Scene, standing
from tests.chaos.troubles.troubles import TROUBLES, Trouble

# The first of a module waits for three programs to start.
pytestmark = pytest.mark.timeout(120)

_TIMEOUT_SECONDS: Final = 1.0
# A machine that is busy with other tests: only what hangs takes longer.
_MARGIN_SECONDS: Final = 20.0

_OF_THE_SERVER = [pytest.param(row, id=row.name) for row in TROUBLES if not row.is_on_the_way]
_ON_THE_WAY = [pytest.param(row, id=row.name) for row in TROUBLES if row.is_on_the_way]


@pytest.fixture(scope="module")
async def scene() -> AsyncIterator[Scene]:
    async with standing(timeout_seconds=_TIMEOUT_SECONDS) as deployment:
        yield deployment


@pytest.fixture(scope="module")
async def scene_behind_proxy() -> AsyncIterator[Scene]:
    async with standing(is_behind_proxy=True, timeout_seconds=_TIMEOUT_SECONDS) as deployment:
        yield deployment


async def _nothing_broke(trouble: Trouble, scene: Scene) -> None:
    result = await play(trouble, scene, trouble.short_seconds)
    redis = scene.settings.redis
    assert not [*verdict.breaches(trouble, result, redis, margin_seconds=_MARGIN_SECONDS)]


@pytest.mark.parametrize("trouble", _OF_THE_SERVER)
async def test_trouble_of_the_server(scene: Scene, trouble: Trouble) -> None:
    await _nothing_broke(trouble, scene)


@pytest.mark.parametrize("trouble", _ON_THE_WAY)
async def test_trouble_on_the_way(scene_behind_proxy: Scene, trouble: Trouble) -> None:
    await _nothing_broke(trouble, scene_behind_proxy)
