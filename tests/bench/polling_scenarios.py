"""Poll hints where an answer waits for others, or comes from a real model.

Real clients against the whole system, as in `polling`. Each obeys the hints from its receipt to the
end; its duration counts from the POST:

unserved  no worker runs; one starts a minute later
held      another account holds every slot for 40 s; the asked model is known to be quick
session   eight turns of each session, posted at once, to a model that has given such answers
local     four clients at once on the local model, each asks again as soon as it is answered; before
          that one round of four gives it a history

Where the end cannot be predicted (`unserved`, `held`), the polls are bounded, and the lateness by
half of the time waited. The same holds for the local model where its measured durations spread so
widely that no plan of polls, made in hindsight, could keep the bounds
(`poll_policy.is_predictable`). All others have the contract's bounds.
"""

import asyncio
import itertools
import random
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from deploy.local.model import CONTEXT_TOKENS, UPSTREAM
from shared.clock import SystemClock
from shared.stores import answer_durations
from shared.stores.accounts import Accounts
from shared.wire.account import DEFAULT_SCOPES
from shared.wire.submission import AUTO
from tests.bench import bounds, figures, poll_policy, system_rig
from tests.bench.figures import Figure
from tests.bench.poll_policy import Followed
from tests.bench.system_rig import Rig
from tests.support import processes
from tests.support.api_client import ApiClient, Json
from tests.support.scripted_provider import Request, ScriptedAnswer

TURNS: Final = 8
_AT_ONCE: Final = 4
_SLOTS: Final = 32
_KNOWN: Final = 16
_STAGGER_SECONDS: Final = 3.0
_WAIT_SECONDS: Final = 40
_CREDITS: Final = 10**12
_LOCAL_TOKENS: Final = 512
_QUESTIONS: Final = (
    "What is a job queue?",
    "Name three uses of a rubber band.",
    "Why is the sky blue?",
    "Write two sentences about the sea.",
    "What does a compiler do?",
    "Tell me how to boil an egg.",
)


class Sizes(NamedTuple):
    """How large the scenarios are, in clients and seconds."""

    clients: int = 24
    unserved_seconds: float = 60.0
    held_seconds: float = 40.0
    quick_seconds: float = 0.3
    turn_seconds: float = 4.0
    turn_jitter: float = 0.3


class PolledAnswer(NamedTuple):
    """What a client did and got: when it asked, when it learned the end, its polls, estimates."""

    message: str
    asked_at: float
    learned_at: float
    polls: int
    estimates: tuple[float | None, ...]


async def measure(sizes: Sizes | None = None, *, with_local: bool = True) -> list[Figure]:
    """Run all scenarios, one after the other."""
    sizes = sizes or Sizes()
    models = tuple(system_rig.model(name) for name in ("quick", "slow", "turns"))
    async with system_rig.running(concurrency=_SLOTS, models=models) as system:
        system.provider.answer = _paced
        figures.print_line("  no live worker")
        following = asyncio.create_task(_quick(system, sizes, _STAGGER_SECONDS))
        await SystemClock().sleep(sizes.unserved_seconds)
        with system_rig.program(["worker"], system.environment):
            unserved = await following
            await system_rig.reported(system, 1)
            figures.print_line("  slots held by others")
            held = await _held(system, sizes)
            figures.print_line("  turns of a session")
            session = await _session(system, sizes)
    found = [
        _figure(f"no live worker, {sizes.unserved_seconds:g} s", unserved, is_known=False),
        _figure(f"slots held by others, {sizes.held_seconds:g} s", held, is_known=False),
        _figure(f"{TURNS} turns of a session, {sizes.turn_seconds:g} s each", session),
    ]
    return [*found, await measure_local(sizes.clients)] if with_local else found


