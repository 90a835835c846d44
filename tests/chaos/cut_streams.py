"""Clients whose streams are cut many times: `python -m tests.chaos.cut_streams`.

Each follows a generation through one of two fronts, closes the connection after a random number of
bytes, and resumes at a random front after the last complete event. With `--kills N` a worker or a
front is killed with -9 once a second, N times, and replaced. Checks that the text a client has in
the end is the stored one, and that its event ids only rise.

The exit code is 1 if any answer differs.
"""

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import httpx
import msgspec
import uvloop

from shared.clock import SystemClock
from tests.bench import system_rig
from tests.bench.system_rig import Rig
from tests.support import command_line, processes
from tests.support.api_client import NO_TLS, Json
from tests.support.processes import Process
from tests.support.stream_reader import ENDS, ReceivedEvent, read_events, text_of

FOLLOWERS: Final = 24
_WORKERS: Final = 2
_TOKENS: Final = 60
_GAP_SECONDS: Final = 0.004
_READ_BYTES_MAX: Final = 2_000
_RETRY_PAUSE_SECONDS: Final = 0.05
_BETWEEN_KILLS_SECONDS: Final = 1.0


class Tally(msgspec.Struct):
    """Counts of a run: `refused` are connections that failed, `faults` what was wrong."""

    cuts: int = 0
    answers: int = 0
    refused: int = 0
    kills: int = 0
    resets: int = 0
    faults: list[str] = []


async def run(cuts: int, *, seed: int, kills: int = 0, followers: int = FOLLOWERS) -> Tally:
    """Follow generations until there were this many cuts and kills."""
    tally, chance = Tally(), random.Random(seed)
    async with system_rig.running(workers=_WORKERS) as system, _fronts(system) as fronts:
        killing = asyncio.create_task(fronts.kill_some(kills, chance, tally))

        async def keep_following() -> None:
            own = random.Random(chance.random())
            while tally.cuts < cuts or not killing.done():
                await _follow_one(system, fronts, own, tally)

        await asyncio.gather(*(keep_following() for _ in range(followers)))
        await killing
    return tally


async def _follow_one(system: Rig, fronts: "_Fronts", chance: random.Random, tally: Tally) -> None:
    """Submit a message, follow its answer to the end through many cuts, and check it."""
    async with httpx.AsyncClient(headers=system.headers, verify=NO_TLS, trust_env=False) as http:
        message = f"{chance.random()} [tokens={_TOKENS} gap={_GAP_SECONDS}]"
        key = {"idempotency-key": str(chance.random())}
        path, received = "/api/v1/chat", list[ReceivedEvent]()
        receipt = await fronts.repeat_until_answered(
            http, "POST", path, tally, key, {"message": message}
        )
        while not received or received[-1].name not in ENDS:
            received += await _read_until_cut(
                http, fronts, receipt["events_url"], received, chance, tally
            )
        status = await fronts.repeat_until_answered(http, "GET", receipt["poll_url"], tally)
    tally.answers += 1
    tally.resets += sum(one.name == "reset" for one in received)
    tally.faults += _faults(received, status["result"]["content"])


async def _read_until_cut(
    http: httpx.AsyncClient,
    fronts: "_Fronts",
    path: str,
    received: list[ReceivedEvent],
    chance: random.Random,
    tally: Tally,
) -> list[ReceivedEvent]:
    """Read a random number of bytes and close; return the complete events."""
    headers = {"last-event-id": received[-1].id} if received else {}
    read, cut_at = b"", chance.randint(1, _READ_BYTES_MAX)
    try:
        async with http.stream("GET", fronts.url(chance) + path, headers=headers) as answer:
            assert answer.status_code == httpx.codes.OK, answer.status_code
            async for piece in answer.aiter_raw():
                read += piece
                if len(read) >= cut_at:
                    tally.cuts += 1
                    break
    except httpx.TransportError:
        tally.refused += 1
        await SystemClock().sleep(_RETRY_PAUSE_SECONDS)
    return read_events(read[:cut_at])


