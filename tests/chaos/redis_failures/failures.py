"""The failures: what happens to Redis, for how long, and how it ends.

Owns the functions that cause them, on the server itself or on the network. Each returns once the
failure is over: from then on the server could serve again.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from shared.clock import SystemClock
from tests.chaos.redis_failures.deployment import FailureDeployment
from tests.support import waiting
from tests.support.redis_server import RawClient

Injection = Callable[[FailureDeployment, float], Awaitable[None]]

_RETRY_PAUSE_SECONDS: Final = 0.15
_REPLIES: Final = 3
_SAVE_SECONDS: Final = 20.0

_sleep: Final = SystemClock().sleep


class RedisFailure(NamedTuple):
    """One row, and how long it lasts: `short_seconds` in tests, where Redis' timeout is 1 s.

    `is_on_network`: the network fails, so all connections go through a proxy. `forbids_reruns`: it
    must cause no repeated upstream call. `loses_all`: all data is gone by definition.
    """

    name: str
    inject: Injection
    seconds: float
    short_seconds: float = 0.6
    is_on_network: bool = False
    forbids_reruns: bool = False
    loses_all: bool = False


async def _restart(deployment: FailureDeployment, seconds: float) -> None:
    await asyncio.to_thread(deployment.server.shut_down)
    await _sleep(seconds)
    await asyncio.to_thread(deployment.server.start)


async def _kill(deployment: FailureDeployment, seconds: float) -> None:
    deployment.server.kill()
    await _sleep(seconds)
    await asyncio.to_thread(deployment.server.start)


async def _hang(deployment: FailureDeployment, seconds: float) -> None:
    deployment.server.pause()
    await _sleep(seconds)
    deployment.server.resume()


async def _make_a_replica(deployment: FailureDeployment, seconds: float) -> None:
    """Make the server a replica of an unreachable master: reads work, writes fail."""
    with deployment.server.raw_client() as raw_client:
        raw_client("REPLICAOF", "127.0.0.1", 1)
        await _sleep(seconds)
        raw_client("REPLICAOF", "NO", "ONE")


async def _fill(deployment: FailureDeployment, seconds: float) -> None:
    with deployment.server.raw_client() as raw_client:
        raw_client("CONFIG", "SET", "maxmemory", 1)
        await _sleep(seconds)
        raw_client("CONFIG", "SET", "maxmemory", 0)


async def _fail_to_save(deployment: FailureDeployment, seconds: float) -> None:
    """Make the server refuse writes because it cannot save: a folder is in its file's place."""
    folder = deployment.server.folder / "dump.rdb"
    (folder / "full").mkdir(parents=True)
    with deployment.server.raw_client() as raw_client:
        raw_client("CONFIG", "SET", "save", "3600 1")
        await _save_until(raw_client, "err")
        await _sleep(seconds)
        (folder / "full").rmdir()
        folder.rmdir()
        await _save_until(raw_client, "ok")
        raw_client("CONFIG", "SET", "save", "")


async def _save_until(raw_client: RawClient, status: str) -> None:
    raw_client("BGSAVE")

    def has_status() -> bool:
        persistence = raw_client("INFO", "persistence")
        return (
            not persistence["rdb_bgsave_in_progress"]
            and persistence["rdb_last_bgsave_status"] == status
        )

    await waiting.until(has_status, _SAVE_SECONDS, what="a save")


async def _refuse_connections(deployment: FailureDeployment, seconds: float) -> None:
    """Cut every connection, and refuse new ones."""
    with deployment.server.raw_client() as raw_client:
        _, maxclients = raw_client("CONFIG", "GET", "maxclients")
        raw_client("CONFIG", "SET", "maxclients", 1)
        for kind in ("normal", "pubsub"):
            raw_client("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        await _sleep(seconds)
        raw_client("CONFIG", "SET", "maxclients", maxclients)


async def _flush_functions(deployment: FailureDeployment, seconds: float) -> None:
    await _repeat_for(lambda: _send_command(deployment, "FUNCTION", "FLUSH"), seconds)


async def _flush_all(deployment: FailureDeployment, seconds: float) -> None:
    _send_command(deployment, "FLUSHALL")
    await _sleep(seconds)


async def _lose_replies(deployment: FailureDeployment, seconds: float) -> None:
    """Cut connections at their next reply: the command ran, but its reply is lost."""

    def lose_some() -> None:
        deployment.proxy.replies_to_lose = _REPLIES

    await _repeat_for(lose_some, seconds)
    deployment.proxy.replies_to_lose = 0


async def _freeze(deployment: FailureDeployment, seconds: float) -> None:
    deployment.proxy.freeze()
    await _sleep(seconds)
    deployment.proxy.thaw()


async def _drop_connections(deployment: FailureDeployment, seconds: float) -> None:
    """Drop everything on open connections without closing them; new ones work."""
    deployment.proxy.drop_packets()
    await _sleep(seconds)


def _send_command(deployment: FailureDeployment, *command: str) -> None:
    with deployment.server.raw_client() as raw_client:
        raw_client(*command)


async def _repeat_for(inject: Callable[[], None], seconds: float) -> None:
    clock = SystemClock()
    ends = clock.monotonic() + seconds
    while clock.monotonic() < ends:
        inject()
        await clock.sleep(_RETRY_PAUSE_SECONDS)


REDIS_FAILURES: Final = (
    RedisFailure("restart", _restart, 0.1, 0.1, forbids_reruns=True),
    RedisFailure("restart, 3 s away", _restart, 3.0, forbids_reruns=True),
    RedisFailure("kill -9", _kill, 0.0, 0.0, forbids_reruns=True),
    RedisFailure("hang (SIGSTOP), 5 s", _hang, 5.0, 1.5, forbids_reruns=True),
    RedisFailure("READONLY, 3 s", _make_a_replica, 3.0),
    RedisFailure("OOM, 3 s", _fill, 3.0),
    RedisFailure("MISCONF, 3 s", _fail_to_save, 3.0),
    RedisFailure("maxclients, 3 s", _refuse_connections, 3.0),
    RedisFailure("FUNCTION FLUSH, for 2 s", _flush_functions, 2.0, 0.5),
    RedisFailure("replies dropped, for 3 s", _lose_replies, 3.0, is_on_network=True),
    RedisFailure("frozen network, 10 s", _freeze, 10.0, 2.0, is_on_network=True),
    RedisFailure("half-open lines, 7 s", _drop_connections, 7.0, 1.5, is_on_network=True),
    RedisFailure("FLUSHALL", _flush_all, 2.0, loses_all=True),
)
