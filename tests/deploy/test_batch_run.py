"""`pollux batch run` as a process, against a scripted API: what it sends, writes and resumes."""

import asyncio
import io
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from deploy.batch.answers import answer_file
from tests.deploy.batch_command import (
    names_in,
    read_answers,
    started,
    write_prompts,
)
from tests.deploy.conftest import Pollux
from tests.support.scripted_batches import Fault, ScriptedBatches
from tests.support.waiting import until_now

pytestmark = pytest.mark.timeout(60)

_UPLOAD = "POST /api/v1/batches"
_RUN = ("run", "prompts.jsonl", "-o", "answers.jsonl")


def test_answers_are_written_in_the_order_of_the_prompts(
    batches_api: ScriptedBatches, batch: Pollux, short_folder: Path
) -> None:
    names = write_prompts(short_folder / "prompts.jsonl", 50)
    # Blank lines have a number and no answer.
    prompts = (short_folder / "prompts.jsonl").read_text()
    (short_folder / "prompts.jsonl").write_text("\n" + prompts.replace("\n", "\n\n", 20) + "\n")
    batches_api.items_per_look = 7
    options = ("-m", "alpha", "--system", "Be brief.", "--dedupe", "--max-credits", "60")
    result = batch(*_RUN, *options, "--metadata", "team=a b", "--json")
    assert (result.code, result.err) == (0, "")
    assert names_in(short_folder / "answers.jsonl") == names
    [stored] = batches_api.batches
    assert json.loads(result.out)["counts"]["completed"] == 50
    assert {answer["batch_id"] for answer in read_answers(short_folder / "answers.jsonl")} == {
        stored.id
    }
    [upload] = batches_api.named(_UPLOAD)
    assert upload.body == (short_folder / "prompts.jsonl").read_bytes()
    assert upload.headers["content-encoding"] == "gzip"
    assert upload.headers["x-api-key"] == "the-key"
    assert upload.query == {
        "model": "alpha",
        "system_prompt": "Be brief.",
        "dedupe": "true",
        "max_credits": "60.000000",
        "metadata": '{"team":"a b"}',
    }
    # It was looked up before it was sent.
    assert [request.name for request in batches_api.requests[:2]] == ["GET /api/v1/batches"] * 2


def test_failed_items_are_named_with_the_commands_that_go_on(
    batches_api: ScriptedBatches, batch: Pollux, short_folder: Path
) -> None:
    write_prompts(short_folder / "prompts.jsonl", 5)
    with (short_folder / "prompts.jsonl").open("a") as file:
        file.write("no JSON\n")
    batches_api.state_of = lambda item: "failed" if item["custom_id"] == "q2" else "completed"
    result = batch(*_RUN)
    assert (result.code, result.out) == (2, "")
    assert "1 line is no valid prompt:\n  line 6: No JSON." in result.err
    assert "4 prompts are answered, 2 failed, for 4 credits." in result.err
    assert "line 2 (q2): The provider [31mrefused it." in result.err
    assert "pollux batch results batch-1 --state failed" in result.err
    assert "pollux batch retry batch-1" in result.err
    # The retry's answers take the place of the failures; each item is there once.
    batches_api.state_of = lambda _: "completed"
    assert (batch("retry", "batch-1")).code == 0
    again = batch("results", "batch-1", "-o", "answers.jsonl", "--wait")
    assert again.code == 2
    answers = read_answers(short_folder / "answers.jsonl")
    assert [(answer["line"], answer["state"]) for answer in answers] == [
        *((line, "completed") for line in range(1, 6)),
        (6, "failed"),
    ]
    assert answers[1]["result"]["content"].startswith("2: ")
    assert not (short_folder / "answers.jsonl.new").exists()


