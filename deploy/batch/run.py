"""`pollux batch run`: sends a file of prompts, and writes their answers until all are there.

Owns the order of things: everything that can be wrong with the file, the options and the output is
found before a request; the batch is looked up before it is uploaded. Says how to go on, however the
command ends.
"""

import asyncio
import os
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from deploy.batch import estimate as estimates, outcome
from deploy.batch.answers import Answers, Order, answer_file
from deploy.batch.batch_api import BatchApi, RefusalError, path_of
from deploy.batch.batch_options import BatchOptions, Flag, check_text
from deploy.batch.display import Display, amount, are_answers_apart, printable
from deploy.batch.prompts import Format, Prompts, opened
from deploy.batch.receive import Receiver
from deploy.batch.upload import Upload, Uploader
from deploy.batch.wire import Batch, Fault
from deploy.local import shutdown
from deploy.options import FOLDER, Json
from deploy.output import print_json, print_line
from deploy.target import Target, find_target
from shared.clock import SystemClock
from shared.errors import Code, RequestError, UnavailableError

USER_AGENT: Final = "pollux-batch"
Output = Annotated[Path | None, Parameter(name=["--output", "-o"])]
_FAULTS_SHOWN: Final = 5
_OWN: Final = "not of a new one"
_FOREIGN: Final = "which is not, or no longer, a batch of these prompts and options"
_NO_OPTIONS: Final = BatchOptions()


def run(
    source: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    output: Output = None,
    order: Order = "input",
    format: Format | None = None,  # noqa: A002  the option's name
    template: str | None = None,
    delimiter: str = ",",
    options: BatchOptions = _NO_OPTIONS,
    estimate: Flag = False,
    detach: Flag = False,
    new: Flag = False,
    overwrite: Flag = False,
    json: Json = False,
    url: str | None = None,
    folder: Path = FOLDER,
) -> int:
    """Send a file of prompts, and write the answers as they come.

    The batch is named by the content of the file and the options that shape the answers, so the
    same command goes on after Ctrl-C, a crash, or on another machine: no prompt is sent twice, and
    no answer is lost or written twice. The answers' file says by itself how far it is.

    Exit codes: 0, all prompts are answered; 2, some are not; 130, interrupted; 1, anything else.

    Args:
        source: JSONL (one object a line, with `message` and optionally `custom_id`), CSV, or plain
            lines, in UTF-8; `-` reads standard input.
        output: File for the answers; by default they go to standard output.
        order: `input`: the answers have the order of the prompts, so an answer is written when all
            before it are there. `finished`: each is written as it comes.
        format: How to read the source, where its name does not end in .jsonl, .csv or .txt.
        template: Message of each row of a CSV, with its columns in braces.
        delimiter: What separates the cells of a CSV.
        estimate: Say what it would cost and when it would end. Sends no prompt.
        detach: Return when the prompts are accepted.
        new: Run the same prompts again.
        overwrite: Replace what is in the output.
        json: Print the batch as JSON on standard output at the end.
        url: Address of the API; default is POLLUX_URL, else that of the running `pollux up`.
        folder: State folder of that `pollux up`; its API key is used if POLLUX_API_KEY is not set.

    """
    check_text(template or "")
    delimiter = _one_character(delimiter)
    if json and output is None and not detach and not estimate:
        raise RequestError(
            "--json prints on standard output, so the answers need a file: -o.", Code.INVALID_FIELDS
        )
    target = find_target(url, os.environ, folder)
    with ExitStack() as stack:
        prompts = stack.enter_context(opened(source, format, template, delimiter))
        if estimate:
            named, _ = options.named(), options.unnamed()
            return asyncio.run(estimates.print_estimate(target, prompts, named, as_json=json))
        display = Display(is_live=are_answers_apart(output))
        answers = None
        if not detach:
            _check_apart(prompts, output)
            file = answer_file(output, order, overwrite=overwrite)
            answers = stack.enter_context(file)
        session = _Session(target, display, prompts, options, answers, is_new=new, as_json=json)
        signum = asyncio.run(shutdown.run_until_stopped(session.run(), SystemClock()))
        if signum is None:
            return session.exit_code
        session.note_interrupted(source)
        return shutdown.exit_code_of(signum)


def _one_character(delimiter: str) -> str:
    """Return what separates cells; a tab may be written as an escape. Raises RequestError."""
    if delimiter == "\\t":
        return "\t"
    if len(delimiter) != 1:
        raise RequestError("--delimiter is one character.", Code.INVALID_FIELDS)
    return delimiter


def _check_apart(prompts: Prompts, output: Path | None) -> None:
    """Raise RequestError where answers would be written over the prompts."""
    if output is not None and output.exists() and output.samefile(prompts.path):
        raise RequestError(
            f"{output} has the prompts: choose another file for the answers.", Code.INVALID_FIELDS
        )


