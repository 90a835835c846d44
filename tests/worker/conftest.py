"""Fixtures: a deployment without API processes, and `Front` in their place."""

from collections.abc import AsyncIterator

import pytest

from tests.support.scripted_provider import ScriptedProvider
from tests.support.system import System, own_system, system
from tests.worker.front import Front
from tests.worker.round_scenes import ToolScene, calls_then_answer
from tests.worker.single_attempts import Attempts

__all__ = ["attempts", "front", "own_front", "own_system", "system"]


@pytest.fixture
def front(system: System) -> Front:
    """Return the front of a deployment on the shared server."""
    return Front(system.redis, system.settings)


@pytest.fixture
def own_front(own_system: System) -> Front:
    """Return the front of a deployment on a server of the test's own."""
    return Front(own_system.redis, own_system.settings)


@pytest.fixture
def scene(attempts: Attempts, provider: ScriptedProvider) -> ToolScene:
    """Return the scene of a model that calls two tools and then answers."""
    provider.answer = calls_then_answer
    return ToolScene(attempts)


@pytest.fixture
async def attempts(system: System, front: Front) -> AsyncIterator[Attempts]:
    """Return a maker of attempts on the shared server."""
    maker = Attempts(system, front)
    yield maker
    await maker.close()
