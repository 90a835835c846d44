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


class Result(NamedTuple):
    """Exit code and output of the command."""

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
) -> Result:
    async with _asking(scripted_api, cwd, *words, **environment) as process:
        out, err = await process.communicate(stdin)
        assert process.returncode is not None
        return Result(process.returncode, out.decode(), err.decode())


async def test_answer_alone_is_on_standard_output(
    scripted_api: ScriptedApi, tmp_path: Path
) -> None:
    thought = event("1-1", "reasoning", text="Hm.")
    ping, later = b": ping\n\n", event("1-9", "of_a_later_version", text="no")
    pieces = (accepted(), routed(), ping, thought, *_TWO, later, completed("1-10", "Two bears"))
    scripted_api.replies.append(ScriptedReply(pieces))
    result = await _ask(scripted_api, tmp_path, "How many?", "-m", "alpha", "-s", "an-earlier")
    assert result == (
        0,
        "Two bears\n",
        "model: alpha (alpha was requested.)\nsession: the-session\n",
    )
    [request] = scripted_api.requests
    assert (request.method, request.path) == ("POST", "/v1/ai/chat")
    assert request.headers["x-api-key"] == "the-key"
    assert request.headers["idempotency-key"]
    assert request.body == {
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
    scripted_api.replies.append(ScriptedReply((accepted(), completed("1-1", "Yes"))))
    result = await _ask(scripted_api, tmp_path, *words, stdin=stdin)
    assert (result.code, result.out) == (0, "Yes\n")
    assert scripted_api.requests[0].body["message"] == message


@pytest.mark.parametrize(
    ("words", "stdin", "sentence"),
    [((), b" \n", "Give a question"), (("-",), b"\xff", "not UTF-8")],
)
async def test_an_empty_or_undecodable_message_is_not_sent(
    scripted_api: ScriptedApi, tmp_path: Path, words: tuple[str, ...], stdin: bytes, sentence: str
) -> None:
    result = await _ask(scripted_api, tmp_path, *words, stdin=stdin)
    assert (result.code, result.out) == (1, "")
    assert sentence in result.err
    assert scripted_api.requests == []


async def test_events_are_printed_as_json_a_line_each(
    scripted_api: ScriptedApi, tmp_path: Path
) -> None:
    scripted_api.replies.append(
        ScriptedReply((accepted(), routed(), *_TWO, completed("1-4", "Two bears")))
    )
    result = await _ask(scripted_api, tmp_path, "How many?", "--json")
    events = [json.loads(line) for line in result.out.splitlines()]
    assert [each["type"] for each in events] == [
        "accepted",
        "routed",
        "delta",
        "delta",
        "completed",
    ]
    assert events[2] == {"type": "delta", "text": "Two "}
    assert (result.code, result.err) == (0, "")


@pytest.mark.parametrize("is_cut", [True, False])
async def test_a_broken_stream_is_resumed_after_the_last_event(
    scripted_api: ScriptedApi, tmp_path: Path, *, is_cut: bool
) -> None:
    half = b'id: 1-3\nevent: delta\ndata: {"type": "delta", "te'
    scripted_api.replies.append(ScriptedReply((accepted(), _TWO[0], half), is_cut=is_cut))
    scripted_api.replies.append(refusal(503, "Not now."))
    scripted_api.replies.append(ScriptedReply((_TWO[1], completed("1-4", "Two bears"))))
    result = await _ask(scripted_api, tmp_path, "How many?", "--json")
    events = [json.loads(line) for line in result.out.splitlines()]
    assert [each.get("text") for each in events] == [None, "Two ", "bears", None]
    assert (result.code, result.err.count("trying again")) == (0, 1)
    _, *resumed = scripted_api.requests
    assert [(request.method, request.path) for request in resumed] == [("GET", _EVENTS)] * 2
    assert [request.headers["last-event-id"] for request in resumed] == ["1-2"] * 2


async def test_closed_standard_input_is_not_read(scripted_api: ScriptedApi, tmp_path: Path) -> None:
    scripted_api.replies.append(ScriptedReply((accepted(), completed("1-1", "Yes"))))
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
    assert scripted_api.requests[0].body["message"] == "What?"


async def test_a_message_whose_acceptance_was_lost_is_posted_again_with_the_same_key(
    scripted_api: ScriptedApi, tmp_path: Path
) -> None:
    scripted_api.replies.append(ScriptedReply(is_cut=True))
    scripted_api.replies.append(refusal(429, "Too many.", "Retry-After: 1"))
    scripted_api.replies.append(ScriptedReply((accepted(), completed("1-1", "Yes"))))
    result = await _ask(scripted_api, tmp_path, "What?")
    assert (result.code, result.out) == (0, "Yes\n")
    assert [request.path for request in scripted_api.requests] == ["/v1/ai/chat"] * 3
    assert len({request.headers["idempotency-key"] for request in scripted_api.requests}) == 1
    assert scripted_api.requests[0].body == scripted_api.requests[2].body


async def test_a_pipe_gets_only_the_answer_of_the_last_attempt(
    scripted_api: ScriptedApi, tmp_path: Path
) -> None:
    reset, other = event("2-1", "reset", keep=0), event("2-2", "delta", text="Three wolves")
    pieces = (accepted(), *_TWO, reset, other, completed("2-3", "Three wolves"))
    scripted_api.replies.append(ScriptedReply(pieces))
    result = await _ask(scripted_api, tmp_path, "How many?")
    assert (result.code, result.out) == (0, "Three wolves\n")


async def test_failure_is_a_sentence_and_no_answer(
    scripted_api: ScriptedApi, tmp_path: Path
) -> None:
    scripted_api.replies.append(
        ScriptedReply((accepted(), *_TWO, failed("1-4", "The provider fell silent.")))
    )
    result = await _ask(scripted_api, tmp_path, "How many?")
    assert result == (1, "", "pollux: The provider fell silent.\n")
    assert scripted_api.cancels == 0


async def test_a_cancel_by_another_client_is_reported(
    scripted_api: ScriptedApi, tmp_path: Path
) -> None:
    scripted_api.replies.append(ScriptedReply((accepted(), *_TWO, event("2-1", "cancelled"))))
    result = await _ask(scripted_api, tmp_path, "How many?")
    assert result == (1, "", "pollux: The generation was cancelled.\n")


@pytest.mark.parametrize(
    ("reply", "sentence"),
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
    scripted_api: ScriptedApi, tmp_path: Path, reply: ScriptedReply, sentence: str
) -> None:
    scripted_api.replies.append(reply)
    result = await _ask(scripted_api, tmp_path, "What?")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("pollux: ")
    assert result.err.endswith(f"{sentence}\n")
    assert len(scripted_api.requests) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_cancels_the_generation(
    scripted_api: ScriptedApi, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    gate = asyncio.Event()
    scripted_api.replies.append(ScriptedReply((accepted(), routed(), gate)))
    async with _asking(scripted_api, tmp_path, "How many?") as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.close()
        assert (await process.stderr.readline()).startswith(b"model: alpha")
        process.send_signal(number)
        assert await process.wait() == code
        assert await process.stderr.read() == b"[cancelled]\n"
    assert scripted_api.cancels == 1


async def test_a_closed_pipe_cancels_the_generation(
    scripted_api: ScriptedApi, tmp_path: Path
) -> None:
    gate = asyncio.Event()
    scripted_api.replies.append(ScriptedReply((accepted(), gate, *_TWO, asyncio.Event())))
    async with _asking(scripted_api, tmp_path, "How many?", "--json") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        assert b"accepted" in await process.stdout.readline()
        process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]  # as `head` would
        gate.set()
        await until(lambda: scripted_api.cancels == 1, 20)
        assert await process.wait() == 1


# Which API is asked, with which key


async def test_the_system_running_in_the_folder_is_asked(
    scripted_api: ScriptedApi, tmp_path: Path
) -> None:
    folder = tmp_path / ".pollux"
    folder.mkdir()
    here = {"POLLUX_URL": scripted_api.url, "POLLUX_API_KEY": "its-key"}
    (folder / "running.json").write_text(json.dumps(here))
    scripted_api.replies.append(ScriptedReply((accepted(), completed("1-1", "Yes"))))
    result = await _ask(scripted_api, tmp_path, "What?", POLLUX_URL="", POLLUX_API_KEY="")
    assert (result.code, result.out) == (0, "Yes\n")
    assert scripted_api.requests[0].headers["x-api-key"] == "its-key"


async def test_the_key_of_the_folder_is_sent_to_its_own_system_only(
    scripted_api: ScriptedApi, tmp_path: Path
) -> None:
    folder = tmp_path / ".pollux"
    folder.mkdir()
    here = {"POLLUX_URL": "http://127.0.0.1:1", "POLLUX_API_KEY": "its-key"}
    (folder / "running.json").write_text(json.dumps(here))
    result = await _ask(scripted_api, tmp_path, "What?", POLLUX_API_KEY="")
    assert result.code == 1
    assert "set POLLUX_API_KEY" in result.err
    assert scripted_api.requests == []


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"POLLUX_API_KEY": ""}, "set POLLUX_API_KEY"),
        ({"POLLUX_URL": "ftp://127.0.0.1"}, "is not the URL of an API"),
        ({"POLLUX_API_KEY": "a\nb"}, "POLLUX_API_KEY has characters that no API key has"),
    ],
    ids=str,
)
async def test_a_missing_or_invalid_target_is_one_sentence(
    scripted_api: ScriptedApi, tmp_path: Path, environment: dict[str, str], sentence: str
) -> None:
    result = await _ask(scripted_api, tmp_path, "What?", stdin=b"", **environment)
    assert (result.code, result.out, result.err.count("\n")) == (1, "", 1)
    assert sentence in result.err


async def test_the_status_is_shown_until_the_answer_begins(
    scripted_api: ScriptedApi, tmp_path: Path
) -> None:
    words = asyncio.Event()
    scripted_api.replies.append(
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


async def test_a_failed_poll_is_ignored(scripted_api: ScriptedApi, tmp_path: Path) -> None:
    words = asyncio.Event()
    scripted_api.replies.append(
        ScriptedReply((accepted(), words, *_TWO, completed("1-4", "Two bears")))
    )
    scripted_api.status = ScriptedReply((b"no json",), kind="application/json")
    async with _asking(scripted_api, tmp_path, "How many?") as process:
        assert process.stdin is not None
        process.stdin.close()
        await until(
            lambda: any(request.path.endswith("/status") for request in scripted_api.requests)
        )
        words.set()
        out, _ = await process.communicate()
    assert out == b"Two bears\n"
