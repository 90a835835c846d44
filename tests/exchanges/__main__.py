"""Play exchanges from a folder of JSON files and print what came of each.

    python -m tests.exchanges FOLDER [--scale 1.0] [--seconds 200]

Owns no verdict: what is right is the reader's to say, or the file's own word `right`. Pauses are
multiplied by `--scale`.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from shared.settings import RedisSettings
from tests.exchanges.exchange import Exchange, Piece, Right
from tests.exchanges.play import Seen, play
from tests.support.provider import Provider
from tests.support.server import Server
from tests.support.system import System


def _read(path: Path, scale: float) -> Exchange:
    told: dict[str, Any] = json.loads(path.read_text())
    pieces: list[Piece] = [
        float(each["pause_seconds"]) * scale if isinstance(each, dict) else each.encode("latin-1")
        for each in told["upstream_reply_latin1"]
    ]
    fields = dict(told["request"])
    message = fields.pop("message")
    marker = next((word for word in ("FLAGGED", "AGAIN") if word in message), "")
    return Exchange(
        name=path.stem,
        reply=tuple(pieces),
        # What waits in the queue is seen as soon as it stands there.
        right=Right(stage="retrying"),
        dialect=told["dialect"],
        message=message,
        fields=fields,
        model={"upstream": told.get("upstream_model", path.stem), "first_token_seconds": 100.0},
        marker=marker,
        before=("some words first", "and some more") if marker == "AGAIN" else (),
    )


async def _main(exchanges: list[Exchange], seconds: float) -> dict[str, Seen]:
    with Server() as server, tempfile.TemporaryDirectory() as scratch:
        settings = RedisSettings(url=server.url)
        async with Provider() as provider, System(settings, provider, Path(scratch)) as system:
            return await play(system, exchanges, seconds=seconds)


def _print(folder: Path, seen: dict[str, Seen]) -> None:
    for name, what in seen.items():
        right = json.loads((folder / f"{name}.json").read_text()).get("right", "")
        sys.stdout.write(f"{name}\n  seen   {_row(what)}\n  right  {right}\n")


def _row(seen: Seen) -> str:
    status, result = seen.status, seen.status["result"]
    failure = status["failure"]
    words = [f"{status['state']}/{status['stage']}", repr(result["content"])]
    if failure:
        words.append(f"{failure['category']}/{failure['code']} retryable={failure['retryable']}")
    words += [f"finish={result.get('finish_reason')}", f"calls={seen.calls}"]
    words.append(f"credits={status['credits_used']}")
    if result.get("reasoning_content"):
        words.append(f"reasoning={result['reasoning_content']!r}")
    if seen.bystander is not None:
        words.append(f"bystander={seen.bystander['state']}")
    return "  ".join(words)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=200.0)
    options = parser.parse_args()
    found = [_read(path, options.scale) for path in sorted(options.folder.glob("*.json"))]
    _print(options.folder, asyncio.run(_main(found, options.seconds)))
