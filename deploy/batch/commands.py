"""`pollux batch`: its commands about batches that exist; `run` makes them."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from cyclopts import App, Parameter

from deploy.batch import outcome, tables
from deploy.batch.answers import Answers, Order, answer_file
from deploy.batch.batch_api import BATCHES, BatchApi, path_of
from deploy.batch.batch_options import Flag, check_limit
from deploy.batch.display import Display, are_answers_apart
from deploy.batch.receive import Receiver
from deploy.batch.run import USER_AGENT, Output
from deploy.batch.wire import Batch, ItemState, decode_batch
from deploy.local import shutdown
from deploy.options import FOLDER, Count, Json, examples
from deploy.output import print_json, print_line
from deploy.target import find_target
from shared.clock import SystemClock
from shared.errors import Code, RequestError

app: Final = App(
    name="batch",
    help="Send files of prompts, and get their answers.",
    help_format="markdown",
    help_epilogue=examples(
        "pollux batch run prompts.jsonl -o answers.jsonl",
        'pollux batch run words.csv -o answers.jsonl --template "Translate into French: {word}"',
        "pollux batch list",
        "pollux batch results BATCH --state failed",
    ),
)
app.command(
    "deploy.batch.run:run",
    name="run",
    help_epilogue=examples(
        "pollux batch run prompts.jsonl -o answers.jsonl --model alpha --max-credits 50",
        'pollux batch run words.csv -o answers.jsonl --template "Translate into French: {word}"',
        "pollux batch run questions.txt --estimate",
        "sort -u questions.txt | pollux batch run - --format lines > answers.jsonl",
        "pollux batch run prompts.jsonl --detach",
    ),
)

_PAGE: Final = 100


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Where:
    """Which API is asked.

    Attributes:
        url: Address of the API; default is POLLUX_URL, else that of the running `pollux up`.
        folder: State folder of that `pollux up`; its API key is used if POLLUX_API_KEY is not set.

    """

    url: str | None = None
    folder: Path = FOLDER

    @asynccontextmanager
    async def connected(self, display: Display) -> AsyncIterator[BatchApi]:
        """Return the API's batches. Raises ConfigurationError if it is not known which."""
        target = find_target(self.url, os.environ, self.folder)
        async with target.connect(USER_AGENT) as http:
            yield BatchApi(http, SystemClock(), display.note)


_HERE: Final = Where()


@app.command(name="list", help_epilogue=examples("pollux batch list --json"))
def list_(*, limit: Count = 20, json: Json = False, where: Where = _HERE) -> None:
    """List the account's batches, newest first.

    Args:
        limit: How many to list at most.

    """

    async def load(api: BatchApi) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        page_size = min(limit, _PAGE)
        while len(rows) < limit:
            page = 1 + len(rows) // page_size
            params = {"page": page, "limit": page_size}
            reply = await api.call("GET", BATCHES, params=params)
            batches = msgspec.json.decode(reply.content)["batches"]
            rows += batches
            if len(batches) < page_size:
                break
        return rows[:limit]

    rows = _call(where, load)
    if json:
        print_json(rows)
        return
    tables.print_batches([msgspec.convert(row, Batch) for row in rows])


@app.command(help_epilogue=examples("pollux batch show BATCH"))
def show(batch_id: str, /, *, json: Json = False, where: Where = _HERE) -> None:
    """Show a batch: how far it is, when it will end, and what it costs.

    Args:
        batch_id: The batch's id, as `list` prints it.

    """
    _show(_call(where, lambda api: _request(api, "GET", batch_id)), as_json=json)


@app.command(
    help_epilogue=examples(
        "pollux batch results BATCH -o answers.jsonl --wait",
        "pollux batch results BATCH --state failed",
    )
)
def results(
    batch_id: str,
    /,
    *,
    output: Output = None,
    state: ItemState | None = None,
    after_line: Annotated[int, Parameter(name="--after-line")] = 0,
    order: Order = "input",
    partial: Flag = False,
    wait: Flag = False,
    overwrite: Flag = False,
    where: Where = _HERE,
) -> int:
    """Write the answers of a batch as JSON, one a line; a file is continued where it ends.

    In the order of the prompts, the answers end before the first that is not there yet.

    Args:
        batch_id: The batch's id, as `list` prints it.
        output: File for the answers; by default they go to standard output.
        state: Only items that ended like this, such as `failed`.
        after_line: Only answers of later lines than this one.
        order: Order of the prompts, or of finishing.
        partial: Also what follows the first prompt that is not answered yet.
        wait: Wait until the batch has ended, with a bar; exit codes are those of `run`.
        overwrite: Replace what is in the output.

    """
    filters: dict[str, str | int] = {"state": state} if state else {}
    filters |= {"partial": "true"} if partial else {}
    filters |= {"after_line": after_line} if after_line else {}
    if wait and filters:
        raise RequestError(
            "--wait writes all answers: not with --state, --after-line or --partial.",
            Code.INVALID_FIELDS,
        )
    display = Display(is_live=wait and are_answers_apart(output))
    with answer_file(output, order, overwrite=overwrite) as answers:
        _check_file(answers, batch_id, is_part=bool(filters))
        answers.begin(batch_id)
        session = _Results(batch_id, answers, display)
        work = session.follow(where) if wait else session.read(where, filters)
        signum = asyncio.run(shutdown.run_until_stopped(work, SystemClock()))
        if signum is not None and wait:
            display.note(f"Interrupted; batch {batch_id} goes on by itself.")
            display.note(f"  go on:   {outcome.results_command(batch_id, output, order)}")
            display.note(f"  stop it: pollux batch cancel {batch_id}")
    return session.exit_code if signum is None else shutdown.exit_code_of(signum)


