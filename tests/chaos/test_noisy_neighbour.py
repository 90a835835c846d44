"""One account's prompts that break an upstream do not defer other accounts' messages."""

import pytest

from tests.chaos import noisy_neighbour
from tests.support.scripted_provider import ScriptedProvider
from tests.support.system import System, system
from tests.support.waiting import until
from tests.worker.front import Front

__all__ = ["system"]

pytestmark = pytest.mark.each_once


async def test_a_neighbour_s_prompts_that_fail_put_nobody_else_off(
    system: System, provider: ScriptedProvider
) -> None:
    provider.answer = noisy_neighbour.answer
    front = Front(system.redis, system.settings)
    await system.worker()
    await noisy_neighbour.send_breaking(front)
    await until(
        lambda: any(line["event"] == "breaker opened" for line in system.lines),
        what="a breaker that opens",
    )
    ends = [await front.end(ticket) for ticket in await noisy_neighbour.send_innocent(front)]
    assert {(each.stage, each.attempt) for each in ends} == {("completed", 1)}