def _faults(received: list[ReceivedEvent], stored: str) -> list[str]:
    """Return what is wrong with the events that a client received."""
    numbers = [tuple(int(part) for part in one.id.split("-")) for one in received]
    found = []
    if text_of(received) != stored:
        found.append(f"received {text_of(received)!r}, stored {stored!r}")
    if received[-1].name == "completed" and received[-1].payload["message"]["content"] != stored:
        found.append("the last event has another answer")
    if numbers != sorted(set(numbers)):
        found.append(f"ids do not rise: {[one.id for one in received]}")
    if [one.name for one in received if one.name in ENDS] != [received[-1].name]:
        found.append(f"not exactly one end: {[one.name for one in received]}")
    return found


class _Fronts:
    """Two fronts and the rig's workers; any of them may be killed and replaced."""

    def __init__(self, system: Rig, stack: AsyncExitStack) -> None:
        self._system = system
        self._stack = stack
        self._fronts: list[tuple[str, Process]] = [(system.url, system.api)]
        self._workers = list(system.workers)

    def url(self, chance: random.Random) -> str:
        """Return the URL of a random front."""
        return chance.choice(self._fronts)[0]

    async def add(self) -> None:
        """Start another front."""
        port = processes.free_port()
        words = ["api", "--port", str(port)]
        front = self._stack.enter_context(system_rig.program(words, self._system.environment))
        url = f"http://127.0.0.1:{port}"
        await system_rig.answers(f"{url}/readyz")
        self._fronts.append((url, front))

    async def kill_some(self, kills: int, chance: random.Random, tally: Tally) -> None:
        """Kill a worker and a front in turn; each is replaced before the next kill."""
        for number in range(kills):
            await SystemClock().sleep(_BETWEEN_KILLS_SECONDS)
            if number % 2:
                _, front = self._fronts.pop(chance.randrange(len(self._fronts)))
                front.kill()
                await self.add()
            else:
                self._workers.pop(chance.randrange(len(self._workers))).kill()
                worker = system_rig.program(["worker"], self._system.environment)
                self._workers.append(self._stack.enter_context(worker))
            tally.kills += 1

    async def repeat_until_answered(
        self,
        http: httpx.AsyncClient,
        verb: str,
        path: str,
        tally: Tally,
        headers: dict[str, str] | None = None,
        body: object = None,
    ) -> Json:
        """Send a request to random fronts until one answers."""
        while True:
            url = random.choice(self._fronts)[0] + path
            try:
                answer = await http.request(verb, url, headers=headers, json=body)
            except httpx.TransportError:
                tally.refused += 1
                await SystemClock().sleep(_RETRY_PAUSE_SECONDS)
            else:
                assert answer.status_code == httpx.codes.OK, answer.text
                decoded: Json = answer.json()
                return decoded


@asynccontextmanager
async def _fronts(system: Rig) -> AsyncIterator[_Fronts]:
    async with AsyncExitStack() as stack:
        fronts = _Fronts(system, stack)
        await fronts.add()
        yield fronts


def main() -> int:
    """Read the options, run, print."""
    parser = command_line.parser("tests.chaos.cut_streams", __doc__)
    parser.add_argument("--cuts", type=int, default=10_000, help="number of cuts")
    parser.add_argument("--kills", type=int, default=0, help="number of kills")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices")
    options = parser.parse_args()
    clock = SystemClock()
    began = clock.monotonic()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        tally = runner.run(run(options.cuts, seed=options.seed, kills=options.kills))
    sys.stdout.write(
        f"seed {options.seed}, {clock.monotonic() - began:.0f} s: {tally.cuts:,} cuts,"
        f" {tally.answers:,} answers, {tally.kills} kills, {tally.resets} resets,"
        f" {tally.refused:,} connections failed, {len(tally.faults)} answers differ\n"
    )
    for fault in tally.faults[:10]:
        sys.stdout.write(f"{fault}\n")
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.exit(main())
