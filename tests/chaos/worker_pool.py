"""The workers that a fork server forked: their start, signals and exit codes.

Owns the fork server's process and one `WorkerChild` for each worker. A context manager: leaving it
ends all.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from tests.chaos import fork_server
from tests.chaos.fork_server import ForkRequest

_ROOT: Final = Path(__file__).resolve().parents[2]
_GIVE_UP_SECONDS: Final = 30.0

Hook = tuple[str, str]


class WorkerChild:
    """One worker: its process id and worker id once they are known, its exit code once it has one.

    `ready_event` is set once it is ready, or has ended before; then `code` is set.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.is_killed = False
        self.pid = 0
        self.id = ""
        self.code: int | None = None
        self.ready_event = asyncio.Event()
        self.ended_event = asyncio.Event()

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.code is None:
            # 0 would signal this process' own group.
            assert self.pid
            # It may have exited before the fork server has reported it.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self.is_killed = True
        self.send(signal.SIGKILL)

    def pause(self) -> None:
        """Send SIGSTOP; its connections stay open."""
        self.send(signal.SIGSTOP)

    def resume(self) -> None:
        """Send SIGCONT."""
        self.send(signal.SIGCONT)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send(signal.SIGTERM)

    async def ended(self, seconds: float = _GIVE_UP_SECONDS) -> int:
        """Wait until it has ended, and return its exit code, or minus the signal."""
        async with asyncio.timeout(seconds):
            await self.ended_event.wait()
        assert self.code is not None
        return self.code


class WorkerPool:
    """All workers of one fork server."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        self._environment = dict(environment)
        self._children: dict[str, WorkerChild] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", fork_server.__name__),
            cwd=_ROOT,
            env={"PATH": "/usr/bin:/bin"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self._reading = asyncio.create_task(self._read_messages())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._reading is not None
        self._process.stdin.close()
        await self._process.wait()
        await self._reading

    @property
    def bad_exits(self) -> list[int]:
        """The nonzero exit codes of workers that were ready and were not killed."""
        ready = [child for child in self._children.values() if child.id and not child.is_killed]
        return [child.code for child in ready if child.code]

    @property
    def failed_starts(self) -> int:
        """How many failed before they were ready, as a worker does without Redis."""
        children = self._children.values()
        return sum(bool(child.code) and not child.is_killed and not child.id for child in children)

    @property
    def deaths(self) -> int:
        """How many ended by a signal."""
        return sum((child.code or 0) < 0 for child in self._children.values())

    @property
    def pid(self) -> int:
        """The process id of the fork server."""
        assert self._process is not None
        return self._process.pid

    def fork_worker(
        self, hooks: Sequence[Hook] = (), environment: Mapping[str, str] | None = None
    ) -> WorkerChild:
        """Request a worker and return at once; its `ready_event` is set once it is ready."""
        assert self._process is not None
        assert self._process.stdin is not None
        child = WorkerChild(f"w{len(self._children)}")
        self._children[child.key] = child
        fork_request = ForkRequest(
            child.key, self._environment | dict(environment or {}), str(self.log), list(hooks)
        )
        self._process.stdin.write(fork_server.encode(fork_request).hex().encode() + b"\n")
        return child

    async def until_ready(self, child: WorkerChild) -> WorkerChild:
        """Wait until a worker is ready."""
        async with asyncio.timeout(_GIVE_UP_SECONDS):
            await child.ready_event.wait()
        return child

    async def _read_messages(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            match line.decode().split():
                case ["forked", key, pid]:
                    self._children[key].pid = int(pid)
                case ["ready", key, pid, id_]:
                    # The child may write its line before the fork server writes `forked`.
                    self._children[key].pid, self._children[key].id = int(pid), id_
                    self._children[key].ready_event.set()
                case ["exited", key, code]:
                    self._children[key].code = int(code)
                    self._children[key].ended_event.set()
                    self._children[key].ready_event.set()
                case words:
                    message = f"the fork server wrote an unknown line: {words}"
                    raise RuntimeError(message)
