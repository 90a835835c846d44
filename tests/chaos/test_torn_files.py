"""A few cuts of append-only files; the long run is the command."""

import pytest

from shared.redis import library
from shared.redis.client import Redis
from tests.chaos import torn_files
from tests.chaos.full_scenario import FullScenario
from tests.chaos.torn_files import Acknowledged, Tally
from tests.support.redis_functions import RedisFunctions
from tests.support.redis_server import Server

pytestmark = pytest.mark.timeout(60)


async def test_what_was_acknowledged_is_in_every_cut_copy() -> None:
    tally = await torn_files.run(4, seed=7, loads=3)
    assert tally.faults == []
    assert tally.kept > 0


async def test_what_a_function_wrote_is_there_whole_or_not_at_all() -> None:
    tally = await torn_files.cut_single_writer(6, seed=7)
    assert tally.faults == []
    assert tally.blocks > 0
    assert tally.states > 50


async def test_cut_before_what_was_acknowledged_is_found() -> None:
    tally = Tally()
    with Server(appendfsync="always") as server:
        settings = torn_files.settings_of(server, "early")
        redis = Redis(settings)
        try:
            await library.load(redis)
            full_scenario = FullScenario(RedisFunctions(redis, settings))
            await full_scenario.run()
            begun = torn_files.tail_of(server.folder).stat().st_size
            await full_scenario.send_message("ann", "the last")
        finally:
            await redis.close()
        known = Acknowledged.of(full_scenario)
        async with torn_files.cut_copy(server, lambda size: (begun + size) // 2) as copy:
            with copy.server.raw_client() as raw_client:
                found = await torn_files.judge(copy.server, raw_client, known, tally)
    assert copy.is_block
    assert [fault for fault in found if fault.startswith("I1 ann-the-last-0")]