def test_in_order_of_finishing_an_item_that_is_run_again_has_another_line(
    batches_api: ScriptedBatches, batch: Pollux, short_folder: Path
) -> None:
    write_prompts(short_folder / "prompts.jsonl", 4)
    batches_api.state_of = lambda item: "failed" if item["custom_id"] != "q3" else "completed"
    result = batch(*_RUN, "--order", "finished")
    assert result.code == 2
    assert result.err.endswith("results batch-1 -o answers.jsonl --wait --order finished\n")
    assert batch("retry", "batch-1").code == 0
    batches_api.state_of = lambda item: "failed" if item["custom_id"] == "q4" else "completed"
    words = ("results", "batch-1", "-o", "answers.jsonl", "--wait", "--order", "finished")
    result = batch(*words)
    assert result.code == 2
    assert "3 prompts are answered, 1 failed" in result.err
    assert [line for line in result.err.splitlines() if line.startswith("  line ")] == [
        "  line 4 (q4): The provider [31mrefused it."
    ]
    written = read_answers(short_folder / "answers.jsonl")
    assert [answer["seq"] for answer in written] == list(range(1, 8))
    last = {answer["line"]: answer["state"] for answer in written}
    assert last == {1: "completed", 2: "completed", 3: "completed", 4: "failed"}


def test_killed_twice_every_item_is_answered_once(
    batches_api: ScriptedBatches, batch: Pollux, short_folder: Path
) -> None:
    names = write_prompts(short_folder / "prompts.jsonl", 300)
    answers = short_folder / "answers.jsonl"
    for moment in ("upload", "receipt", "look", "results"):
        held = asyncio.Event()
        batches_api.items_per_look = 100
        batches_api.faults.append(
            {
                "upload": Fault(_UPLOAD, body_bytes=1, held=held),
                "receipt": Fault(_UPLOAD, held=held),
                "look": Fault("GET /api/v1/batches/batch-1", held=held),
                "results": Fault("GET /api/v1/batches/batch-1/results", reply_bytes=2000),
            }[moment]
        )
        if moment == "results":
            batches_api.faults.append(Fault("GET /api/v1/batches/batch-1/results", held=held))
        with started(batches_api.url, short_folder, *_RUN) as process:
            until_now(lambda: not batches_api.faults, 20, what=moment)
            if moment == "results":
                until_now(lambda: answers.stat().st_size > 0, 20, what="answers")
            process.kill()
            process.wait()
        batches_api.release(held)
        # A write that was cut in the middle of a line.
        if moment == "results":
            os.truncate(answers, answers.stat().st_size - 9)
    batches_api.items_per_look = 1_000_000
    result = batch(*_RUN)
    assert (result.code, result.err) == (0, "")
    assert names_in(answers) == names
    assert [batch.count("completed") for batch in batches_api.batches] == [300]


@pytest.mark.parametrize("order", ["input", "finished"])
def test_cut_streams_are_continued_after_the_last_line(
    batches_api: ScriptedBatches, batch: Pollux, short_folder: Path, order: str
) -> None:
    names = write_prompts(short_folder / "prompts.jsonl", 200)
    batches_api.items_per_look = 90
    results = "GET /api/v1/batches/batch-1/results"
    batches_api.faults += [Fault(results, reply_bytes=count) for count in (11, 400, 1500, 2500)]
    batches_api.faults.append(Fault(results, 503, ("Retry-After: 0",)))
    result = batch(*_RUN, "--order", order)
    assert result.code == 0, result.err
    written = names_in(short_folder / "answers.jsonl")
    if order == "input":
        assert written == names
    else:
        assert written != names
        assert sorted(written) == sorted(names)
    requests = batches_api.named(results)
    assert sum(request.query.get("after_line") == "0" for request in requests) <= 3
    assert all(request.query["order"] == order for request in requests)


