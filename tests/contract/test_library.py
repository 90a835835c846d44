"""The function library: loaded where it is missing; calls are safe when a reply is lost."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from shared import ids
from shared.errors import UnavailableError
from shared.redis import library
from shared.redis.client import Redis
from shared.redis.functions import Replayed, Settled
from shared.settings import RedisSettings
from tests.support.proxy import Proxy
from tests.support.redis_functions import RedisFunctions
from tests.support.redis_server import Server


@pytest.fixture
async def own_queue(own_settings: RedisSettings) -> AsyncIterator[RedisFunctions]:
    """Return a partition of a server that has not loaded the library."""
    client = Redis(own_settings)
    yield RedisFunctions(client, own_settings, 2)
    await client.close()


@pytest.fixture
async def proxy(own_server: Server) -> AsyncIterator[Proxy]:
    async with Proxy(own_server.socket) as fault_proxy:
        yield fault_proxy


@pytest.fixture
async def proxied_queue(own_queue: RedisFunctions, proxy: Proxy) -> AsyncIterator[RedisFunctions]:
    """Return the same partition behind a proxy that loses replies."""
    client = Redis(msgspec.structs.replace(own_queue.settings, url=proxy.url))
    await library.load(client)
    yield RedisFunctions(client, own_queue.settings, 2)
    await client.close()


async def _libraries(queue: RedisFunctions) -> list[str]:
    listed = await queue.redis.call("FUNCTION", "LIST")
    return sorted(entry[b"library_name"].decode() for entry in listed)


async def test_missing_library_is_loaded_by_the_first_call(own_queue: RedisFunctions) -> None:
    await own_queue.submit()
    assert await _libraries(own_queue) == [library.NAME]


async def test_flushed_library_is_loaded_again(own_queue: RedisFunctions) -> None:
    ticket = await own_queue.submit()
    for verb in ("FLUSH", "FLUSH"):
        await own_queue.redis.call("FUNCTION", verb)
        assert await own_queue.stage(ticket) == "queued"
    await own_queue.redis.call("FUNCTION", "FLUSH")
    assert (await own_queue.claim_one()).id == ticket.id


async def test_many_processes_may_load_at_once(
    own_queue: RedisFunctions, own_settings: RedisSettings
) -> None:
    clients = [Redis(own_settings) for _ in range(8)]
    await asyncio.gather(*(library.load(client) for client in clients))
    await asyncio.gather(*(client.close() for client in clients))
    assert await _libraries(own_queue) == [library.NAME]


async def test_library_survives_a_restart(own_server: Server, own_queue: RedisFunctions) -> None:
    ticket = await own_queue.submit()
    own_server.restart()
    assert await _libraries(own_queue) == [library.NAME]
    assert (await own_queue.claim_one()).id == ticket.id


async def test_other_versions_run_beside_ours(own_queue: RedisFunctions) -> None:
    other = library.TEXT.replace(library.NAME, "pollux_other")
    await own_queue.redis.call("FUNCTION", "LOAD", other)
    await own_queue.submit()
    assert await _libraries(own_queue) == sorted([library.NAME, "pollux_other"])


async def test_accept_whose_reply_was_lost_is_replayed(
    proxied_queue: RedisFunctions, proxy: Proxy
) -> None:
    await proxied_queue.grant(100)
    generation, session = ids.new_id(), ids.new_id()
    proxy.replies_to_lose = 1
    answer = await proxied_queue.accept(
        session=session, is_new=True, generation=generation, hold=60
    )
    assert answer == Replayed(generation, session)
    assert (await proxied_queue.credit_totals()).held == 60
    assert len(await proxied_queue.claim(10)) == 1


async def test_turns_of_an_unacknowledged_claim_are_requeued_by_the_next(
    proxied_queue: RedisFunctions, proxy: Proxy
) -> None:
    ticket = await proxied_queue.submit()
    proxy.replies_to_lose = 1
    with pytest.raises(UnavailableError):
        await proxied_queue.claim(number=1)
    assert await proxied_queue.stage(ticket) == "routing"
    [claimed] = await proxied_queue.claim(number=2, unacknowledged=[1])
    assert (claimed.id, claimed.attempt) == (ticket.id, 2)


async def test_turns_of_a_claim_whose_worker_never_comes_back_are_requeued(
    proxied_queue: RedisFunctions, proxy: Proxy
) -> None:
    ticket = await proxied_queue.submit()
    proxy.replies_to_lose = 1
    with pytest.raises(UnavailableError):
        await proxied_queue.claim(lease_ms=0)
    assert (await proxied_queue.reap()).done == [("ann", ticket.id, "crashed")]
    assert (await proxied_queue.claim_one()).attempt == 2


async def test_append_whose_reply_was_lost_writes_once(
    proxied_queue: RedisFunctions, proxy: Proxy
) -> None:
    ticket = await proxied_queue.submit()
    claimed = await proxied_queue.claim_one()
    for seq, text in enumerate(("one", "two", "three"), 1):
        proxy.replies_to_lose = 1
        assert await proxied_queue.append(claimed, seq, text) == "appended"
    assert (await proxied_queue.status(ticket)).body == b"onetwothree"
    assert [at for at, _ in await proxied_queue.events(ticket)] == ["1-1", "1-2", "1-3"]


async def test_settle_whose_reply_was_lost_charges_once(
    proxied_queue: RedisFunctions, proxy: Proxy
) -> None:
    await proxied_queue.grant(100)
    await proxied_queue.submit(hold=60)
    claimed = await proxied_queue.claim_one()
    await proxied_queue.append(claimed, 1, "Hi")
    proxy.replies_to_lose = 1
    assert await proxied_queue.settle(claimed, seq=2, cost=10) == Settled(10)
    assert (await proxied_queue.credit_totals()).settled == 10


async def test_grant_whose_reply_was_lost_is_not_given_twice(
    proxied_queue: RedisFunctions, proxy: Proxy
) -> None:
    proxy.replies_to_lose = 1
    with pytest.raises(UnavailableError):
        await proxied_queue.grant(100)
    assert (await proxied_queue.credit_totals()).granted == 100


async def test_release_and_reap_whose_replies_were_lost_requeue_once(
    proxied_queue: RedisFunctions, proxy: Proxy
) -> None:
    ticket = await proxied_queue.submit()
    claimed = await proxied_queue.claim_one()
    proxy.replies_to_lose = 1
    assert await proxied_queue.release(claimed) == "refused"
    assert await proxied_queue.stage(ticket) == "queued"
    await proxied_queue.claim_one(lease_ms=0)
    proxy.replies_to_lose = 1
    assert (await proxied_queue.reap()).done == []
    assert [one.attempt for one in await proxied_queue.claim(10)] == [3]
