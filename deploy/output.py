"""Prints a command's results on standard output: lines, JSON and tables."""

import json
import sys
from collections.abc import Collection, Iterable, Sequence


def print_line(line: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{line}\n")


def print_json(value: object) -> None:
    """Print a value as one line of JSON."""
    print_line(json.dumps(value))


def print_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, right_aligned: Collection[str] = ()
) -> None:
    """Print rows below their column names; `right_aligned` names the columns of numbers."""
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (
            cell.rjust(width) if name in right_aligned else cell.ljust(width)
            for name, cell, width in zip(head, line, widths, strict=True)
        )
        print_line("  ".join(cells).rstrip())
