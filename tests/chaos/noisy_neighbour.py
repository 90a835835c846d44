"""Two accounts at one model: one's messages break the upstream, the other's must not suffer.

`python -m tests.chaos.noisy_neighbour` takes 75 seconds on two worker processes: 13 prompts of one
account, each answered with a 500, and 15 messages of the other. Prints how many of the 15 were
completed, at which attempt, and how many took longer than a second. The exit code is 1 unless all
were completed at once. With `--hostile 2` two accounts send such prompts, which may defer others
once: the exit code is 1 if more than three messages were late.
"""

import asyncio
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Final

import msgspec

from shared import ids
from shared.clock import SystemClock
from shared.settings import RedisSettings, WorkerSettings
from shared.wire.generation import Generation
from tests.support import command_line
from tests.support.redis_server import Server
from tests.support.scripted_provider import Request, ScriptedAnswer, ScriptedProvider, by_words
from tests.support.system import System
from tests.worker.front import Front, Ticket

PROMPTS: Final = 13
MESSAGES: Final = 15
# A prompt with this word in it makes the upstream answer 500.
BREAKS_IT: Final = "breaks-it"
_WORKERS: Final = 2
# A circuit that two accounts open cools for ten seconds, in which two or three messages come.
_LATE_MAX: Final = 3
_LATE_SECONDS: Final = 1.0
_SECONDS: Final = 75.0
_DEADLINE_MS: Final = 300_000
_CLOCK: Final = SystemClock()


def answer(request: Request) -> ScriptedAnswer:
    """Answer 500 to the prompts that break the upstream, and answer the others."""
    return ScriptedAnswer(status=500) if BREAKS_IT in request.last else by_words(request)


async def send_breaking(
    front: Front, *, seconds: float = 0.0, account: str = "bob"
) -> list[Ticket]:
    """Send the prompts that break the upstream, spread over some time."""
    return await _send(front, account, [f"{BREAKS_IT} {n}" for n in range(PROMPTS)], seconds)


async def send_innocent(front: Front, *, seconds: float = 0.0) -> list[Ticket]:
    """Send the other account's messages, spread over some time."""
    return await _send(front, "ann", [f"message {n}" for n in range(MESSAGES)], seconds)


async def _send(front: Front, account: str, messages: list[str], seconds: float) -> list[Ticket]:
    tickets = []
    for message in messages:
        tickets.append(
            await front.submit(message, account=account, model="alpha", deadline_ms=_DEADLINE_MS)
        )
        await _CLOCK.sleep(seconds / len(messages))
    return tickets


async def _play(server: Server, folder: Path, hostile: int) -> list[Generation]:
    redis = RedisSettings(url=server.url, prefix=f"n{ids.new_id()[:8]}")
    async with ScriptedProvider() as provider, System(redis, provider, folder) as system:
        provider.answer = answer
        system.settings = msgspec.structs.replace(system.settings, worker=WorkerSettings())
        for _ in range(_WORKERS):
            await system.spawn_worker()
        front = Front(system.redis, system.settings)
        breaking = [
            asyncio.create_task(send_breaking(front, seconds=_SECONDS, account=f"bob{number}"))
            for number in range(hostile)
        ]
        tickets = await send_innocent(front, seconds=_SECONDS)
        ends = [await front.end(ticket, _DEADLINE_MS / 1000) for ticket in tickets]
        await asyncio.gather(*breaking)
    return ends


def main() -> int:
    """Run it and print the results."""
    parser = command_line.parser("tests.chaos.noisy_neighbour", __doc__)
    parser.add_argument("--hostile", type=int, default=1, help="accounts that break the upstream")
    hostile = parser.parse_args().hostile
    with Server() as server, tempfile.TemporaryDirectory() as folder:
        ends = asyncio.run(_play(server, Path(folder), hostile))
    stages = Counter(each.stage for each in ends)
    attempts = Counter(each.attempt for each in ends)
    sys.stdout.write(f"completed {stages['completed']} of {MESSAGES}\n")
    sys.stdout.write(f"attempts: {', '.join(f'{n} x {a}' for a, n in sorted(attempts.items()))}\n")
    seconds = [((each.finished or each.seen) - each.accepted) / 1000 for each in ends]
    late = [each for each in seconds if each > _LATE_SECONDS]
    sys.stdout.write(f"longer than {_LATE_SECONDS} s: {len(late)}; longest {max(seconds):.1f} s\n")
    is_fair = set(attempts) == {1} and len(late) <= (_LATE_MAX if hostile > 1 else 0)
    return 0 if stages["completed"] == MESSAGES and is_fair else 1


if __name__ == "__main__":
    sys.exit(main())