class _Session:
    """One call of the command, after everything that needs no API."""

    def __init__(
        self,
        target: Target,
        display: Display,
        prompts: Prompts,
        options: BatchOptions,
        answers: Answers | None,
        *,
        is_new: bool,
        as_json: bool,
    ) -> None:
        self.exit_code = 0
        self._target = target
        self._display = display
        self._answers = answers
        self._is_new = is_new
        self._as_json = as_json
        self._limit = options.max_credits
        self._batch: Batch | None = None
        named, unnamed = options.named(), options.unnamed()
        with display.shown(is_kept=False):
            size = prompts.path.stat().st_size
            fingerprint = prompts.fingerprint(
                named, lambda read: display.show_work("reading", read, size)
            )
        self._upload = Upload(prompts, fingerprint, named, unnamed)

    async def run(self) -> None:
        """Do all of it. Raises PolluxError."""
        try:
            await self._run(SystemClock())
        except UnavailableError as error:
            if self._batch is None:
                raise
            raise UnavailableError(
                f"{error.message} Batch {self._batch.batch_id} goes on by itself; run the same "
                "command again."
            ) from None

    async def _run(self, clock: SystemClock) -> None:
        async with self._target.connect(USER_AGENT) as http:
            api = BatchApi(http, clock, self._display.note)
            with self._display.shown():
                uploader = Uploader(api, clock, self._display, self._upload)
                try:
                    self._batch = await self._find_or_create(uploader)
                except RefusalError as error:
                    _note_faults(self._display, error.faults, error.invalid)
                    raise
                if self._limit is not None:
                    self._batch = await self._raised_limit(api, self._batch, self._limit)
                if self._answers is None:
                    self._print_detached(self._batch)
                    return
                self._answers.begin(self._batch.batch_id)
                receiver = Receiver(api, clock, self._display, self._batch, self._answers)
                self._batch = await outcome.follow_to_the_end(
                    receiver, self._answers, self._display
                )
        self.exit_code = outcome.report(
            self._batch, self._answers, self._display, as_json=self._as_json
        )

    def note_interrupted(self, source: str) -> None:
        """Say what goes on without this command, and how to come back."""
        words = [word for word in sys.argv[1:] if word not in {"--new", "--overwrite"}]
        same = shlex.join(["pollux", *words])
        batch = self._batch
        if batch is None:
            self._display.note("Interrupted before the prompts were accepted.")
            self._display.note(f"  start again: {shlex.join(['pollux', *sys.argv[1:]])}")
            return
        if source == "-":
            path = self._answers.path if self._answers else None
            order = self._answers.order if self._answers else "input"
            same = outcome.results_command(batch.batch_id, path, order)
        self._display.note(f"Interrupted; batch {batch.batch_id} goes on by itself.")
        self._display.note(f"  go on:   {same}")
        self._display.note(f"  stop it: pollux batch cancel {batch.batch_id}")

    async def _find_or_create(self, uploader: Uploader) -> Batch:
        """Return the batch that the output belongs to, else the last one, else a new one.

        Raises:
            RequestError: the output belongs to another batch.

        """
        *runs, _ = await uploader.find_runs()
        existing = [run for run in runs if run is not None]
        written = None if self._answers is None else self._answers.batch_id
        if written is not None:
            own = [run for run in existing if run.batch_id == written]
            if not own or self._is_new:
                raise RequestError(
                    f"{self._answers and self._answers.path} has answers of batch {written}, "
                    f"{_OWN if own else _FOREIGN}. Choose "
                    "another file, or replace this one with --overwrite.",
                    Code.INVALID_FIELDS,
                )
            found: Batch | None = own[0]
        else:
            found = None if self._is_new or not existing else existing[-1]
        batch = found or await uploader.create(len(runs) + 1)
        self._tell_start(batch, uploader)
        return batch

    def _tell_start(self, batch: Batch, uploader: Uploader) -> None:
        if uploader.receipt is None:
            self._display.tell(
                f"Batch {batch.batch_id} has these prompts already ({batch.state}); nothing is "
                "sent. (--new runs them again.)"
            )
            return
        self._display.tell(f"Batch {batch.batch_id}: {batch.total:,} prompts are accepted.")
        if uploader.receipt.invalid:
            _note_faults(self._display, uploader.receipt.errors, uploader.receipt.invalid)

    async def _raised_limit(self, api: BatchApi, batch: Batch, limit: float) -> Batch:
        """Resume a batch that waits at its limit, if this command allows more."""
        present = batch.credits.max
        if batch.state == "paused" and batch.reason == "max_credits":
            if present is not None and limit > present:
                path = f"{path_of(batch.batch_id)}/resume"
                await api.call("POST", path, body={"max_credits": limit})
                self._display.tell(f"The limit is raised to {amount(limit)} credits.")
                return await api.load(batch.batch_id)
        elif present != limit and not batch.has_ended:
            words = "no limit" if present is None else f"a limit of {amount(present)} credits"
            self._display.note(
                f"The batch runs already, with {words}; --max-credits changes nothing."
            )
        return batch

    def _print_detached(self, batch: Batch) -> None:
        if self._as_json:
            print_json(outcome.builtins(batch))
        else:
            print_line(batch.batch_id)
        self._display.tell(f"  how far it is: pollux batch show {batch.batch_id}")
        self._display.tell(f"  its answers:   {outcome.results_command(batch.batch_id, None)}")


def _note_faults(display: Display, faults: list[Fault], count: int) -> None:
    if not count:
        return
    lines = "line is" if count == 1 else "lines are"
    display.note(f"{count:,} {lines} no valid prompt:")
    for fault in faults[:_FAULTS_SHOWN]:
        display.note(f"  line {fault.line}: {printable(fault.error)}")
    if count > _FAULTS_SHOWN:
        display.note(f"  and {count - min(len(faults), _FAULTS_SHOWN):,} more")
