"""The `pollux` command: its subcommands, and the one place where an error becomes a sentence.

Each subcommand is a module of this package, imported only when it is called. Subcommands read the
environment; the modules below them receive it as an argument.
"""

import os
import sys
from importlib.metadata import version
from typing import Final, Literal, NoReturn

from cyclopts import App

from deploy.options import examples
from shared.errors import PolluxError
from shared.settings import LogSettings
from shared.telemetry import logs

app: Final = App(
    name="pollux",
    help="A distributed job-queue generation backend.",
    help_format="markdown",
    version=f"pollux {version('pollux')}",
    version_flags=["--version", "-V"],
    error_formatter=lambda error: f"pollux: {error}",
    sort_key=0,
)

# Commands that are one function, with their examples; a group of commands brings its own.
_COMMANDS: Final = {
    "demo": ("deploy.demo:demo", ("pollux demo",)),
    "ask": (
        "deploy.ask:ask",
        (
            "pollux ask What is a job queue?",
            'git diff | pollux ask "What does this change?" > review.md',
            'pollux ask -s SESSION "And in one sentence?"',
        ),
    ),
    "up": ("deploy.up:up", ("pollux up", "pollux up --port 8001 --folder /var/lib/pollux")),
    "api": (
        "deploy.processes:api",
        ("pollux api --host 0.0.0.0 --port 8000 --workers 4", "pollux api --admin-port 8001"),
    ),
    "worker": ("deploy.processes:worker", ("pollux worker", "pollux worker --concurrency 64")),
    "models": ("deploy.models:models", ("pollux models", "pollux models --json")),
}
_GROUPS: Final = {
    "batch": "deploy.batch.commands:app",
    "config": "deploy.config:app",
    "keys": "deploy.keys:app",
    "accounts": "deploy.accounts:app",
    "credits": "deploy.credits:app",
    "dead": "deploy.dead_letters:app",
    "redis": "deploy.redis_repair:app",
}
for _name, (_where, _calls) in _COMMANDS.items():
    app.command(_where, name=_name, help_epilogue=examples(*_calls))
for _name, _where in _GROUPS.items():
    app.command(_where, name=_name)


@app.command(help_epilogue=examples('eval "$(pollux completion bash)"'))
def completion(shell: Literal["bash", "zsh", "fish"] = "bash", /) -> None:
    """Print the script with which a shell completes `pollux` commands and options.

    Args:
        shell: bash, zsh or fish.

    """
    sys.stdout.write(app.generate_completion(prog_name="pollux", shell=shell))


def main() -> NoReturn:
    """Run the command line; an error is one sentence on standard error and a non-zero exit code."""
    # Logs go to standard error; standard output is for the command's results.
    logs.configure(LogSettings(format="console", level="warning"), process="cli")
    words = sys.argv[1:]
    if not words or words[0] in app.help_flags:
        # The list of commands shows the first line of each docstring, so all modules are imported.
        for name in (*_COMMANDS, *_GROUPS):
            _ = app[name]
    try:
        app(words)
    except PolluxError as error:
        sys.stderr.write(f"pollux: {error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader has closed the pipe; the interpreter must not flush into it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        sys.stderr.write(f"pollux: {error}\n")
        sys.exit(1)
    sys.exit(0)


if __name__ == "__main__":
    main()
