"""A provider that takes few calls, or none for a while: how soon the waiting messages are answered.

    python -m tests.chaos.provider_limits [told] [silent] [headers] [paced] [away] [broken]

told     ten calls in ten seconds, then 429 with a correct Retry-After
silent   the same without Retry-After
headers  as silent, but each answer says how many calls are left until when (x-ratelimit-*)
paced    as headers, with four calls at once in each worker, so that answers come between calls
away     503 to every call for two minutes
broken   500 to every call for two minutes

Sixty messages of the batch lane and ten interactive ones are submitted at once, to two workers as
processes. Prints how many completed, the refused calls of each window, and the time to the last
answer.
"""

import asyncio
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec

from shared.settings import RedisSettings
from tests.support import waiting
from tests.support.api_client import Json
from tests.support.redis_server import Server
from tests.support.scripted_provider import Request, ScriptedAnswer, ScriptedProvider, by_words
from tests.support.system import System

Scene = Literal["told", "silent", "headers", "paced", "away", "broken"]

_SCENES: Final[tuple[Scene, ...]] = ("told", "silent", "headers", "paced", "away", "broken")
_ANSWER_SECONDS: Final = 0.2


class Upstream:
    """An upstream that takes `calls` calls in each window, or none until it is back."""

    def __init__(
        self,
        scene: Scene,
        *,
        calls: int = 10,
        window_seconds: float = 10,
        away_seconds: float = 120,
    ) -> None:
        self.refused: Counter[int] = Counter()
        self.taken: Counter[int] = Counter()
        self._scene = scene
        self._calls = calls
        self._window_seconds = window_seconds
        self._away_seconds = away_seconds
        self._began: float | None = None

    def answer(self, request: Request) -> ScriptedAnswer:
        """Answer a call, or refuse it."""
        now = time.monotonic()
        self._began = self._began if self._began is not None else now
        passed = now - self._began
        window = int(passed // self._window_seconds)
        if self._scene in {"away", "broken"}:
            if passed < self._away_seconds:
                self.refused[window] += 1
                return ScriptedAnswer(status=503 if self._scene == "away" else 500)
        elif self.taken[window] >= self._calls:
            self.refused[window] += 1
            left = (window + 1) * self._window_seconds - passed
            retry_after = {"retry-after": f"{left:.1f}"} if self._scene == "told" else {}
            return ScriptedAnswer(status=429, headers=retry_after)
        self.taken[window] += 1
        # A refusal comes sooner than the first token of an answer.
        answer = msgspec.structs.replace(by_words(request), first_seconds=_ANSWER_SECONDS)
        if self._scene in {"headers", "paced"}:
            answer = msgspec.structs.replace(
                answer, headers=self._remaining_headers(window, passed)
            )
        return answer

    def _remaining_headers(self, window: int, passed: float) -> dict[str, str]:
        seconds = (window + 1) * self._window_seconds - passed
        return {
            "x-ratelimit-limit-requests": str(self._calls),
            "x-ratelimit-remaining-requests": str(self._calls - self.taken[window]),
            "x-ratelimit-reset-requests": f"{seconds:.3f}s",
        }


class Outcome(NamedTuple):
    """How the messages ended, and what the upstream refused."""

    ends: Counter[str]
    upstream: Upstream
    seconds: float


async def play(
    system: System,
    provider: ScriptedProvider,
    upstream: Upstream,
    *,
    batch: int,
    persons: int,
    seconds: float,
) -> Outcome:
    """Submit all messages to a running system, and wait for their ends."""
    provider.answer = upstream.answer
    provider.keeps_requests = False
    api = await system.customer("one")
    began = time.monotonic()
    receipts = [
        await api.submit(f"item {n}", priority="batch", model="alpha") for n in range(batch)
    ]
    receipts += [await api.submit(f"message {n}", model="alpha") for n in range(persons)]
    ends: dict[str, Json] = {}

    async def are_ended() -> bool:
        for receipt in receipts:
            if receipt["message_id"] not in ends:
                status = await api.poll(receipt, wait=5)
                if status["state"] == "processing":
                    return False
                ends[receipt["message_id"]] = status
        return True

    await waiting.until(are_ended, seconds, what="all messages to end")
    codes = (status["failure"]["code"] if status["failure"] else "" for status in ends.values())
    states = Counter(
        f"{status['state']} {code}".strip()
        for status, code in zip(ends.values(), codes, strict=True)
    )
    return Outcome(states, upstream, time.monotonic() - began)


async def _main(scenes: list[Scene]) -> None:
    for scene in scenes:
        with Server() as server, tempfile.TemporaryDirectory() as folder:
            async with ScriptedProvider() as provider:
                settings = RedisSettings(url=server.url, durability="none")
                async with System(settings, provider, Path(folder)) as system:
                    system.expected |= {"provider throttled", "breaker opened", "dead letter"}
                    system.change("api", reads_per_minute=10_000_000)
                    system.change("worker", concurrency=4 if scene == "paced" else 16)
                    await system.front()
                    for _ in range(2):
                        await system.spawn_worker()
                    outcome = await play(
                        system, provider, Upstream(scene), batch=60, persons=10, seconds=900
                    )
        _print(scene, outcome)


def _print(scene: Scene, outcome: Outcome) -> None:
    refused = outcome.upstream.refused
    windows = " ".join(str(refused[each]) for each in range(max(refused, default=0) + 1))
    ends = ", ".join(f"{count} {end}" for end, count in outcome.ends.most_common())
    sys.stdout.write(f"{scene:<8}{ends}; last after {outcome.seconds:.0f} s\n")
    sys.stdout.write(f"        refused {refused.total()}, by windows of 10 s: {windows}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    named = [scene for scene in _SCENES if scene in sys.argv[1:]]
    asyncio.run(_main(named or list(_SCENES)))
