"""How late clients learn of the end when they obey the hints, and how often they poll.

Real clients against the whole system, for answers of about 1, 5, 30 and 120 s:

known     each duration on a model of its own, which has given such answers before
mixed     all four on one model, which has given all four before
cold      each on a model of its own, of which only the catalogue's estimate is known

All run at once, after a round that makes the history; then `polling_scenarios` runs, in which
answers wait for others or come from a real model. Lateness is from the upstream's last byte until
the client has read the final status. The bounds are the contract's: half within 1 s, 95 of 100
within the greater of 2 s and a tenth of the duration, polls at most 4 + log2(seconds). A cold model
has no bound, because nothing was measured.
"""

import asyncio
import random
from typing import Final, NamedTuple

from shared.clock import SystemClock
from tests.bench import figures, poll_policy, polling_scenarios, system_rig
from tests.bench.figures import Figure
from tests.bench.poll_policy import Followed
from tests.bench.system_rig import Rig
from tests.support import command_line
from tests.support.scripted_provider import Request, ScriptedAnswer

CLIENTS: Final = 24
JITTER: Final = 0.02
WORKERS: Final = 2
_CONCURRENCY: Final = 512
# Long enough to start all clients without delaying each other in this process.
_STAGGER_SECONDS: Final = 10.0


class Group(NamedTuple):
    """Clients that ask a model for answers of about this duration."""

    kind: str
    model: str
    seconds: float

    @property
    def name(self) -> str:
        """Its name in the table."""
        return f"{self.kind}, {self.seconds:g} s"


class Asked(NamedTuple):
    """What a client did: its message, the number of polls, when it learned of the end."""

    message: str
    polls: int
    learned_at: float


async def measure(
    clients: int = CLIENTS, durations: tuple[float, ...] = poll_policy.SECONDS
) -> list[Figure]:
    """Make the history, then run all clients at once."""
    known = [Group("known", f"known-{seconds:g}", seconds) for seconds in durations]
    mixed = [Group("mixed", "mixed", seconds) for seconds in durations]
    cold = [Group("cold", f"cold-{seconds:g}", seconds) for seconds in durations]
    names = dict.fromkeys(group.model for group in (*known, *mixed, *cold))
    models = tuple(system_rig.model(name) for name in names)
    async with system_rig.running(
        workers=WORKERS, concurrency=_CONCURRENCY, models=models
    ) as system:
        system.provider.answer = _paced
        figures.print_line("  answers that make the history")
        await _round(system, [*known, *mixed], clients)
        groups = [*known, *mixed, *cold]
        figures.print_line("  answers like them")
        followed = await _round(system, groups, clients)
    return [
        _figure(group, followed[index * clients : (index + 1) * clients])
        for index, group in enumerate(groups)
    ]


def _paced(request: Request) -> ScriptedAnswer:
    """Take as long as the message says."""
    return ScriptedAnswer(text="That is all.", first_seconds=float(request.last.split()[1]))


async def _round(system: Rig, groups: list[Group], clients: int) -> list[Followed]:
    system.provider.requests.clear()
    asked = await asyncio.gather(
        *(_follow(system, group) for group in groups for _ in range(clients))
    )
    ended = {request.last: request for request in system.provider.requests}
    return [_followed(one, ended[one.message]) for one in asked]


async def _follow(system: Rig, group: Group) -> Asked:
    clock = SystemClock()
    await clock.sleep(random.uniform(0, min(_STAGGER_SECONDS, 10 * group.seconds)))
    seconds = group.seconds * random.uniform(1 - JITTER, 1 + JITTER)
    message = f"Take {seconds:.3f} seconds, please. {random.getrandbits(64):x}"
    async with system.customer() as customer:
        receipt = await customer.submit(message, model=group.model)
        status, polls = receipt | {"state": "processing"}, 0
        while status["state"] == "processing":
            await clock.sleep(status["poll_interval_hint"])
            status = await customer.poll(receipt)
            polls += 1
    assert status["state"] == "completed", status
    return Asked(message, polls, clock.monotonic())


def _followed(asked: Asked, request: Request) -> Followed:
    assert request.answered_at is not None
    duration = request.answered_at - request.came_at
    return Followed(duration, asked.learned_at - request.answered_at, asked.polls)


def _figure(group: Group, followed: list[Followed]) -> Figure:
    figure = poll_policy.figure(group.name, followed)
    return figure._replace(bound="", is_met=None) if group.kind == "cold" else figure


async def measure_all(clients: int = CLIENTS) -> list[Figure]:
    """Measure the plain answers, then the scenarios."""
    sizes = polling_scenarios.Sizes(clients)
    return [*await measure(clients), *await polling_scenarios.measure(sizes)]


async def report(clients: int = CLIENTS) -> None:
    """Measure and print."""
    title = f"polling ({clients} clients a line, +-{JITTER:.0%})"
    figures.print_line(figures.table(title, await measure_all(clients)))


if __name__ == "__main__":
    parser = command_line.parser("tests.bench.polling", __doc__)
    parser.add_argument("--clients", type=int, default=CLIENTS, help="clients of each line")
    figures.print_line(figures.machine())
    asyncio.run(report(parser.parse_args().clients))
