"""Short runs with messages that kill their worker: they are given up, and no other message is."""

import pytest

from shared.settings import WorkerSettings
from tests.chaos import poison_messages
from tests.chaos.poison_messages import Plan

pytestmark = pytest.mark.timeout(120)

_WORKER = WorkerSettings(concurrency=8, reap_seconds=0.05)


@pytest.mark.parametrize(
    ("workers", "places", "per_session"), [(1, (1,), 1), (2, (0, 3), 1), (2, (2,), 2)]
)
async def test_poison_is_given_up_and_its_neighbours_are_not(
    workers: int, places: tuple[int, ...], per_session: int
) -> None:
    plan = Plan(
        workers=workers,
        innocents=5,
        places=places,
        per_session=per_session,
        kill_after_seconds=0.1,
        words=(2, 4),
        worker=_WORKER,
    )
    report = await poison_messages.run(plan)
    assert (report.innocents_failed, report.poisons_given_up) == (0, len(places))
    # Each poison kills a worker with others first, then alone; many deaths in a row delay that.
    assert report.deaths <= 12 * len(places)
