"""Every function touches one hash slot only, so the same code runs on a Cluster.

The server has all slots, but as a node of a cluster it refuses a function that touches keys of two.
"""

from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest

from shared import ids
from shared.clock import SystemClock
from shared.errors import Failure, ProviderError, StoreError
from shared.redis import functions, keys, library
from shared.redis.client import Redis
from shared.redis.functions import EndProbeAsk, ProbeAsk
from shared.sections import BreakerSettings
from shared.settings import ProviderSettings, RedisSettings
from shared.stores import fleet
from shared.stores.accounts import Accounts
from shared.stores.fleet import Calls
from shared.wire.fleet import WorkerReport
from tests.support import ledger
from tests.support.desk import Desk
from tests.support.server import Kind, Server, binaries
from worker.circuits import Caller, failing
from worker.limits import Limits


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


async def test_health_and_limits_of_providers_stay_in_theirs(desk: Desk) -> None:
    root, provider = (
        keys.system_root(desk.settings),
        ProviderSettings(name="p", base_url="http://p"),
    )
    limits = Limits(msgspec.structs.replace(provider, concurrency_max=1, tokens_per_minute=9))
    assert await functions.admit(desk.redis, root, limits.admission("c", "batch", 1, 1_000)) is None
    failure = Failure(message="No.", category="auth", code="X")
    ask = failing("p/m/open", "c", Caller("ann", "m"), ProviderError(failure), BreakerSettings())
    assert (await functions.fail(desk.redis, root, ask)).is_new
    pulse = WorkerReport(id="w", concurrency=1, running=1, models=("m",), wire=1)
    calls = Calls((("p", "batch", "c"),), (("p/m/open", "c"),), (("p/m/open", 1),), 1_000, 1_000)
    assert (await fleet.report(desk.redis, desk.settings, pulse, calls)).breakers
    await desk.redis.call("HSET", keys.BREAKER(root, "p/m/open"), "due", 1)
    probe = ProbeAsk(circuit="p/m/open", call="d", account="ann", lease_ms=1_000)
    assert await functions.probe(desk.redis, root, probe) is None
    functions.end_probe(desk.redis, root, EndProbeAsk(circuit="p/m/open", call="d", is_well=True))
    functions.depart(desk.redis, root, limits.departure("c", "batch", 1, 2))
    assert not (await fleet.report(desk.redis, desk.settings, pulse)).breakers
    assert await desk.redis.call("EXISTS", keys.SLOTS(root, "p", "batch")) == 0


async def test_partitions_have_slots_of_their_own(desk: Desk) -> None:
    roots = [keys.system_root(desk.settings)]
    roots += [keys.partition_root(desk.settings, number) for number in range(64)]
    slots = {await desk.redis.call("CLUSTER", "KEYSLOT", root) for root in roots}
    assert len(slots) == len(roots)
