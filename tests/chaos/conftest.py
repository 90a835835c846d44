"""A server that planted faults may leave in any state: no ledger is asked about it afterwards."""

from collections.abc import Iterator

import pytest

from tests.support.redis_server import Server


@pytest.fixture(scope="session")
def marked_server() -> Iterator[Server]:
    """Return a server for what the test itself judges; each takes a prefix of its own."""
    with Server() as server:
        yield server
