"""The workers of a run, by the process that kills them: born, named, stopped, ended.

Owns the nursery's process and one `Ward` for each worker. A context manager: leaving it ends all.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from tests.chaos import nursery
from tests.chaos.nursery import Birth

_ROOT: Final = Path(__file__).resolve().parents[2]
_PATIENCE_SECONDS: Final = 30.0

Trap = tuple[str, str]


class Ward:
    """One worker: its process and its own id once they are known, its exit code once it has one.

    It `is_named` once it is ready, or has ended without; then `code` is there.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.is_killed = False
        self.pid = 0
        self.id = ""
        self.code: int | None = None
        self.is_named = asyncio.Event()
        self.is_gone = asyncio.Event()

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.code is None:
            # 0 would be this process' own group.
            assert self.pid
            # It may be gone, and its end not yet told.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self.is_killed = True
        self.send(signal.SIGKILL)

    def pause(self) -> None:
        """Stop it from running; it keeps its connections."""
        self.send(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it run on."""
        self.send(signal.SIGCONT)

    def terminate(self) -> None:
        """Ask it to go."""
        self.send(signal.SIGTERM)

    async def ended(self, seconds: float = _PATIENCE_SECONDS) -> int:
        """Wait until it has ended, and return its exit code, or minus the signal."""
        async with asyncio.timeout(seconds):
            await self.is_gone.wait()
        assert self.code is not None
        return self.code


class Brood:
    """All workers of one nursery."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        self._environment = dict(environment)
        self._wards: dict[str, Ward] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._hearing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", nursery.__name__),
            cwd=_ROOT,
            env={"PATH": "/usr/bin:/bin"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self._hearing = asyncio.create_task(self._hear())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._hearing is not None
        self._process.stdin.close()
        await self._process.wait()
        await self._hearing

    @property
    def failed(self) -> list[int]:
        """The exit codes of those who ended badly once they were ready, and were not killed."""
        ready = [ward for ward in self._wards.values() if ward.id and not ward.is_killed]
        return [ward.code for ward in ready if ward.code]

    @property
    def turned_away(self) -> int:
        """How many ended badly before they were ready, as a worker does that finds no Redis."""
        wards = self._wards.values()
        return sum(bool(ward.code) and not ward.is_killed and not ward.id for ward in wards)

    @property
    def deaths(self) -> int:
        """How many have ended by a signal."""
        return sum((ward.code or 0) < 0 for ward in self._wards.values())

    @property
    def pid(self) -> int:
        """The nursery's own process."""
        assert self._process is not None
        return self._process.pid

    def bear(
        self, traps: Sequence[Trap] = (), environment: Mapping[str, str] | None = None
    ) -> Ward:
        """Have a worker forked and return at once; it `is_named` once it is ready."""
        assert self._process is not None
        assert self._process.stdin is not None
        ward = Ward(f"w{len(self._wards)}")
        self._wards[ward.key] = ward
        birth = Birth(
            ward.key, self._environment | dict(environment or {}), str(self.log), list(traps)
        )
        self._process.stdin.write(nursery.encode(birth).hex().encode() + b"\n")
        return ward

    async def named(self, ward: Ward) -> Ward:
        """Wait until a worker is ready."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await ward.is_named.wait()
        return ward

    async def _hear(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            match line.decode().split():
                case ["born", key, pid]:
                    self._wards[key].pid = int(pid)
                case ["named", key, pid, id_]:
                    # A child may speak before its mother does.
                    self._wards[key].pid, self._wards[key].id = int(pid), id_
                    self._wards[key].is_named.set()
                case ["gone", key, code]:
                    self._wards[key].code = int(code)
                    self._wards[key].is_gone.set()
                    self._wards[key].is_named.set()
                case words:
                    message = f"the nursery said {words}"
                    raise RuntimeError(message)
