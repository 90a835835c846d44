"""`pollux ask`: sends one message to a Pollux and shows the answer while it is generated.

Owns which message is sent; `target` finds the API.
"""

import asyncio
import io
import os
import sys
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, TextIO, cast

from cyclopts import Parameter

from deploy import status_poller
from deploy.answer_printer import AnswerPrinter
from deploy.follower import Follower
from deploy.local import shutdown
from deploy.options import FOLDER
from deploy.target import Target, find_target
from shared.clock import SystemClock
from shared.errors import Code, RequestError


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
    target = find_target(url, os.environ, folder)
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
    async with target.connect("pollux-ask") as http:
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
