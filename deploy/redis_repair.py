"""`pollux redis`: finds keys that another program has overwritten, and rebuilds the queue.

A key is overwritten if its Redis type is wrong, for instance a string in the place of a lane's
sorted set. Lanes, leases and lists of API keys can be rebuilt from the records; credits and
messages cannot.
"""

import sys
from typing import Annotated, Final

from cyclopts import App, Parameter

from deploy import stores
from deploy.options import FOLDER, RunningFolder, examples
from deploy.output import print_line
from shared.errors import WrongKey

_REMEDY: Final = (
    "`pollux redis mend` renames it if it is part of the queue or a list of API keys, and deletes "
    "it if it is rebuilt anyway"
)
_LEFT: Final = "unchanged; restore it from a backup"
_WORKERS: Final = (
    "`leases` has the wrong type, and live workers are found: {count}. Generations that they run "
    "during the repair may be dropped and started again. Stop the workers first, or use "
    "--beside-workers. Nothing was changed."
)
BesideWorkers = Annotated[
    bool, Parameter(negative="", help="Repair `leases` even while workers are live.")
]

app: Final = App(
    name="redis",
    help="Find keys that another program has overwritten, and rebuild the queue from the records.",
    help_format="markdown",
    help_epilogue=examples("pollux redis check", "pollux redis mend"),
)


@app.command
async def check(*, folder: RunningFolder = FOLDER) -> int:
    """List every key whose Redis type is wrong; the exit code is 1 if there is any.

    Nothing is changed.
    """
    async with stores.open_key_repair(folder) as key_repair:
        wrong_keys = [
            key for found in (await key_repair.find_wrong_keys()).values() for key in found
        ]
    for key in wrong_keys:
        print_line(f"{key.fault}: {_REMEDY}")
    if not wrong_keys:
        print_line("no key has a wrong type")
    return int(bool(wrong_keys))


@app.command
async def mend(*, beside_workers: BesideWorkers = False, folder: RunningFolder = FOLDER) -> int:
    """Rename the keys that were overwritten, and rebuild the queue from the records.

    Inspect the renamed keys and delete them. The content of overwritten credits and messages is
    only in your backups: these keys are listed and left unchanged, and the exit code is 1. The
    command scans all keys of Redis for unfinished generations. If it is interrupted, run it again.

    If `leases` is among the keys, stop the workers first: a worker that misses a lease during the
    repair drops the generation, which is then started again. While workers are live, the repair of
    `leases` is refused.
    """
    async with stores.open_key_repair(folder) as key_repair:
        count = 0 if beside_workers else await key_repair.count_workers_in_the_way()
        if count:
            sys.stderr.write(f"{_WORKERS.format(count=count)}\n")
            return 1
        repaired = await key_repair.repair(_print_renamed_key)
    if repaired.set_aside or repaired.restored:
        print_line(f"{repaired.restored} queue entries were rebuilt")
    for key in repaired.left:
        print_line(f"{key.fault}: {_LEFT}")
    if not any(repaired):
        print_line("nothing to repair")
    return int(bool(repaired.left))


def _print_renamed_key(name: str, key: WrongKey) -> None:
    print_line(f"{key.fault}: renamed to {name}")
    # The next step may fail, or this process be killed: the name must be on the screen by then.
    sys.stdout.flush()
