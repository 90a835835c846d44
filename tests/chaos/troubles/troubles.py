"""The troubles: what happens to Redis, for how long, and how it ends.

Owns the hands that do it, on the server itself or on the way to it. Each returns once the trouble
is over: the server could serve again from then on.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from shared.clock import SystemClock
from tests.chaos.troubles.scene import Scene
from tests.support import waiting
from tests.support.server import Look

Strike = Callable[[Scene, float], Awaitable[None]]

_AGAIN_SECONDS: Final = 0.15
_REPLIES: Final = 3
_SAVE_SECONDS: Final = 20.0

_sleep: Final = SystemClock().sleep


class Trouble(NamedTuple):
    """One row, and how long it lasts: `short_seconds` where Redis is waited for one second.

    `is_on_the_way`: it befalls the network, so all lines lead through a proxy. `is_spared`: no
    upstream is to be called twice because of it. `loses_all`: what was promised is
    gone by definition.
    """

    name: str
    strike: Strike
    seconds: float
    short_seconds: float = 0.6
    is_on_the_way: bool = False
    is_spared: bool = False
    loses_all: bool = False


async def _restart(scene: Scene, seconds: float) -> None:
    await asyncio.to_thread(scene.server.shut_down)
    await _sleep(seconds)
    await asyncio.to_thread(scene.server.start)


async def _kill(scene: Scene, seconds: float) -> None:
    scene.server.kill()
    await _sleep(seconds)
    await asyncio.to_thread(scene.server.start)


async def _hang(scene: Scene, seconds: float) -> None:
    scene.server.pause()
    await _sleep(seconds)
    scene.server.resume()


async def _make_a_replica(scene: Scene, seconds: float) -> None:
    """Follow a master that does not answer: all is there to read, and nothing may be written."""
    with scene.server.look() as look:
        look("REPLICAOF", "127.0.0.1", 1)
        await _sleep(seconds)
        look("REPLICAOF", "NO", "ONE")


async def _fill(scene: Scene, seconds: float) -> None:
    with scene.server.look() as look:
        look("CONFIG", "SET", "maxmemory", 1)
        await _sleep(seconds)
        look("CONFIG", "SET", "maxmemory", 0)


async def _fail_to_save(scene: Scene, seconds: float) -> None:
    """Have the server refuse writes since it cannot save: a folder stands in its file's place."""
    folder = scene.server.folder / "dump.rdb"
    (folder / "full").mkdir(parents=True)
    with scene.server.look() as look:
        look("CONFIG", "SET", "save", "3600 1")
        await _save(look, "err")
        await _sleep(seconds)
        (folder / "full").rmdir()
        folder.rmdir()
        await _save(look, "ok")
        look("CONFIG", "SET", "save", "")


async def _save(look: Look, status: str) -> None:
    look("BGSAVE")

    def has_come_to_it() -> bool:
        told = look("INFO", "persistence")
        return not told["rdb_bgsave_in_progress"] and told["rdb_last_bgsave_status"] == status

    await waiting.until(has_come_to_it, _SAVE_SECONDS, what="a save")


async def _turn_away(scene: Scene, seconds: float) -> None:
    """Cut every line, and let nobody in again."""
    with scene.server.look() as look:
        _, most = look("CONFIG", "GET", "maxclients")
        look("CONFIG", "SET", "maxclients", 1)
        for kind in ("normal", "pubsub"):
            look("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        await _sleep(seconds)
        look("CONFIG", "SET", "maxclients", most)


async def _forget_functions(scene: Scene, seconds: float) -> None:
    await _again_and_again(lambda: _tell(scene, "FUNCTION", "FLUSH"), seconds)


async def _forget_all(scene: Scene, seconds: float) -> None:
    _tell(scene, "FLUSHALL")
    await _sleep(seconds)


async def _lose_replies(scene: Scene, seconds: float) -> None:
    """Cut lines at their next reply: what was asked is done, and nobody hears of it."""

    def lose_some() -> None:
        scene.proxy.replies_to_lose = _REPLIES

    await _again_and_again(lose_some, seconds)
    scene.proxy.replies_to_lose = 0


async def _freeze(scene: Scene, seconds: float) -> None:
    scene.proxy.freeze()
    await _sleep(seconds)
    scene.proxy.thaw()


async def _forget_lines(scene: Scene, seconds: float) -> None:
    """Have every line there is lead nowhere, without a word to either end; new ones are well."""
    scene.proxy.forget()
    await _sleep(seconds)


def _tell(scene: Scene, *command: str) -> None:
    with scene.server.look() as look:
        look(*command)


async def _again_and_again(strike: Callable[[], None], seconds: float) -> None:
    clock = SystemClock()
    ends = clock.monotonic() + seconds
    while clock.monotonic() < ends:
        strike()
        await clock.sleep(_AGAIN_SECONDS)


TROUBLES: Final = (
    Trouble("restart", _restart, 0.1, 0.1, is_spared=True),
    Trouble("restart, 3 s away", _restart, 3.0, is_spared=True),
    Trouble("kill -9", _kill, 0.0, 0.0, is_spared=True),
    Trouble("hang (SIGSTOP), 5 s", _hang, 5.0, 1.5, is_spared=True),
    Trouble("READONLY, 3 s", _make_a_replica, 3.0),
    Trouble("OOM, 3 s", _fill, 3.0),
    Trouble("MISCONF, 3 s", _fail_to_save, 3.0),
    Trouble("maxclients, 3 s", _turn_away, 3.0),
    Trouble("FUNCTION FLUSH, for 2 s", _forget_functions, 2.0, 0.5),
    Trouble("replies dropped, for 3 s", _lose_replies, 3.0, is_on_the_way=True),
    Trouble("frozen network, 10 s", _freeze, 10.0, 2.0, is_on_the_way=True),
    Trouble("half-open lines, 7 s", _forget_lines, 7.0, 1.5, is_on_the_way=True),
    Trouble("FLUSHALL", _forget_all, 2.0, loses_all=True),
)
