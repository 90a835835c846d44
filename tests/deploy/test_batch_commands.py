"""`pollux batch list`, `show`, `results`, `cancel`, `pause`, `resume`, `retry` and `delete`."""

import json
from pathlib import Path

import pytest

from tests.deploy.batch_command import names_in, write_prompts
from tests.deploy.conftest import Pollux, Result
from tests.support.scripted_batches import ScriptedBatches


@pytest.fixture
def started(batch: Pollux, batches_api: ScriptedBatches, short_folder: Path) -> list[str]:
    """Start a batch of ten, of which the first four have ended, the third without an answer."""
    names = write_prompts(short_folder / "prompts.jsonl", 10)
    batches_api.items_per_look = 0
    batches_api.state_of = lambda item: "failed" if item["custom_id"] == "q3" else "completed"
    result = batch("run", "prompts.jsonl", "--detach", "--metadata", "team=a\x1b[31m")
    assert result == (0, "batch-1\n", "")
    batches_api.batches[0].end_items(4, batches_api.state_of)
    return names


def _lines(result: Result) -> list[int]:
    assert result.code == 0, result.err
    return [json.loads(line)["line"] for line in result.out.splitlines()]


@pytest.mark.usefixtures("started")
def test_batches_are_listed_newest_first(batch: Pollux, short_folder: Path) -> None:
    assert batch("run", "prompts.jsonl", "--detach", "--new").out == "batch-2\n"
    head, *rows = batch("list").out.splitlines()
    assert head.split() == [
        *("batch", "state", "done", "total"),
        *("failed", "credits", "created", "metadata"),
    ]
    assert [row.split()[:6] for row in rows] == [
        ["batch-2", "running", "0", "10", "0", "0"],
        ["batch-1", "running", "4", "10", "1", "3"],
    ]
    assert rows[1].endswith("team=a[31m")
    listed = json.loads(batch("list", "--json", "--limit", "1").out)
    assert [each["batch_id"] for each in listed] == ["batch-2"]
    assert short_folder


@pytest.mark.usefixtures("started")
def test_a_batch_is_shown(batch: Pollux) -> None:
    shown = batch("show", "batch-1").out
    assert "prompts:    10 (6 waiting, 3 completed, 1 failed)\n" in shown
    assert "rate:       12.5 a second\n" in shown
    assert "time left:  0:00:05, at most 0:00:09\n" in shown
    assert json.loads(batch("show", "batch-1", "--json").out)["counts"]["waiting"] == 6


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize(
    ("words", "lines"),
    [
        ((), [1, 2, 3, 4]),
        (("--after-line", "2"), [3, 4]),
        (("--state", "failed"), [3]),
        (("--order", "finished"), [2, 1, 4, 3]),
        (("--partial", "--after-line", "1"), [2, 3, 4, 6]),
    ],
)
def test_a_part_of_the_results_is_written(
    batch: Pollux, batches_api: ScriptedBatches, words: tuple[str, ...], lines: list[int]
) -> None:
    if "--partial" in words:
        batches_api.batches[0].end_items(1, batches_api.state_of)
    assert _lines(batch("results", "batch-1", *words)) == lines


def test_results_continue_a_file(
    batch: Pollux, batches_api: ScriptedBatches, short_folder: Path, started: list[str]
) -> None:
    words = ("results", "batch-1", "-o", "answers.jsonl")
    assert batch(*words) == (0, "", "")
    assert names_in(short_folder / "answers.jsonl") == started[:4]
    batches_api.items_per_look = 1000
    assert batch(*words, "--wait").code == 2
    assert names_in(short_folder / "answers.jsonl") == started
    for refused, sentence in (
        (("--state", "failed"), "has answers already"),
        (("--wait", "--partial"), "--wait writes all answers"),
    ):
        result = batch(*words, *refused)
        assert (result.code, result.out) == (1, "")
        assert sentence in result.err
    other = batch("results", "batch-2", "-o", "answers.jsonl")
    assert "has answers of batch batch-1" in other.err
    assert batch(*words, "--state", "failed", "--overwrite").code == 0
    assert names_in(short_folder / "answers.jsonl") == ["q3"]


@pytest.mark.usefixtures("started")
def test_a_batch_is_paused_resumed_cancelled_retried_and_deleted(
    batch: Pollux, batches_api: ScriptedBatches
) -> None:
    [stored] = batches_api.batches
    assert "paused (user)" in batch("pause", "batch-1").out
    assert "running" in batch("resume", "batch-1", "--max-credits", "7.5").out
    assert stored.max_credits == 7.5
    assert json.loads(batch("cancel", "batch-1", "--json").out)["state"] == "cancelled"
    again = batch("cancel", "batch-1")
    assert again == (1, "", "pollux: The batch is cancelled.\n")
    assert "running" in batch("retry", "batch-1").out
    assert batch("delete", "batch-1").out == "Batch batch-1 is deleted.\n"
    for word in ("show", "results", "delete"):
        assert batch(word, "batch-1") == (1, "", "pollux: There is no such batch.\n")
    assert batches_api.batches == []


@pytest.mark.parametrize("name", ["run", "list", "show", "results", "cancel", "resume", "delete"])
def test_help_of_a_command_has_examples(pollux: Pollux, name: str) -> None:
    shown = pollux("batch", name, "--help").out
    assert f"pollux batch {name}" in shown.partition("Examples:")[2]
