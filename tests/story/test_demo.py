"""The demo, as a newcomer runs it: with the real local model, and with a worker that is killed."""

import os
from pathlib import Path

import pytest

from tests.support import command

# A small model on a busy machine takes its time.
pytestmark = pytest.mark.timeout(180)


async def test_the_demo_answers_although_a_worker_is_killed_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    """One command holds a conversation with a real model; a worker dies in the middle of it."""
    async with command.running("demo", cwd=tmp_path, environment={}) as demo:
        await demo.wait_for_line("Pollux is up at http://127.0.0.1:")
        assert set(demo.children()) == {
            "deploy.local.janitor",
            "valkey-server",
            "deploy.local.model",
            "api",
            "worker",
        }
        await demo.wait_for_line("> POST /api/v1/chat")
        await demo.wait_for_line("poll_interval_hint")
        demo.kill("worker")
        assert await demo.wait_until_ended() == 0, demo.text
        assert demo.text.count("Answered: ") == 2
        assert "is restarted" in demo.text
        assert '"identifier": "auto"' in demo.text
        assert "left nothing behind" in demo.text
        assert demo.left() == []
        assert os.listdir(tmp_path) == []  # noqa: PTH208  where the command was called
