"""Many conversations at once: is every answer in its place, none lost, none doubled?

Two hundred conversations of twenty turns go through two workers. Half of them wait for each answer
before the next message; the other half send all their messages at once, and rely on the order in
which they sent them. The scripted upstream answers from the message and the number of messages
before it, and keeps its requests. In the end everything must agree: the statuses, the listed
messages, the upstream's requests and their number, and the credits.

It is done several times: the rate is their median, and a fault of any of them counts.

With `--local` it is five conversations of four turns on the local model. Its answers cannot be
predicted, so each status is compared with the listed messages only.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from deploy.local.model import CONTEXT_TOKENS, UPSTREAM
from shared.clock import SystemClock
from shared.wire.account import MICROCREDITS_PER_CREDIT
from tests.bench import bounds, figures, system_rig
from tests.bench.figures import Figure
from tests.bench.system_rig import Rig
from tests.bench.trips import drained
from tests.support import command_line, processes, redis_invariants
from tests.support.api_client import ApiClient
from tests.support.scripted_provider import Request, ScriptedAnswer

CONVERSATIONS: Final = 200
TURNS: Final = 20
RUNS: Final = 3
LOCAL_CONVERSATIONS: Final = 5
LOCAL_TURNS: Final = 4
WORKERS: Final = 2
_LOCAL_TOKENS: Final = 96
_GIVE_UP_SECONDS: Final = 900.0
_WAIT_SECONDS: Final = 30
_PAGE: Final = 100

Json = dict[str, Any]
Plan = list[list[str]]


class Turn(NamedTuple):
    """A message, and the last status of its answer."""

    message: str
    status: Json

    @property
    def answer(self) -> str:
        """The answer in the status."""
        return str(self.status["result"]["content"])


class Conversation(NamedTuple):
    """The results of all conversations: turns as clients saw them, listed messages, seconds."""

    turns: list[list[Turn]]
    listed: list[list[Json]]
    seconds: float


async def measure(
    conversations: int = CONVERSATIONS, turns: int = TURNS, runs: int = RUNS
) -> list[Figure]:
    """Hold the conversations on the scripted upstream and compare everything."""
    async with system_rig.running(workers=WORKERS) as system:
        system.provider.answer = lambda request: ScriptedAnswer(text=_answer(request.messages))
        held: list[Conversation] = []
        asked, faults = 0, list[str]()

        async def take() -> Conversation:
            nonlocal asked
            plan = [
                [f"Run {len(held)}, conversation {which}, message {n}" for n in range(turns)]
                for which in range(conversations)
            ]
            system.provider.requests.clear()
            conversation = await _hold(system, plan, without_waiting=1)
            held.append(conversation)
            asked += len(system.provider.requests)
            faults.extend(_misplaced(conversation))
            faults.extend(_unexpected(conversation))
            faults.extend(_wrongly_asked(plan, system.provider.requests))
            return conversation

        # No verdict can flip: one fault is too many, in whichever run.
        await figures.rounds(runs, take, lambda _: ())
        faults.extend(await _unbalanced(system, held))
    return summarize("scripted", held, faults, f"{asked:,} upstream calls")


async def measure_local(
    conversations: int = LOCAL_CONVERSATIONS, turns: int = LOCAL_TURNS
) -> list[Figure]:
    """Hold some short conversations on the local model."""
    plan = [
        [f"In one short sentence: what is {number} plus {which}?" for number in range(turns)]
        for which in range(conversations)
    ]
    port = processes.free_port()
    url = f"http://127.0.0.1:{port}"
    model = system_rig.model(UPSTREAM, window=CONTEXT_TOKENS, output=_LOCAL_TOKENS)
    environment = {"PATH": "/usr/bin:/bin"}
    with system_rig.program(["deploy.local.model", "--port", str(port)], environment):
        await system_rig.answers(f"{url}/health")
        async with system_rig.running(
            workers=WORKERS, models=(model,), upstream=f"{url}/v1"
        ) as system:
            conversation = await _hold(system, plan, without_waiting=conversations)
            faults = [*_misplaced(conversation), *await _unbalanced(system, [conversation])]
    return summarize("local model", [conversation], faults, "")


async def _hold(system: Rig, plan: Plan, *, without_waiting: int) -> Conversation:
    """Hold all conversations at once; those with `which % 2 == without_waiting` do not wait."""
    clock = SystemClock()
    began = clock.monotonic()
    async with asyncio.timeout(_GIVE_UP_SECONDS):
        turns = await asyncio.gather(
            *(
                _converse(system, messages, waits=which % 2 != without_waiting)
                for which, messages in enumerate(plan)
            )
        )
        seconds = figures.sample(clock.monotonic() - began, "all conversations")
        await drained(system)
        async with system.customer() as customer:
            listed = [await _listed(customer, one[0].status["session_id"]) for one in turns]
    return Conversation(list(turns), listed, seconds)


async def _converse(system: Rig, messages: list[str], *, waits: bool) -> list[Turn]:
    receipts: list[Json] = []
    async with system.customer() as customer:
        for message in messages:
            session = {"session_id": receipts[0]["session_id"]} if receipts else {}
            receipts.append(await customer.submit(message, **session))
            if waits:
                await _end(customer, receipts[-1])
        statuses = [await _end(customer, receipt) for receipt in receipts]
    return [Turn(message, status) for message, status in zip(messages, statuses, strict=True)]


async def _end(customer: ApiClient, receipt: Json) -> Json:
    while (status := await customer.poll(receipt, wait=_WAIT_SECONDS))["state"] == "processing":
        continue
    return status


async def _listed(customer: ApiClient, session: str) -> list[Json]:
    """Return all messages of a conversation, page by page."""
    listed: list[Json] = []
    page = 1
    while rows := await customer.messages(session, page=page, limit=_PAGE):
        listed += rows
        page += 1
    return listed


def _answer(messages: list[Json]) -> str:
    """Answer from the last message and from the number of those before it."""
    return f"{messages[-1]['content']}: the answer, after {len(messages) - 1} others"


def _history(messages: list[str]) -> list[Json]:
    """Return the messages that the upstream must get for the last of these."""
    history: list[Json] = []
    for message in messages:
        history.append({"role": "user", "content": message})
        history.append({"role": "assistant", "content": _answer(history)})
    return history[:-1]


def _misplaced(conversation: Conversation) -> Iterator[str]:
    """Compare the statuses with the listed messages, in order."""
    for turns, listed in zip(conversation.turns, conversation.listed, strict=True):
        expected_rows = [
            entry
            for turn in turns
            for entry in (
                ("user", turn.message, "completed"),
                ("assistant", turn.answer, turn.status["state"]),
            )
        ]
        rows = [(row["role"], row["content"], row["status"]) for row in listed]
        if rows != expected_rows:
            yield f"{turns[0].status['session_id']} lists {rows}, its statuses have {expected_rows}"
        for turn in turns:
            if turn.status["state"] != "completed" or not turn.answer:
                yield f"{turn.message}: {turn.status}"


def _unexpected(conversation: Conversation) -> Iterator[str]:
    """Compare each answer with the one expected for its message and position."""
    for turns in conversation.turns:
        messages = [turn.message for turn in turns]
        for number, turn in enumerate(turns, start=1):
            expected = _answer(_history(messages[:number]))
            if turn.answer != expected:
                yield f"{turn.message} was answered {turn.answer!r}, not {expected!r}"


def _wrongly_asked(plan: Plan, requests: list[Request]) -> Iterator[str]:
    """The upstream must get each message once, with the turns before it, in order."""
    expected = {
        messages[number]: _history(messages[: number + 1])
        for messages in plan
        for number in range(len(messages))
    }
    asked = Counter(request.last for request in requests)
    for message in expected.keys() | asked.keys():
        if asked[message] != 1 or message not in expected:
            yield f"{message}: asked {asked[message]} times"
    for request in requests:
        if request.messages != expected.get(request.last):
            yield f"{request.last}: the upstream got {request.messages}"


async def _unbalanced(system: Rig, held: list[Conversation]) -> list[str]:
    """The invariants hold, and the account has paid exactly what its statuses say."""
    with system.server.raw_client() as raw_client:
        faults = redis_invariants.faults(raw_client, system.settings.redis)
        credit_totals = raw_client.fields(f"{system.root}books:{system.account.id}")
    paid = sum(
        round(turn.status["credits_used"] * MICROCREDITS_PER_CREDIT)
        for conversation in held
        for one in conversation.turns
        for turn in one
    )
    if int(credit_totals["settled"]) != paid or int(credit_totals["held"]) != 0:
        faults.append(f"{credit_totals} in Redis, {paid} by the statuses")
    return faults


def summarize(
    what: str, held: list[Conversation], faults: list[str], compared_with: str
) -> list[Figure]:
    """Return the median of the runs' times and rates, and the faults of all runs."""
    for fault in faults[:5]:
        figures.print_line(f"  {fault[:400]}")
    answers = sum(len(turns) for turns in held[0].turns)
    name = f"{what}: {len(held[0].turns)} conversations, {answers:,} turns"
    seconds = figures.median(conversation.seconds for conversation in held)
    found = f"{seconds:.1f} s, the median of {len(held)}"
    return [
        Figure(name, found, f"{answers / seconds:,.1f} a second"),
        Figure(
            f"{what}: answers misplaced, lost, doubled, unpaid",
            f"{len(faults)}",
            compared_with,
            f"{bounds.FAULTS}",
            len(faults) <= bounds.FAULTS,
        ),
    ]


async def report(*, is_local: bool = False) -> None:
    """Measure and print."""
    found = await (measure_local() if is_local else measure())
    figures.print_line(figures.table("conversations", found))


if __name__ == "__main__":
    parser = command_line.parser("tests.bench.conversations", __doc__)
    parser.add_argument("--local", action="store_true", help="on the local model")
    figures.print_line(figures.machine())
    asyncio.run(report(is_local=parser.parse_args().local))
