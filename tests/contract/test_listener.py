"""A listening connection: it reconnects by itself, also from a connection that never answers."""

import asyncio
from collections.abc import Callable
from itertools import pairwise

import msgspec
import pytest
from structlog.testing import capture_logs

from shared.redis import client
from shared.redis.client import Redis, Reply
from shared.settings import RedisSettings, WorkerSettings
from tests.support.proxy import Proxy
from tests.support.redis_server import Server
from tests.support.waiting import until


class _Listener:
    """A listener like the front's: it subscribes again on every new connection."""

    def __init__(self, settings: RedisSettings) -> None:
        self.received: list[bytes] = []
        self.confirmed = 0
        self.redis = Redis(settings, on_push=self._on_push, on_ready=self._on_ready)

    def _on_ready(self) -> None:
        self.redis.listen("SUBSCRIBE", "news")

    def _on_push(self, push: list[Reply]) -> None:
        if push[0] == b"subscribe":
            self.confirmed += 1
        elif push[0] == b"message":
            self.received.append(push[2])


async def test_listener_receives_and_reconnects_by_itself(
    own_server: Server, own_settings: RedisSettings
) -> None:
    listener = _Listener(own_settings)
    await listener.redis.connect()
    await until(lambda: listener.confirmed == 1)
    with own_server.raw_client() as raw_client:
        raw_client("PUBLISH", "news", "one")
    await until(lambda: listener.received == [b"one"])
    assert await listener.redis.call("PING") == b"PONG"
    own_server.restart()
    await until(lambda: listener.confirmed == 2)
    with own_server.raw_client() as raw_client:
        raw_client("PUBLISH", "news", "two")
    await until(lambda: listener.received == [b"one", b"two"])
    listener.redis.listen("UNSUBSCRIBE", "news")
    await listener.redis.call("PING")
    with own_server.raw_client() as raw_client:
        assert raw_client("PUBLISH", "news", "three") == 0
    await listener.redis.close()


async def test_listener_notices_a_connection_that_never_answers(
    own_settings: RedisSettings, proxy: Proxy
) -> None:
    listener = _Listener(msgspec.structs.replace(own_settings, url=proxy.url, timeout_seconds=0.2))
    await listener.redis.connect()
    await until(lambda: listener.confirmed == 1)
    proxy.freeze()
    await until(lambda: proxy.opened > 1, what="a second try to connect")
    proxy.thaw()
    await until(lambda: listener.confirmed == 2)
    await listener.redis.close()


async def test_listener_tries_often_however_long_nobody_answers(
    own_settings: RedisSettings, proxy: Proxy
) -> None:
    listener = _Listener(msgspec.structs.replace(own_settings, url=proxy.url))
    await listener.redis.connect()
    proxy.replies_to_lose = 1_000
    proxy.cut()
    knocks = []
    for number in range(2, 10):
        await until(lambda: proxy.opened >= number, what="another try")  # noqa: B023  awaited here
        knocks.append(asyncio.get_running_loop().time())
    await listener.redis.close()
    # A worker that reconnects later than its leases last is taken for dead.
    gaps_seconds = [after - before for before, after in pairwise(knocks)]
    assert min(gaps_seconds[-2:]) < WorkerSettings().lease_seconds / 2


async def test_refused_listener_logs_it_and_tries_less_often(
    own_server: Server, own_settings: RedisSettings
) -> None:
    def opened() -> int:
        return int(raw_client("INFO", "stats")["total_connections_received"])

    listener = _Listener(own_settings)
    with own_server.raw_client() as raw_client, capture_logs() as lines:
        raw_client("ACL", "SETUSER", "default", "resetchannels")
        before, began = opened(), asyncio.get_running_loop().time()
        await listener.redis.connect()
        await until(lambda: len(lines) >= 5, what="five refusals")
        tries, seconds = opened() - before, asyncio.get_running_loop().time() - began
        raw_client("ACL", "SETUSER", "default", "allchannels")
        await until(lambda: listener.confirmed == 1)
    assert "NOPERM" in lines[0]["reply"]
    assert seconds >= 0.3
    assert tries <= 8
    await listener.redis.close()


async def test_listener_reconnects_after_any_error(
    own_server: Server, own_settings: RedisSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener, connect = _Listener(own_settings), client._connect
    faults = [RuntimeError("can't start new thread"), TypeError("a greeting of another kind")]

    async def faulty(
        url: str,
        on_push: Callable[[list[Reply]], None],
        on_lost: Callable[[client._RedisProtocol], None],
    ) -> client._RedisProtocol:
        if faults:
            raise faults.pop()
        return await connect(url, on_push, on_lost)

    await listener.redis.connect()
    await until(lambda: listener.confirmed == 1)
    monkeypatch.setattr(client, "_connect", faulty)
    with capture_logs() as lines, own_server.raw_client() as raw_client:
        raw_client("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: listener.confirmed == 2, what="the listener")
    assert [line["event"] for line in lines] == ["a listener could not reconnect"] * 2
    await listener.redis.close()
