"""`pollux redis`: keys that somebody else has overwritten, and the lines of work made anew."""

import sys
from typing import Annotated, Final

from cyclopts import App, Parameter

from deploy import stores
from deploy.options import FOLDER, RunningFolder, examples
from shared.errors import WrongKey

_REMEDY: Final = (
    "`pollux redis mend` sets it aside if it is a line of work or a list of API keys, and removes "
    "it if it is made again"
)
_LEFT: Final = "left as it is; bring it back from a backup"
_WORKERS: Final = (
    "`leases` is of another type, and workers live: {count}. Whatever they run while it is made "
    "anew may be dropped and begun again. Stop the workers first, or say --beside-workers. Nothing "
    "was changed."
)
BesideWorkers = Annotated[
    bool, Parameter(negative="", help="Mend `leases` even while workers live.")
]

app: Final = App(
    name="redis",
    help="Find keys that something else has overwritten, and mend what depends on them.",
    help_format="markdown",
    help_epilogue=examples("pollux redis check", "pollux redis mend"),
)


@app.command
async def check(*, folder: RunningFolder = FOLDER) -> int:
    """Name every key that is of another type than it should be; the exit code is 1 if any is.

    Nothing is changed.
    """
    async with stores.key_repair(folder) as key_repair:
        wrong_keys = [
            key for found in (await key_repair.find_wrong_keys()).values() for key in found
        ]
    for key in wrong_keys:
        _print(f"{key.fault}: {_REMEDY}")
    return int(bool(wrong_keys))


@app.command
async def mend(*, beside_workers: BesideWorkers = False, folder: RunningFolder = FOLDER) -> int:
    """Set aside what stands in the place of lines of work, and make them anew from the records.

    What is set aside is renamed, and yours to look at and delete. Of keys that hold money or
    messages only a backup knows what was in them: they are named and left, and the exit code is 1.
    If it is cut short, run it again. All of Redis' keys are passed, to find what is unfinished.

    Stop the workers first where `leases` is among them: who finds a lease missing meanwhile drops
    what it runs, and that is tried again. While workers live, it is refused.
    """
    async with stores.key_repair(folder) as key_repair:
        count = 0 if beside_workers else await key_repair.count_workers_in_the_way()
        if count:
            sys.stderr.write(f"{_WORKERS.format(count=count)}\n")
            return 1
        repaired = await key_repair.repair(_print_key_set_aside)
    if repaired.set_aside or repaired.restored:
        _print(f"{repaired.restored} places in the lines were made anew")
    for key in repaired.left:
        _print(f"{key.fault}: {_LEFT}")
    if not any(repaired):
        _print("nothing to mend")
    return int(bool(repaired.left))


def _print_key_set_aside(name: str, key: WrongKey) -> None:
    _print(f"{key.fault}: set aside as {name}")
    # What comes next may fail, or be killed.
    sys.stdout.flush()


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
