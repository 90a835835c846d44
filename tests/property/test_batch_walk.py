"""Random walks over batches; `python -m tests.property` walks further."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from shared.settings import RedisSettings
from tests.property.batch_walk import BatchWalk
from tests.support.redis_server import Server


@pytest.mark.each_once
@pytest.mark.timeout(120)
def test_batches_lose_and_double_nothing(server: Server, redis_settings: RedisSettings) -> None:
    class BoundWalk(BatchWalk):
        pass

    BoundWalk.server, BoundWalk.redis_settings = server, redis_settings
    run_state_machine_as_test(
        BoundWalk,
        settings=settings(
            max_examples=5,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