async def measure_local(clients: int = 24) -> Figure:
    """Ask the local model, four at a time."""
    figures.print_line("  local model")
    port = processes.free_port()
    url = f"http://127.0.0.1:{port}"
    model = system_rig.model(UPSTREAM, window=CONTEXT_TOKENS, output=_LOCAL_TOKENS)
    with system_rig.program(["deploy.local.model", "--port", str(port)], {"PATH": "/usr/bin:/bin"}):
        await system_rig.answers(f"{url}/health")
        async with system_rig.running(workers=1, models=(model,), upstream=f"{url}/v1") as system:
            await asyncio.gather(*(_local(system, _QUESTIONS[:1]) for _ in range(_AT_ONCE)))
            each = -(-clients // _AT_ONCE)
            questions = list(itertools.islice(itertools.cycle(_QUESTIONS), each))
            asked = (_local(system, questions) for _ in range(_AT_ONCE))
            found = list(itertools.chain.from_iterable(await asyncio.gather(*asked)))
            measured = await answer_durations.durations_ms(system.redis, system.root, AUTO)
    durations = [each / 1000 for each in measured]
    figure = _figure(f"local model, {_AT_ONCE} at once", found)
    return (
        figure
        if poll_policy.is_predictable(durations)
        else _judge_unpredictable(figure, found, durations)
    )


def _judge_unpredictable(
    figure: Figure, found: Sequence[Followed], durations: Sequence[float]
) -> Figure:
    """Judge an unpredictable model: 95 of 100 within half of the time waited."""
    over = max(one.polls - poll_policy.polls_max(one.duration) for one in found)
    too_late = sum(one.lateness > _unknown_lateness_max(one.duration) for one in found)
    spread = f"{min(durations):.1f}-{max(durations):.1f} s known"
    return figure._replace(
        compared_with=f"{too_late} later than half, {max(0.0, over):.1f} polls too many, {spread}",
        bound=f"half of the time waited; {poll_policy.polls_max(figures.median(durations)):.1f}",
        is_met=too_late <= bounds.LATE_SHARE * len(found) and over <= 0,
    )


async def _quick(system: Rig, sizes: Sizes, stagger_seconds: float) -> list[Followed]:
    """Let all clients ask the quick model, at random moments."""
    asked = []
    for _ in range(sizes.clients):
        after = random.uniform(0, stagger_seconds)
        asked.append(_ask(system, "quick", sizes.quick_seconds, after=after))
    return _followed(system, await asyncio.gather(*asked))


async def _held(system: Rig, sizes: Sizes) -> list[Followed]:
    """Let another account take every slot, then ask."""
    accounts = Accounts(system.redis, system.settings.redis, b"", SystemClock())
    other = await accounts.create("other", "enterprise")
    await accounts.grant(other, _CREDITS)
    key = (await accounts.create_key(other, DEFAULT_SCOPES)).key
    async with _customer(system, key) as customer:
        for _ in range(_SLOTS):
            await customer.submit(_message(sizes.held_seconds), model="slow")
    return await _quick(system, sizes, min(_STAGGER_SECONDS, sizes.held_seconds / 10))


async def _session(system: Rig, sizes: Sizes) -> list[Followed]:
    """Post all turns of each session at once, and follow each turn."""
    model, seconds, jitter = "turns", sizes.turn_seconds, sizes.turn_jitter
    known = (_ask(system, model, _about(seconds, jitter)) for _ in range(_KNOWN))
    await asyncio.gather(*known)
    asked = []
    async with _customer(system, system.key) as customer:
        for _ in range(max(1, sizes.clients // TURNS)):
            session: Json = {}
            for _ in range(TURNS):
                message = _message(_about(seconds, jitter))
                began_at = SystemClock().monotonic()
                receipt = await customer.submit(message, model=model, **session)
                session = {"session_id": receipt["session_id"]}
                asked.append(_follow(system, message, receipt, began_at))
        return _followed(system, await asyncio.gather(*asked))


async def _local(system: Rig, questions: Sequence[str]) -> list[Followed]:
    """Ask one question after the other; a second request that waits shows when each has ended."""
    clock = SystemClock()
    found = []
    async with _customer(system, system.key) as customer:
        for question in questions:
            asked_at = clock.monotonic()
            receipt = await customer.submit(question)
            ending = asyncio.create_task(_end(system, receipt))
            polled = await _follow(system, question, receipt, asked_at)
            ended_at = await ending
            late = max(0.0, polled.learned_at - ended_at)
            found.append(Followed(ended_at - asked_at, late, polled.polls))
    return found


async def _end(system: Rig, receipt: Json) -> float:
    async with _customer(system, system.key) as customer:
        while (await customer.poll(receipt, wait=_WAIT_SECONDS))["state"] == "processing":
            continue
    return SystemClock().monotonic()


async def _ask(system: Rig, model: str, seconds: float, *, after: float = 0.0) -> PolledAnswer:
    clock = SystemClock()
    await clock.sleep(after)
    message, asked_at = _message(seconds), clock.monotonic()
    async with _customer(system, system.key) as customer:
        receipt = await customer.submit(message, model=model)
    return await _follow(system, message, receipt, asked_at)


async def _follow(system: Rig, message: str, receipt: Json, asked_at: float) -> PolledAnswer:
    """Obey the hints until the end."""
    clock = SystemClock()
    status, polls, estimates = receipt | {"state": "processing"}, 0, []
    async with _customer(system, system.key) as customer:
        while status["state"] == "processing":
            await clock.sleep(status["poll_interval_hint"])
            status = await customer.poll(receipt)
            polls += 1
            estimates.append(status["eta_seconds"] and status["eta_seconds"]["p50"])
    assert status["state"] == "completed", status
    return PolledAnswer(message, asked_at, clock.monotonic(), polls, tuple(estimates[:-1]))


def _followed(system: Rig, asked: Iterable[PolledAnswer]) -> list[Followed]:
    """Compare when clients learned of the end with when the upstream had sent its last byte."""
    ended = {request.last: request.answered_at or 0.0 for request in system.provider.requests}
    return [
        Followed(ended[one.message] - one.asked_at, one.learned_at - ended[one.message], one.polls)
        for one in asked
    ]


def _figure(name: str, found: Sequence[Followed], *, is_known: bool = True) -> Figure:
    """Judge by the contract; if the end is unknown, by its polls and half of the wait."""
    figure = poll_policy.figure(name, list(found))
    if is_known:
        return figure
    over = max(one.polls - poll_policy.polls_max(one.duration) for one in found)
    too_late = sum(one.lateness > _unknown_lateness_max(one.duration) for one in found)
    typical = figures.median(one.duration for one in found)
    return figure._replace(
        compared_with=f"{too_late} too late, {max(0.0, over):.1f} polls too many",
        bound=f"{_unknown_lateness_max(typical):.0f} s; {poll_policy.polls_max(typical):.1f}",
        is_met=too_late == 0 and over <= 0,
    )


def _unknown_lateness_max(duration: float) -> float:
    return max(bounds.LATE_P95_SECONDS, bounds.LATE_UNKNOWN_SHARE * duration)


def _customer(system: Rig, key: str) -> ApiClient:
    customer = system.customer()
    customer.headers["x-api-key"] = key
    return customer


def _about(seconds: float, share: float) -> float:
    return seconds * random.uniform(1 - share, 1 + share)


def _message(seconds: float) -> str:
    return f"Take {seconds:.3f} seconds, please. {random.getrandbits(64):x}"


def _paced(request: Request) -> ScriptedAnswer:
    """Take as long as the message says."""
    return ScriptedAnswer(text="That is all.", first_seconds=float(request.last.split()[1]))