def _check_file(answers: Answers, batch_id: str, *, is_part: bool) -> None:
    """Raise RequestError where a file has answers that these do not continue."""
    if is_part and answers.batch_id is not None:
        raise RequestError(
            f"{answers.path} has answers already: choose another file for a part of them, or "
            "replace this one with --overwrite.",
            Code.INVALID_FIELDS,
        )
    if answers.batch_id not in {None, batch_id}:
        raise RequestError(
            f"{answers.path} has answers of batch {answers.batch_id}: choose another file, or "
            "replace this one with --overwrite.",
            Code.INVALID_FIELDS,
        )


class _Results:
    """One call of `results`."""

    def __init__(self, batch_id: str, answers: Answers, display: Display) -> None:
        self.exit_code = 0
        self._batch_id = batch_id
        self._answers = answers
        self._display = display

    async def read(self, where: Where, filters: dict[str, str | int]) -> None:
        """Write what has ended so far."""
        async with where.connected(self._display) as api:
            batch = await api.load(self._batch_id)
            receiver = Receiver(api, SystemClock(), self._display, batch, self._answers)
            await receiver.receive_once(filters)
            self._answers.save()
        if not batch.has_ended:
            self._display.tell(
                f"Batch {batch.batch_id} is {batch.state}: {batch.counts.ended:,} of "
                f"{batch.total:,} prompts have ended; --wait writes all."
            )

    async def follow(self, where: Where) -> None:
        """Write everything until the batch has ended."""
        async with where.connected(self._display) as api:
            with self._display.shown():
                batch = await api.load(self._batch_id)
                receiver = Receiver(api, SystemClock(), self._display, batch, self._answers)
                batch = await outcome.follow_to_the_end(receiver, self._answers, self._display)
        self.exit_code = outcome.report(batch, self._answers, self._display, as_json=False)


@app.command(help_epilogue=examples("pollux batch cancel BATCH"))
def cancel(batch_id: str, /, *, json: Json = False, where: Where = _HERE) -> None:
    """Cancel a batch: what has not begun never runs, and costs nothing; answers are kept."""
    _show(_call(where, lambda api: _request(api, "POST", batch_id, "cancel")), as_json=json)


@app.command(help_epilogue=examples("pollux batch pause BATCH"))
def pause(batch_id: str, /, *, json: Json = False, where: Where = _HERE) -> None:
    """Pause a batch: what runs ends, and nothing else begins until `resume`."""
    _show(_call(where, lambda api: _request(api, "POST", batch_id, "pause")), as_json=json)


@app.command(help_epilogue=examples("pollux batch resume BATCH --max-credits 100"))
def resume(
    batch_id: str,
    /,
    *,
    max_credits: float | None = None,
    json: Json = False,
    where: Where = _HERE,
) -> None:
    """Go on with a paused batch.

    Args:
        max_credits: A new limit for what the batch may cost in all.

    """
    check_limit(max_credits)
    body = None if max_credits is None else {"max_credits": max_credits}
    _show(_call(where, lambda api: _request(api, "POST", batch_id, "resume", body)), as_json=json)


@app.command(help_epilogue=examples("pollux batch retry BATCH"))
def retry(batch_id: str, /, *, json: Json = False, where: Where = _HERE) -> None:
    """Run the failed items of a batch again, into the same batch."""
    _show(_call(where, lambda api: _request(api, "POST", batch_id, "retry")), as_json=json)


@app.command(help_epilogue=examples("pollux batch delete BATCH"))
def delete(batch_id: str, /, *, json: Json = False, where: Where = _HERE) -> None:
    """Delete a batch with its prompts and answers; one that runs is cancelled first."""
    content = _call(where, lambda api: _request(api, "DELETE", batch_id))
    if json:
        print_json(msgspec.json.decode(content))
    else:
        print_line(f"Batch {batch_id} is deleted.")


async def _request(
    api: BatchApi, method: str, batch_id: str, action: str = "", body: object = None
) -> bytes:
    path = f"{path_of(batch_id)}/{action}" if action else path_of(batch_id)
    return (await api.call(method, path, body=body)).content


def _call(where: Where, work: Callable[[BatchApi], Awaitable[Any]]) -> Any:  # noqa: ANN401  the work's own type
    display = Display(is_live=False)

    async def connected_work() -> Any:  # noqa: ANN401  the same
        async with where.connected(display) as api:
            return await work(api)

    return asyncio.run(connected_work())


def _show(content: bytes, *, as_json: bool) -> None:
    if as_json:
        print_json(msgspec.json.decode(content))
    else:
        tables.print_batch(decode_batch(content))
