"""The options that several commands share, with their bounds."""

from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter
from cyclopts.validators import Number

Port = Annotated[int, Parameter(validator=Number(gte=1, lte=65_535))]
Count = Annotated[int, Parameter(validator=Number(gte=1))]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]
RunningFolder = Annotated[
    Path, Parameter(help="Folder of a running `pollux up`, where no Redis is named.")
]

FOLDER: Final = Path(".pollux")
HOST: Final = "127.0.0.1"
PORT: Final = 8000


def examples(*calls: str) -> str:
    """Return the end of a command's help: how it is called, a line each."""
    lines = "\n".join(f"    {call}" for call in calls)
    return f"Examples:\n\n{lines}"
