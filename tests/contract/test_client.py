"""The one connection: many callers, lost connections, silent servers, each reply to its caller."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from shared.errors import StoreError, UnavailableError
from shared.redis.client import _DIAL_PAUSE_SECONDS, Redis
from shared.redis.outage import Outage
from shared.settings import RedisSettings
from tests.support.proxy import Proxy
from tests.support.redis_server import Server
from tests.support.waiting import until


@pytest.fixture
async def through(own_settings: RedisSettings, proxy: Proxy) -> AsyncIterator[Redis]:
    client = Redis(msgspec.structs.replace(own_settings, url=proxy.url))
    yield client
    await client.close()


async def test_replies_reach_their_callers_under_random_cancellation(redis: Redis) -> None:
    dice = random.Random(7)

    async def ask(number: int) -> bool:
        for turn in range(20):
            word = f"{number}-{turn}-{'x' * dice.randrange(2000)}"
            assert await redis.call("ECHO", word) == word.encode()
        return True

    askers = [asyncio.create_task(ask(number)) for number in range(200)]
    cancelled: set[int] = set()
    while not all(asker.done() for asker in askers):
        victim = dice.randrange(len(askers))
        if len(cancelled) < 80 and askers[victim].cancel():
            cancelled.add(victim)
        await redis.call("PING")
    results = await asyncio.gather(*askers, return_exceptions=True)
    assert sum(result is True for result in results) == len(askers) - len(cancelled)
    assert all(isinstance(results[index], asyncio.CancelledError) for index in cancelled)


async def test_commands_of_one_turn_of_the_loop_leave_in_few_writes(redis: Redis) -> None:
    async def reads() -> int:
        stats = (await redis.call("INFO", "stats")).decode().splitlines()
        fields = dict(line.split(":", 1) for line in stats if ":" in line)
        return int(fields["total_reads_processed"])

    before = await reads()
    await asyncio.gather(*(redis.call("PING") for _ in range(100)))
    assert await reads() - before <= 20


async def test_types_come_and_go_as_they_are(redis: Redis, redis_settings: RedisSettings) -> None:
    name = f"{redis_settings.prefix}:{{p00}}:bell:interactive"
    await redis.call("RPUSH", name, "text", b"\x00\xff\r\n", 7, 1.5, "é")
    stored = await redis.call("LRANGE", name, 0, -1)
    assert stored == [b"text", b"\x00\xff\r\n", b"7", b"1.5", "é".encode()]
    assert await redis.call("GET", "nothing") is None
    assert await redis.call("HGETALL", "nothing") == {}


async def test_command_that_is_wrong_is_a_fault_of_ours(redis: Redis) -> None:
    with pytest.raises(StoreError, match="unknown command"):
        await redis.call("NONSENSE")
    with pytest.raises(StoreError, match="wrong number"):
        await redis.call("GET")
    assert await redis.call("PING") == b"PONG"


async def test_send_needs_no_reply_and_disturbs_none(
    redis: Redis, redis_settings: RedisSettings
) -> None:
    name = f"{redis_settings.prefix}:{{p00}}:bell:interactive"
    for number in range(50):
        redis.send("RPUSH", name, number)
        redis.send("NONSENSE")
    assert await redis.call("LLEN", name) == 50


async def test_closed_port_is_unavailable(own_server: Server, own_redis: Redis) -> None:
    own_server.kill()
    with pytest.raises(UnavailableError, match="cannot be reached"):
        await own_redis.call("PING")
    own_redis.send("PING")
    own_server.start()
    assert await own_redis.call("PING") == b"PONG"


async def test_outage_is_timed_from_its_first_moment_to_the_next_connection(
    own_server: Server, own_redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = 0.0
    monkeypatch.setattr(own_redis, "_outage", Outage(lambda: seconds))

    async def again() -> int | None:
        with pytest.raises(UnavailableError) as caught:
            await own_redis.call("PING")
        return caught.value.retry_after_seconds

    await own_redis.connect()
    own_server.kill()
    assert await again() in {1, 2}
    seconds += 10
    assert await again() in range(10, 21)
    own_server.start()
    await own_redis.call("PING")
    own_server.kill()
    assert await again() in {1, 2}


async def test_refusals_are_timed_too(own_redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = 0.0
    monkeypatch.setattr(own_redis, "_outage", Outage(lambda: seconds))
    await own_redis.call("CONFIG", "SET", "maxmemory", 1)
    retry_after: list[int | None] = []
    for _ in range(3):
        seconds += 5
        with pytest.raises(UnavailableError, match="OOM") as caught:
            await own_redis.call("SET", "a", 1)
        retry_after.append(caught.value.retry_after_seconds)
    assert retry_after[0] in {1, 2}
    assert retry_after[2] in range(10, 21)
    await own_redis.call("CONFIG", "SET", "maxmemory", 0)


async def test_death_during_a_call_is_reported_and_recovered_from(
    own_server: Server, own_redis: Redis
) -> None:
    await own_redis.connect()
    calls = [
        asyncio.create_task(own_redis.call("BLPOP", "nothing", 0, repeat=repeat))
        for repeat in (False, True, False)
    ]
    await until(lambda: own_server.blocked_clients() == 1)
    own_server.kill()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [UnavailableError] * 3
    own_server.start()
    assert await asyncio.gather(*(own_redis.call("ECHO", n) for n in range(10))) == [
        str(n).encode() for n in range(10)
    ]


async def test_repeatable_call_survives_a_cut_connection(through: Redis, proxy: Proxy) -> None:
    await through.connect()
    proxy.replies_to_lose = 1
    assert await through.call("ECHO", "a") == b"a"
    proxy.replies_to_lose = 1
    with pytest.raises(UnavailableError, match="lost"):
        await through.call("ECHO", "b", repeat=False)
    assert await through.call("ECHO", "c", repeat=False) == b"c"
    assert proxy.opened == 3


@pytest.mark.parametrize("is_listener", [False, True])
async def test_connection_that_closes_at_once_is_unavailable(
    tmp_path: Path, is_listener: bool
) -> None:
    """Its end is seen after the greeting and before the first command: no caller may wait on it."""

    async def greet_and_go(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"pollux\r\n")
        writer.write(b"%1\r\n$2\r\nid\r\n:1\r\n")
        writer.close()

    path = tmp_path / "s"
    settings = RedisSettings(url=f"unix://{path}")
    client = Redis(settings, on_push=(lambda _push: None) if is_listener else None)
    async with await asyncio.start_unix_server(greet_and_go, path):
        for _ in range(20):
            with pytest.raises(UnavailableError):
                await client.call("PING")
        await client.close()


@pytest.fixture
async def mute(tmp_path: Path) -> AsyncIterator[str]:
    """Return the URL of a server that greets, and answers nothing else."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"pollux\r\n")
        writer.write(b"%1\r\n$2\r\nid\r\n:1\r\n")
        await reader.read()
        writer.close()

    path = tmp_path / "s"
    async with await asyncio.start_unix_server(greet, path):
        yield f"unix://{path}"


