"""A few cuts of append-only files; the full run is by the command."""

import pytest

from shared.redis import library
from shared.redis.client import Redis
from tests.chaos import torn
from tests.chaos.day import Day
from tests.chaos.torn import Acknowledged, Tally
from tests.support.desk import Desk
from tests.support.server import Server

pytestmark = pytest.mark.timeout(60)


async def test_what_was_acknowledged_is_in_every_cut_copy() -> None:
    tally = await torn.run(4, seed=7, loads=3)
    assert tally.faults == []
    assert tally.kept > 0


async def test_what_a_function_wrote_is_there_whole_or_not_at_all() -> None:
    tally = await torn.whole(6, seed=7)
    assert tally.faults == []
    assert tally.blocks > 0
    assert tally.states > 50


async def test_cut_before_what_was_acknowledged_is_found() -> None:
    tally = Tally()
    with Server(appendfsync="always") as server:
        settings = torn.settings_of(server, "early")
        redis = Redis(settings)
        try:
            await library.load(redis)
            day = Day(Desk(redis, settings))
            await day.run()
            begun = torn.tail_of(server.folder).stat().st_size
            await day.say("ann", "the last")
        finally:
            await redis.close()
        known = Acknowledged.of(day)
        async with torn.cut_copy(server, lambda size: (begun + size) // 2) as copy:
            with copy.server.look() as look:
                found = await torn.judge(copy.server, look, known, tally)
    assert copy.is_block
    assert [fault for fault in found if fault.startswith("I1 ann-the-last-0")]