def test_an_interruption_says_how_to_go_on(
    batches_api: ScriptedBatches, batch: Pollux, short_folder: Path
) -> None:
    names = write_prompts(short_folder / "prompts.jsonl", 30)
    batches_api.items_per_look = 0
    held = asyncio.Event()
    batches_api.faults.append(Fault(_UPLOAD, held=held))
    with started(batches_api.url, short_folder, *_RUN, "--new") as process:
        assert process.stderr is not None
        until_now(lambda: batches_api.named(_UPLOAD), 20)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 143
        said = process.stderr.read()
    assert "Interrupted before the prompts were accepted" in said
    assert "start again: pollux batch run prompts.jsonl -o answers.jsonl --new\n" in said
    # The whole body had arrived, so that the batch is made; the next command finds it.
    batches_api.release(held)
    until_now(lambda: batches_api.batches, 20)
    with started(batches_api.url, short_folder, *_RUN) as process:
        assert process.stderr is not None
        until_now(lambda: batches_api.named("GET /api/v1/batches/batch-1/results"), 20)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        said = process.stderr.read()
    assert "batch-1 goes on by itself" in said
    assert "go on:   pollux batch run prompts.jsonl -o answers.jsonl\n" in said
    assert "stop it: pollux batch cancel batch-1" in said
    # On another machine, with the prompts alone.
    batches_api.items_per_look = 1000
    (short_folder / "answers.jsonl").unlink()
    assert (batch(*_RUN)).code == 0
    assert names_in(short_folder / "answers.jsonl") == names
    assert len(batches_api.named(_UPLOAD)) == 1


def test_refused_and_cut_uploads_are_sent_again_with_the_same_key(
    batches_api: ScriptedBatches, batch: Pollux, short_folder: Path
) -> None:
    names = write_prompts(short_folder / "prompts.jsonl", 20)
    batches_api.faults += [
        Fault(_UPLOAD, 409),
        Fault(_UPLOAD, 429, ("Retry-After: 1",)),
        Fault(_UPLOAD, 503),
        Fault(_UPLOAD, body_bytes=1),
        # The batch is made, and the reply lost.
        Fault(_UPLOAD),
    ]
    began = time.monotonic()
    result = batch(*_RUN)
    assert result.code == 0, result.err
    assert time.monotonic() >= began + 1
    assert names_in(short_folder / "answers.jsonl") == names
    assert len({upload.headers["idempotency-key"] for upload in batches_api.named(_UPLOAD)}) == 1
    assert len(batches_api.batches) == 1
    assert batches_api.named(_UPLOAD)[-1].body


def test_a_batch_that_another_command_has_just_made_is_taken(
    batches_api: ScriptedBatches, batch: Pollux, short_folder: Path
) -> None:
    names = write_prompts(short_folder / "prompts.jsonl", 3)
    assert batch("run", "prompts.jsonl", "--detach", "--max-credits", "50").code == 0
    # It is not there yet when it is looked up, three times, and is when the prompts are sent.
    batches_api.faults += [Fault("GET /api/v1/batches", hides=True)] * 3
    result = batch(*_RUN, "--max-credits", "60")
    assert result.code == 0, result.err
    assert names_in(short_folder / "answers.jsonl") == names
    assert (len(batches_api.named(_UPLOAD)), len(batches_api.batches)) == (2, 1)


def test_the_api_may_be_restarted(batches_api: ScriptedBatches, short_folder: Path) -> None:
    names = write_prompts(short_folder / "prompts.jsonl", 20)
    batches_api.items_per_look = 0
    with started(batches_api.url, short_folder, *_RUN) as process:
        assert process.stderr is not None
        until_now(lambda: batches_api.named("GET /api/v1/batches/batch-1/results"), 20)
        batches_api.close()
        line = process.stderr.readline()
        assert "trying again" in line
        batches_api.items_per_look = 1000
        batches_api.open()
        assert process.wait() == 0
    assert names_in(short_folder / "answers.jsonl") == names


