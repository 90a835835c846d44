"""Fixtures that every test can use.

server          A running server, shared by the tests of one process; never kill, pause or flush it
redis_settings  A fresh prefix on it
redis           A connected client with the function library loaded
own_server      A server for one test alone, to be killed, paused and flushed
own_settings    A prefix on the test's own server
provider        A scripted upstream of the OpenAI dialect

After each test that uses `redis_settings` or `own_settings`, `support/redis_invariants.py` checks
the keys that it left, and they are deleted. Two combinations cover each kind of server and each
partition count: nothing depends on both, since a kind differs in commands and Lua, and a count in
the names of keys. Tests in `contract` run on both, and so do those marked `each_once`, of what
depends on the server or the count; every other test runs with three partitions on one kind, which
its name decides. In `_QUICK_FOLDERS`, tests on Redis are marked `quick` on one combination, all
other tests always.
"""

import gc
import os
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from zlib import crc32

import hypothesis
import pytest

from shared.redis import library
from shared.redis.client import Redis
from shared.settings import RedisSettings
from tests.support import redis_invariants
from tests.support.redis_server import Kind, Server, binaries
from tests.support.scripted_provider import ScriptedProvider

_KINDS: list[Kind] = list(binaries())
_COMBINATIONS = ((_KINDS[0], 3), (_KINDS[-1], 1))
_QUICK_FOLDERS = {"contract", "tidy", "unit"}

# The time of one example depends on the load of the machine, not on the product.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks."""
    config.addinivalue_line(
        "markers", "each_once: run on each kind of server and with each partition count"
    )
    config.addinivalue_line(
        "markers", "quick: for every change: rules, functions and names, in under a minute"
    )


def pytest_xdist_auto_num_workers() -> int:
    """Start two processes for every core: a test is idle for more than half of its time."""
    return 2 * len(os.sched_getaffinity(0))


def pytest_collection() -> None:
    """Collect without garbage collection: all that is made is kept."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Leave what was collected out of every later garbage collection."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the quick tests before pytest selects by marks."""
    for item in items:
        combination = getattr(item, "callspec", None)
        parameters = combination.params if combination is not None else {}
        # A test with a server of its own has the server's kind as a parameter.
        is_first = parameters.get("_on", _COMBINATIONS[0]) == _COMBINATIONS[0] and not any(
            value == kind for value in parameters.values() for kind in _KINDS[1:]
        )
        if is_first and _folder(item) in _QUICK_FOLDERS:
            item.add_marker("quick")


def _folder(item: pytest.Item) -> str:
    return item.path.relative_to(Path(__file__).parent).parts[0]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Choose the servers and partition counts of a test on Redis."""
    if "redis_settings" in metafunc.fixturenames:
        test = metafunc.definition
        chosen: Sequence[tuple[Kind, int]] = [(_KINDS[crc32(test.name.encode()) % len(_KINDS)], 3)]
        if _folder(test) == "contract" or test.get_closest_marker("each_once"):
            chosen = _COMBINATIONS
        names = [f"{kind}-{partitions}" for kind, partitions in chosen]
        metafunc.parametrize("_on", chosen, ids=names, indirect=True, scope="session")
    elif "own_server" in metafunc.fixturenames:
        metafunc.parametrize("_own_kind", _KINDS, indirect=True)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run asynchronous tests on asyncio."""
    return "asyncio"


@pytest.fixture(scope="session")
def _servers() -> Iterator[dict[Kind, Server]]:
    """Hold the servers, each started when it is first used, and stop them at the end."""
    started: dict[Kind, Server] = {}
    yield started
    for server in started.values():
        server.stop()


@pytest.fixture(scope="session")
def _on(request: pytest.FixtureRequest) -> tuple[Kind, int]:
    chosen: tuple[Kind, int] = request.param
    return chosen


@pytest.fixture
def server(_on: tuple[Kind, int], _servers: dict[Kind, Server]) -> Server:
    """Return the shared server of the kind this test runs on."""
    kind = _on[0]
    if kind not in _servers:
        _servers[kind] = Server(kind)
        _servers[kind].start()
    return _servers[kind]


@pytest.fixture
def redis_settings(_on: tuple[Kind, int], server: Server) -> Iterator[RedisSettings]:
    """Return a fresh prefix on the shared server; its keys are checked afterwards."""
    # The shared server never stops, so a slow connection only shows a busy machine.
    settings = RedisSettings(
        url=server.url,
        prefix=_prefix(),
        partitions=_on[1],
        connect_seconds=15.0,
        timeout_seconds=15.0,
    )
    yield settings
    _check_and_sweep(server, settings)


@pytest.fixture
async def redis(redis_settings: RedisSettings) -> AsyncIterator[Redis]:
    """Return a connected client with the function library loaded."""
    client = Redis(redis_settings)
    await library.load(client)
    yield client
    await client.close()


@pytest.fixture
def _own_kind(request: pytest.FixtureRequest) -> Kind:
    kind: Kind = request.param
    return kind


@pytest.fixture
def own_server(_own_kind: Kind) -> Iterator[Server]:
    """Return a server for this test alone."""
    with Server(_own_kind, appendfsync="always") as server:
        yield server


@pytest.fixture
def own_settings(own_server: Server) -> Iterator[RedisSettings]:
    """Return a prefix on the test's own server; its keys are checked afterwards."""
    settings = RedisSettings(url=own_server.url, prefix=_prefix(), partitions=3)
    yield settings
    if own_server.is_running:
        _check_and_sweep(own_server, settings)


def _prefix() -> str:
    return f"t{secrets.token_hex(6)}"


def _check_and_sweep(server: Server, settings: RedisSettings) -> None:
    with server.raw_client() as raw_client:
        found = redis_invariants.faults(raw_client, settings)
        redis_invariants.sweep(raw_client, settings)
    assert not found, "\n".join(found)


@pytest.fixture
async def provider() -> AsyncIterator[ScriptedProvider]:
    """Return a scripted upstream on a port of its own."""
    async with ScriptedProvider() as scripted:
        yield scripted
