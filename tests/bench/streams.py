"""Streamed answers from the request to the last token, compared with the upstream and LiteLLM.

One front and two workers, one scripted upstream for all, clients that cost little CPU. The same
request for the same answer goes to each in turn:

first token   how much later than from the upstream itself, which sends it after 0 to 300 ms
short         answers of five tokens: how many a second, and the CPU of one
long          answers of 500 tokens as fast as they come: tokens a second, CPU a token
paced         answers of fifty tokens, one each 10 ms: CPU an answer

CPU is that of all processes between the client and the upstream: front, workers and server here,
the proxies there. LiteLLM runs without a database and keeps nothing, in as many processes as the
front and the workers; it answers the same kind of request at once, with no queue behind it. The
upstream is called directly in each round, so that the lateness of its own timers is subtracted
round by round.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from operator import ge, le
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

from tests.bench import bounds, contestants, figures, process_usage, system_rig
from tests.bench.contestants import Contestant, Program
from tests.bench.figures import Figure
from tests.bench.stream_client import Volley
from tests.bench.system_rig import Rig
from tests.support import processes

RUNS: Final = 3
_WORKERS: Final = 2
_MANY: Final = 32
_FEW: Final = 8
# Several delays, because one alone hides what our timers add at others.
_FIRST_TOKEN_DELAYS_MS: Final = (0, 20, 50, 70, 100, 300)
_USUAL_DELAY_MS: Final = 20
# The upstream waits so long before each token, the first one too.
_GAP_MS: Final = 30
# Answers that take longer are requested less often, but at least this often.
_FIRST_TOKENS_MIN: Final = 20
_SHORT: Final = "tokens=5"
_SHORT_TOKENS: Final = 5
_LONG_TOKENS: Final = 500
_LONG: Final = f"tokens={_LONG_TOKENS}"
_PACED: Final = "tokens=50 gap=0.01"


class Sizes(NamedTuple):
    """How many answers each part takes."""

    first_token: int = 200
    short: int = 600
    long: int = 32
    paced: int = 128


SIZES: Final = Sizes()


class Shot(NamedTuple):
    """The results of a volley: seconds in all; ms to the first token and of CPU per answer."""

    seconds: float
    first_ms: float
    first_p99_ms: float
    cpu_ms: float


Shots = dict[str, Shot]
Read = Callable[[Shots], dict[str, float]]
Verdict = Callable[[float], bool]


class _Size(NamedTuple):
    """What is requested in a round: the words, how often, how many at once."""

    words: str
    answers: int
    at_once: int


class _Unit(NamedTuple):
    """The unit of a figure: its name, its factor per answer, and the bound."""

    name: str
    factor: float
    bound: float


def _median(rounds: list[Shots], read: Read) -> dict[str, float]:
    """Return the median of the rounds for each target."""
    found = [read(shots) for shots in rounds]
    return {name: figures.median(each[name] for each in found) for name in found[0]}


class Target(NamedTuple):
    """A server to compare: its ports, path, body and headers, its last event, its processes."""

    name: str
    ports: list[int]
    path: str
    body: str
    headers: dict[str, str]
    last: str
    pids: list[int]

    def volley(self, words: str, count: int, at_once: int) -> Volley:
        """Return `count` requests for an answer that the words describe."""
        body = self.body.replace("MESSAGE", f"hello [{words}]")
        fields = {
            "host": "127.0.0.1",
            "content-type": "application/json",
            "content-length": str(len(body)),
            **self.headers,
        }
        head = "".join(f"{name}: {text}\r\n" for name, text in fields.items())
        return Volley(
            ports=self.ports,
            request=f"POST {self.path} HTTP/1.1\r\n{head}\r\n{body}",
            first="word0",
            last=self.last,
            count=count,
            at_once=at_once,
        )


async def measure(
    sizes: Sizes = SIZES, runs: int = RUNS, *, with_peer: bool = True
) -> list[Figure]:
    """Measure every target with every kind of answer, in turns."""
    async with AsyncExitStack() as stack:
        system = await stack.enter_async_context(system_rig.running(workers=_WORKERS))
        contestant = Contestant(
            "reader", (sys.executable, "-m", "tests.bench.stream_client"), "", system.environment
        )
        reader = await stack.enter_async_context(contestants.running(contestant))
        targets = [_ours(system), _upstream(system)]
        if with_peer:
            targets.append(await stack.enter_async_context(_litellm(system)))
        comparison = _Comparison(reader, targets, runs)
        return [
            *await comparison.first_token(sizes.first_token),
            *await comparison.short(sizes.short),
            *await comparison.long(sizes.long),
            *await comparison.paced(sizes.paced),
        ]


class _Comparison:
    """The targets, measured in turns; the median run of each counts."""

    def __init__(self, reader: Program, targets: list[Target], runs: int) -> None:
        self._reader = reader
        self._ours, self._upstream, *self._peers = targets
        self._runs = runs

    async def first_token(self, count: int) -> list[Figure]:
        """Compare the time to the first token with that of the upstream itself."""
        found = []
        alone = [(1, delay, bounds.FIRST_TOKEN_MS) for delay in _FIRST_TOKEN_DELAYS_MS]
        many = (_MANY, _USUAL_DELAY_MS, bounds.FIRST_TOKEN_MANY_MS)
        for at_once, delay_ms, bound in (*alone, many):
            targets = [self._ours, self._upstream, *self._peers]
            # Tokens that come all at once are sent with the end, which would hide delays of the
            # first.
            gap_ms = min(delay_ms, _GAP_MS)
            words = f"tokens=5 first={(delay_ms - gap_ms) / 1000} gap={gap_ms / 1000}"
            fewer = max(_FIRST_TOKENS_MIN, count * _USUAL_DELAY_MS // max(delay_ms, 1))
            size = _Size(words, min(count, fewer), at_once)
            rounds = await self._rounds(targets, size, [(self._added, partial(ge, bound))])
            added = _median(rounds, self._added)
            own = added[self._ours.name]
            found.append(
                Figure(
                    f"first token after {delay_ms} ms, added p50, {at_once} at once",
                    f"{own:.1f} ms",
                    self._compare_peers(added, "ms"),
                    f"<= {bound:.0f} ms",
                    own <= bound,
                )
            )
        return found

    def _added(self, shots: dict[str, Shot]) -> dict[str, float]:
        bare = shots[self._upstream.name].first_ms
        return {name: shot.first_ms - bare for name, shot in shots.items()}

    async def short(self, count: int) -> list[Figure]:
        """Answers of five tokens."""
        return await self._rate_and_cpu(
            f"answers of {_SHORT_TOKENS} tokens",
            _Size(_SHORT, count, _MANY),
            _Unit("a second", 1, bounds.SHORT_A_SECOND),
            _Unit("ms", 1, bounds.SHORT_CPU_MS),
        )

    async def long(self, count: int) -> list[Figure]:
        """Answers of 500 tokens, as fast as the upstream sends them."""
        return await self._rate_and_cpu(
            f"answers of {_LONG_TOKENS} tokens",
            _Size(_LONG, count, _FEW),
            _Unit("tokens a second", _LONG_TOKENS, bounds.LONG_TOKENS_A_SECOND),
            _Unit("us a token", 1000 / _LONG_TOKENS, bounds.LONG_CPU_US),
        )

    async def paced(self, count: int) -> list[Figure]:
        """Answers of fifty tokens, one each 10 ms: their pace is fixed, so only CPU is measured."""
        unit = _Unit("ms", 1, bounds.PACED_CPU_MS)
        size = _Size(_PACED, count, _MANY)
        return (await self._rate_and_cpu("answers of 50 tokens each 10 ms", size, None, unit))[1:]

    async def _rate_and_cpu(
        self, name: str, size: _Size, rate_unit: _Unit | None, cpu_unit: _Unit
    ) -> list[Figure]:
        of_rate = rate_unit or _Unit("a second", 1, 0.0)

        def rates(shots: Shots) -> dict[str, float]:
            return {
                who: size.answers * of_rate.factor / each.seconds for who, each in shots.items()
            }

        def costs(shots: Shots) -> dict[str, float]:
            return {who: each.cpu_ms * cpu_unit.factor for who, each in shots.items()}

        judged: list[tuple[Read, Verdict]] = [
            (rates, partial(le, of_rate.bound)),
            (costs, partial(ge, cpu_unit.bound)),
        ]
        rounds = await self._rounds([self._ours, *self._peers], size, judged)
        rate, cost = _median(rounds, rates), _median(rounds, costs)
        own_rate, own_cost = rate[self._ours.name], cost[self._ours.name]
        return [
            Figure(
                f"{name}, {size.at_once} at once",
                f"{own_rate:,.0f} {of_rate.name}",
                self._compare_peers(rate, ""),
                f">= {of_rate.bound:,.0f}",
                own_rate >= of_rate.bound,
            ),
            Figure(
                f"{name}, CPU of all",
                f"{own_cost:.2f} {cpu_unit.name}",
                self._compare_peers(cost, cpu_unit.name),
                f"<= {cpu_unit.bound:g} {cpu_unit.name}",
                own_cost <= cpu_unit.bound,
            ),
        ]

    async def _rounds(
        self, targets: list[Target], size: _Size, judged: list[tuple[Read, Verdict]]
    ) -> list[Shots]:
        """Measure each target in turn, once to warm up, then in rounds."""

        async def turn(count: int) -> Shots:
            return {
                target.name: await self._shoot(target, size.words, count, size.at_once)
                for target in targets
            }

        await turn(max(size.at_once, size.answers // 10))
        return await figures.rounds(
            self._runs,
            lambda: turn(size.answers),
            lambda shots: [is_met(read(shots)[self._ours.name]) for read, is_met in judged],
        )

    async def _shoot(self, target: Target, words: str, count: int, at_once: int) -> Shot:
        before = process_usage.cpu_seconds(target.pids)
        volley = target.volley(words, count, at_once)
        self._reader.write_line(msgspec.json.encode(volley).decode())
        seconds, first, first_p99, _, bad = await self._reader.read_line(None)
        cpu = process_usage.cpu_seconds(target.pids) - before
        assert not bad, f"{target.name}: {bad:.0f} of {count} answers are wrong"
        return Shot(seconds, first, first_p99, cpu / count * 1000)

    def _compare_peers(self, found: dict[str, float], unit: str) -> str:
        own = found[self._ours.name]
        return ", ".join(
            f"{peer.name} {found[peer.name]:,.1f} {unit}".rstrip()
            + f" ({found[peer.name] / own:.2g} times)"
            for peer in self._peers
        )


def _ours(system: Rig) -> Target:
    return Target(
        "ours",
        [int(system.url.rpartition(":")[2])],
        "/v1/ai/chat",
        '{"message": "MESSAGE", "stream": true}',
        {"x-api-key": system.key},
        "event: completed",
        system.pids,
    )


def _upstream(system: Rig) -> Target:
    address = urlsplit(system.provider.url)
    assert address.port is not None
    return Target(
        "upstream", [address.port], f"{address.path}/chat/completions", _OPENAI, {}, "[DONE]", []
    )


_OPENAI: Final = (
    '{"model": "scripted", "stream": true, "messages": [{"role": "user", "content": "MESSAGE"}]}'
)


# Use the packaged price list instead of fetching it, and allow a proxy without a key.
_LITELLM: Final = {
    "PATH": "/usr/bin:/bin",
    "LITELLM_LOG": "ERROR",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
}
# Three of them start at once, each takes fifteen seconds of CPU.
_LITELLM_SECONDS: Final = 600.0


@asynccontextmanager
async def _litellm(system: Rig) -> AsyncIterator[Target]:
    """Start as many processes of the proxy as of ours; connections are spread evenly."""
    contestant = contestants.peer("LiteLLM", "with_litellm", "")._replace(environment=_LITELLM)
    ports = [processes.free_port() for _ in range(1 + len(system.workers))]
    async with AsyncExitStack() as stack:
        pids = []
        for port in ports:
            words = ("--upstream", system.provider.url, "--port", str(port))
            proxy = await stack.enter_async_context(contestants.running(contestant, *words))
            pids.append(proxy.pid)
        for port in ports:
            await system_rig.answers(f"http://127.0.0.1:{port}/v1/models", _LITELLM_SECONDS)
        yield Target("LiteLLM", ports, "/v1/chat/completions", _OPENAI, {}, "[DONE]", pids)


async def report() -> None:
    """Measure and print."""
    figures.print_line(figures.table(f"streams ({RUNS} runs)", await measure()))


if __name__ == "__main__":
    figures.print_line(figures.machine())
    asyncio.run(report())