async def test_repeated_call_keeps_its_time_limit(mute: str) -> None:
    """One time limit covers the connection and the reply: a second try has what the first left."""
    settings = RedisSettings(url=mute, connect_seconds=1.0, timeout_seconds=1.2)
    client = Redis(settings)
    with (
        capture_logs() as lines,
        pytest.raises(UnavailableError, match="did not answer in time"),
    ):
        await client.call("PING")
    # The second connection had not been silent for long enough to be closed.
    assert [line["event"] for line in lines] == ["Redis fell silent"]
    await client.close()


async def test_unreachable_server_is_dialled_once_for_all_callers(tmp_path: Path) -> None:
    client, loop = Redis(RedisSettings(url=f"unix://{tmp_path / 's'}")), asyncio.get_running_loop()
    began = loop.time()
    for _ in range(4):
        calls = (client.call("PING") for _ in range(20))
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(each) for each in found} == {UnavailableError}
        assert "No such file" in str(found[0])
    # Each time all callers waited for one attempt to connect, which waited for its delay.
    assert loop.time() - began >= 3 * _DIAL_PAUSE_SECONDS
    await client.close()


async def test_attempt_to_connect_without_a_caller_may_fail(
    own_settings: RedisSettings, proxy: Proxy
) -> None:
    settings = msgspec.structs.replace(
        own_settings, url=proxy.url, connect_seconds=0.2, timeout_seconds=0.2
    )
    client = Redis(settings)
    await client.connect()
    proxy.freeze()
    asking = asyncio.create_task(client.call("PING"))
    await until(lambda: proxy.opened == 2, what="a second line")
    asking.cancel()
    opening = client._opening
    assert opening is not None
    # Otherwise its end would be reported as an exception that was never retrieved.
    await until(opening.done)
    await client.close()


async def test_connection_that_is_lost_twice_is_unavailable(through: Redis, proxy: Proxy) -> None:
    await through.connect()
    proxy.replies_to_lose = 2
    with pytest.raises(UnavailableError):
        await through.call("PING")
    assert await through.call("PING") == b"PONG"


async def test_hung_server_is_disconnected_and_reconnected(
    own_server: Server, own_settings: RedisSettings
) -> None:
    client = Redis(msgspec.structs.replace(own_settings, timeout_seconds=0.2))
    await client.connect()
    own_server.pause()
    # A server that is paused answers nothing: only the client's timeout can end the calls.
    results = await asyncio.gather(
        *(client.call("PING", repeat=False) for _ in range(5)), return_exceptions=True
    )
    assert [type(result) for result in results] == [UnavailableError] * 5
    own_server.resume()
    assert await client.call("PING") == b"PONG"
    await client.close()