def test_new_runs_the_same_prompts_again(
    batches_api: ScriptedBatches, batch: Pollux, short_folder: Path
) -> None:
    write_prompts(short_folder / "prompts.jsonl", 3)
    assert (batch(*_RUN)).code == 0
    # Not over the answers of the first run.
    refused = batch(*_RUN, "--new")
    assert (refused.code, len(batches_api.batches)) == (1, 1)
    assert "has answers of batch batch-1" in refused.err
    second = ("run", "prompts.jsonl", "-o", "second.jsonl")
    assert (batch(*second, "--new")).code == 0
    assert [stored.id for stored in batches_api.batches] == ["batch-1", "batch-2"]
    # Without --new each file goes on with its own batch, and a new file with the last one.
    for output, its_batch in (
        ("answers", "batch-1"),
        ("second", "batch-2"),
        ("third", "batch-2"),
    ):
        path = short_folder / f"{output}.jsonl"
        assert (batch("run", "prompts.jsonl", "-o", str(path))).code == 0
        assert {answer["batch_id"] for answer in read_answers(path)} == {its_batch}
        assert len(read_answers(path)) == 3
    assert len(batches_api.batches) == 2


def test_a_limit_stops_it_and_a_higher_one_goes_on(
    batches_api: ScriptedBatches, batch: Pollux, short_folder: Path
) -> None:
    names = write_prompts(short_folder / "prompts.jsonl", 10)
    result = batch(*_RUN, "--max-credits", "4")
    assert result.code == 1
    assert "pollux batch resume batch-1 --max-credits 8" in result.err
    assert len(names_in(short_folder / "answers.jsonl")) == 4
    result = batch(*_RUN, "--max-credits", "20")
    assert result.code == 0, result.err
    assert names_in(short_folder / "answers.jsonl") == names
    assert len(batches_api.named(_UPLOAD)) == 1


def test_it_waits_for_credits_and_stops_at_a_pause(
    batches_api: ScriptedBatches, short_folder: Path
) -> None:
    write_prompts(short_folder / "prompts.jsonl", 10)
    batches_api.items_per_look = 0
    with started(batches_api.url, short_folder, *_RUN) as process:
        assert process.stderr is not None
        until_now(lambda: batches_api.batches, 20)
        [stored] = batches_api.batches
        stored.state, stored.reason = "paused", "credits"
        assert "no credits left" in process.stderr.readline()
        stored.state, stored.reason = "paused", "user"
        assert process.wait() == 1
        assert "`pollux batch resume batch-1` goes on" in process.stderr.read()


def test_detached_it_prints_the_id_alone(
    batches_api: ScriptedBatches, batch: Pollux, short_folder: Path
) -> None:
    write_prompts(short_folder / "prompts.jsonl", 3)
    result = batch("run", "prompts.jsonl", "--detach")
    assert result == (0, "batch-1\n", "")
    assert len(batches_api.named("GET /api/v1/batches/batch-1/results")) == 0


