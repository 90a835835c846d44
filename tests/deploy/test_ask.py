"""`pollux ask` as a process, against a scripted API: what it sends, shows, resumes and cancels."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.deploy.scripted_api import (
    ID,
    ScriptedApi,
    ScriptedReply,
    accepted,
    completed,
    event,
    failed,
    refusal,
    routed,
)
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(60)

_EVENTS = f"/api/v1/generate/{ID}/events"
_TWO = (event("1-2", "delta", text="Two "), event("1-3", "delta", text="bears"))


class Said(NamedTuple):
    """What the command said, and how it ended."""

    code: int
    out: str
    err: str


@asynccontextmanager
async def _asking(
    scripted_api: ScriptedApi, cwd: Path, *words: str, **environment: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    known = {"POLLUX_URL": scripted_api.url, "POLLUX_API_KEY": "the-key"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "deploy.cli", "ask", *words),
        cwd=cwd,
        env={"PATH": os.defpath, **known, **environment},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _ask(
    scripted_api: ScriptedApi, cwd: Path, *words: str, stdin: bytes = b"", **environment: str
) -> Said:
    async with _asking(scripted_api, cwd, *words, **environment) as process:
        out, err = await process.communicate(stdin)
        assert process.returncode is not None
        return Said(process.returncode, out.decode(), err.decode())


async def test_answer_alone_is_on_standard_output(
    scripted_api: ScriptedApi, tmp_path: Path
) -> None:
    thought = event("1-1", "reasoning", text="Hm.")
    ping, later = b": ping\n\n", event("1-9", "of_a_later_version", text="no")
    pieces = (accepted(), routed(), ping, thought, *_TWO, later, completed("1-10", "Two bears"))
    scripted_api.lines.append(ScriptedReply(pieces))
    said = await _ask(scripted_api, tmp_path, "How many?", "-m", "alpha", "-s", "an-earlier")
    assert said == (0, "Two bears\n", "model: alpha (alpha was requested.)\nsession: the-session\n")
    [asked] = scripted_api.asked
    assert (asked.method, asked.path) == ("POST", "/v1/ai/chat")
    assert asked.headers["x-api-key"] == "the-key"
    assert asked.headers["idempotency-key"]
    assert asked.body == {
        "message": "How many?",
        "stream": True,
        "model": "alpha",
        "session_id": "an-earlier",
    }


@pytest.mark.parametrize(
    ("words", "stdin", "message"),
    [
        (("-",), b"What?\n", "What?"),
        ((), "Wär\nes?\n\n".encode(), "Wär\nes?"),
        (("Sum it up.",), b"A long\ntale.\n", "Sum it up.\n\nA long\ntale."),
        (("What?",), b"", "What?"),
        (("What", "is", "-5", "plus", "3?"), b"", "What is -5 plus 3?"),
    ],
)
async def test_message_comes_from_the_argument_and_from_a_pipe(
    scripted_api: ScriptedApi, tmp_path: Path, words: tuple[str, ...], stdin: bytes, message: str
) -> None:
    scripted_api.lines.append(ScriptedReply((accepted(), completed("1-1", "Yes"))))
    said = await _ask(scripted_api, tmp_path, *words, stdin=stdin)
    assert (said.code, said.out) == (0, "Yes\n")
    assert scripted_api.asked[0].body["message"] == message


@pytest.mark.parametrize(
    ("words", "stdin", "sentence"),
    [((), b" \n", "Give a question"), (("-",), b"\xff", "not UTF-8")],
)
async def test_what_is_no_message_is_not_sent(
    scripted_api: ScriptedApi, tmp_path: Path, words: tuple[str, ...], stdin: bytes, sentence: str
) -> None:
    said = await _ask(scripted_api, tmp_path, *words, stdin=stdin)
    assert (said.code, said.out) == (1, "")
    assert sentence in said.err
    assert scripted_api.asked == []


async def test_events_are_printed_as_json_a_line_each(
    scripted_api: ScriptedApi, tmp_path: Path
) -> None:
    scripted_api.lines.append(
        ScriptedReply((accepted(), routed(), *_TWO, completed("1-4", "Two bears")))
    )
    said = await _ask(scripted_api, tmp_path, "How many?", "--json")
    told = [json.loads(line) for line in said.out.splitlines()]
    assert [each["type"] for each in told] == ["accepted", "routed", "delta", "delta", "completed"]
    assert told[2] == {"type": "delta", "text": "Two "}
    assert (said.code, said.err) == (0, "")


@pytest.mark.parametrize("is_cut", [True, False])
async def test_lost_line_is_taken_up_after_the_last_event(
    scripted_api: ScriptedApi, tmp_path: Path, *, is_cut: bool
) -> None:
    half = b'id: 1-3\nevent: delta\ndata: {"type": "delta", "te'
    scripted_api.lines.append(ScriptedReply((accepted(), _TWO[0], half), is_cut=is_cut))
    scripted_api.lines.append(refusal(503, "Not now."))
    scripted_api.lines.append(ScriptedReply((_TWO[1], completed("1-4", "Two bears"))))
    said = await _ask(scripted_api, tmp_path, "How many?", "--json")
    told = [json.loads(line) for line in said.out.splitlines()]
    assert [each.get("text") for each in told] == [None, "Two ", "bears", None]
    assert (said.code, said.err.count("trying again")) == (0, 1)
    _, *resumed = scripted_api.asked
    assert [(asked.method, asked.path) for asked in resumed] == [("GET", _EVENTS)] * 2
    assert [asked.headers["last-event-id"] for asked in resumed] == ["1-2"] * 2


async def test_who_has_closed_its_input_is_asked_by_its_words_alone(
    scripted_api: ScriptedApi, tmp_path: Path
) -> None:
    scripted_api.lines.append(ScriptedReply((accepted(), completed("1-1", "Yes"))))
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", 'exec "$@" <&-', "sh"),
        *(sys.executable, "-P", "-m", "deploy.cli", "ask", "What?"),
        cwd=tmp_path,
        env={"PATH": os.defpath, "POLLUX_URL": scripted_api.url, "POLLUX_API_KEY": "the-key"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert (process.returncode, out) == (0, b"Yes\n"), err
    assert scripted_api.asked[0].body["message"] == "What?"


async def test_acceptance_that_was_not_heard_is_asked_for_again_under_the_same_key(
    scripted_api: ScriptedApi, tmp_path: Path
) -> None:
    scripted_api.lines.append(ScriptedReply(is_cut=True))
    scripted_api.lines.append(refusal(429, "Too many.", "Retry-After: 1"))
    scripted_api.lines.append(ScriptedReply((accepted(), completed("1-1", "Yes"))))
    said = await _ask(scripted_api, tmp_path, "What?")
    assert (said.code, said.out) == (0, "Yes\n")
    assert [asked.path for asked in scripted_api.asked] == ["/v1/ai/chat"] * 3
    assert len({asked.headers["idempotency-key"] for asked in scripted_api.asked}) == 1
    assert scripted_api.asked[0].body == scripted_api.asked[2].body


async def test_pipe_gets_the_answer_of_the_last_attempt_alone(
    scripted_api: ScriptedApi, tmp_path: Path
) -> None:
    reset, other = event("2-1", "reset", keep=0), event("2-2", "delta", text="Three wolves")
    pieces = (accepted(), *_TWO, reset, other, completed("2-3", "Three wolves"))
    scripted_api.lines.append(ScriptedReply(pieces))
    said = await _ask(scripted_api, tmp_path, "How many?")
    assert (said.code, said.out) == (0, "Three wolves\n")


async def test_failure_is_a_sentence_and_no_answer(
    scripted_api: ScriptedApi, tmp_path: Path
) -> None:
    scripted_api.lines.append(
        ScriptedReply((accepted(), *_TWO, failed("1-4", "The provider fell silent.")))
    )
    said = await _ask(scripted_api, tmp_path, "How many?")
    assert said == (1, "", "pollux: The provider fell silent.\n")
    assert scripted_api.cancels == 0


async def test_cancel_by_somebody_else_is_told(scripted_api: ScriptedApi, tmp_path: Path) -> None:
    scripted_api.lines.append(ScriptedReply((accepted(), *_TWO, event("2-1", "cancelled"))))
    said = await _ask(scripted_api, tmp_path, "How many?")
    assert said == (1, "", "pollux: The generation was cancelled.\n")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (refusal(401, "The API key is unknown."), "The API key is unknown."),
        (ScriptedReply((b'{"success":false,"error":"No."}',), 404, kind="application/json"), "No."),
        (ScriptedReply((b"<html>",), 500, kind="text/html"), "The API answered 500."),
        (ScriptedReply((b"{}",), kind="application/json"), "does not answer as Pollux does."),
        (ScriptedReply((b"data: {]\n\n",)), "does not answer as Pollux does."),
    ],
    ids=["refused", "refused elsewhere", "no sentence", "no stream", "no event"],
)
async def test_refusal_is_a_sentence(
    scripted_api: ScriptedApi, tmp_path: Path, line: ScriptedReply, sentence: str
) -> None:
    scripted_api.lines.append(line)
    said = await _ask(scripted_api, tmp_path, "What?")
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("pollux: ")
    assert said.err.endswith(f"{sentence}\n")
    assert len(scripted_api.asked) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_who_goes_has_the_generation_cancelled(
    scripted_api: ScriptedApi, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    gate = asyncio.Event()
    scripted_api.lines.append(ScriptedReply((accepted(), routed(), gate)))
    async with _asking(scripted_api, tmp_path, "How many?") as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.close()
        assert (await process.stderr.readline()).startswith(b"model: alpha")
        process.send_signal(number)
        assert await process.wait() == code
        assert await process.stderr.read() == b"[cancelled]\n"
    assert scripted_api.cancels == 1


async def test_nobody_who_reads_is_a_cancel_too(scripted_api: ScriptedApi, tmp_path: Path) -> None:
    gate = asyncio.Event()
    scripted_api.lines.append(ScriptedReply((accepted(), gate, *_TWO, asyncio.Event())))
    async with _asking(scripted_api, tmp_path, "How many?", "--json") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        assert b"accepted" in await process.stdout.readline()
        process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]  # as `head` would
        gate.set()
        await until(lambda: scripted_api.cancels == 1, 20)
        assert await process.wait() == 1


# Whom to ask


async def test_running_system_of_the_folder_is_asked(
    scripted_api: ScriptedApi, tmp_path: Path
) -> None:
    folder = tmp_path / ".pollux"
    folder.mkdir()
    here = {"POLLUX_URL": scripted_api.url, "POLLUX_API_KEY": "its-key"}
    (folder / "running.json").write_text(json.dumps(here))
    scripted_api.lines.append(ScriptedReply((accepted(), completed("1-1", "Yes"))))
    said = await _ask(scripted_api, tmp_path, "What?", POLLUX_URL="", POLLUX_API_KEY="")
    assert (said.code, said.out) == (0, "Yes\n")
    assert scripted_api.asked[0].headers["x-api-key"] == "its-key"


async def test_its_key_goes_nowhere_else(scripted_api: ScriptedApi, tmp_path: Path) -> None:
    folder = tmp_path / ".pollux"
    folder.mkdir()
    here = {"POLLUX_URL": "http://127.0.0.1:1", "POLLUX_API_KEY": "its-key"}
    (folder / "running.json").write_text(json.dumps(here))
    said = await _ask(scripted_api, tmp_path, "What?", POLLUX_API_KEY="")
    assert said.code == 1
    assert "set POLLUX_API_KEY" in said.err
    assert scripted_api.asked == []


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"POLLUX_API_KEY": ""}, "set POLLUX_API_KEY"),
        ({"POLLUX_URL": "ftp://127.0.0.1"}, "is not the URL of an API"),
        ({"POLLUX_API_KEY": "a\nb"}, "POLLUX_API_KEY has characters that no API key has"),
    ],
    ids=str,
)
async def test_what_is_missing_is_said_in_a_sentence(
    scripted_api: ScriptedApi, tmp_path: Path, environment: dict[str, str], sentence: str
) -> None:
    said = await _ask(scripted_api, tmp_path, "What?", stdin=b"", **environment)
    assert (said.code, said.out, said.err.count("\n")) == (1, "", 1)
    assert sentence in said.err


async def test_it_says_what_it_waits_for_until_words_come(
    scripted_api: ScriptedApi, tmp_path: Path
) -> None:
    words = asyncio.Event()
    scripted_api.lines.append(
        ScriptedReply((accepted(), words, *_TWO, completed("1-4", "Two bears")))
    )
    status = {
        "state": "processing",
        "stage": "queued",
        "queue_position": 2,
        "eta_seconds": {"p50": 12.4, "p90": 40.0},
        "routing": {"chosen": "alpha"},
    }
    scripted_api.status = ScriptedReply((json.dumps(status).encode(),), kind="application/json")
    async with _asking(scripted_api, tmp_path, "How many?") as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.close()
        line = await process.stderr.readline()
        assert line == b"waiting: queued, place 3, model alpha, about 12 s left\n"
        words.set()
        out, err = await process.communicate()
    assert out == b"Two bears\n"
    assert err == b"session: the-session\n"


async def test_a_look_that_brings_nothing_ends_nothing(
    scripted_api: ScriptedApi, tmp_path: Path
) -> None:
    words = asyncio.Event()
    scripted_api.lines.append(
        ScriptedReply((accepted(), words, *_TWO, completed("1-4", "Two bears")))
    )
    scripted_api.status = ScriptedReply((b"no json",), kind="application/json")
    async with _asking(scripted_api, tmp_path, "How many?") as process:
        assert process.stdin is not None
        process.stdin.close()
        await until(lambda: any(asked.path.endswith("/status") for asked in scripted_api.asked))
        words.set()
        out, _ = await process.communicate()
    assert out == b"Two bears\n"
