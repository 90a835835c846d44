"""Runs the attacks and prints one table. The exit code is 1 where one costs more than its bound."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from tests.attacks import conversations, folders, pictures, storage, traffic
from tests.attacks.target import ROOT
from tests.bench import figures
from tests.bench.figures import Figure
from tests.support import command_line

ATTACKS: Final[dict[str, Callable[[Path], Awaitable[list[Figure]]]]] = {
    "sessions": storage.create_sessions,
    "cancelled": storage.submit_and_cancel,
    "pages": conversations.read_pages,
    "recall": conversations.send_short_messages,
    "folder": folders.create_folder_first,
    "names": pictures.silent_names,
    "host": pictures.call_one_host,
    "refused": traffic.refused,
    "repeated": traffic.repeated,
    "revoked": traffic.revoked,
    "idle": traffic.idle_connections,
    "bodies": traffic.slow_bodies,
    "declared": traffic.declared_bodies,
}


async def run(checkout: Path, names: list[str]) -> bool:
    """Run attacks against a checkout, one after the other; return whether all kept their bounds."""
    found: list[Figure] = []
    for name in names:
        began = time.monotonic()
        lines = await ATTACKS[name](checkout)
        figures.print_line(f"{name}: {time.monotonic() - began:.0f} s")
        found += [lines[0]._replace(name=f"{name}: {lines[0].name}"), *lines[1:]]
    figures.print_line(figures.table(f"attacks on {checkout.name}, {figures.machine()}", found))
    return all(figure.is_met is not False for figure in found)


def main() -> int:
    """Read the options, run, print."""
    parser = command_line.parser("tests.attacks", __doc__)
    parser.add_argument(
        "--base", type=Path, default=ROOT, help="folder of another checkout with its .venv"
    )
    parser.add_argument("--only", action="append", choices=ATTACKS, help="run one; repeatable")
    options = parser.parse_args()
    names = options.only or list(ATTACKS)
    return 0 if asyncio.run(run(options.base.resolve(), names)) else 1


if __name__ == "__main__":
    sys.exit(main())
