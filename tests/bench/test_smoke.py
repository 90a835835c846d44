"""Every bench runs with tiny sizes: its figures are not judged, but it must return them."""

import pytest

from tests.bench import (
    adapters,
    backlog,
    batch_beside,
    batch_download,
    batch_keys,
    batch_million,
    batch_stop,
    batch_upload,
    cancel,
    conversations,
    engine,
    fairness,
    followers,
    front,
    idle,
    memory,
    other_tenant,
    overdraft,
    pages,
    pickup,
    poll_policy,
    polling,
    streams,
    trips,
    wakeup,
)
from tests.bench.figures import Figure, table

pytestmark = pytest.mark.timeout(60)


def _check(figures: list[Figure], lines: int) -> None:
    """A bench returns `lines` figures, each with a number, and they make a table."""
    assert len(figures) == lines
    assert all(any(sign.isdigit() for sign in figure.found) for figure in figures)
    assert figures[0].name in table("all", figures)


async def test_front() -> None:
    _check(await front.measure(runs=1, seconds=0.2), 4)


async def test_backlog() -> None:
    _check(await backlog.measure(long=50, short=10, rounds=1, runs=1), 3)


async def test_fairness() -> None:
    _check(await fairness.measure(samples=4, backlog=40, rounds=1, big=60, runs=1), 3)


async def test_cancel() -> None:
    _check(await cancel.measure(samples=1, runs=1), 2)


async def test_trips() -> None:
    found = await trips.measure(posts=2, seconds=0.1)
    _check(found, 4)
    assert "accept 1.00" in found[0].found


async def test_memory() -> None:
    found = await memory.measure(generations=16)
    assert [figure.name for figure in found if figure.is_met is not None] == [
        "bytes of 16 conversations of one turn",
        "bytes of 16 turns, 20 a conversation",
        "bytes of 16 generations without a session",
    ]


async def test_overdraft() -> None:
    [figure] = await overdraft.measure(submissions=300, paid_for=7)
    assert figure.is_met, figure


async def test_pages() -> None:
    found = await pages.measure(2, 40_000, dialects=("kolbo",), texts=("one byte",))
    _check(found, 4)
    assert found[1].is_met, found[1]


async def test_pickup() -> None:
    _check(await pickup.measure(samples=1, runs=1), 3)


async def test_wakeup() -> None:
    found = await wakeup.measure(
        samples=1, many_workers=2, runs=1, seconds=0.2, peers=(), workers=1
    )
    _check(found, 6)
    assert "accept 1.00" in found[-1].found


async def test_engine() -> None:
    found = await engine.measure(generations=20, runs=1, concurrencies=(8,), in_flight=20, peers=())
    _check(found, 6)
    assert found[-1].is_met


async def test_adapters() -> None:
    _check(await adapters.measure(runs=1, streams=2), 6)


async def test_idle() -> None:
    _check(await idle.measure(fleets=(1, 2), runs=1, seconds=0.5), 3)


async def test_conversations() -> None:
    found = await conversations.measure(conversations=3, turns=2, runs=2)
    _check(found, 2)
    assert found[1].is_met


async def test_polling() -> None:
    _check(await polling.measure(clients=1, durations=(0.1,)), 3)


async def test_streams() -> None:
    _check(await streams.measure(streams.Sizes(2, 4, 2, 2), runs=1, with_peer=False), 12)


async def test_followers() -> None:
    found = await followers.measure(
        followers=8, generations=2, seconds=1, many_followers=3, runs=1, paced=1
    )
    _check(found, 5)


def test_policy() -> None:
    _check(poll_policy.measure(clients=4), len(poll_policy.WORLDS))


async def test_batch_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_tenant, "PAIR_SECONDS", 0.1)
    found = await batch_download.measure(items=300, pairs=1)
    _check(found, 7)
    assert [figure.is_met for figure in found[1:6:2]] == [True] * 3


async def test_batch_upload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_tenant, "PAIR_SECONDS", 0.1)
    found = await batch_upload.measure(prompts=2_000, pairs=1)
    _check(found, 8)
    # The memory, which does not depend on the machine.
    assert [figure.is_met for figure in found[1:6:2]] == [True] * 3


async def test_batch_million() -> None:
    found = await batch_million.measure(items=300, is_compared_twice=False)
    _check(found, 19)
    # What is exact on any machine: each result once, in both orders, and the books.
    exact = [figure for figure in found if "faults" in figure.found or "faults" in figure.name]
    assert [figure.is_met for figure in exact] == [True] * 3, exact


async def test_batch_stop() -> None:
    _check(await batch_stop.measure(count=300, workers=0), 6)


async def test_batch_beside() -> None:
    sizes = batch_beside.Sizes(
        items=5_000, file_lines=20_000, pairs=1, seconds=0.3, small_batches=1
    )
    _check(await batch_beside.measure(sizes), 22)


async def test_batch_keys() -> None:
    found = await batch_keys.measure(keys=3, copies=8)
    _check(found, 2)
    assert found[0].is_met, found
