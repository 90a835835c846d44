"""The `pollux` command: its subcommands, and the one place where an error becomes a sentence.

Each subcommand is a file beside this one, imported only when it is called. They alone read the
environment.
"""

import os
import sys
from typing import Final, NoReturn

from cyclopts import App

from shared.errors import PolluxError
from shared.sections import LogSettings
from shared.telemetry import logs

app: Final = App(
    name="pollux",
    help="A distributed job-queue generation backend.",
    help_format="plaintext",
    version_flags=[],
    error_formatter=lambda error: f"pollux: {error}",
    sort_key=0,
)
app.command(
    "deploy.demo:demo", name="demo", help="Start the whole system, talk to it once, and end it."
)
app.command("deploy.ask:ask", name="ask", help="Ask a running Pollux and see the answer come.")
app.command("deploy.up:up", name="up", help="Run the whole system on this machine until Ctrl-C.")
app.command("deploy.apart:api", name="api", help="Run the API alone.")
app.command("deploy.apart:worker", name="worker", help="Run one worker alone.")
app.command("deploy.models:models", name="models", help="List the models of the catalogue.")
app.command("deploy.config:app", name="config", help="Check the settings.")
app.command("deploy.keys:app", name="keys", help="Create, list and revoke API keys.")
app.command("deploy.credits:app", name="credits", help="Show and grant an account's credits.")
app.command("deploy.dead:app", name="dead", help="List, retry and discard what failed.")


def main() -> NoReturn:
    """Run the command line; every fault is one sentence on standard error and a non-zero exit."""
    # Standard output is for what was asked for.
    logs.configure(LogSettings(format="console", level="warning"), process="cli")
    try:
        app(sys.argv[1:])
    except PolluxError as error:
        sys.stderr.write(f"pollux: {error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Nobody reads us any more; the interpreter must not try to flush to them at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        sys.stderr.write(f"pollux: {error}\n")
        sys.exit(1)
    sys.exit(0)


if __name__ == "__main__":
    main()
