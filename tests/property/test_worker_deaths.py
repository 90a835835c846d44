"""However poison messages and others share workers: poisons are given up, no other message is."""

import pytest

from shared.redis.client import Redis
from shared.settings import RedisSettings
from tests.property import worker_deaths
from tests.property.worker_deaths import PLANS

# Seeds with different outcomes in the plans where a death costs neighbours upstream calls.
_SEEDS = (2, 7, 18)
# Many deaths in a row delay that a death is counted.
_DEATHS_PER_POISON_MAX = 12


@pytest.mark.each_once
@pytest.mark.parametrize("name", PLANS)
async def test_no_schedule_of_deaths_buries_an_innocent_message_or_spares_a_poison(
    redis: Redis, redis_settings: RedisSettings, name: str
) -> None:
    plan = PLANS[name]
    for seed in _SEEDS:
        outcome = await worker_deaths.run(redis, redis_settings, plan, seed)
        schedule = "\n".join((f"seed {seed}", *outcome.log))
        assert (outcome.innocents_failed, outcome.unfinished) == (0, 0), schedule
        assert outcome.poisons_given_up == plan.poisons, schedule
        assert outcome.deaths <= _DEATHS_PER_POISON_MAX * plan.poisons, schedule
