"""`renew_leases` and dead workers: a worker that renews is alive, even without a listener."""

from shared.redis import functions, keys
from shared.redis.functions import Reaped
from tests.support.redis_functions import LONG_MS, RedisFunctions
from tests.support.waiting import until


async def _beat(queue: RedisFunctions, without_listener_ms: int) -> None:
    [claimed] = await queue.claim(1)
    ask = functions.RenewLeasesAsk(
        lease_ms=LONG_MS,
        held=[(claimed.account, claimed.id, claimed.attempt)],
        worker="worker-1",
        without_listener_ms=without_listener_ms,
    )
    assert await functions.renew_leases(queue.redis, queue.root, ask) == []


async def test_worker_that_reports_a_disconnected_listener_is_not_absent_for_that_time(
    queue: RedisFunctions,
) -> None:
    await queue.submit()
    await _beat(queue, LONG_MS)
    for _ in range(3):
        assert (await queue.reap(absent_ms=0)).dead == []


async def test_worker_that_reports_nothing_is_absent(queue: RedisFunctions) -> None:
    await queue.submit()
    await _beat(queue, 0)
    await queue.reap(absent_ms=0)
    assert (await queue.reap(absent_ms=0)).dead == ["worker-1"]


async def test_absent_worker_is_not_dead_before_its_next_renewal_is_overdue(
    queue: RedisFunctions,
) -> None:
    ticket = await queue.submit()
    await _beat(queue, 0)
    await _age_leases(queue, LONG_MS - 2_000)
    for _ in range(3):
        seen = await queue.reap(absent_ms=0, beat_ms=LONG_MS)
        assert (seen.dead, seen.done, seen.missed) == ([], [], 1)
    assert await queue.stage(ticket) == "routing"


async def test_absent_worker_that_missed_a_renewal_is_dead_before_its_leases_expire(
    queue: RedisFunctions,
) -> None:
    ticket = await queue.submit()
    await _beat(queue, 0)
    # Of the 2 s of a lease, 1 s has passed since it was renewed.
    await _age_leases(queue, LONG_MS - 1_000)
    assert (await queue.reap(absent_ms=0, beat_ms=500)).missed == 1
    found = await queue.reap(absent_ms=0, beat_ms=500)
    assert (found.dead, found.done) == (["worker-1"], [("ann", ticket.id, "crashed")])


async def test_absent_worker_is_dead_once_a_renewal_and_the_time_of_absence_have_passed(
    queue: RedisFunctions,
) -> None:
    await queue.submit()
    await _beat(queue, 0)
    await _age_leases(queue, LONG_MS - 2_000)

    async def reaped() -> Reaped | None:
        found = await queue.reap(absent_ms=50, beat_ms=100)
        return found if found.dead else None

    [(_, ends_ms)] = await _leases(queue)
    found = await until(reaped, what="a death")
    seconds, micros = await queue.redis.call("TIME")
    silent_ms = int(seconds) * 1000 + int(micros) // 1000 - (ends_ms - 2_000)
    assert (found.dead, silent_ms >= 150) == (["worker-1"], True)


async def test_worker_that_renews_without_a_listener_lives_however_long_it_is_absent(
    queue: RedisFunctions,
) -> None:
    await queue.submit()
    [claimed] = await queue.claim(1, lease_ms=2_000)
    ask = functions.RenewLeasesAsk(
        lease_ms=2_000, held=[(claimed.account, claimed.id, claimed.attempt)]
    )
    for _ in range(5):
        assert await functions.renew_leases(queue.redis, queue.root, ask) == []
        # Absent for a minute, by its score among the claiming workers.
        await queue.redis.call("ZADD", keys.CLAIMING_WORKERS(queue.root), 1, "worker-1")
        seen = await queue.reap(absent_ms=50, beat_ms=1_000)
        assert (seen.dead, seen.missed) == ([], 1)


async def test_claims_do_not_delay_when_the_next_renewal_is_due(queue: RedisFunctions) -> None:
    """A worker that dies right after a claim is found dead when its next renewal is overdue."""
    await queue.submit()
    await queue.claim_one(lease_ms=2_000)
    await queue.redis.call("ZADD", keys.CLAIMING_WORKERS(queue.root), 1, "worker-1")
    # Claimed an hour ago, and renewed again and again until a second ago.
    [(name, _)] = await _leases(queue)
    account, _, id_ = name.partition(":")
    await queue.redis.call("HSET", keys.GENERATION(queue.root, account, id_), "started", 1)
    await _age_leases(queue, 1_000)
    assert (await queue.reap(absent_ms=0, beat_ms=1_500)).dead == []
    await queue.submit("bob")
    await queue.claim_one(lease_ms=2_000)
    # It was alive a moment ago.
    assert (await queue.reap(absent_ms=LONG_MS, beat_ms=500)).dead == []
    assert len((await queue.reap(absent_ms=0, beat_ms=500)).done) == 2


async def test_live_worker_keeps_its_leases_while_another_is_found_dead(
    queue: RedisFunctions,
) -> None:
    gone = await queue.submit()
    await queue.claim_one(worker="worker-1", lease_ms=1)
    kept = await queue.submit()
    await queue.claim_one(worker="worker-2", lease_ms=2_000)
    await queue.redis.call("ZADD", keys.CLAIMING_WORKERS(queue.root), 1, "worker-1", 1, "worker-2")
    seen = await queue.reap(absent_ms=0, beat_ms=1_000)
    assert (seen.dead, seen.missed) == (["worker-1"], 1)
    assert seen.done == [("ann", gone.id, "crashed")]
    assert await queue.stage(kept) == "routing"


async def test_renewal_without_leases_adds_no_worker(queue: RedisFunctions) -> None:
    ask = functions.RenewLeasesAsk(
        lease_ms=LONG_MS, held=[], worker="worker-9", without_listener_ms=LONG_MS
    )
    assert await functions.renew_leases(queue.redis, queue.root, ask) == []
    assert await queue.redis.call("EXISTS", keys.CLAIMING_WORKERS(queue.root)) == 0


async def _leases(queue: RedisFunctions) -> list[tuple[str, int]]:
    found = await queue.redis.call("ZRANGE", keys.LEASES(queue.root), 0, -1, "WITHSCORES")
    return [(name.decode(), int(ends)) for name, ends in found]


async def _age_leases(queue: RedisFunctions, by_ms: int) -> None:
    for name, _ in await _leases(queue):
        await queue.redis.call("ZINCRBY", keys.LEASES(queue.root), -by_ms, name)
