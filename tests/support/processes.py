"""Starts the front and workers as processes, as an operator does.

Owns their command lines, their environment and settings file, their log and their end. A watchdog,
one line of shell, kills each process if the test process dies.
"""

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from shared.settings import Settings
from tests.support import waiting

_WATCHDOG: Final = 'read _; kill -9 "$1" 2>&-'
_ROOT: Final = Path(__file__).resolve().parents[2]
_SECTIONS: Final = ("redis", "api", "worker", "limits", "retention", "breaker", "media", "search")
_GIVE_UP_SECONDS: Final = 15.0
_PORTS_FROM: Final = 20_000
_PORTS_EACH: Final = 100
_SHARES: Final = 119
_ports_given: Final = itertools.count()


class Process:
    """A running process. A context manager: leaving it kills the process if it still runs."""

    def __init__(
        self,
        words: list[str],
        environment: Mapping[str, str],
        log: Path,
        *,
        program: tuple[str, ...] = (sys.executable, "-m"),
    ) -> None:
        self._log = log
        with log.open("wb") as sink:
            self._process = subprocess.Popen(
                [*program, *words],
                cwd=_ROOT,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG, "keeper", str(self.pid)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._watchdog.kill()
        self._watchdog.communicate()
        self._process.kill()
        self._process.wait()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def cpu_seconds(self) -> float:
        """Return the CPU time that it has used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self._process.kill()
        self._process.wait()

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.send_signal(signal.SIGTERM)

    def hang_up(self) -> None:
        """Send SIGHUP: it reads its settings file again."""
        self._process.send_signal(signal.SIGHUP)

    def pause(self) -> None:
        """Send SIGSTOP; its connections stay open."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Send SIGCONT."""
        self._process.send_signal(signal.SIGCONT)

    async def wait_until_ended(self) -> int:
        """Wait until it exits, and return its exit code."""
        await waiting.until(
            lambda: self._process.poll() is not None, _GIVE_UP_SECONDS, what="its end"
        )
        return self._process.wait()

    def text(self) -> str:
        """Return its whole log so far."""
        return self._log.read_text()

    def lines(self) -> list[dict[str, Any]]:
        """Return its log, line by line; every one must be JSON."""
        return [json.loads(line) for line in self.text().splitlines()]

    async def wait_for_line(self, words: str) -> None:
        """Wait until its log contains these words."""

        def has_line() -> bool:
            assert self._process.poll() is None, self.text()
            return words in self.text()

        await waiting.until(has_line, _GIVE_UP_SECONDS, what=words)


def environment(settings: Settings, folder: Path) -> dict[str, str]:
    """Return the environment variables for these settings; writes the settings file."""
    catalogue = folder / "catalogue.toml"
    catalogue.write_text("\n".join(_catalogue(settings)))
    variables = {"POLLUX_CONFIG": str(catalogue), "PATH": "/usr/bin:/bin"}
    for name in _SECTIONS:
        variables |= _variables(f"POLLUX_{name}", getattr(settings, name))
    return variables


def _variables(name: str, section: msgspec.Struct) -> dict[str, str]:
    """Return the variables of fields that differ from their defaults."""
    found: dict[str, str] = {}
    for field in msgspec.structs.fields(section):
        value, path = getattr(section, field.name), f"{name}__{field.name}".upper()
        if isinstance(value, msgspec.Struct):
            found |= {
                f"{path}__{part.name}".upper(): str(getattr(value, part.name))
                for part in msgspec.structs.fields(type(value))
                if getattr(value, part.name) is not None
            }
        elif value != field.default:
            found[path] = str(value)
    return found


def _catalogue(settings: Settings) -> Iterator[str]:
    for kind in ("providers", "models"):
        for entry in getattr(settings, kind):
            yield f"[[{kind}]]"
            for name, value in msgspec.structs.asdict(entry).items():
                if value is not None:
                    yield f"{name} = {_toml(value)}"


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml(item)}" for name, item in value.items()) + "}"
    return json.dumps(value)


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free, and that no other test process is given.

    A port that the kernel chose could be taken again before a program listens on it. So each test
    process has a range of its own, below the ephemeral ports of the kernel.
    """
    first = _PORTS_FROM + os.getpid() % _SHARES * _PORTS_EACH
    for _ in range(_PORTS_EACH):
        port = first + next(_ports_given) % _PORTS_EACH
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    message = f"no port is free from {first} on"
    raise AssertionError(message)
