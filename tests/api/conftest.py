"""The fixtures of the front's tests: a deployment, a customer, a worker, somebody else."""

import pytest

from tests.api.kombify import MANAGING
from tests.support.customer import Customer
from tests.support.system import System, api, other, own_system, system, worker

__all__ = ["api", "other", "own_system", "system", "worker"]


@pytest.fixture
async def owner(system: System) -> Customer:
    """Return a customer of a running front whose key may make others."""
    await system.front()
    made = await system.customer(scopes=MANAGING)
    # Its key is older than all others.
    system.clock.turn(1)
    return made
