"""Fixtures of the API server's tests: a deployment, a customer, a worker, another customer."""

import pytest

from tests.api.kombify_client import MANAGING
from tests.support.api_client import ApiClient
from tests.support.system import System, api, other, own_system, system, worker

__all__ = ["api", "other", "own_system", "system", "worker"]


@pytest.fixture
async def owner(system: System) -> ApiClient:
    """Return a customer of a running API server whose key may create others."""
    await system.front()
    made = await system.customer(scopes=MANAGING)
    # Its key is older than all others.
    system.clock.advance(1)
    return made
