"""A worker's slots: a batch holds its share at most, a person always finds one."""

import asyncio

from tests.support.completions import Answer
from tests.support.provider import Provider
from tests.support.system import System
from tests.support.waiting import until
from tests.worker.crew import working
from tests.worker.front import Front


async def test_batch_leaves_slots_to_persons_and_takes_its_own_again_at_once(
    system: System, front: Front, provider: Provider
) -> None:
    system.change("worker", concurrency=8, batch_share=0.75)
    gates = {number: asyncio.Event() for number in range(12)}

    def answer(request: object) -> Answer:
        words = getattr(request, "last", "")
        number = int(words.split()[-1]) if words.startswith("batch") else None
        return Answer(text="Two", gate=gates[number]) if number is not None else Answer(text="One")

    provider.answer = answer
    async with working(system) as worker:
        items = [
            await front.submit(f"batch {number}", account="mill", lane="batch")
            for number in range(12)
        ]
        await until(lambda: len(provider.requests) == 6)
        person = await front.submit("hello")
        assert (await front.end(person, 3)).stage == "completed"
        assert len(worker.slots) == 6
        assert worker.slots.free_for_batch == 0
        gates[0].set()
        await front.end(items[0])
        await until(lambda: len(worker.slots) == 6)
        for gate in gates.values():
            gate.set()
        for item in items:
            assert (await front.end(item)).stage == "completed"


async def test_worker_of_one_slot_does_both(
    system: System, front: Front, provider: Provider
) -> None:
    system.change("worker", concurrency=1)
    async with working(system) as worker:
        item = await front.submit("item", account="mill", lane="batch")
        await front.end(item)
        assert (await front.end(await front.submit("hello"))).stage == "completed"
        assert worker.slots.free_for_batch == 1
    assert len(provider.requests) == 2
