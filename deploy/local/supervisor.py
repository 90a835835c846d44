"""Starts children in order, restarts them, stops them in reverse order, and leaves none behind.

Owns the life of every process of the local system. Refuses to know what a child does: a child is a
command, an environment and a readiness check.

DESIGN. All children belong to the process group of a janitor that watches us (see `janitor`). If
the janitor itself is killed, a new one joins the same group, which lives as long as any child does.
A child that exits by itself three times before it was ready once is an error, reported with the end
of its log. A child that was killed from outside, or that exits later, is restarted after 0.1 s;
the pause doubles up to 5 s, and is 0.1 s again once the child has run for 10 s.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from deploy.local import janitor
from deploy.local.progress import Progress
from shared.clock import Clock
from shared.errors import UnavailableError

_POLL_SECONDS: Final = 0.05
_PAUSE_SECONDS: Final = 0.1
_PAUSE_SECONDS_MAX: Final = 5.0
# A child that ran this long is not in a crash loop: the next pause is short again.
_STABLE_SECONDS: Final = 10.0
_JANITORS_MAX: Final = 3
_STARTS_MAX: Final = 3
_LOG_BYTES_MAX: Final = 10_000_000
_LOG_TAIL_BYTES: Final = 4_000
_LOG_TAIL_LINES: Final = 12
_KILLED_FROM_OUTSIDE: Final = frozenset(
    {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP}
)


def python(module: str, *arguments: str) -> tuple[str, ...]:
    """Return the command that runs our module, and never a module in the current folder."""
    return (sys.executable, "-P", "-m", module, *arguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """What to run. `is_ready` is called until it returns True; it returns False if in doubt.

    `inherited_files`: file descriptors that the child inherits and so keeps open, such as a lock.
    `reloads_on_sighup`: the child reloads its catalogue at SIGHUP instead of exiting.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    is_ready: Callable[[], Awaitable[bool]]
    ready_seconds: float = 60.0
    stop_seconds: float = 5.0
    inherited_files: tuple[int, ...] = ()
    reloads_on_sighup: bool = False


class StartError(UnavailableError):
    """A child could not be started; `log` is its log file, `last_lines` the end of that file."""

    def __init__(self, message: str, log: Path) -> None:
        super().__init__(message)
        self.log = log
        self.last_lines = _log_tail(log)


