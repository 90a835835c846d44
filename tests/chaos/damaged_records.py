"""Messages beside one whose record was damaged: how many are answered.

`python -m tests.chaos.damaged_records` tries each kind of damage on one worker process and one
partition: one message is accepted and its record damaged, then 20 messages of two accounts follow.
Prints how many of the 20 were answered within 10 s. The exit code is 1 unless all were.
"""

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Final

from shared import ids
from shared.redis import keys
from shared.settings import RedisSettings
from tests.support.redis_server import Server
from tests.support.scripted_provider import ScriptedProvider
from tests.support.system import System
from tests.worker.front import Front

MESSAGES: Final = 20
_SECONDS: Final = 10.0
# Commands on the key of a record; the last kind makes the key a list.
DAMAGE: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "record deleted": (("DEL",),),
    "number is no number": (("HSET", "number", "x"),),
    "stage deleted": (("HDEL", "stage"),),
    "another type": (("DEL",), ("RPUSH", "x")),
}


async def _play(server: Server, folder: Path, damage: str) -> int:
    redis = RedisSettings(url=server.url, prefix=f"d{ids.new_id()[:8]}", partitions=1)
    async with ScriptedProvider() as provider, System(redis, provider, folder) as system:
        front = Front(system.redis, system.settings)
        broken = await front.submit("broken", account="ann", model="alpha")
        name = keys.GENERATION(broken.root, broken.account, broken.id)
        for verb, *words in DAMAGE[damage]:
            await system.redis.call(verb, name, *words)
        tickets = [
            await front.submit(f"message {n}", account="ann" if n % 2 else "bob", model="alpha")
            for n in range(MESSAGES)
        ]
        await system.spawn_worker()
        ends = await asyncio.gather(
            *(front.end(ticket, _SECONDS) for ticket in tickets), return_exceptions=True
        )
    return sum(not isinstance(each, BaseException) and each.stage == "completed" for each in ends)


def main() -> int:
    """Try every kind of damage and print how many messages were answered."""
    is_all = True
    with Server() as server, tempfile.TemporaryDirectory() as folder:
        for damage in DAMAGE:
            answered = asyncio.run(_play(server, Path(folder), damage))
            is_all = is_all and answered == MESSAGES
            sys.stdout.write(f"{damage}: answered {answered} of {MESSAGES}\n")
            sys.stdout.flush()
    return 0 if is_all else 1


if __name__ == "__main__":
    sys.exit(main())
