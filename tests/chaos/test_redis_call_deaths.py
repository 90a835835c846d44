"""A worker dies before and after some of its Redis calls; the command tries all of them."""

from collections.abc import AsyncIterator

import pytest

from tests.chaos import redis_call_deaths
from tests.chaos.redis_call_deaths import Scenario
from tests.chaos.scene import Scene

pytestmark = pytest.mark.timeout(60)

# Each passage takes half a second; those around the settlement are always tried.
_EVERY: dict[Scenario, int] = {
    "talk": 25,
    "alone": 33,
    "cancel": 37,
    "drain": 31,
    "heir": 29,
    "tools": 71,
    "approval": 71,
    "batch": 149,
}
# What a worker ends an attempt with.
_LAST_CALLS = frozenset({"settle", "release", "suspend"})


@pytest.fixture(scope="module")
async def scene() -> AsyncIterator[Scene]:
    async with redis_call_deaths.shared_scene() as shared:
        yield shared


@pytest.mark.parametrize("scenario", _EVERY)
async def test_nothing_is_lost_where_a_worker_dies(scene: Scene, scenario: Scenario) -> None:
    every = await redis_call_deaths.list_boundaries(scene, scenario)
    settlement = [one for one in every if one.name in _LAST_CALLS][:2]
    chosen = dict.fromkeys((*settlement, *every[:: _EVERY[scenario]]))
    tried = [await redis_call_deaths.die_at(scene, scenario, boundary) for boundary in chosen]
    assert [one.findings for one in tried] == [[]] * len(tried)
    # A draining worker settles or releases, as its time allows.
    assert scenario == "drain" or all(one.is_reached for one in tried[:2])
    assert sum(one.is_reached for one in tried) > len(tried) // 2
