"""Runs all exchanges, and those of a folder, and prints one table: kind, exchange, verdict.

    python -m tests.exchanges [FOLDER] [--right FILE] [--folder-only] [--scale 1.0] [--seconds 100]

Each line has the outcome and its verdict: `right`, `WRONG` with the differences, or a question mark
and the file's own sentence, where no fields say what is right (see `files`). `--folder-only` leaves
out the built-in ones. The exit code is 1 where something is wrong.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from shared.settings import RedisSettings
from tests.exchanges import files
from tests.exchanges.all_exchanges import KINDS
from tests.exchanges.exchange import Exchange
from tests.exchanges.files import ExchangeFile
from tests.exchanges.runner import Outcome, play
from tests.support import command_line
from tests.support.redis_server import Server
from tests.support.scripted_provider import ScriptedProvider
from tests.support.system import System


class Row(NamedTuple):
    """A line of the table; no `faults`: it is right; None: it is not judged."""

    kind: str
    name: str
    outcomes: str
    faults: list[str] | None
    sentence: str = ""


async def _play_all(exchanges: Sequence[Exchange], seconds: float) -> dict[str, Outcome]:
    """Run exchanges through a system of their own."""
    with Server() as server, tempfile.TemporaryDirectory() as scratch:
        settings = RedisSettings(url=server.url)
        async with (
            ScriptedProvider() as provider,
            System(settings, provider, Path(scratch)) as system,
        ):
            system.expected |= {"provider throttled", "breaker opened", "dead letter"}
            return await play(system, exchanges, seconds=seconds)


async def _play_own(names: dict[str, str], seconds: float) -> list[Row]:
    rows = []
    for kind, exchanges in KINDS.items():
        outcomes = await _play_all(exchanges, seconds)
        for each in exchanges:
            outcome = outcomes[each.name]
            rows.append(
                Row(
                    names.get(kind, kind),
                    each.name,
                    _describe(outcome),
                    outcome.faults(each.expected),
                )
            )
    return rows


async def _play_files(exchange_files: list[ExchangeFile], seconds: float) -> list[Row]:
    outcomes = await _play_all([each.exchange for each in exchange_files], seconds)
    rows = []
    for each in exchange_files:
        outcome = outcomes[each.exchange.name]
        faults = outcome.faults(each.exchange.expected) if each.is_judged else None
        rows.append(Row(each.kind, each.exchange.name, _describe(outcome), faults, each.sentence))
    return rows


def _describe(outcomes: Outcome) -> str:
    status, result = outcomes.status, outcomes.status["result"]
    failure = status["failure"]
    words = [f"{status['state']}/{status['stage']}", repr(result["content"])]
    if failure:
        words.append(f"{failure['category']}/{failure['code']} retryable={failure['retryable']}")
    words += [f"finish={result.get('finish_reason')}", f"calls={outcomes.calls}"]
    words.append(f"credits={status['credits_used']}")
    if result.get("reasoning_content"):
        words.append(f"reasoning={result['reasoning_content']!r}")
    if outcomes.unrelated is not None:
        words.append(f"other_account={outcomes.unrelated['state']}")
    return "  ".join(words)


def _print(rows: list[Row]) -> None:
    kind_width, name_width = max(len(row.kind) for row in rows), max(len(row.name) for row in rows)
    for row in rows:
        verdict = "?" if row.faults is None else "WRONG" if row.faults else "right"
        kind, name = row.kind.ljust(kind_width), row.name.ljust(name_width)
        sys.stdout.write(f"{kind}  {name}  {verdict:<5}  {row.outcomes}\n")
        if row.faults is None:
            sys.stdout.write(f"    according to its file: {row.sentence}\n")
        for fault in row.faults or ():
            sys.stdout.write(f"    {fault}\n")
    judged = [row for row in rows if row.faults is not None]
    good = sum(not row.faults for row in judged)
    sys.stdout.write(f"{good} of {len(judged)} right, {len(rows) - len(judged)} not judged\n")


async def _main(options: argparse.Namespace) -> list[Row]:
    verdicts: dict[str, Any] = json.loads(options.right.read_text()) if options.right else {}
    names = verdicts.pop("kinds", {})
    rows = [] if options.folder_only else await _play_own(names, options.seconds)
    if options.folder is not None:
        exchange_files = files.read(options.folder, verdicts, options.scale)
        rows += await _play_files(exchange_files, options.seconds)
    return sorted(rows, key=lambda row: row.kind) if names else rows


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser("tests.exchanges", __doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="folder of exchanges in JSON files")
    parser.add_argument("--right", type=Path, help="JSON file with what is right for each")
    parser.add_argument("--folder-only", action="store_true", help="run only those of the folder")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies pauses of files")
    parser.add_argument("--seconds", type=float, default=100.0, help="time limit of each exchange")
    return parser


if __name__ == "__main__":
    found = asyncio.run(_main(_parser().parse_args()))
    _print(found)
    sys.exit(any(row.faults for row in found))