class Supervisor:
    """An asynchronous context: inside, children may be launched; at its end all are gone.

    The janitor creates the private folder `folder` in `parent`, and removes it at the end. It runs
    `cleanup_command`, with `environment`, once no child is left, even if this process was killed.
    """

    def __init__(
        self,
        parent: Path,
        progress: Progress,
        clock: Clock,
        *,
        cleanup_command: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.progress = progress
        self.clock = clock
        self._janitor = _Janitor(parent, cleanup_command, environment)
        self._watch: asyncio.Task[None] | None = None
        self._launched: list[list[_RunningChild]] = []

    async def __aenter__(self) -> Self:
        await self._janitor.ensure_started()
        self._watch = asyncio.create_task(self._keep_janitor_running())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            for launched_together in reversed(self._launched):
                await asyncio.gather(*(running_child.stop() for running_child in launched_together))
        finally:
            # Also reached if the orderly stop is cancelled: no child may restart after the sweep.
            tasks = [
                running_child.task
                for launched_together in self._launched
                for running_child in launched_together
            ]
            tasks += [self._watch] if self._watch is not None else []
            for task_to_cancel in tasks:
                task_to_cancel.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._janitor.sweep()

    @property
    def folder(self) -> Path:
        """The private folder, which exists as long as the context lasts."""
        assert self._janitor.folder is not None  # noqa: S101  created before the context is entered
        return self._janitor.folder

    @property
    def group(self) -> int:
        """The process group that every child belongs to."""
        return self._janitor.group

    def launch(self, logs: Path, *children: Child) -> None:
        """Start children together. They are stopped together, before all that started earlier."""
        logs.mkdir(exist_ok=True)
        self._launched.append(
            [_RunningChild(child, logs / f"{child.name}.log", self) for child in children]
        )

    async def wait_until_ready(self) -> None:
        """Wait until every launched child is ready.

        Raises:
            StartError: a child exits by itself, or is not ready within its `ready_seconds`.

        """
        awaited = {
            running_child.name: running_child
            for launched_together in self._launched
            for running_child in launched_together
            if not running_child.has_been_ready
        }
        began = self.clock.monotonic()
        while awaited:
            for name, running_child in list(awaited.items()):
                if await running_child.check_ready():
                    del awaited[name]
                    self.progress.line(
                        f"  {name} is ready ({self.clock.monotonic() - began:.1f} s)"
                    )
            if awaited:
                self.progress.waiting(list(awaited), self.clock.monotonic() - began)
                await self.clock.sleep(_POLL_SECONDS)

    def forward_sighup(self) -> None:
        """Pass SIGHUP on to the children that reload at it."""
        for launched_together in self._launched:
            for running_child in launched_together:
                running_child.forward_sighup()

    async def _keep_janitor_running(self) -> None:
        while True:
            await self._janitor.ended()
            await self._janitor.ensure_started()


class _RunningChild:
    """One child, restarted whenever it exits, until it is stopped."""

    def __init__(self, child: Child, log: Path, supervisor: Supervisor) -> None:
        self.name = child.name
        self.has_been_ready = False
        self._child = child
        self._log = log
        self._supervisor = supervisor
        self._clock = supervisor.clock
        self._process: Process | None = None
        self._began = self._clock.monotonic()
        self._failed_starts = 0
        if log.exists() and log.stat().st_size > _LOG_BYTES_MAX:
            log.unlink()
        self.task = asyncio.create_task(self._keep_running())

    async def check_ready(self) -> bool:
        """Return whether the child is ready. Raises StartError if it never will be."""
        if self.task.done():
            self.task.result()
        if self._clock.monotonic() - self._began > self._child.ready_seconds:
            limit = f"{self._child.ready_seconds:.0f} s"
            raise StartError(f"{self.name} did not become ready within {limit}", self._log)
        if self._process is not None and await self._child.is_ready():
            self.has_been_ready = True
        return self.has_been_ready

    def forward_sighup(self) -> None:
        """Send SIGHUP to a child that reloads at it; a child that is starting reads all anyway."""
        process = self._process
        if self._child.reloads_on_sighup and self.has_been_ready and process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGHUP)

    async def stop(self) -> None:
        """Terminate the child, and kill it if it still runs after `stop_seconds`."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(self._child.stop_seconds):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _keep_running(self) -> None:
        pause = _PAUSE_SECONDS
        while True:
            started = self._clock.monotonic()
            end_description = await self._run()
            if self._clock.monotonic() - started > _STABLE_SECONDS:
                pause = _PAUSE_SECONDS
            self._supervisor.progress.line(f"  {self.name} {end_description}; it is restarted")
            await self._clock.sleep(pause)
            pause = min(pause * 2, _PAUSE_SECONDS_MAX)

    async def _run(self) -> str:
        """Run the child once; return how it ended, for the progress line."""
        try:
            self._process = await self._spawn()
        except OSError as error:
            # PermissionError: the group vanished with its last member; a new janitor is starting.
            return f"could not be started ({error.strerror})"
        code = await self._process.wait()
        end_description = (
            f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
        )
        if not self.has_been_ready and code not in _KILLED_FROM_OUTSIDE:
            self._count_failed_start(end_description)
        return end_description

    def _count_failed_start(self, end_description: str) -> None:
        """Count an exit before readiness. Raises StartError at the third.

        Earlier ones are forgiven: a dependency, such as Redis, may be restarting.
        """
        self._failed_starts += 1
        if self._failed_starts == _STARTS_MAX:
            log_end = _log_tail(self._log)[-1:] or ["its log is empty"]
            raise StartError(
                f"{self.name} {end_description} while starting: {log_end[0].strip()}", self._log
            )

    async def _spawn(self) -> Process:
        with self._log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *self._child.command,
                env=self._child.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=self._supervisor.group,
                pass_fds=self._child.inherited_files,
            )


class _Janitor:
    """The connection to the janitor process, and the process group that it leads."""

    def __init__(
        self, parent: Path, cleanup_command: tuple[str, ...], environment: Mapping[str, str] | None
    ) -> None:
        self._parent = parent
        self._cleanup_command = cleanup_command
        self._environment = environment
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.folder: Path | None = None
        self.group = 0

    async def ensure_started(self) -> None:
        """Start a janitor, in the group of the last one if any member of it is alive."""
        for _ in range(_JANITORS_MAX):
            if await self._start():
                return
        raise UnavailableError(
            "The janitor, the process that cleans up after a killed system, cannot be started."
        )

    async def ended(self) -> None:
        """Return once the janitor has exited."""
        if self._connection is not None:
            await _read_to_end(self._connection[0])

    async def sweep(self) -> None:
        """Make the janitor kill the group and remove the folder; return when it is done."""
        for _ in range(_JANITORS_MAX):
            if self._connection is None:
                return
            reader, writer = self._connection
            with contextlib.suppress(OSError):
                writer.write_eof()
            answer = await _read_to_end(reader)
            writer.close()
            self._connection = None
            if answer == janitor.DONE:
                return
            await self.ensure_started()

    async def _start(self) -> bool:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                group = self.group
                process = await self._spawn(theirs, group)
            except PermissionError:
                group = 0
                process = await self._spawn(theirs, group)
        reader, writer = await asyncio.open_connection(sock=ours)
        try:
            ready = await reader.readuntil(b"\n")
        except (asyncio.IncompleteReadError, ConnectionResetError):
            writer.close()
            return False
        self._connection = reader, writer
        self.folder = Path(os.fsdecode(ready.removeprefix(janitor.READY).rstrip(b"\n")))
        self.group = group or process.pid
        return True

    async def _spawn(self, connection: socket.socket, group: int) -> Process:
        folder = ("--in", self._parent) if self.folder is None else ("--folder", self.folder)
        return await asyncio.create_subprocess_exec(
            *python("deploy.local.janitor", *map(str, folder), *self._cleanup_command),
            env=self._environment,
            stdin=connection.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=group,
        )


async def _read_to_end(reader: asyncio.StreamReader) -> bytes:
    """Read until the socket is closed; empty if the janitor was killed."""
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


def _log_tail(log: Path) -> list[str]:
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _LOG_TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
    except OSError:
        return []
