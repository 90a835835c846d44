"""`pollux redis`: keys that somebody else has overwritten, and the lines of work made anew."""

import sys
from typing import Final

from cyclopts import App

from deploy import store
from deploy.options import FOLDER, RunningFolder, examples

_REMEDY: Final = "`pollux redis mend` sets it aside, if it is a line of work"
_LEFT: Final = "left as it is; bring it back from a backup"

app: Final = App(
    name="redis",
    help="Find keys that something else has overwritten, and mend what depends on them.",
    help_format="markdown",
    help_epilogue=examples("pollux redis check", "pollux redis mend"),
)


@app.command
async def check(*, folder: RunningFolder = FOLDER) -> int:
    """Name every key that is of another type than it should be; the exit code is 1 if any is."""
    async with store.mending(folder) as mending:
        wrong = [key for found in (await mending.look()).values() for key in found]
    for key in wrong:
        _print(f"{key.fault}: {'removed' if key.is_removed else _REMEDY}")
    return int(any(not key.is_removed for key in wrong))


@app.command
async def mend(*, folder: RunningFolder = FOLDER) -> int:
    """Set aside what stands in the place of lines of work, and make them anew from the records.

    What is set aside is renamed, and yours to look at and delete. Of keys that hold money or
    messages only a backup knows what was in them: they are named and left, and the exit code is 1.
    """
    async with store.mending(folder) as mending:
        mended = await mending.mend()
    for name, key in mended.set_aside.items():
        _print(f"{key.fault}: set aside as {name}")
    if mended.set_aside:
        _print(f"{mended.restored} places in the lines were made anew")
    for key in mended.left:
        _print(f"{key.fault}: {_LEFT}")
    if not mended.set_aside and not mended.left:
        _print("nothing to mend")
    return int(bool(mended.left))


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