def test_standard_input_is_sent_and_answers_go_to_standard_output(
    batch: Pollux, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("run", "-", "--format", "lines")
    stdin = io.TextIOWrapper(io.BytesIO("Wär es?\n\nWhat?\n".encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    result = batch(*words)
    assert (result.code, result.err) == (0, "")
    answers = [json.loads(line) for line in result.out.splitlines()]
    assert [(answer["custom_id"], answer["line"]) for answer in answers] == [("1", 1), ("3", 2)]
    assert answers[0]["result"]["content"] == "1: Wär es?"


def test_rejected_lines_are_named_and_nothing_runs(
    batches_api: ScriptedBatches, batch: Pollux, short_folder: Path
) -> None:
    (short_folder / "prompts.jsonl").write_text('{"message": "a"}\nnone\n')
    result = batch(*_RUN, "--on-invalid", "reject")
    assert (result.code, batches_api.batches) == (1, [])
    assert "line 2: No JSON." in result.err
    assert result.err.endswith("pollux: Some lines are no valid items.\n")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("something of mine\n", "has other content: its line 1"),
        ("unfinished", "has other content: its line 1"),
        ('{"line": 1, "state": "completed"}\n', "has other content: its line 1"),
        (
            '{"batch_id":"x","line":3,"state":"failed"}\n{"batch_id":"x","line":2,"state":"failed"}\n',
            "its line 2",
        ),
        ('{"batch_id":"x","line":1,"state":"failed","seq":1}\n', "--order finished"),
        (
            '{"batch_id":"x","line":1,"state":"failed"}\n',
            "not, or no longer, a batch of these prompts and options",
        ),
    ],
)
def test_a_file_with_other_content_is_kept_and_nothing_is_sent(
    batches_api: ScriptedBatches, batch: Pollux, short_folder: Path, content: str, sentence: str
) -> None:
    write_prompts(short_folder / "prompts.jsonl", 3)
    (short_folder / "answers.jsonl").write_text(content)
    result = batch(*_RUN)
    assert (result.code, batches_api.batches) == (1, [])
    assert sentence in result.err
    assert (short_folder / "answers.jsonl").read_text() == content


def test_a_file_is_replaced_once_the_api_has_answered(
    batches_api: ScriptedBatches, batch: Pollux, short_folder: Path
) -> None:
    write_prompts(short_folder / "prompts.jsonl", 3)
    path = short_folder / "answers.jsonl"
    path.write_text("of another day\n" * 1_000)
    for words in (
        (*_RUN, "--overwrite", "--model", "\udce4"),
        (*_RUN, "--overwrite", "--max-credits", "nan"),
        ("results", "no-such-batch", "-o", "answers.jsonl", "--overwrite"),
        ("results", "no-such-batch", "-o", "answers.jsonl", "--overwrite", "--wait"),
    ):
        assert batch(*words).code == 1
        assert path.read_text() == "of another day\n" * 1_000
    assert batch(*_RUN, "--overwrite").code in {0, 2}
    assert names_in(path) == ["q1", "q2", "q3"]
    assert batches_api.batches


def test_prompts_are_never_the_file_of_the_answers(
    batches_api: ScriptedBatches, batch: Pollux, short_folder: Path
) -> None:
    prompts = short_folder / "prompts.jsonl"
    write_prompts(prompts, 3)
    content = prompts.read_text()
    (short_folder / "link.jsonl").symlink_to(prompts)
    for name in ("prompts.jsonl", "./prompts.jsonl", "link.jsonl"):
        for more in ((), ("--overwrite",)):
            result = batch("run", "prompts.jsonl", "-o", name, *more)
            assert result.code == 1
            assert "has the prompts: choose another file" in result.err
    assert (prompts.read_text(), batches_api.batches) == (content, [])


def test_answers_that_are_missing_in_the_middle_are_written(
    batch: Pollux, batches_api: ScriptedBatches, short_folder: Path
) -> None:
    names = write_prompts(short_folder / "prompts.jsonl", 6)
    batches_api.items_per_look = 1_000
    path = short_folder / "answers.jsonl"
    code = batch(*_RUN).code
    assert names_in(path) == names
    lines = path.read_bytes().splitlines(keepends=True)
    target = short_folder / "private.jsonl"
    target.write_bytes(b"".join(lines[:2] + lines[4:]))
    target.chmod(0o600)
    path.unlink()
    path.symlink_to(target)
    assert batch(*_RUN).code == code
    assert target.read_bytes() == b"".join(lines)
    # The link stays, and nobody else may read what was private.
    assert path.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("limit", ["nan", "inf", "0", "-1", "1e10"])
def test_a_limit_that_is_none_is_one_sentence(
    batches_api: ScriptedBatches, batch: Pollux, short_folder: Path, limit: str
) -> None:
    write_prompts(short_folder / "prompts.jsonl", 3)
    for words in (("run", "prompts.jsonl", "--detach"), ("resume", "batch-1")):
        result = batch(*words, "--max-credits", limit)
        assert result.err == "pollux: --max-credits is more than 0 and at most 1,000,000,000.\n"
        assert result.code == 1
    assert batches_api.requests == []


def test_standard_output_may_be_closed(
    batch: Pollux, short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_prompts(short_folder / "prompts.jsonl", 3)
    monkeypatch.setattr(sys, "stdout", None)
    assert batch("run", "prompts.jsonl").err == "pollux: Standard output is closed.\n"


def test_two_commands_do_not_write_one_file(
    batches_api: ScriptedBatches, batch: Pollux, short_folder: Path
) -> None:
    write_prompts(short_folder / "prompts.jsonl", 3)
    with answer_file(short_folder / "answers.jsonl", "input", overwrite=False):
        result = batch(*_RUN)
    assert (result.code, batches_api.batches) == (1, [])
    assert "Another command is writing answers.jsonl." in result.err


@pytest.mark.parametrize("option", ["--model", "--system", "--template", "--metadata"])
def test_an_option_that_is_not_utf_8_is_one_sentence(
    batches_api: ScriptedBatches, batch: Pollux, short_folder: Path, option: str
) -> None:
    (short_folder / "words.csv").write_text("message\na\n")
    result = batch("run", "words.csv", option, "a={message}\udce4")
    assert result == (1, "", "pollux: An option is not UTF-8 text.\n")
    assert batches_api.requests == []


def test_a_system_prompt_comes_from_a_file(
    batches_api: ScriptedBatches, batch: Pollux, short_folder: Path
) -> None:
    write_prompts(short_folder / "prompts.jsonl", 3)
    prompt = short_folder / "system.txt"
    text = "Be brief, and say why.\n" * 400
    prompt.write_text(f"\ufeff{text}\n")
    assert batch(*_RUN, "--system-file", "system.txt").code == 0
    assert batches_api.named(_UPLOAD)[0].query["system_prompt"] == text.strip()
    # The same prompt by another way is the same batch.
    again = batch(*_RUN, "--system", text.strip())
    assert (again.code, len(batches_api.batches)) == (0, 1)
    sent = len(batches_api.requests)
    prompt.write_text("\u00e9\n" * 4_000)
    for words, sentence in (
        (("--system-file", "system.txt"), "--system-file takes 35,997 bytes in a URL, of 12,288"),
        (("--system", "a" * 12_289), "--system takes 12,289 bytes in a URL, of 12,288"),
        (("--system-file", "none.txt"), "none.txt cannot be read: No such file or directory."),
        (("--system-file", "latin.txt"), "latin.txt cannot be read: it is not UTF-8 text."),
        (("--system-file", "system.txt", "--system", "a"), "are two ways to say one thing."),
    ):
        (short_folder / "latin.txt").write_bytes(b"\xe9")
        result = batch(*_RUN, *words)
        assert (result.code, len(batches_api.requests)) == (1, sent)
        assert sentence in result.err.replace("\n", " ")


def test_standard_input_may_be_closed(batch: Pollux, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert batch("run", "-", "--format", "lines").err == "pollux: Standard input is closed.\n"


def test_an_api_that_fails_for_too_long_says_how_to_go_on(
    batches_api: ScriptedBatches, batch: Pollux, short_folder: Path
) -> None:
    write_prompts(short_folder / "prompts.jsonl", 3)
    batches_api.faults.append(
        Fault("GET /api/v1/batches/batch-1/results", 503, ("Retry-After: 3600",))
    )
    result = batch(*_RUN)
    assert result.code == 1
    assert "Batch batch-1 goes on by itself; run the same command again." in result.err


def test_an_estimate_sends_no_prompt(
    batches_api: ScriptedBatches, batch: Pollux, short_folder: Path
) -> None:
    write_prompts(short_folder / "prompts.jsonl", 100)
    words = ("run", "prompts.jsonl", "--estimate")
    found = json.loads((batch(*words, "-m", "alpha", "--json")).out)
    tokens = found["input_tokens"]
    assert (found["prompts"], found["seconds"]) == (100, 100 * 8 / 16)
    assert found["credits"]["low"] == pytest.approx(tokens / 1000 + 100 * 0.3 * 2)
    assert found["credits"]["max"] == pytest.approx(tokens / 1000 + 100 * 1.0 * 2)
    shown = batch(*words)
    assert "auto, cheapest: alpha" in shown.out
    assert "auto, dearest: beta" in shown.out
    assert "How this is reckoned" in shown.out
    assert "--dedupe charges only the first" not in shown.out
    assert "--dedupe charges only the first" in batch(*words, "--dedupe").out
    assert batches_api.named(_UPLOAD) == []
