"""A deployment in progress: processes of two versions side by side on one Redis."""

import asyncio
import dataclasses
from collections.abc import Callable

import pytest
from typing_extensions import override

from shared.redis import library
from shared.redis.client import Argument, Redis, Reply
from shared.wire.submission import WIRE
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.system import System
from tests.support.waiting import until
from tests.worker.front import Front
from tests.worker.running_workers import running_worker, started
from worker.consumer import claims
from worker.consumer.arq_worker import PolluxWorker

_OTHER = f"{library.NAME}x"


class OtherLibraryRedis(Redis):
    """A connection of a process whose function library has another text, and so another name."""

    claims = 0

    @override
    async def call(self, *command: Argument, repeat: bool = True) -> Reply:
        return await super().call(*self._renamed(command), repeat=repeat)

    @override
    async def pipeline(self, *commands: tuple[Argument, ...]) -> list[Reply]:
        return await super().pipeline(*map(self._renamed, commands))

    def _renamed(self, command: tuple[Argument, ...]) -> tuple[Argument, ...]:
        verb, name, *rest = command
        if not str(verb).startswith("FCALL"):
            return command
        self.claims += str(name).endswith("_claim")
        return (verb, str(name).replace(library.NAME, _OTHER), *rest)


async def test_two_function_libraries_serve_one_queue(system: System, front: Front) -> None:
    await front.redis.call("FUNCTION", "LOAD", library.TEXT.replace(library.NAME, _OTHER))
    async with running_worker(system), started(system) as (worker, _):
        other, other_wakeup = (
            OtherLibraryRedis(system.settings.redis),
            OtherLibraryRedis(system.settings.redis),
        )
        taking = worker.claims
        ours = (worker.redis, taking._wakeup.redis)
        worker.redis = taking._redis = other
        taking._wakeup.redis = other_wakeup
        worker.ctx["dependencies"] = dataclasses.replace(worker.ctx["dependencies"], redis=other)
        first = [await front.submit(f"talk {n}") for n in range(20)]
        then = [await front.submit("and then?", session=one.session) for one in first]
        ended = [await front.end(ticket) for ticket in (*first, *then)]
        assert other.claims + other_wakeup.claims
    assert {(one.stage, one.attempt) for one in ended} == {("completed", 1)}
    assert (await front.credit_totals()).held == 0
    for connection in ours:
        await connection.close()
    await front.redis.call("FUNCTION", "DELETE", _OTHER)


async def test_newer_generation_waits_for_a_newer_worker(
    system: System, front: Front, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_worker(system):
        newer = await front.submit("of tomorrow", wire=WIRE + 1)
        ours = await front.submit("of today", account="bob")
        await front.end(ours)
        assert (await front.poll(newer)).stage == "queued"
        assert [request.last for request in provider.requests] == ["of today"]
    monkeypatch.setattr(claims, "WIRE", WIRE + 1)
    async with running_worker(system):
        ended = await front.end(newer)
    assert (ended.stage, ended.attempt) == ("completed", 1)


async def test_workers_come_and_go_under_load(
    system: System, front: Front, provider: ScriptedProvider
) -> None:
    """A rolling deploy: nothing fails, and no attempt is counted as a crash."""
    system.change("worker", grace_seconds=0.05, concurrency=8)
    provider.answer = lambda _: ScriptedAnswer(text="Two bears", first_seconds=0.2)
    tickets = await asyncio.gather(*(front.submit(f"message {n}") for n in range(60)))
    for _ in range(4):
        async with running_worker(system) as worker:
            await until(_is_busy(worker))
    async with running_worker(system):
        ended = [await front.end(ticket) for ticket in tickets]
        records = [await front.record(ticket) for ticket in tickets]
    assert {one.stage for one in ended} == {"completed"}
    assert not [record for record in records if "crashes" in record]
    assert (await front.credit_totals()).held == 0


def _is_busy(worker: PolluxWorker) -> Callable[[], object]:
    return lambda: len(worker.slots)
