"""A limit is found and kept with few refusals, and refusals by chance slow nobody down."""

import pytest

from shared.redis.client import Redis
from shared.settings import RedisSettings
from tests.property import throttled_fleet
from tests.property.throttled_fleet import SCENES

# Short parts of the scenes; `python -m tests.property.throttled_fleet` plays all to their ends.
_SHORT = {
    "window of 60 a minute, with Retry-After": 300.0,
    "bucket of 60 a minute": 400.0,
    "chance 5 %": 120.0,
}


@pytest.mark.each_once
@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", _SHORT)
async def test_a_limit_is_kept_and_chance_slows_nobody(
    redis: Redis, redis_settings: RedisSettings, name: str
) -> None:
    scene = SCENES[name]._replace(seconds=_SHORT[name])
    outcome = await throttled_fleet.play(redis, redis_settings, scene, seed=1)
    assert throttled_fleet.faults(scene, outcome) == []
