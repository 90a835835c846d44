"""Fronts and workers of several checkouts on one Redis, started as an operator starts them.

Owns the processes: their checkout, starts, kills and ends, and what they logged. A checkout is
known by its `pollux` command only, so it may be of any version.
"""

import contextlib
import json
import random
import signal
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple

import httpx

from tests.support import processes, waiting
from tests.support.api_client import NO_TLS
from tests.support.processes import Process

Kind = Literal["api", "worker"]
KINDS: Final[tuple[Kind, ...]] = ("api", "worker")

_READY_SECONDS: Final = 90.0
_END_SECONDS: Final = 90.0
_LOUD_LEVELS: Final = {"warning", "error", "critical"}


class Checkout(NamedTuple):
    """An installed version: its name in this run, and its `pollux` command."""

    name: str
    command: Path


@dataclass(eq=False, kw_only=True)
class CheckoutProcess:
    """One process. `url` is where a front listens."""

    kind: Kind
    checkout: Checkout
    process: Process
    url: str
    is_expected_to_end: bool = False


class CheckoutProcesses:
    """All processes of a run."""

    def __init__(
        self,
        environment: Mapping[str, str],
        folder: Path,
        stack: AsyncExitStack,
        chance: random.Random,
    ) -> None:
        self._environment = environment
        self._folder = folder
        self._stack = stack
        self._chance = chance
        self._running: list[CheckoutProcess] = []
        self._started: list[CheckoutProcess] = []
        self.kills: Counter[str] = Counter()
        self.bad_exits: list[str] = []

    def members(self, kind: Kind, checkout: Checkout | None = None) -> list[CheckoutProcess]:
        """Return the running processes of a kind, of one checkout or of all."""
        return [
            member
            for member in self._running
            if member.kind == kind and checkout in {None, member.checkout}
        ]

    def choose_front(self, chance: random.Random) -> CheckoutProcess:
        """Return one of the running fronts."""
        return chance.choice(self.members("api"))

    async def start(self, kind: Kind, checkout: Checkout) -> None:
        """Start a process and return once it is ready."""
        port = processes.free_port()
        words = ["api", "--port", str(port)] if kind == "api" else ["worker"]
        log = self._folder / f"{len(self._started):03}.{checkout.name}.{kind}.log"
        process = self._stack.enter_context(
            Process(words, self._environment, log, program=(str(checkout.command),))
        )
        member = CheckoutProcess(
            kind=kind, checkout=checkout, process=process, url=f"http://127.0.0.1:{port}"
        )
        self._started.append(member)
        async with httpx.AsyncClient(verify=NO_TLS, trust_env=False) as client:
            is_ready = (
                _front_is_ready(member, client) if kind == "api" else _worker_is_ready(member)
            )
            await waiting.until(is_ready, _READY_SECONDS, what=f"{checkout.name} {kind}")
        self._running.append(member)

    async def kill_one(self) -> None:
        """Kill a front or a worker with -9 and start another of its checkout."""
        kind = self._chance.choice(KINDS)
        running = self.members(kind)
        # One front and one worker must be left for the clients.
        if len(running) > 1:
            member = self._chance.choice(running)
            self._running.remove(member)
            member.is_expected_to_end = True
            member.process.kill()
            self.kills[f"{member.checkout.name} {kind}"] += 1
            await self.start(kind, member.checkout)

    async def stop_all(self, checkout: Checkout) -> None:
        """Send SIGTERM to each process of a checkout in turn, and wait until it has ended."""
        for member in [each for each in self._running if each.checkout == checkout]:
            self._running.remove(member)
            member.is_expected_to_end = True
            member.process.terminate()
            await waiting.until(
                lambda: not member.process.is_running,  # noqa: B023  awaited here
                _END_SECONDS,
                what="the end of a process after SIGTERM",
            )
            code = await member.process.wait_until_ended()
            # A front raises the signal again once it has shut down.
            if code not in {0, -signal.SIGTERM}:
                self.bad_exits.append(f"{member.checkout.name} {member.kind} ended with {code}")

    def note_ended(self) -> None:
        """Note the processes that ended without a signal of this run."""
        self.bad_exits += [
            f"{member.checkout.name} {member.kind} ended by itself"
            for member in self._started
            if not member.is_expected_to_end and not member.process.is_running
        ]

    def logged(self) -> dict[tuple[str, str, str], int]:
        """Count warnings and errors by process, level and event; no JSON counts as critical."""
        found: Counter[tuple[str, str, str]] = Counter()
        for member in self._started:
            for level, event in _loud_lines(member.process.text()):
                found[f"{member.checkout.name} {member.kind}", level, event] += 1
        return dict(found)


def _loud_lines(text: str) -> Sequence[tuple[str, str]]:
    found = []
    # The last line of a process that was killed may have been cut.
    for line in text.split("\n")[:-1]:
        try:
            entry = json.loads(line)
            level, event = str(entry["level"]), str(entry["event"])
        except (ValueError, KeyError, TypeError):
            level, event = "critical", f"no line of JSON: {line[:120]}"
        if level in _LOUD_LEVELS:
            found.append((level, event))
    return found


def _worker_is_ready(member: CheckoutProcess) -> Callable[[], bool]:
    def is_ready() -> bool:
        assert member.process.is_running, member.process.text()
        return "worker ready" in member.process.text()

    return is_ready


def _front_is_ready(member: CheckoutProcess, client: httpx.AsyncClient) -> Callable[[], object]:
    async def is_ready() -> bool:
        assert member.process.is_running, member.process.text()
        with contextlib.suppress(httpx.TransportError):
            answer = await client.get(f"{member.url}/readyz")
            return answer.status_code == httpx.codes.OK
        return False

    return is_ready
