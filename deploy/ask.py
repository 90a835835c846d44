"""`pollux ask`: sends one message to a Pollux and shows the answer while it is generated.

Owns which message is sent, and to which API: `--url`, POLLUX_URL, or the `pollux up` that runs in
the state folder. Refuses to send that system's key to any other address.
"""

import asyncio
import io
import os
import sys
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Final, NamedTuple, TextIO, cast

import httpx
from cyclopts import Parameter

from deploy import status_poller
from deploy.answer_printer import AnswerPrinter
from deploy.follower import Follower
from deploy.local import shutdown, state_folder as folders
from deploy.options import FOLDER
from shared.clock import SystemClock
from shared.errors import Code, ConfigurationError, RequestError

_URL: Final = "http://127.0.0.1:8000"
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


class Target(NamedTuple):
    """The API to ask, and the key to send."""

    url: str
    key: str


def ask(
    *message: Annotated[str, Parameter(allow_leading_hyphen=True)],
    model: Annotated[str | None, Parameter(name=["--model", "-m"])] = None,
    session: Annotated[str | None, Parameter(name=["--session", "-s"])] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
    url: str | None = None,
    folder: Path = FOLDER,
) -> int:
    """Send a message and show the answer while it is generated; Ctrl-C cancels the generation.

    Standard output gets the answer alone, standard error everything else. On a terminal the answer
    grows word by word; if Pollux generates it again, the new text starts below a line
    `[starting over]`. A pipe gets the complete answer at the end. Until the first word arrives, the
    status is shown: stage, queue position, time left. The key is read from POLLUX_API_KEY.

    Args:
        message: The question, quoted or not. Text from a pipe is appended to it; `-` means that the
            question comes from the pipe alone.
        model: Identifier or alias of a model; by default Pollux chooses.
        session: Continue this conversation.
        as_json: Print each event as one line of JSON.
        url: Address of the API; default is POLLUX_URL, else that of the running `pollux up`.
        folder: State folder of that `pollux up`; its API key is used if POLLUX_API_KEY is not set.

    """
    target = _find_target(url, os.environ, folder)
    body: dict[str, object] = {"message": _read_question(" ".join(message)), "stream": True}
    optional = {"model": model, "session_id": session}
    body |= {name: value for name, value in optional.items() if value is not None}
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal's encoding lacks must not break the answer off.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    answer = AnswerPrinter(sys.stdout, sys.stderr, as_json=as_json, url=target.url)
    clock = SystemClock()
    work = _ask_and_show(target, body, answer, clock)
    return shutdown.exit_code_of(asyncio.run(shutdown.run_until_stopped(work, clock)))


def _find_target(url: str | None, environment: Mapping[str, str], folder: Path) -> Target:
    """Return the API to ask. Raises ConfigurationError naming what is missing."""
    running_environment = folders.running_environment_of(folder)
    address = url or environment.get("POLLUX_URL") or running_environment.get("POLLUX_URL") or _URL
    key = environment.get("POLLUX_API_KEY")
    if not key and address == running_environment.get("POLLUX_URL"):
        key = running_environment.get("POLLUX_API_KEY")
    if not key:
        raise ConfigurationError(
            [
                f"set POLLUX_API_KEY to a key of {address}; or start `pollux up` here; or, if it "
                "runs elsewhere on this machine, name its state folder with --folder"
            ]
        )
    if not _is_url(address):
        raise ConfigurationError([f"{address!r} is not the URL of an API, such as {_URL}"])
    if not (key.isascii() and key.isprintable()):
        raise ConfigurationError(["POLLUX_API_KEY has characters that no API key has"])
    return Target(address, key)


def _is_url(text: str) -> bool:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        return False
    return url.scheme in {"http", "https"} and bool(url.host)


def _read_question(words: str) -> str:
    """Return the question: the words, standard input, or both with a blank line between them."""
    piped = ""
    # None if standard input was closed before the command started.
    stdin = cast("TextIO | None", sys.stdin)
    if stdin is not None and (words == "-" or not stdin.isatty()):
        # Bytes that are not UTF-8 are refused below, those of the arguments too.
        piped = stdin.buffer.read().decode(errors="surrogateescape").rstrip("\n")
    parts = (piped,) if words == "-" else (words, piped)
    question = "\n\n".join(part for part in parts if part)
    try:
        question.encode()
    except UnicodeEncodeError:
        raise RequestError("The question is not UTF-8 text.", Code.INVALID_FIELDS) from None
    if not question.strip():
        raise RequestError(
            'Give a question, as in `pollux ask "What is a job queue?"`, or pipe one in.',
            Code.MISSING_FIELDS,
        )
    return question


async def _ask_and_show(
    target: Target, body: Mapping[str, object], answer: AnswerPrinter, clock: SystemClock
) -> None:
    """Send the message and show its events; cancel the generation if we stop before its end."""
    url = httpx.URL(target.url)
    async with httpx.AsyncClient(
        base_url=url,
        headers={"X-API-Key": target.key, "User-Agent": "pollux-ask"},
        # A proxy that the environment names is for other machines, not for this one.
        trust_env=url.host not in _LOOPBACK,
    ) as http:
        follower = Follower(http, clock, answer.note)
        status_task = asyncio.create_task(
            status_poller.print_changes(http, clock, answer.pending_poll_url, answer.note)
        )
        try:
            async with aclosing(follower.ask(body)) as stream_events:
                async for received in stream_events:
                    answer.show_event(received)
        except (asyncio.CancelledError, BrokenPipeError):
            await follower.cancel()
            raise
        finally:
            status_task.cancel()
            answer.end_line()
