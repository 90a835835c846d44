"""The function library: loaded where it is missing, and safe when a reply was lost."""

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
from tests.support.desk import Desk
from tests.support.proxy import Proxy
from tests.support.server import Server


@pytest.fixture
async def own_desk(own_settings: RedisSettings) -> AsyncIterator[Desk]:
    """Return a partition of a server that has never seen the library."""
    client = Redis(own_settings)
    yield Desk(client, own_settings, 2)
    await client.close()


@pytest.fixture
async def proxy(own_server: Server) -> AsyncIterator[Proxy]:
    async with Proxy(own_server.socket) as door:
        yield door


@pytest.fixture
async def far_desk(own_desk: Desk, proxy: Proxy) -> AsyncIterator[Desk]:
    """Return the same partition behind a door that loses replies."""
    client = Redis(msgspec.structs.replace(own_desk.settings, url=proxy.url))
    await library.load(client)
    yield Desk(client, own_desk.settings, 2)
    await client.close()


async def _libraries(desk: Desk) -> list[str]:
    listed = await desk.redis.call("FUNCTION", "LIST")
    return sorted(entry[b"library_name"].decode() for entry in listed)


async def test_missing_library_is_loaded_by_the_first_call(own_desk: Desk) -> None:
    await own_desk.submit()
    assert await _libraries(own_desk) == [library.NAME]


async def test_flushed_library_is_loaded_again(own_desk: Desk) -> None:
    ticket = await own_desk.submit()
    for verb in ("FLUSH", "FLUSH"):
        await own_desk.redis.call("FUNCTION", verb)
        assert await own_desk.stage(ticket) == "queued"
    await own_desk.redis.call("FUNCTION", "FLUSH")
    assert (await own_desk.claim_one()).id == ticket.id


async def test_many_may_load_at_once(own_desk: Desk, own_settings: RedisSettings) -> None:
    clients = [Redis(own_settings) for _ in range(8)]
    await asyncio.gather(*(library.load(client) for client in clients))
    await asyncio.gather(*(client.close() for client in clients))
    assert await _libraries(own_desk) == [library.NAME]


async def test_library_survives_a_restart(own_server: Server, own_desk: Desk) -> None:
    ticket = await own_desk.submit()
    own_server.restart()
    assert await _libraries(own_desk) == [library.NAME]
    assert (await own_desk.claim_one()).id == ticket.id


async def test_other_versions_run_beside_ours(own_desk: Desk) -> None:
    other = library.TEXT.replace(library.NAME, "pollux_other")
    await own_desk.redis.call("FUNCTION", "LOAD", other)
    await own_desk.submit()
    assert await _libraries(own_desk) == sorted([library.NAME, "pollux_other"])


async def test_accept_whose_reply_was_lost_is_replayed(far_desk: Desk, proxy: Proxy) -> None:
    await far_desk.grant(100)
    generation, session = ids.new_id(), ids.new_id()
    proxy.replies_to_lose = 1
    answer = await far_desk.accept(session=session, is_new=True, generation=generation, hold=60)
    assert answer == Replayed(generation, session)
    assert (await far_desk.books()).held == 60
    assert len(await far_desk.claim(10)) == 1


async def test_claim_whose_reply_was_lost_is_given_back_by_the_next(
    far_desk: Desk, proxy: Proxy
) -> None:
    ticket = await far_desk.submit()
    proxy.replies_to_lose = 1
    with pytest.raises(UnavailableError):
        await far_desk.claim(number=1)
    assert await far_desk.stage(ticket) == "routing"
    [claimed] = await far_desk.claim(number=2, unheard=[1])
    assert (claimed.id, claimed.attempt) == (ticket.id, 2)


async def test_claim_whose_worker_never_comes_back_lapses(far_desk: Desk, proxy: Proxy) -> None:
    ticket = await far_desk.submit()
    proxy.replies_to_lose = 1
    with pytest.raises(UnavailableError):
        await far_desk.claim(lease_ms=0)
    assert (await far_desk.reap()).done == [("ann", ticket.id, "crashed")]
    assert (await far_desk.claim_one()).attempt == 2


async def test_append_whose_reply_was_lost_writes_once(far_desk: Desk, proxy: Proxy) -> None:
    ticket = await far_desk.submit()
    claimed = await far_desk.claim_one()
    for seq, text in enumerate(("one", "two", "three"), 1):
        proxy.replies_to_lose = 1
        assert await far_desk.append(claimed, seq, text) == "appended"
    assert (await far_desk.status(ticket)).body == b"onetwothree"
    assert [at for at, _ in await far_desk.events(ticket)] == ["1-1", "1-2", "1-3"]


async def test_settle_whose_reply_was_lost_charges_once(far_desk: Desk, proxy: Proxy) -> None:
    await far_desk.grant(100)
    await far_desk.submit(hold=60)
    claimed = await far_desk.claim_one()
    await far_desk.append(claimed, 1, "Hi")
    proxy.replies_to_lose = 1
    assert await far_desk.settle(claimed, seq=2, cost=10) == Settled(10)
    assert (await far_desk.books()).settled == 10


async def test_grant_whose_reply_was_lost_is_not_given_twice(far_desk: Desk, proxy: Proxy) -> None:
    proxy.replies_to_lose = 1
    with pytest.raises(UnavailableError):
        await far_desk.grant(100)
    assert (await far_desk.books()).granted == 100


async def test_release_and_reap_whose_replies_were_lost_hand_work_on_once(
    far_desk: Desk, proxy: Proxy
) -> None:
    ticket = await far_desk.submit()
    claimed = await far_desk.claim_one()
    proxy.replies_to_lose = 1
    assert await far_desk.release(claimed) == "refused"
    assert await far_desk.stage(ticket) == "queued"
    await far_desk.claim_one(lease_ms=0)
    proxy.replies_to_lose = 1
    assert (await far_desk.reap()).done == []
    assert [one.attempt for one in await far_desk.claim(10)] == [3]
