"""An attacker on the same machine who creates the local system's runtime folder first."""

import threading
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from typing_extensions import override

from tests.attacks import bounds, target as targets
from tests.bench.figures import Figure
from tests.support import process_tree, processes, waiting
from tests.support.processes import Process
from tests.support.scripted_provider import ScriptedProvider

_STARTS: Final = 3
_START_SECONDS: Final = 30.0
_SOCKET: Final = "valkey.sock"


async def create_folder_first(checkout: Path) -> list[Figure]:
    """Start `pollux up` several times beside an attacker; count the starts in their folder."""
    taken = [await _start_beside_attacker(checkout) for _ in range(_STARTS)]
    return [
        Figure(
            "an attacker creates the runtime folder of `pollux up` first",
            f"{sum(taken)} of {_STARTS} starts use it",
            "",
            f"{bounds.FOLDERS_TAKEN}",
            sum(taken) <= bounds.FOLDERS_TAKEN,
        )
    ]


async def _start_beside_attacker(checkout: Path) -> bool:
    """Return whether the server's socket is in a folder that the attacker created."""
    with TemporaryDirectory(prefix="plx") as scratch:
        folder, parent = Path(scratch), Path(scratch) / "tmp"
        parent.mkdir(mode=0o777)
        async with ScriptedProvider() as provider:
            environment = targets.environment_of(folder, provider, (80,))
            environment |= {"TMPDIR": str(parent)}
            port = str(processes.free_port())
            words = ["up", "--port", port, "--workers", "1", "--folder", str(folder / "data")]
            program = (targets.command_of(checkout),)
            log = folder / "log"
            with Process(words, environment, log, program=program) as up:
                attacker = FolderAttacker(up.pid, parent)
                attacker.start()
                try:
                    await waiting.until(
                        lambda: list(parent.glob(f"*/{_SOCKET}")) or not up.is_running,
                        _START_SECONDS,
                        what="the embedded server",
                    )
                    return any((made / _SOCKET).exists() for made in attacker.made)
                finally:
                    attacker.done.set()
                    attacker.join()
                    up.terminate()
                    await waiting.until(lambda: not up.is_running, _START_SECONDS, what="its end")


class FolderAttacker(threading.Thread):
    """Reads the command lines of processes, and creates every folder that one of them names."""

    def __init__(self, pid: int, parent: Path) -> None:
        super().__init__(daemon=True)
        self.made: list[Path] = []
        self.done = threading.Event()
        self._pid = pid
        self._parent = parent

    @override
    def run(self) -> None:
        while not self.done.is_set():
            commands = " ".join(member.command for member in process_tree.members(self._pid))
            for word in commands.split():
                if Path(word).parent == self._parent:
                    self._create(Path(word))

    def _create(self, folder: Path) -> None:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o777)
            self.made.append(folder)
