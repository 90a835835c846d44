"""`pollux ask`: one message to a Pollux anywhere, and its answer as it is made.

Owns what is asked and of whom. Without an address named it asks the system that runs in the folder
of `pollux up`. Refuses to send that system's key anywhere else.
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
_SIGNAL_EXIT: Final = 128


class Target(NamedTuple):
    """Where a Pollux is, and a key that it knows."""

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
    """Send a message and show the answer as it is made; Ctrl-C cancels it.

    The answer alone goes to standard output, the rest to standard error. In a pipe the answer comes
    whole, at its end; on a terminal it grows, and one that is made again begins below a line
    `[starting over]`. As long as no word of it has come, it says what it waits for. The key is read
    from POLLUX_API_KEY.

    Args:
        message: What to ask, quoted or not; what comes from a pipe is read after it, or in its
            place if it is `-`.
        model: Identifier or alias of a model; default is what Pollux chooses.
        session: Continue this conversation.
        as_json: Print each event's JSON on a line of its own.
        url: Address of the API; default is POLLUX_URL, then that of a running `pollux up`.
        folder: Folder of that `pollux up`, which also knows a key of its own.

    """
    target = _find_target(url, os.environ, folder)
    body: dict[str, object] = {"message": _read_question(" ".join(message)), "stream": True}
    optional = {"model": model, "session_id": session}
    body |= {name: value for name, value in optional.items() if value is not None}
    for stream in (sys.stdout, sys.stderr):
        # What the terminal's own encoding lacks must not end an answer.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    answer = AnswerPrinter(sys.stdout, sys.stderr, as_json=as_json, url=target.url)
    clock = SystemClock()
    signum = asyncio.run(shutdown.run(_ask_and_show(target, body, answer, clock), clock))
    return 0 if signum is None else _SIGNAL_EXIT + signum


def _find_target(url: str | None, environment: Mapping[str, str], folder: Path) -> Target:
    """Return whom to ask; raises ConfigurationError naming what is missing."""
    running_environment = folders.running_environment_of(folder)
    address = url or environment.get("POLLUX_URL") or running_environment.get("POLLUX_URL") or _URL
    key = environment.get("POLLUX_API_KEY")
    if not key and address == running_environment.get("POLLUX_URL"):
        key = running_environment.get("POLLUX_API_KEY")
    if not key:
        raise ConfigurationError(
            [f"set POLLUX_API_KEY to a key of {address}, or start a system here with `pollux up`"]
        )
    if not _is_url(address):
        raise ConfigurationError([f"{address!r} is no address of an API, such as {_URL}"])
    if not (key.isascii() and key.isprintable()):
        raise ConfigurationError(["POLLUX_API_KEY holds what no key has"])
    return Target(address, key)


def _is_url(text: str) -> bool:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        return False
    return url.scheme in {"http", "https"} and bool(url.host)


def _read_question(words: str) -> str:
    """Return what to ask: the words, standard input, or both with a blank line between."""
    piped = ""
    # There is none where it was closed before the command began.
    stdin = cast("TextIO | None", sys.stdin)
    if stdin is not None and (words == "-" or not stdin.isatty()):
        # Bytes that are no text come to light below, as they do in the argument.
        piped = stdin.buffer.read().decode(errors="surrogateescape").rstrip("\n")
    parts = (piped,) if words == "-" else (words, piped)
    question = "\n\n".join(part for part in parts if part)
    try:
        question.encode()
    except UnicodeEncodeError:
        raise RequestError("What you ask is not UTF-8 text.", Code.INVALID_FIELDS) from None
    if not question.strip():
        raise RequestError(
            'Say what to ask, as in `pollux ask "What is a job queue?"`, or pipe it in.',
            Code.MISSING_FIELDS,
        )
    return question


async def _ask_and_show(
    target: Target, body: Mapping[str, object], answer: AnswerPrinter, clock: SystemClock
) -> None:
    """Ask and show; who goes before the end has the generation cancelled."""
    url = httpx.URL(target.url)
    async with httpx.AsyncClient(
        base_url=url,
        headers={"X-API-Key": target.key, "User-Agent": "pollux-ask"},
        # A proxy of the environment leads outside, never to this machine.
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
