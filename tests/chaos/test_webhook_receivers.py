"""The table of receivers that misbehave, and a short run of one that fails at random."""

import pytest

from tests.chaos import webhook_receivers


@pytest.mark.timeout(60)
async def test_receivers_that_misbehave_lose_no_event() -> None:
    async with webhook_receivers.running() as place:
        outcomes = await webhook_receivers.table(place, is_short=True)
        assert {each.row.name: each.faults for each in outcomes if each.faults} == {}
        tally = await webhook_receivers.at_random(place, 300, seed=3)
    assert tally.faults == ()
    assert tally.calls > 300
