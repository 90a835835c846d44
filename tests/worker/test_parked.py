"""Workers with different keys, and a backlog behind a provider's limit: nothing claimed in vain."""

import msgspec
import pytest

from shared.redis import keys
from tests.support.provider import Answer, Provider
from tests.support.system import System
from tests.support.waiting import until
from tests.worker.crew import working
from tests.worker.front import Front, Ticket
from worker.consumer import PolluxWorker

pytestmark = pytest.mark.each_once

_KEY = {"PARKED_KEY": "secret"}


def _keyed(system: System, **limits: object) -> None:
    """Have the first model's provider need a key, and the second model's none."""
    first, second = system.settings.providers
    alpha, beta, *others = system.settings.models
    system.settings = msgspec.structs.replace(
        system.settings,
        providers=(
            msgspec.structs.replace(first, api_key_env="PARKED_KEY", **limits),
            msgspec.structs.replace(second, api_key_env=None),
        ),
        models=(
            msgspec.structs.replace(alpha, provider=first.name),
            msgspec.structs.replace(beta, provider=second.name),
            *others,
        ),
    )


async def _attempts(front: Front, tickets: list[Ticket]) -> set[str]:
    return {(await front.record(ticket))["attempt"] for ticket in tickets}


async def _knows_what_others_serve(*workers: PolluxWorker) -> None:
    """Wait until the workers have heard that another has the key."""
    await until(
        lambda: all(worker.ctx["tools"].unlined is not None for worker in workers),
        what="the fleet's keys",
    )


async def test_a_turn_goes_to_the_worker_that_has_the_key_and_no_attempt_is_in_vain(
    system: System, front: Front, provider: Provider
) -> None:
    _keyed(system)
    provider.answer = lambda _: Answer(text="Two")
    async with working(system, _KEY), working(system) as one, working(system) as two:
        await _knows_what_others_serve(one, two)
        tickets = []
        for number in range(12):
            ticket = await front.submit(f"hello {number}", model="alpha")
            assert (await front.end(ticket)).stage == "completed"
            tickets.append(ticket)
        records = [await front.record(ticket) for ticket in tickets]
    # Each of the two may have begun its wait for work before it heard who has the key.
    assert sum(int(record["attempt"]) for record in records) <= len(tickets) + 2


async def test_turns_whose_key_is_gone_wait_for_it_and_cost_one_attempt_at_most(
    system: System, front: Front, provider: Provider
) -> None:
    _keyed(system)
    provider.answer = lambda _: Answer(text="Two")
    async with working(system):
        tickets = [await front.submit(f"hello {n}", model="alpha") for n in range(20)]

        async def are_parked() -> bool:
            records = [await front.record(ticket) for ticket in tickets]
            return all("parked" in record for record in records)

        await until(are_parked, what="parked turns")
        # Whoever serves something else is not kept from it.
        other = await front.submit("other", model="beta")
        assert (await front.end(other)).stage == "completed"
        assert await _attempts(front, tickets) <= {"0", "1"}
        async with working(system, _KEY):
            ended = [await front.end(ticket) for ticket in tickets]
        assert {one.stage for one in ended} == {"completed"}
        assert await _attempts(front, tickets) <= {"1", "2"}
    for root in {ticket.root for ticket in tickets}:
        assert await front.redis.call("EXISTS", keys.PARKED_LINES(root)) == 0


@pytest.mark.timeout(60)
async def test_a_backlog_behind_a_limit_is_claimed_as_room_comes(
    system: System, front: Front, provider: Provider
) -> None:
    _keyed(system, concurrency_max=2)
    provider.answer = lambda _: Answer(text="Two", first_seconds=0.02)
    async with working(system, _KEY), working(system, _KEY):
        tickets = [
            await front.submit(f"hello {n}", account=f"a{n % 5}", model="alpha") for n in range(80)
        ]
        ended = [await front.end(ticket, 40) for ticket in tickets]
        assert {one.stage for one in ended} == {"completed"}
        attempts = sum([int((await front.record(ticket))["attempt"]) for ticket in tickets])
    # In vain: what was claimed before the first call found no room, once.
    assert attempts <= len(tickets) + 2 * 2 * system.settings.worker.concurrency
