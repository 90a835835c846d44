"""The troubles: what happens to Redis, for how long, and how it ends.

Owns the hands that do it, on the server itself or on the way to it. Each returns once the trouble
is over: the server could serve again from then on.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from shared.clock import SystemClock
from tests.chaos.redis_failures.deployment import FailureDeployment
from tests.support import waiting
from tests.support.redis_server import RawClient

Injection = Callable[[FailureDeployment, float], Awaitable[None]]

_AGAIN_SECONDS: Final = 0.15
_REPLIES: Final = 3
_SAVE_SECONDS: Final = 20.0

_sleep: Final = SystemClock().sleep


class RedisFailure(NamedTuple):
    """One row, and how long it lasts: `short_seconds` where Redis is waited for one second.

    `is_on_the_way`: it befalls the network, so all lines lead through a proxy. `is_spared`: no
    upstream is to be called twice because of it. `loses_all`: what was promised is
    gone by definition.
    """

    name: str
    inject: Injection
    seconds: float
    short_seconds: float = 0.6
    is_on_the_way: bool = False
    is_spared: bool = False
    loses_all: bool = False


async def _restart(failure_deployment: FailureDeployment, seconds: float) -> None:
    await asyncio.to_thread(failure_deployment.server.shut_down)
    await _sleep(seconds)
    await asyncio.to_thread(failure_deployment.server.start)


async def _kill(failure_deployment: FailureDeployment, seconds: float) -> None:
    failure_deployment.server.kill()
    await _sleep(seconds)
    await asyncio.to_thread(failure_deployment.server.start)


async def _hang(failure_deployment: FailureDeployment, seconds: float) -> None:
    failure_deployment.server.pause()
    await _sleep(seconds)
    failure_deployment.server.resume()


async def _make_a_replica(failure_deployment: FailureDeployment, seconds: float) -> None:
    """Follow a master that does not answer: all is there to read, and nothing may be written."""
    with failure_deployment.server.raw_client() as raw_client:
        raw_client("REPLICAOF", "127.0.0.1", 1)
        await _sleep(seconds)
        raw_client("REPLICAOF", "NO", "ONE")


async def _fill(failure_deployment: FailureDeployment, seconds: float) -> None:
    with failure_deployment.server.raw_client() as raw_client:
        raw_client("CONFIG", "SET", "maxmemory", 1)
        await _sleep(seconds)
        raw_client("CONFIG", "SET", "maxmemory", 0)


async def _fail_to_save(failure_deployment: FailureDeployment, seconds: float) -> None:
    """Have the server refuse writes since it cannot save: a folder stands in its file's place."""
    folder = failure_deployment.server.folder / "dump.rdb"
    (folder / "full").mkdir(parents=True)
    with failure_deployment.server.raw_client() as raw_client:
        raw_client("CONFIG", "SET", "save", "3600 1")
        await _save(raw_client, "err")
        await _sleep(seconds)
        (folder / "full").rmdir()
        folder.rmdir()
        await _save(raw_client, "ok")
        raw_client("CONFIG", "SET", "save", "")


async def _save(raw_client: RawClient, status: str) -> None:
    raw_client("BGSAVE")

    def has_come_to_it() -> bool:
        told = raw_client("INFO", "persistence")
        return not told["rdb_bgsave_in_progress"] and told["rdb_last_bgsave_status"] == status

    await waiting.until(has_come_to_it, _SAVE_SECONDS, what="a save")


async def _refuse_connections(failure_deployment: FailureDeployment, seconds: float) -> None:
    """Cut every line, and let nobody in again."""
    with failure_deployment.server.raw_client() as raw_client:
        _, most = raw_client("CONFIG", "GET", "maxclients")
        raw_client("CONFIG", "SET", "maxclients", 1)
        for kind in ("normal", "pubsub"):
            raw_client("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        await _sleep(seconds)
        raw_client("CONFIG", "SET", "maxclients", most)


async def _forget_functions(failure_deployment: FailureDeployment, seconds: float) -> None:
    await _again_and_again(lambda: _tell(failure_deployment, "FUNCTION", "FLUSH"), seconds)


async def _forget_all(failure_deployment: FailureDeployment, seconds: float) -> None:
    _tell(failure_deployment, "FLUSHALL")
    await _sleep(seconds)


async def _lose_replies(failure_deployment: FailureDeployment, seconds: float) -> None:
    """Cut lines at their next reply: what was asked is done, and nobody hears of it."""

    def lose_some() -> None:
        failure_deployment.proxy.replies_to_lose = _REPLIES

    await _again_and_again(lose_some, seconds)
    failure_deployment.proxy.replies_to_lose = 0


async def _freeze(failure_deployment: FailureDeployment, seconds: float) -> None:
    failure_deployment.proxy.freeze()
    await _sleep(seconds)
    failure_deployment.proxy.thaw()


async def _drop_connections(failure_deployment: FailureDeployment, seconds: float) -> None:
    """Have every line there is lead nowhere, without a word to either end; new ones are well."""
    failure_deployment.proxy.forget()
    await _sleep(seconds)


def _tell(failure_deployment: FailureDeployment, *command: str) -> None:
    with failure_deployment.server.raw_client() as raw_client:
        raw_client(*command)


async def _again_and_again(inject: Callable[[], None], seconds: float) -> None:
    clock = SystemClock()
    ends = clock.monotonic() + seconds
    while clock.monotonic() < ends:
        inject()
        await clock.sleep(_AGAIN_SECONDS)


REDIS_FAILURES: Final = (
    RedisFailure("restart", _restart, 0.1, 0.1, is_spared=True),
    RedisFailure("restart, 3 s away", _restart, 3.0, is_spared=True),
    RedisFailure("kill -9", _kill, 0.0, 0.0, is_spared=True),
    RedisFailure("hang (SIGSTOP), 5 s", _hang, 5.0, 1.5, is_spared=True),
    RedisFailure("READONLY, 3 s", _make_a_replica, 3.0),
    RedisFailure("OOM, 3 s", _fill, 3.0),
    RedisFailure("MISCONF, 3 s", _fail_to_save, 3.0),
    RedisFailure("maxclients, 3 s", _refuse_connections, 3.0),
    RedisFailure("FUNCTION FLUSH, for 2 s", _forget_functions, 2.0, 0.5),
    RedisFailure("replies dropped, for 3 s", _lose_replies, 3.0, is_on_the_way=True),
    RedisFailure("frozen network, 10 s", _freeze, 10.0, 2.0, is_on_the_way=True),
    RedisFailure("half-open lines, 7 s", _drop_connections, 7.0, 1.5, is_on_the_way=True),
    RedisFailure("FLUSHALL", _forget_all, 2.0, loses_all=True),
)
