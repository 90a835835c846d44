"""Bytes that one generation leaves in Redis, beyond its texts.

The growth of the server's `used_memory` over thousands of generations, once their events have
expired, minus the bytes of messages and answers. `used_memory` is what is allocated, so
fragmentation plays no part; the buffers of clients and of the AOF are subtracted. The share of each
family of keys is by MEMORY USAGE, which leaves out the server's own table of keys.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from shared.redis import keys
from shared.settings import RetentionSettings
from tests.bench import bounds, figures, system_rig
from tests.bench.figures import Figure
from tests.bench.system_rig import Rig
from tests.bench.trips import drained
from tests.support.api_client import ApiClient
from tests.support.redis_functions import RedisFunctions
from tests.support.redis_server import RawClient
from tests.support.scripted_provider import Request, ScriptedAnswer
from tests.support.waiting import until

GENERATIONS: Final = 5_000
TURNS: Final = 20
# The choice among several models is stored with each answer.
_MODELS: Final = tuple(system_rig.model(name) for name in ("one", "two", "three", "four", "five"))
_CLIENTS: Final = 8
_WARM_UP: Final = 64
_EXPIRY_SECONDS: Final = 120.0
# Of what is accepted without a route.
_HOLD: Final = 1_000
_DEADLINE_MS: Final = 600_000
_PLENTY: Final = 1_000_000
_ANSWER: Final = "Energy is kept, entropy grows, and nothing ever gets as cold as it could. " * 3

Talk = Callable[[ApiClient, int], Coroutine[Any, Any, int]]


async def measure(generations: int = GENERATIONS) -> list[Figure]:
    """Measure conversations of one turn, as many turns in long ones, and as many without one."""
    retention = RetentionSettings(events_seconds=1)
    async with system_rig.running(workers=2, models=_MODELS, retention=retention) as system:
        system.provider.answer = _answer
        system.provider.keeps_requests = False
        await _converse(system, _one_turn, min(_WARM_UP, generations))
        return [
            *await _weigh(system, "conversations of one turn", _one_turn, generations),
            *await _weigh(system, f"turns, {TURNS} a conversation", _many_turns, generations),
            *await _weigh(
                system,
                "generations without a session",
                partial(_without_session, system),
                generations,
            ),
        ]


def _answer(_request: Request) -> ScriptedAnswer:
    return ScriptedAnswer(text=_ANSWER)


async def _weigh(system: Rig, what: str, conversation: Talk, generations: int) -> list[Figure]:
    with system.server.raw_client() as raw_client:
        before, families_before = _allocated(raw_client), await _by_family(system, raw_client)
        texts = await _converse(system, conversation, generations)
        after, families = _allocated(raw_client), await _by_family(system, raw_client)
    beyond = (after - before - texts) / generations
    grown = {
        name: (families[name] - families_before[name]) / generations
        for name in sorted(families)
        if families[name] - families_before[name] > generations
    }
    return [
        Figure(
            f"bytes of {generations:,} {what}",
            f"{beyond:,.0f} each",
            f"texts {texts / generations:,.0f}",
            f"<= {bounds.BYTES_A_GENERATION:,}",
            beyond <= bounds.BYTES_A_GENERATION,
        ),
        *(Figure(f"  {name}, texts with it", f"{size:,.0f}") for name, size in grown.items()),
    ]


async def _converse(system: Rig, conversation: Talk, generations: int) -> int:
    """Run clients until `generations` messages are answered; return the bytes of all texts."""
    async with system.customer() as customer:
        shares = [generations // _CLIENTS + (n < generations % _CLIENTS) for n in range(_CLIENTS)]
        texts = await asyncio.gather(*(conversation(customer, share) for share in shares))
    await drained(system)
    with system.server.raw_client() as raw_client:
        pattern = f"{system.root}events:*"
        await until(lambda: not raw_client.names(pattern), _EXPIRY_SECONDS, what="events to expire")
    return sum(texts)


async def _one_turn(customer: ApiClient, generations: int) -> int:
    sent = 0
    for number in range(generations):
        message = _message(number)
        await customer.submit(message)
        sent += len(message) + len(_ANSWER)
    return sent


async def _many_turns(customer: ApiClient, generations: int) -> int:
    sent, session = 0, None
    for number in range(generations):
        message = _message(number)
        fields = {} if number % TURNS == 0 else {"session_id": session}
        session = (await customer.submit(message, **fields))["session_id"]
        sent += len(message) + len(_ANSWER)
    return sent


async def _without_session(system: Rig, _: ApiClient, generations: int) -> int:
    account, sent = system.account, 0
    queue = RedisFunctions(system.redis, system.settings.redis, account.partition)
    for number in range(generations):
        message = _message(number)
        await queue.submit_alone(
            account.id,
            content=message,
            hold=_HOLD,
            deadline_ms=_DEADLINE_MS,
            unfinished_max=_PLENTY,
            total_max=_PLENTY,
        )
        sent += len(message) + len(_ANSWER)
    return sent


def _message(number: int) -> str:
    return f"Which of the laws of thermodynamics is the one numbered {number}, and why?"


def _allocated(raw_client: RawClient) -> int:
    memory: dict[str, int] = raw_client("INFO", "memory")
    return memory["used_memory"] - memory["mem_clients_normal"] - memory["mem_aof_buffer"]


async def _by_family(system: Rig, raw_client: RawClient) -> Counter[str]:
    """Return the bytes of every family of keys, in the account's partition."""
    sizes: Counter[str] = Counter()
    for name in raw_client.names(f"{system.root}*"):
        family = keys.family_of(system.root, name)
        assert family is not None, name
        sizes[family.pattern.partition(":")[0]] += int(
            raw_client("MEMORY", "USAGE", name, "SAMPLES", 0)
        )
    return sizes


async def report() -> None:
    """Measure and print."""
    figures.print_line(figures.table("memory", await measure()))


if __name__ == "__main__":
    figures.print_line(figures.machine())
    asyncio.run(report())
