"""Every function touches one hash slot only, so the same code runs on a Cluster.

The server has all slots, but as a node of a cluster it refuses a function that touches keys of two.
"""

from collections.abc import AsyncIterator, Iterator

import pytest

from shared import ids
from shared.clock import SystemClock
from shared.errors import StoreError
from shared.redis import keys, library
from shared.redis.client import Redis
from shared.settings import RedisSettings
from shared.stores.accounts import Accounts
from tests.support import ledger
from tests.support.desk import Desk
from tests.support.server import Kind, Server, binaries


@pytest.fixture(scope="module", params=list(binaries()))
def cluster(request: pytest.FixtureRequest) -> Iterator[Server]:
    kind: Kind = request.param
    with Server(kind, is_cluster=True) as server:
        yield server


@pytest.fixture
async def desk(cluster: Server) -> AsyncIterator[Desk]:
    settings = RedisSettings(url=cluster.url, prefix=f"t{ids.new_id()}", partitions=3)
    client = Redis(settings)
    await library.load(client)
    yield Desk(client, settings, 1)
    await client.close()
    with cluster.look() as look:
        found = ledger.faults(look, settings)
        ledger.sweep(look, settings)
    assert not found, "\n".join(found)


async def test_server_refuses_what_crosses_slots(desk: Desk) -> None:
    name = "crossing"
    text = f"""#!lua name={name}
    redis.register_function('{name}', function(roots)
      redis.call('SET', roots[1] .. 'a', 1)
      redis.call('SET', '{{elsewhere}}b', 1)
    end)"""
    await desk.redis.call("FUNCTION", "LOAD", "REPLACE", text)
    with pytest.raises(StoreError):
        await desk.redis.call("FCALL", name, 1, desk.root)
    await desk.redis.call("DEL", f"{desk.root}a")


async def test_life_of_generations_stays_in_its_slot(desk: Desk) -> None:
    await desk.grant(1_000)
    first = await desk.submit(hold=10, idempotency="key", model="m1")
    await desk.accept(idempotency="key")
    await desk.submit("ann", first.session, hold=10)
    claimed = await desk.claim_one(worker="w1")
    await desk.append(claimed, 1, "Hello")
    await desk.beat(claimed)
    await desk.cancel(first)
    await desk.settle(claimed, seq=2, cost=3)
    assert await desk.release(await desk.claim_one(), delay_ms=1) == "released"
    await desk.submit("bob", lane="batch")
    await desk.claim_one(lease_ms=0)
    await desk.reap(crashes_max=1)
    await desk.submit("bob", deadline_ms=0)
    await desk.reap()
    await desk.submit("ann", first.session, hold=10, on_conflict="interrupt")
    await desk.status(first)
    assert await desk.rename_session("ann", first.session, "New")
    assert await desk.delete_session("ann", first.session)


async def test_accounts_and_keys_stay_in_theirs(desk: Desk) -> None:
    accounts = Accounts(desk.redis, desk.settings, b"pepper", SystemClock())
    account = await accounts.create("acme", "pro")
    made = await accounts.create_key(account, ("chat",))
    assert await accounts.authenticate(made.key) is not None
    assert await accounts.grant(account, 5) == 5


async def test_partitions_have_slots_of_their_own(desk: Desk) -> None:
    roots = [keys.system_root(desk.settings)]
    roots += [keys.partition_root(desk.settings, number) for number in range(64)]
    slots = {await desk.redis.call("CLUSTER", "KEYSLOT", root) for root in roots}
    assert len(slots) == len(roots)
