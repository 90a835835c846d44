"""What a bench found: figures, the table they are printed in, and the machine they are of."""

import os
import platform
import statistics
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, NamedTuple, TypeVar

from tests.support.redis_server import RawClient


class Figure(NamedTuple):
    """A line of the table. `beside` was measured in the same run, `aim` is the bound."""

    name: str
    found: str
    compared_with: str = ""
    bound: str = ""
    is_met: bool | None = None


def median(values: Iterable[float]) -> float:
    """Return the middle of what several runs gave."""
    return statistics.median(values)


# Where rounds disagree about a verdict, it is the median of as many as these that judges.
ROUNDS_OF_DOUBT: Final = 7
Round = TypeVar("Round")


async def rounds(
    count: int,
    take: Callable[[], Awaitable[Round]],
    verdicts: Callable[[Round], Sequence[bool]],
) -> list[Round]:
    """Take so many rounds, and go on to seven where they do not agree about each verdict.

    Who asked judges by the median of what is returned.
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
    """Return a time that was measured; one below nothing is of two things that differ."""
    assert seconds >= 0, f"{what}: took {seconds:.6f} s"
    return seconds


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that a share of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def machine(raw_client: RawClient | None = None) -> str:
    """Describe where the figures are from."""
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
    heads = Figure("", "found", "beside", "aim")
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
    """Print at once: a bench takes its time, and who waits wants to see it go on."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
