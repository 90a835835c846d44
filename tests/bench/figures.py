"""The figures of a bench, their table, and the machine they are of."""

import os
import platform
import statistics
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, NamedTuple, TypeVar

from tests.support.redis_server import RawClient


class Figure(NamedTuple):
    """A line of the table. `compared_with` was measured in the same run; `bound` is as printed."""

    name: str
    found: str
    compared_with: str = ""
    bound: str = ""
    is_met: bool | None = None


def median(values: Iterable[float]) -> float:
    """Return the median."""
    return statistics.median(values)


# Where rounds disagree about a verdict, the median of this many rounds is judged.
ROUNDS_OF_DOUBT: Final = 7
Round = TypeVar("Round")


async def rounds(
    count: int,
    take: Callable[[], Awaitable[Round]],
    verdicts: Callable[[Round], Sequence[bool]],
) -> list[Round]:
    """Take `count` rounds, and go on to seven where they do not agree about each verdict.

    The caller judges by the median of what is returned.
    """
    found = [await take() for _ in range(count)]
    while count > 1 and len(found) < ROUNDS_OF_DOUBT and _disagree(found, verdicts):
        print_line(f"  round {len(found) + 1}, as the verdicts differ")
        found.append(await take())
    return found


def _disagree(found: list[Round], verdicts: Callable[[Round], Sequence[bool]]) -> bool:
    columns = zip(*(verdicts(each) for each in found), strict=True)
    return any(len(set(column)) > 1 for column in columns)


def sample(seconds: float, what: str) -> float:
    """Return a measured time; a negative one mixes up two events and fails the bench."""
    assert seconds >= 0, f"{what}: took {seconds:.6f} s"
    return seconds


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of all values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def machine(raw_client: RawClient | None = None) -> str:
    """Describe the machine."""
    parts = [
        f"{os.cpu_count()} cores",
        f"{platform.system()} {platform.machine()}",
        f"Python {platform.python_version()}",
    ]
    if raw_client is not None:
        info: dict[str, object] = raw_client("INFO", "server")
        is_valkey = "valkey_version" in info
        version = info["valkey_version" if is_valkey else "redis_version"]
        parts.append(f"{'Valkey' if is_valkey else 'Redis'} {version}")
    return ", ".join(parts)


def table(title: str, figures: list[Figure]) -> str:
    """Return the figures under a title, in columns."""
    heads = Figure("", "found", "compared with", "bound")
    rows = [heads, *figures]
    cells = [(row.name, row.found, row.compared_with, row.bound, _mark(row)) for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(5)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join((title, *lines, ""))


def _mark(figure: Figure) -> str:
    return {None: "", True: "met", False: "MISSED"}[figure.is_met]


def print_line(text: str) -> None:
    """Print at once: a bench takes long, and its progress must be visible."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
