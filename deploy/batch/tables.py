"""Prints batches: tables on a terminal, plain columns into a pipe."""

import sys
from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.table import Table

from deploy.batch.display import amount, credits_of, duration, printable
from deploy.batch.wire import Batch
from deploy.output import print_line, print_table

_HEAD: Final = ("batch", "state", "done", "total", "failed", "credits", "created", "metadata")
_NUMBERS: Final = ("done", "total", "failed", "credits")


def print_batches(batches: Sequence[Batch]) -> None:
    """Print one row for each batch."""
    rows = [_row(batch) for batch in batches]
    if not sys.stdout.isatty():
        print_table(_HEAD, rows, right_aligned=_NUMBERS)
        return
    table = Table(*_HEAD, box=None, header_style="bold", pad_edge=False)
    for column in table.columns:
        column.justify = "right" if column.header in _NUMBERS else "left"
        # An id that is cut cannot be pasted.
        column.no_wrap = column.header == "batch"
        column.overflow = "fold"
    for row in rows:
        table.add_row(*row)
    Console(markup=False, highlight=False).print(table)


def print_batch(batch: Batch) -> None:
    """Print one batch, a line for each of its fields that says something."""
    for name, value in _lines(batch):
        if value:
            print_line(f"{name + ':':<11} {value}")


def _row(batch: Batch) -> tuple[str, ...]:
    counts = batch.counts
    return (
        batch.batch_id,
        _state(batch),
        f"{counts.ended:,}",
        f"{batch.total:,}",
        f"{counts.failed:,}",
        amount(batch.credits.used),
        batch.created_at or "-",
        _metadata(batch) or "-",
    )


def _lines(batch: Batch) -> list[tuple[str, str]]:
    counts, credits_, eta = batch.counts, batch.credits, batch.eta_seconds
    names = ("waiting", "open", "completed", "failed", "cancelled", "expired")
    items = ", ".join(
        f"{getattr(counts, name):,} {name}" for name in names if getattr(counts, name)
    )
    is_known = credits_.forecast is None or batch.has_ended
    forecast = "" if is_known else f", about {amount(credits_.forecast or 0)} in the end"
    held = f", {amount(credits_.held)} held" if credits_.held else ""
    return [
        ("batch", batch.batch_id),
        ("state", _state(batch)),
        ("prompts", f"{batch.total:,} ({items})" if items else f"{batch.total:,}"),
        ("invalid", f"{batch.invalid:,}" if batch.invalid else ""),
        ("rate", f"{batch.items_per_second:.1f} a second" if batch.items_per_second else ""),
        ("time left", f"{duration(eta.p50)}, at most {duration(eta.p90)}" if eta else ""),
        ("credits", f"{credits_of(batch).removesuffix(' credits')}{held}{forecast}"),
        ("metadata", _metadata(batch)),
        ("created", batch.created_at or ""),
        ("started", batch.started_at or ""),
        ("finished", batch.finished_at or ""),
        ("deadline", "" if batch.has_ended else batch.deadline_at or ""),
        ("kept until", batch.deleted_at or ""),
    ]


def _state(batch: Batch) -> str:
    if batch.cancelling:
        return "cancelling"
    return batch.state if batch.reason is None else f"{batch.state} ({batch.reason})"


def _metadata(batch: Batch) -> str:
    return " ".join(
        f"{printable(name)}={printable(value)}" for name, value in (batch.metadata or {}).items()
    )
