"""Runs `pollux batch` as a process against a scripted API, and reads the answers it wrote."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def started(url: str, cwd: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Start the command; it is killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "deploy.cli", "batch", *words],
        cwd=cwd,
        env={"PATH": os.defpath, "POLLUX_URL": url, "POLLUX_API_KEY": "the-key"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def write_prompts(path: Path, count: int) -> list[str]:
    """Write a file of prompts; return their custom_ids."""
    names = [f"q{number}" for number in range(1, count + 1)]
    lines = [json.dumps({"custom_id": name, "message": f"What is {name}?"}) for name in names]
    path.write_text("\n".join(lines) + "\n")
    return names


def read_answers(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file of answers."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def names_in(path: Path) -> list[str]:
    """Return the custom_ids of a file of answers, in its order."""
    return [answer["custom_id"] for answer in read_answers(path)]
