"""Each sample of `wakeup` is of one generation; an impossible one fails the bench."""

import asyncio
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from tests.bench import noop_worker, wakeup
from tests.bench.contestants import Program
from tests.support.scripted_provider import ScriptedProvider
from tests.support.system import System, system
from tests.support.waiting import until
from tests.worker.front import Front
from tests.worker.running_workers import running_worker

__all__ = ["system"]


class _FakeProgram:
    """A program that has written these lines and writes no more."""

    def __init__(self, *lines: list[float]) -> None:
        self._lines = list(lines)

    def write_line(self, word: str = "") -> None:
        """Ignore the line."""

    async def read_line(self, patience_seconds: float | None = None) -> list[float]:
        """Return the next line."""
        del patience_seconds
        if not self._lines:
            await asyncio.Event().wait()
        return self._lines.pop(0)


def _contestant_of(client: _FakeProgram, worker: _FakeProgram) -> wakeup._Sampled:
    return wakeup._Sampled("ours", cast("Program", client), [cast("Program", worker)])


async def test_a_sample_is_of_the_job_that_was_enqueued() -> None:
    sampled = _contestant_of(_FakeProgram([1, 10.0]), _FakeProgram([1, 10.5]))
    assert await sampled.sample() == 0.5
    await sampled.close()


@pytest.mark.parametrize(
    "begun", [[[1, 9.0]], [[7, 9.0], [1, 10.5]]], ids=["before it was enqueued", "another job"]
)
async def test_a_sample_that_cannot_be_fails_the_bench(begun: list[list[float]]) -> None:
    sampled = _contestant_of(_FakeProgram([1, 10.0]), _FakeProgram(*begun))
    with pytest.raises(AssertionError, match="a job began"):
        await sampled.sample()
    await sampled.close()


async def test_only_generations_are_jobs_that_begin(
    system: System, provider: ScriptedProvider, capsys: pytest.CaptureFixture[str]
) -> None:
    chores: list[str] = []

    async def begin(ctx: dict[str, Any]) -> None:
        await noop_worker.print_begun(ctx)
        chores.extend([ctx["job_id"]] if "claimed" not in ctx else [])

    front = Front(system.redis, system.settings)
    async with running_worker(system, hooks={"on_job_start": begin}) as worker:
        for chore in worker.cron_jobs:
            chore.next_run = datetime.now(tz=UTC)
        await until(lambda: chores, what="a chore")
        await front.end(await front.submit())
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(provider.requests) == 1
