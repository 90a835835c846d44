"""A worker loses its Redis listener while it runs three long messages.

Tries three losses: the server has reached `maxclients` when the listener reconnects, the ACL user
loses the channels of workers, and twenty cuts of the connection in eight seconds.
`python -m tests.chaos.listener_loss` prints a line for each, and returns 1 if a message was lost.

DESIGN. One worker process with an ACL user of its own; the test's own connection is another user's
and is open before the loss. A message is lost if it failed; one that was taken from a live worker
has more than one attempt.
"""

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, Literal, NamedTuple, get_args

import msgspec

from shared.clock import SystemClock
from shared.redis import keys, library
from shared.redis.client import Redis
from shared.settings import RedisSettings, Settings, WorkerSettings
from tests.chaos.scene import settings_of
from tests.support import processes, waiting
from tests.support.processes import Process
from tests.support.redis_server import Server
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.worker.front import Front, Ticket

Kind = Literal["maxclients", "acl", "cuts"]

MESSAGES: Final = 3
_WORDS: Final = 60
_GAP_SECONDS: Final = 0.2
_SETTLE_SECONDS: Final = 0.5
_LOSS_SECONDS: Final = 5.0
_CUTS: Final = 20
_CUTS_SECONDS: Final = 8.0
_END_SECONDS: Final = 60.0
_FINAL: Final = frozenset({"completed", "failed"})


class Outcome(NamedTuple):
    """The results: how many messages failed, how many attempts there were, and a late message.

    The late one was sent during the loss: whether it was claimed then, and its last stage.
    """

    crashed: int
    attempts: int
    is_late_claimed: bool
    late_stage: str


async def observe(kind: Kind, folder: Path) -> Outcome:
    """Run one kind of loss until all messages have ended."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(Server())
        provider = await stack.enter_async_context(ScriptedProvider())
        provider.answer = lambda _request: ScriptedAnswer(
            text="word " * _WORDS, gap_seconds=_GAP_SECONDS
        )
        settings = _settings(server.url, provider.url)
        redis = Redis(settings.redis)
        stack.push_async_callback(redis.close)
        await library.load(redis)
        await redis.call("ACL", "SETUSER", "worker", "on", ">secret", "+@all", "~*", "&*")
        own = msgspec.structs.replace(settings.redis, url=f"unix://worker:secret@{server.socket}")
        environment = processes.environment(msgspec.structs.replace(settings, redis=own), folder)
        started = stack.enter_context(Process(["worker"], environment, folder / "log"))
        await started.wait_for_line("worker ready")
        front = Front(redis, settings)
        tickets = [await front.submit(f"message {each}") for each in range(MESSAGES)]
        await waiting.until(lambda: len(provider.requests) == MESSAGES, what="the calls")
        # Leases have been renewed by then: the connection of the heartbeat is open.
        await SystemClock().sleep(2 * settings.worker.beat_seconds)
        async with _listener_kept_away(kind, redis, settings):
            # A claim at the moment of the cut proves nothing.
            await SystemClock().sleep(_SETTLE_SECONDS)
            late = await front.submit("late")
            await SystemClock().sleep(_LOSS_SECONDS)
            is_claimed = (await front.record(late))["stage"] != "queued"
        stages = await _stages(front, [*tickets, late])
        records = [await front.record(each) for each in tickets]
        return Outcome(
            crashed=stages[:MESSAGES].count("failed"),
            attempts=sum(int(record["attempt"]) for record in records),
            is_late_claimed=is_claimed,
            late_stage=stages[MESSAGES],
        )


def _settings(url: str, upstream: str) -> Settings:
    made = settings_of(RedisSettings(url=url), upstream, WorkerSettings())
    return msgspec.structs.replace(made, worker=WorkerSettings())


async def _stages(front: Front, tickets: list[Ticket]) -> list[str]:
    """Wait until all have ended, and return their stages."""

    async def found() -> list[str] | None:
        stages = [(await front.record(each))["stage"] for each in tickets]
        return stages if _FINAL.issuperset(stages) else None

    stages: list[str] = await waiting.until(found, _END_SECONDS, what="the ends")
    return stages


@asynccontextmanager
async def _listener_kept_away(kind: Kind, redis: Redis, settings: Settings) -> AsyncIterator[None]:
    """Keep the worker's listener away until the end of the block."""
    if kind == "cuts":
        cutting = asyncio.create_task(_cut(redis, _CUTS, _CUTS_SECONDS))
        yield
        await cutting
    elif kind == "acl":
        channels = f"&{keys.partition_root(settings.redis, 0)}*"
        await redis.call("ACL", "SETUSER", "worker", "resetchannels", channels)
        yield
        await redis.call("ACL", "SETUSER", "worker", "allchannels")
    else:
        [maxclients] = (await redis.call("CONFIG", "GET", "maxclients")).values()
        await redis.call("CONFIG", "SET", "maxclients", 1)
        await _cut(redis, 1, 0.0)
        yield
        await redis.call("CONFIG", "SET", "maxclients", maxclients)


async def _cut(redis: Redis, count: int, seconds: float) -> None:
    for _ in range(count):
        await redis.call("CLIENT", "KILL", "TYPE", "pubsub")
        await SystemClock().sleep(seconds / count)


async def main() -> int:
    """Try every loss and print the results; return 1 if a message was lost."""
    is_clean = True
    for kind in get_args(Kind):
        with tempfile.TemporaryDirectory() as name:
            outcome = await observe(kind, Path(name))
        is_clean = is_clean and (outcome.crashed, outcome.attempts) == (0, MESSAGES)
        sys.stdout.write(
            f"{kind:12} crashed {outcome.crashed} of {MESSAGES}, in {outcome.attempts} attempts;"
            f" sent during the loss: {'claimed' if outcome.is_late_claimed else 'not claimed'}, "
            f"then {outcome.late_stage}\n"
        )
        sys.stdout.flush()
    return 0 if is_clean else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
