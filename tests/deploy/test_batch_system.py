"""`pollux batch` against a real front, worker and Redis; the command is killed and comes back."""

import asyncio
import functools
import itertools
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.deploy.batch_command import names_in, read_answers, write_prompts
from tests.support.scripted_provider import Request, ScriptedAnswer
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


def _count(answers: Path) -> int:
    return answers.read_bytes().count(b"\n") if answers.exists() else 0


def _has(answers: Path, least: int) -> bool:
    return _count(answers) >= least


async def test_killed_twice_each_prompt_is_answered_and_charged_once(
    system: System, tmp_path: Path
) -> None:
    names = write_prompts(tmp_path / "prompts.jsonl", 300)
    with (tmp_path / "prompts.jsonl").open("a") as file:
        file.write("\nnot JSON\n")
    await system.front()
    await system.worker()
    # The upstream answers 80 prompts, 80 more after the first death, and all after the second.
    gates = [asyncio.Event() for _ in range(2)]
    asked = itertools.count()

    def answer(_: Request) -> ScriptedAnswer:
        part = next(asked) // 80
        return ScriptedAnswer(text="An answer.", gate=gates[min(part, 2) - 1] if part else None)

    system.provider.answer = answer
    account = await system.account()
    key = (await system.key(account)).key
    answers = tmp_path / "answers.jsonl"
    words = ("run", "prompts.jsonl", "-o", "answers.jsonl", "-m", "alpha")
    for least, gate in zip((20, 100), gates, strict=True):
        async with _started(system, key, tmp_path, *words) as process:
            await until(functools.partial(_has, answers, least), 30, what="answers")
            process.kill()
            await process.wait()
        assert _count(answers) < 300
        # A write that was cut in the middle of a line.
        os.truncate(answers, answers.stat().st_size - 5)
        gate.set()
    async with _started(system, key, tmp_path, *words) as process:
        said, _ = await process.communicate()
        assert process.returncode == 2, said.decode()
    assert names_in(answers) == [*names, "302"]
    *answered, failed = read_answers(answers)
    assert {answer["state"] for answer in answered} == {"completed"}
    assert (failed["line"], failed["state"]) == (302, "failed")
    assert b"300 prompts are answered, 1 failed" in said
    # A line that is no valid prompt would fail again.
    assert b"batch retry" not in said
    assert len(system.provider.requests) == 300
    async with _started(system, key, tmp_path, "list", "--json") as process:
        out, _ = await process.communicate()
        [listed] = json.loads(out)
    charged = (await system.accounts.credit_totals(account)).balance
    assert listed["credits"]["used"] == pytest.approx(sum(each["credits"] for each in answered))
    assert charged == round((1000 - listed["credits"]["used"]) * 1_000_000)
