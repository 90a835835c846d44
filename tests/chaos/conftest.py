"""A server that planted faults may leave in any state: no invariants are checked on it."""

from collections.abc import Iterator

import pytest

from tests.support.redis_server import Server


@pytest.fixture(scope="session")
def marked_server() -> Iterator[Server]:
    """Return a server whose contents the tests check themselves, each under its own prefix."""
    with Server() as server:
        yield server
