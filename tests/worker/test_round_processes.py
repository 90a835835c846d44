"""Answers with tools in real worker processes, which are killed or drained at every moment.

Each worker is ended at one moment of an answer, and the next one continues that answer.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Literal

import msgspec
import pytest

from shared.redis import functions
from shared.redis.functions import ResumeAsk
from tests.support.processes import Process
from tests.support.scripted_provider import ScriptedProvider
from tests.support.system import System
from tests.support.waiting import until
from tests.worker.front import Front, Ticket
from tests.worker.round_scenes import calls_then_answer, check_whole


class Scenes:
    """Brings an answer to a moment, and lets it go on from there."""

    def __init__(
        self, system: System, front: Front, provider: ScriptedProvider, folder: Path
    ) -> None:
        self.system = system
        self.front = front
        self.provider = provider
        self.folder = folder
        self.moments: dict[str, Callable[[Ticket], Awaitable[None]]] = {
            "tools": self._tools,
            "one tool of two": self._one_tool_of_two,
            "resumed tool": self._resumed_tool,
        }

    async def worker(self) -> Process:
        """Start a worker that has the tools."""
        return await self.system.spawn_worker("tests.worker.tool_worker", str(self.folder))

    def prepare(self, moment: str) -> None:
        """Direct tools and provider to stop at a moment."""
        held = {"tools": ("weather", "order"), "one tool of two": ("order",)}.get(moment, ())
        for name in held:
            (self.folder / f"{name}.hold").touch()
        if moment == "resumed tool":
            (self.folder / "order.ask").touch()

    def release(self) -> None:
        """Let the tools end from now on."""
        for file in (*self.folder.glob("*.hold"), *self.folder.glob("*.ask")):
            file.unlink()

    def runs(self, ticket: Ticket, name: str) -> int:
        """Return how often a tool ran for a generation."""
        file = self.folder / f"{name}.runs"
        return file.read_text().count(ticket.id) if file.exists() else 0

    async def resume(self, ticket: Ticket) -> None:
        """Decide, so that the generation goes on."""
        ask = ResumeAsk(account=ticket.account, id=ticket.id)
        assert await functions.resume(self.front.redis, ticket.root, ask) == "resumed"

    async def _tools(self, ticket: Ticket) -> None:
        await until(lambda: self.runs(ticket, "weather") and self.runs(ticket, "order"))

    async def _one_tool_of_two(self, ticket: Ticket) -> None:
        await self._tools(ticket)

        async def has_result() -> bool:
            stream = await self.front.stream_events(ticket)
            return any(type(each.event).__name__ == "ToolResult" for each in stream)

        await until(has_result)

    async def _resumed_tool(self, ticket: Ticket) -> None:
        await self.front.seen(ticket, lambda found: found.stage == "awaiting_approval")
        (self.folder / "order.hold").touch()
        (self.folder / "order.ask").unlink()
        await self.resume(ticket)
        await until(lambda: self.runs(ticket, "order") == 2)


@pytest.fixture
def scenes(system: System, front: Front, provider: ScriptedProvider, tmp_path: Path) -> Scenes:
    """Return the scenes, with short leases, a model that may call tools, and no time to drain."""
    system.expected.add("reaped")
    system.change(
        "worker", lease_seconds=0.6, beat_seconds=0.1, reap_seconds=0.1, grace_seconds=0.01
    )
    models = tuple(
        msgspec.structs.replace(model, capabilities=("tools", "json"))
        for model in system.settings.models
    )
    system.settings = msgspec.structs.replace(system.settings, models=models)
    folder = tmp_path / "tools"
    folder.mkdir()
    provider.answer = calls_then_answer
    return Scenes(system, front, provider, folder)


# Where each worker ends, and how. `test_round_crashes` has every point, without processes.
_ENDS: Final[tuple[tuple[str, Literal["kill", "drain"]], ...]] = (
    ("one tool of two", "kill"),
    ("tools", "drain"),
    ("resumed tool", "kill"),
)
# A tool that must not run twice runs again where it asked for a decision the first time.
_ORDERS: Final = {"resumed tool": 2}
_FORECASTS: Final = {"tools": 2}


async def test_answer_goes_on_in_another_worker_wherever_its_worker_ended(
    scenes: Scenes, front: Front
) -> None:
    worker = await scenes.worker()
    for moment, end in _ENDS:
        scenes.prepare(moment)
        ticket = await front.submit(account=moment.replace(" ", "-"))
        await scenes.moments[moment](ticket)
        if end == "kill":
            worker.kill()
        else:
            worker.terminate()
            assert await worker.wait_until_ended() == 0
        scenes.release()
        worker = await scenes.worker()
        await front.end(ticket)
        await check_whole(front, ticket)
        assert scenes.runs(ticket, "order") == _ORDERS.get(moment, 1), moment
        assert scenes.runs(ticket, "weather") == _FORECASTS.get(moment, 1), moment
