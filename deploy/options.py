"""Command-line options that several subcommands share, with their bounds."""

from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter
from cyclopts.validators import Number

Port = Annotated[int, Parameter(validator=Number(gte=1, lte=65_535))]
Count = Annotated[int, Parameter(validator=Number(gte=1))]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]
RunningFolder = Annotated[
    Path,
    Parameter(help="State folder of the running `pollux up` whose Redis to use without REDIS_URL."),
]

FOLDER: Final = Path(".pollux")
HOST: Final = "127.0.0.1"
PORT: Final = 8000


def examples(*calls: str) -> str:
    """Return the last section of a command's help: example calls, one a line."""
    lines = "\n".join(f"    {call}" for call in calls)
    return f"Examples:\n\n{lines}"
