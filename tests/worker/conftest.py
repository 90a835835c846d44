"""A deployment without a front, and the few words of one in its place."""

import pytest

from tests.support.system import System, own_system, system
from tests.worker.front import Front

__all__ = ["front", "own_front", "own_system", "system"]


@pytest.fixture
def front(system: System) -> Front:  # noqa: F811  the fixture of that name
    """Return the front of a deployment on the shared server."""
    return Front(system._redis, system.settings)


@pytest.fixture
def own_front(own_system: System) -> Front:  # noqa: F811  the fixture of that name
    """Return the front of a deployment on a server of the test's own."""
    return Front(own_system._redis, own_system.settings)
