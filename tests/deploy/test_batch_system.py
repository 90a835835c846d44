"""`pollux batch` against a real front, worker and Redis; the command is killed and comes back."""

import asyncio
import functools
import itertools
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shared.wire.account import MICROCREDITS_PER_CREDIT
from tests.deploy.batch_command import names_in, read_answers, write_prompts
from tests.support.scripted_provider import ScriptedAnswer
from tests.support.system import System
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(60)


@asynccontextmanager
async def _started(
    system: System, key: str, cwd: Path, *words: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "deploy.cli", "batch", *words),
        cwd=cwd,
        env={"PATH": os.defpath, "POLLUX_URL": system.url, "POLLUX_API_KEY": key},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _answered(system: System, count: int) -> bool:
    return sum(request.answered_at is not None for request in system.provider.requests) >= count


def _has(answers: Path) -> bool:
    return answers.stat().st_size > 0


async def test_killed_twice_each_prompt_is_answered_and_charged_once(
    system: System, tmp_path: Path
) -> None:
    names = write_prompts(tmp_path / "prompts.jsonl", 150)
    with (tmp_path / "prompts.jsonl").open("a") as file:
        file.write("\nnot JSON\n")
    await system.front()
    await system.worker()
    # The upstream answers 50 prompts, and the others after the second death.
    gate, asked = asyncio.Event(), itertools.count(1)
    system.provider.answer = lambda _: ScriptedAnswer(
        text="An answer.", gate=None if next(asked) <= 50 else gate
    )
    account = await system.account()
    key = (await system.key(account)).key
    answers = tmp_path / "answers.jsonl"
    words = ("run", "prompts.jsonl", "-o", "answers.jsonl", "-m", "alpha")
    # It is killed when its prompts are accepted, and when it has written some answers.
    for condition in (functools.partial(_answered, system, 50), functools.partial(_has, answers)):
        async with _started(system, key, tmp_path, *words) as process:
            await until(condition, 30)
            process.kill()
            await process.wait()
    assert 0 < answers.read_bytes().count(b"\n") < 150
    # A write that was cut in the middle of a line.
    os.truncate(answers, answers.stat().st_size - 5)
    gate.set()
    await until(functools.partial(_answered, system, 150), 30)
    async with _started(system, key, tmp_path, *words) as process:
        said, _ = await process.communicate()
        assert process.returncode == 2, said.decode()
    assert names_in(answers) == [*names, "152"]
    *answered, failed = read_answers(answers)
    assert {answer["state"] for answer in answered} == {"completed"}
    assert (failed["line"], failed["state"]) == (152, "failed")
    assert b"150 prompts are answered, 1 failed" in said
    # A line that is no valid prompt would fail again.
    assert b"batch retry" not in said
    assert len(system.provider.requests) == 150
    charged = sum(round(each["credits"] * MICROCREDITS_PER_CREDIT) for each in answered)
    left = (await system.accounts.credit_totals(account)).balance
    assert left == 1000 * MICROCREDITS_PER_CREDIT - charged
