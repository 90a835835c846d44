"""Records a session of `pollux batch` in a terminal as plain text: start, Ctrl-C, resume, end.

Runs against the Pollux of POLLUX_URL and POLLUX_API_KEY, with a file of prompts of which two lines
are no valid prompts. Prints what was typed and what the terminal showed; of a bar that moves, one
line for each quarter.
"""

import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.support import command_line, waiting
from tests.support.terminal import Terminal

_CTRL_C: Final = "\x03"
_SECONDS: Final = 600.0
_DONE: Final = re.compile(r"━.*? ([\d,]+)/([\d,]+) ")
_WORDS: Final = ("job queue", "lease", "fencing token", "circuit breaker", "outbox", "backoff")
_BATCH: Final = re.compile(r"pollux batch results (\S+)")


def main() -> None:
    """Record the session, and print it."""
    parser = command_line.parser("tests.deploy.record_batch", __doc__)
    parser.add_argument("--prompts", type=int, default=200, help="how many prompts")
    parser.add_argument("--model", help="the model that answers; by default Pollux chooses")
    options = parser.parse_args()
    model = ["-m", options.model] if options.model else []
    words = ["run", "prompts.jsonl", "-o", "answers.jsonl", "--max-output-tokens", "16", *model]
    with tempfile.TemporaryDirectory(prefix="plx") as name:
        folder = Path(name)
        _write_prompts(folder / "prompts.jsonl", options.prompts)
        _record(folder, words, 0.4)
        shown = _record(folder, words, None)
        batch = _BATCH.search(shown)
        if batch is None:
            raise SystemExit("no item failed")
        _record(folder, ["results", batch[1], "--state", "failed"], None)
        _record(folder, ["show", batch[1]], None)


def _write_prompts(path: Path, count: int) -> None:
    lines = [
        f'{{"custom_id": "q{number}", "message": "In five words: {_WORDS[number % len(_WORDS)]}?"}}'
        for number in range(1, count + 1)
    ]
    lines[16] = '{"custom_id": "q17", "message": ""}'
    lines[17] = "What is a job queue?"
    path.write_text("\n".join(lines) + "\n")


def _record(folder: Path, words: Sequence[str], stops_at: float | None) -> str:
    """Run a command to its end, or press Ctrl-C at a part of the bar; print and return it all."""
    program = (sys.executable, "-P", "-m", "deploy.cli", "batch", *words)
    names = ("POLLUX_URL", "POLLUX_API_KEY", "PATH")
    environment = {name: os.environ[name] for name in names}  # noqa: TID251  a program's own settings
    quarters: dict[int, str] = {}
    has_stopped = False
    with Terminal(program, folder, environment) as terminal:

        def look() -> bool:
            nonlocal has_stopped
            bar = next((line for line in terminal.screen.splitlines() if "━" in line), "")
            match = _DONE.search(bar)
            if match is not None:
                done, total = (int(number.replace(",", "")) for number in match.groups())
                quarters.setdefault(4 * done // max(1, total), bar)
                if stops_at is not None and done >= stops_at * total and not has_stopped:
                    has_stopped = True
                    terminal.type(_CTRL_C)
            return terminal.has_ended

        waiting.until_now(look, _SECONDS, what="the end")
        screen, code = terminal.screen, terminal.wait_until_ended()
    lines = []
    for line in screen.splitlines():
        earlier = [bar for bar in quarters.values() if bar != line] if "━" in line else []
        lines += [*earlier, line]
    shown = "\n".join(lines)
    sys.stdout.write(f"$ pollux batch {' '.join(words)}\n{shown}\n$ echo $?\n{code}\n\n")
    return shown


if __name__ == "__main__":
    main()
