"""`pollux batch` in a terminal: the bar, its numbers, Ctrl-C, tables."""

import os
import sys
from pathlib import Path

from tests.deploy.batch_command import names_in, write_prompts
from tests.support.scripted_batches import ScriptedBatches
from tests.support.terminal import Terminal


def _batch(api: ScriptedBatches, cwd: Path, *words: str) -> Terminal:
    return Terminal(
        (sys.executable, "-P", "-m", "deploy.cli", "batch", *words),
        cwd,
        {"PATH": os.defpath, "POLLUX_URL": api.url, "POLLUX_API_KEY": "the-key"},
    )


def test_a_bar_shows_how_far_it_is_and_ctrl_c_leaves_the_batch_running(
    batches_api: ScriptedBatches, tmp_path: Path
) -> None:
    names = write_prompts(tmp_path / "prompts.jsonl", 1200)
    batches_api.items_per_look = 0
    batches_api.state_of = lambda item: "failed" if item["custom_id"] == "q3" else "completed"
    words = ("run", "prompts.jsonl", "-o", "answers.jsonl", "--max-credits", "2000")
    with _batch(batches_api, tmp_path, *words) as terminal:
        terminal.wait_for(lambda screen: "0/1,200" in screen)
        batches_api.batches[0].end_items(300, batches_api.state_of)
        shown = terminal.wait_for(lambda screen: "300/1,200" in screen)
        assert "12.5/s  0:00:05 left  299 of 2,000 credits  1 failed" in shown
        assert "running" in shown
        terminal.type("\x03")
        assert terminal.wait_until_ended() == 130
        assert "Interrupted; batch batch-1 goes on by itself." in terminal.screen
        assert "go on:   pollux batch run prompts.jsonl -o answers.jsonl" in terminal.screen
    batches_api.items_per_look = 1000
    with _batch(batches_api, tmp_path, *words) as terminal:
        assert terminal.wait_until_ended() == 2
        shown = terminal.screen
    assert "has these prompts already (running); nothing is sent" in shown
    assert "1,199 prompts are answered, 1 failed" in shown
    assert "line 3 (q3): The provider [31mrefused it." in shown
    # One bar: what it was before is overwritten.
    assert shown.count("/1,200") == 1
    assert names_in(tmp_path / "answers.jsonl") == names
    with _batch(batches_api, tmp_path, "list") as terminal:
        assert terminal.wait_until_ended() == 0
        head, row = terminal.screen.splitlines()
    assert head.split()[:5] == ["batch", "state", "done", "total", "failed"]
    assert row.split()[:5] == ["batch-1", "completed", "1,200", "1,200", "1"]
