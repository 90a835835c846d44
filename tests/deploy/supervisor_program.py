"""Program: a supervisor over idle children, for tests that kill it.

`python -m tests.deploy.supervisor_program FOLDER` prints one line of JSON, the process ids of the
children and the janitor, once all run. It stops in order at the end of its standard input.
"""

import asyncio
import json
import os
import sys
from pathlib import Path

from deploy.local.progress import Progress
from deploy.local.supervisor import Child, Supervisor
from shared.clock import SystemClock
from tests.support import process_tree

_IDLE = "import signal; signal.pause()"
_STUBBORN = "import signal; signal.signal(15, signal.SIG_IGN); signal.pause()"


def idle(name: str, *, stubborn: bool = False) -> Child:
    """Return a child that waits for a signal; a stubborn one ignores SIGTERM."""

    async def is_ready() -> bool:
        return True

    return Child(
        name=name,
        command=(sys.executable, "-S", "-c", _STUBBORN if stubborn else _IDLE, name),
        environment={},
        is_ready=is_ready,
        stop_seconds=0.5,
    )


async def _main(folder: Path) -> None:
    progress = Progress(sys.stderr)
    async with Supervisor(folder, progress, SystemClock()) as supervisor:
        supervisor.launch(folder / "logs", idle("store"))
        await supervisor.wait_until_ready()
        supervisor.launch(folder / "logs", idle("api"), idle("stubborn", stubborn=True))
        await supervisor.wait_until_ready()
        started = {
            found.command.split()[-1]: found.pid for found in process_tree.members(os.getpid())
        }
        sys.stdout.write(json.dumps(started) + "\n")
        sys.stdout.flush()
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1])))
