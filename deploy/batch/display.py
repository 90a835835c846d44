"""What a person sees while a batch runs: a bar on a terminal, and lines above it.

A pipe gets the lines that matter only: problems, pauses and failures. Everything goes to standard
error; standard output is for answers and JSON.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from deploy.batch.wire import Batch

_REFRESHES_PER_SECOND: Final = 5
_CONTROLS: Final = dict.fromkeys({*range(32), *range(127, 160)} - {ord("\n"), ord("\t")})
_MEGABYTE: Final = 1_000_000


def are_answers_apart(output: Path | None) -> bool:
    """Whether answers go elsewhere than to the terminal, which has room for a bar then."""
    # None if it was closed before the command started.
    stdout = cast("TextIO | None", sys.stdout)
    return output is not None or stdout is None or not stdout.isatty()


class Display:
    """Shows one run. With `is_live` and standard error a terminal there is a bar."""

    def __init__(self, *, is_live: bool = True) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.is_terminal = self._console.is_terminal
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._has_bar = is_live and self.is_terminal

    @contextmanager
    def shown(self, *, is_kept: bool = True) -> Iterator[None]:
        """Show the bar as long as the context lasts; its last state stays if it `is_kept`."""
        if not self._has_bar:
            yield
            return
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[numbers]}", markup=False),
            console=self._console,
            refresh_per_second=_REFRESHES_PER_SECOND,
            transient=not is_kept,
        )
        try:
            with self._progress:
                yield
        finally:
            self._progress = self._task = None

    def note(self, line: str) -> None:
        """Print a line for a person, on a terminal or not."""
        text = line.translate(_CONTROLS)
        if self.is_terminal:
            self._console.print(Text(text), soft_wrap=True)
        else:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()

    def tell(self, line: str) -> None:
        """Print a line for a person on a terminal; a pipe stays quiet."""
        if self.is_terminal:
            self.note(line)

    def show_work(self, name: str, done: int, size: int) -> None:
        """Show how much of the prompts is read or sent, in bytes before compression."""
        self._update(name, done, size, f"{done / _MEGABYTE:,.1f}/{size / _MEGABYTE:,.1f} MB")

    def show_batch(self, batch: Batch) -> None:
        """Show how far a batch is."""
        name = batch.state if batch.reason is None else f"{batch.state} ({batch.reason})"
        self._update(name, batch.counts.ended, batch.total, progress_of(batch))

    def _update(self, name: str, done: int, total: int, numbers: str) -> None:
        if self._progress is None:
            return
        if self._task is None:
            self._task = self._progress.add_task(name, numbers="")
        self._progress.update(
            self._task, description=name, completed=done, total=total or None, numbers=numbers
        )


def progress_of(batch: Batch) -> str:
    """Return `812/1,000  41.2/s  0:00:05 left  12.3 credits  3 failed`."""
    counts = batch.counts
    parts = [f"{counts.ended:,}/{batch.total:,}"]
    if not batch.has_ended and batch.items_per_second:
        parts.append(f"{batch.items_per_second:.1f}/s")
    if not batch.has_ended and batch.eta_seconds is not None:
        parts.append(f"{duration(batch.eta_seconds.p50)} left")
    parts.append(credits_of(batch))
    parts += [
        f"{count:,} {name}"
        for name, count in (
            ("failed", counts.failed),
            ("cancelled", counts.cancelled),
            ("expired", counts.expired),
        )
        if count
    ]
    return "  ".join(parts)


def credits_of(batch: Batch) -> str:
    """Return `12.3 credits`, or `12.3 of 20 credits` with a limit."""
    limit = "" if batch.credits.max is None else f" of {amount(batch.credits.max)}"
    return f"{amount(batch.credits.used)}{limit} credits"


def amount(value: float) -> str:
    """Return credits with at most 4 decimals."""
    return f"{value:,.4f}".rstrip("0").rstrip(".")


def duration(seconds: float) -> str:
    """Return `0:02:13`, or `2 days 03:15:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} day{'s' if days > 1 else ''} {hours:02}:{minutes:02}:{rest:02}"
    return f"{hours}:{minutes:02}:{rest:02}"


def printable(text: str) -> str:
    """Return a text in one line and without characters that a terminal would execute."""
    return " ".join(text.translate(_CONTROLS).split())
