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
from shared.redis.functions import BeginProbeAsk, EndProbeAsk
from shared.settings import BreakerSettings, ProviderSettings, RedisSettings
from shared.stores import fleet
from shared.stores.accounts import Accounts
from shared.stores.fleet import CallReport
from shared.wire.fleet import WorkerReport
from tests.support import redis_invariants
from tests.support.redis_functions import RedisFunctions
from tests.support.redis_server import Kind, Server, binaries
from worker.resilience.circuits import Caller, failure_ask
from worker.resilience.provider_rate_limits import ProviderRateLimits


@pytest.fixture(scope="module", params=list(binaries()))
def cluster(request: pytest.FixtureRequest) -> Iterator[Server]:
    kind: Kind = request.param
    with Server(kind, is_cluster=True) as server:
        yield server


@pytest.fixture
async def queue(cluster: Server) -> AsyncIterator[RedisFunctions]:
    settings = RedisSettings(url=cluster.url, prefix=f"t{ids.new_id()}", partitions=3)
    client = Redis(settings)
    await library.load(client)
    yield RedisFunctions(client, settings, 1)
    await client.close()
    with cluster.raw_client() as raw_client:
        found = redis_invariants.faults(raw_client, settings)
        redis_invariants.sweep(raw_client, settings)
    assert not found, "\n".join(found)


async def test_server_refuses_what_crosses_slots(queue: RedisFunctions) -> None:
    name = "crossing"
    text = f"""#!lua name={name}
    redis.register_function('{name}', function(roots)
      redis.call('SET', roots[1] .. 'a', 1)
      redis.call('SET', '{{elsewhere}}b', 1)
    end)"""
    await queue.redis.call("FUNCTION", "LOAD", "REPLACE", text)
    with pytest.raises(StoreError):
        await queue.redis.call("FCALL", name, 1, queue.root)
    await queue.redis.call("DEL", f"{queue.root}a")


async def test_life_of_generations_stays_in_its_slot(queue: RedisFunctions) -> None:
    await queue.grant(1_000)
    first = await queue.submit(hold=10, idempotency="key", model="m1")
    await queue.accept(idempotency="key")
    await queue.submit("ann", first.session, hold=10)
    claimed = await queue.claim_one(worker="w1")
    await queue.append(claimed, 1, "Hello")
    await queue.beat(claimed)
    await queue.cancel(first)
    await queue.settle(claimed, seq=2, cost=3)
    assert await queue.release(await queue.claim_one(), delay_ms=1) == "released"
    await queue.submit("bob", lane="batch")
    await queue.claim_one(lease_ms=0)
    await queue.reap(crashes_max=1)
    await queue.submit("bob", deadline_ms=0)
    await queue.reap()
    await queue.submit("ann", first.session, hold=10, on_conflict="interrupt")
    await queue.status(first)
    assert await queue.rename_session("ann", first.session, "New")
    assert await queue.delete_session("ann", first.session)


async def test_accounts_and_keys_stay_in_their_slot(queue: RedisFunctions) -> None:
    accounts = Accounts(queue.redis, queue.settings, b"pepper", SystemClock())
    account = await accounts.create("acme", "pro")
    made = await accounts.create_key(account, ("chat",))
    assert await accounts.authenticate(made.key) is not None
    assert await accounts.grant(account, 5) == 5


async def test_breakers_and_limits_of_providers_stay_in_their_slot(queue: RedisFunctions) -> None:
    root, provider = (
        keys.system_root(queue.settings),
        ProviderSettings(name="p", base_url="http://p"),
    )
    limits = ProviderRateLimits(
        msgspec.structs.replace(provider, concurrency_max=1, tokens_per_minute=9)
    )
    assert (
        await functions.admit_call(queue.redis, root, limits.admit_ask("c", "batch", 1, 1_000))
        is None
    )
    failure = Failure(message="No.", category="auth", code="X")
    ask = failure_ask(
        "p/m/open", "c", Caller("ann", "m"), ProviderError(failure), BreakerSettings()
    )
    assert (await functions.record_failure(queue.redis, root, ask)).is_new
    worker_report = WorkerReport(id="w", concurrency=1, running=1, models=("m",), wire=1)
    calls = CallReport(
        (("p", "batch", "c"),), (("p/m/open", "c"),), (("p/m/open", 1),), 1_000, 1_000
    )
    assert (await fleet.report(queue.redis, queue.settings, worker_report, calls)).breakers
    await queue.redis.call("HSET", keys.BREAKER(root, "p/m/open"), "due", 1)
    probe = BeginProbeAsk(circuit="p/m/open", call="d", account="ann", lease_ms=1_000)
    assert await functions.begin_probe(queue.redis, root, probe) is None
    functions.end_probe(queue.redis, root, EndProbeAsk(circuit="p/m/open", call="d", is_well=True))
    functions.end_call(queue.redis, root, limits.depart_ask("c", "batch", 1, 2))
    assert not (await fleet.report(queue.redis, queue.settings, worker_report)).breakers
    assert await queue.redis.call("EXISTS", keys.SLOTS(root, "p", "batch")) == 0


async def test_partitions_have_slots_of_their_own(queue: RedisFunctions) -> None:
    roots = [keys.system_root(queue.settings)]
    roots += [keys.partition_root(queue.settings, number) for number in range(64)]
    slots = {await queue.redis.call("CLUSTER", "KEYSLOT", root) for root in roots}
    assert len(slots) == len(roots)
