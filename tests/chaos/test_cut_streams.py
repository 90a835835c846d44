"""A short run with cut streams and killed processes; the long one is the command."""

import pytest

from tests.chaos import cut_streams


@pytest.mark.timeout(60)
async def test_what_a_follower_has_in_the_end_is_what_is_stored() -> None:
    tally = await cut_streams.run(60, seed=7, kills=2, followers=8)
    assert tally.faults == []
    assert tally.kills == 2
    assert tally.cuts >= 60
    assert tally.answers >= 8