async def test_silence_is_allowed_while_no_caller_waits(own_settings: RedisSettings) -> None:
    client = Redis(msgspec.structs.replace(own_settings, timeout_seconds=0.04))
    first = await client.call("CLIENT", "ID")
    clock = asyncio.get_running_loop().time
    silent_until = clock() + 0.2
    await until(lambda: clock() > silent_until)
    assert await client.call("CLIENT", "ID") == first
    await client.close()


async def test_network_that_swallows_everything_is_unavailable(
    own_settings: RedisSettings, proxy: Proxy
) -> None:
    client = Redis(msgspec.structs.replace(own_settings, url=proxy.url, timeout_seconds=0.2))
    await client.connect()
    proxy.freeze()
    with pytest.raises(UnavailableError):
        await client.call("PING", repeat=False)
    proxy.thaw()
    assert await client.call("PING") == b"PONG"
    await client.close()


async def test_server_that_replies_not_now_is_unavailable(
    own_server: Server, own_redis: Redis
) -> None:
    await own_redis.call("CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(UnavailableError, match="OOM"):
        await own_redis.call("SET", "a", 1)
    await own_redis.call("CONFIG", "SET", "maxmemory", 0)
    await own_redis.call("REPLICAOF", "127.0.0.1", 1)
    with pytest.raises(UnavailableError, match="READONLY"):
        await own_redis.call("SET", "a", 1)
    await own_redis.call("REPLICAOF", "NO", "ONE")
    with own_server.raw_client() as raw_client:
        raw_client("CONFIG", "SET", "requirepass", "secret")
    stranger = Redis(RedisSettings(url=own_server.url))
    with pytest.raises(UnavailableError, match="NOAUTH"):
        await stranger.call("PING")
    await stranger.close()
    await own_redis.call("CONFIG", "SET", "requirepass", "")


async def test_password_and_database_of_the_url_are_used(own_server: Server) -> None:
    with own_server.raw_client() as raw_client:
        raw_client("CONFIG", "SET", "requirepass", "secret")
    path = own_server.socket
    client = Redis(RedisSettings(url=f"unix://:secret@{path}?db=3"))
    assert b"db=3" in await client.call("CLIENT", "INFO")
    await client.close()
    for url, why in (
        (f"unix://:wrong@{path}", "WRONGPASS"),
        (f"unix://:secret@{path}?db=99", "refuses"),
    ):
        wrong = Redis(RedisSettings(url=url))
        with pytest.raises(UnavailableError, match=why):
            await wrong.call("PING")
        await wrong.close()


async def test_server_that_became_a_replica_is_left_for_the_new_primary(
    own_server: Server, tmp_path: Path
) -> None:
    name, pushes = tmp_path / "s", list[bytes]()
    name.symlink_to(own_server.socket)
    settings = RedisSettings(url=f"unix://{name}", timeout_seconds=0.4)
    client = Redis(settings)
    ear = Redis(
        settings,
        on_push=lambda push: pushes.append(push[0]),
        on_ready=lambda: ear.listen("SUBSCRIBE", "news"),
    )
    await client.call("SET", "x", "old")
    await ear.connect()
    with (
        Server(own_server.kind) as other,
        own_server.raw_client() as raw_client,
        other.raw_client() as there,
    ):
        raw_client("REPLICAOF", "127.0.0.1", 1)
        name.unlink()
        name.symlink_to(other.socket)
        with pytest.raises(UnavailableError, match="READONLY"):
            await client.call("SET", "x", "lost")
        await client.call("SET", "x", "new")
        assert there("GET", "x") == b"new"
        await until(lambda: there("PUBLISH", "news", "x") == 1, what="the listener")
        await client.close()
        await ear.close()


async def test_invalid_host_name_is_unavailable() -> None:
    client = Redis(RedisSettings(url=f"redis://{'a' * 70}.b/0"))
    with pytest.raises(UnavailableError, match="cannot be reached"):
        await client.call("PING")
    await client.close()


async def test_bytes_that_are_not_the_protocol_end_the_connection() -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.transport.abort()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = Redis(RedisSettings(url=f"redis://127.0.0.1:{port}"))
    with pytest.raises(UnavailableError):
        await client.call("PING")
    await client.close()
    server.close()
    await server.wait_closed()


async def test_closed_connection_stays_closed(own_server: Server, own_redis: Redis) -> None:
    waiting = asyncio.create_task(own_redis.call("BLPOP", "nothing", 0))
    await until(lambda: own_server.blocked_clients() == 1)
    await own_redis.close()
    with pytest.raises(UnavailableError):
        await waiting
    with pytest.raises(UnavailableError, match="closed"):
        await own_redis.call("PING")


async def test_caller_that_gives_up_while_connecting_affects_no_other(
    own_redis: Redis,
) -> None:
    first = asyncio.create_task(own_redis.call("PING"))
    second = asyncio.create_task(own_redis.call("PING"))
    third = asyncio.create_task(own_redis.call("PING"))
    await asyncio.wait([first], timeout=0)
    first.cancel()
    assert list(await asyncio.gather(second, third)) == [b"PONG", b"PONG"]
