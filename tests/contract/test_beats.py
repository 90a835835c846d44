"""What a beat says of its worker: one whose listener is away is not taken for dead at once."""

from shared.redis import functions
from tests.support.desk import LONG_MS, Desk


async def _beat(desk: Desk, deaf_ms: int) -> None:
    [claimed] = await desk.claim(1)
    ask = functions.BeatAsk(
        lease_ms=LONG_MS,
        held=[(claimed.account, claimed.id, claimed.attempt)],
        worker="worker-1",
        deaf_ms=deaf_ms,
    )
    assert await functions.beat(desk.redis, desk.root, ask) == []


async def test_worker_that_says_its_listener_is_away_is_not_missed_until_it_falls_silent(
    desk: Desk,
) -> None:
    await desk.submit()
    await _beat(desk, LONG_MS)
    for _ in range(3):
        assert (await desk.reap(absent_ms=0)).dead == []


async def test_worker_that_says_nothing_is_missed(desk: Desk) -> None:
    await desk.submit()
    await _beat(desk, 0)
    await desk.reap(absent_ms=0)
    assert (await desk.reap(absent_ms=0)).dead == ["worker-1"]
