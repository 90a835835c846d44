"""An upgrade under load, and back again: `python -m tests.chaos.upgrade --old PATH`.

Runs two checkouts on one Redis: the old one, both, the new one, both again, and the old one, until
nothing is unfinished; then both and the new one. In every part processes are killed with -9. The
exit code is 1 if a message was lost, failed or ended twice, if a client got a wrong response, or if
a process logged an error or ended badly.

DESIGN. The accounts are created by the old checkout's command, so that their records are as it
writes them. A second provider takes few calls at a time and refuses some, so that turns wait for
it. Before the newer workers leave, what only they take has ended, as an operator waits for it, too.
"""

import asyncio
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple, get_args

import msgspec
import uvloop

from shared.clock import SystemClock
from shared.redis import keys, library
from shared.redis.client import Redis
from shared.settings import RedisSettings
from shared.wire.account import MICROCREDITS_PER_CREDIT
from shared.wire.submission import PLAIN_WIRE, TURN_WIRE
from tests.chaos import invariants, records
from tests.chaos.checkouts import KINDS, Checkout, CheckoutProcesses
from tests.chaos.evidence import Evidence, Finding
from tests.chaos.mixed_clients import MixedClients
from tests.chaos.scene import Upstream
from tests.support import command_line, waiting
from tests.support.chat_completions import Request, ScriptedAnswer
from tests.support.redis_server import Kind as ServerKind, Server
from tests.support.scripted_provider import ScriptedProvider
from worker.chores.recount import count_stored

_ACCOUNTS: Final = ("ann", "bob", "cem", "zoe")
_DELETING_ACCOUNT: Final = "zoe"
_CREDITS: Final = 1_000_000
_PARTITIONS: Final = 2
_WORDS: Final = (2, 25)
_PACE: Final = (0.01, 0.08)
_REFUSALS: Final = 0.05
_IDLE_SECONDS: Final = 90.0
_DRAIN_SECONDS: Final = 300.0
_SHOWN_MAX: Final = 30
_SETTINGS: Final = """
[redis]
partitions = {partitions}

[api]
reads_per_minute = 1000000
waits_per_account = 10000

[worker]
grace_seconds = 0.4
crashes_max = 1000

[limits.enterprise]
submissions_per_minute = 1000000
unfinished_max = 1000000
running_max = 1000000

[retention]
events_seconds = 3600

[media]
folder = "{folder}/media"

[[providers]]
name = "wide"
base_url = "{upstream}"

[[providers]]
name = "narrow"
base_url = "{upstream}"
concurrency_max = 6

[[models]]
identifier = "alpha"
provider = "wide"
upstream = "alpha"
context_window = 32768
max_output_tokens = 512
input_rate = 1.0
output_rate = 2.0

[[models]]
identifier = "beta"
provider = "narrow"
upstream = "beta"
context_window = 32768
max_output_tokens = 512
input_rate = 1.0
output_rate = 2.0
"""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a run: the commands, how long, how many of each kind of process.

    `seconds` are those of the seven parts together, without the time until nothing is unfinished.
    Without `upgrades_again` the run ends with the old checkout, after five parts.
    """

    old: Path
    new: Path = Path(sys.executable).parent / "pollux"
    seconds: float = 120.0
    clients: int = 40
    fronts: int = 2
    workers: int = 2
    kill_seconds: float = 2.5
    server: ServerKind = "valkey"
    seed: int = 0
    upgrades_again: bool = True


class Report(NamedTuple):
    """The results of a run; `unfinished_max` counts by wire what was unfinished at a time."""

    seconds: float
    sent: int
    stages: Mapping[str, int]
    attempts: int
    kills: Mapping[str, int]
    seen: Mapping[str, int]
    unfinished_max: Mapping[int, int]
    logged: Mapping[tuple[str, str, str], int]
    complaints: list[str]
    findings: list[Finding]

    @property
    def faults(self) -> list[str]:
        """Everything that went wrong."""
        found = [*self.complaints, *map(str, self.findings)]
        unexpected = {stage for stage in self.stages if stage not in {"completed", "cancelled"}}
        found += [f"{self.stages[stage]} ended as {stage}" for stage in sorted(unexpected)]
        loud = (entry for entry in self.logged.items() if entry[0][1] != "warning")
        return found + [f"{who} logged {count} times: {event}" for (who, _, event), count in loud]


class _UpgradeRun:
    """The steps of a run."""

    def __init__(
        self,
        plan: Plan,
        server: Server,
        settings: RedisSettings,
        redis: Redis,
        fleet: CheckoutProcesses,
        mixed_clients: MixedClients,
    ) -> None:
        self._settings = settings
        self._plan = plan
        self._server = server
        self._redis = redis
        self._fleet = fleet
        self._clients = mixed_clients
        self._clock = SystemClock()
        self._old = Checkout("old", plan.old)
        self._new = Checkout("new", plan.new)
        self.unfinished_max: Counter[int] = Counter()

    async def run(self) -> None:
        """Upgrade, downgrade until nothing is unfinished, and maybe upgrade again."""
        await self._add(self._old)
        async with self._clients_talking():
            await self._inject_faults()
            await self._add(self._new)
            self._clients.sends_newer = True
            await self._inject_faults()
            await self._fleet.stop_all(self._old)
            await self._inject_faults()
            await self._add(self._old)
            await self._inject_faults()
            self._clients.sends_newer = False
            await self._inject_faults()
            # What only newer workers take must have ended before none is left.
            await waiting.until(
                self._has_no_newer_work, _DRAIN_SECONDS, what="the newer work's end"
            )
            await self._fleet.stop_all(self._new)
            await self._inject_faults()
        if self._plan.upgrades_again:
            await self._add(self._new)
            self._clients.sends_newer = True
            async with self._clients_talking():
                await self._inject_faults()
                await self._fleet.stop_all(self._old)
                await self._inject_faults()
        self._fleet.note_ended()
        for checkout in (self._old, self._new):
            await self._fleet.stop_all(checkout)

    async def _add(self, checkout: Checkout) -> None:
        counts = dict(zip(KINDS, (self._plan.fronts, self._plan.workers), strict=True))
        for kind, count in counts.items():
            for _ in range(count):
                await self._fleet.start(kind, checkout)

    async def _inject_faults(self) -> None:
        """Let one part of the run pass, with kills."""
        ends = self._clock.monotonic() + self._plan.seconds / 8
        while self._clock.monotonic() < ends:
            await self._clock.sleep(self._plan.kill_seconds)
            self.unfinished_max |= await self._unfinished()
            await self._fleet.kill_one()

    @asynccontextmanager
    async def _clients_talking(self) -> AsyncIterator[None]:
        """Run clients within the block; at its end wait until everything they sent has ended."""
        talking = asyncio.create_task(self._clients.hold_conversations(self._plan.clients))
        try:
            yield
            self._clients.is_over = True
            await talking
        finally:
            talking.cancel()
            await asyncio.gather(talking, return_exceptions=True)
        with suppress(AssertionError):
            await waiting.until(self._is_idle, _IDLE_SECONDS, what="rest")
        with self._server.raw_client() as raw_client:
            left = invariants.dump(raw_client, self._settings)
        self._clients.complaints += [f"not ended: {each}" for each in left]

    async def _has_no_newer_work(self) -> bool:
        return not self._clients.newer_unsent and TURN_WIRE not in await self._unfinished()

    async def _unfinished(self) -> Counter[int]:
        """Count the unfinished generations by their wire."""
        found: Counter[int] = Counter()
        for root in records.roots(self._settings):
            for member in await self._redis.call("ZRANGE", keys.DEADLINES(root), 0, -1):
                record = keys.GENERATION(root, *member.decode().split(":", 1))
                # It may have ended meanwhile.
                found[int(await self._redis.call("HGET", record, "wire") or PLAIN_WIRE)] += 1
        return found

    async def _is_idle(self) -> bool:
        names = [keys.DEADLINES(root) for root in records.roots(self._settings)]
        return not sum([int(await self._redis.call("ZCARD", name)) for name in names])


async def run(plan: Plan) -> Report:
    """Carry out a plan and return the results."""
    clock, evidence = SystemClock(), Evidence()
    began = clock.monotonic()
    async with AsyncExitStack() as stack:
        server = stack.enter_context(Server(plan.server))
        provider = await stack.enter_async_context(ScriptedProvider())
        provider.keeps_requests = False
        provider.answer = _ScriptedUpstream(evidence, plan.seed).answer
        environment = _environment(server, provider)
        api_keys = {name: _open(plan.old, environment, name) for name in _ACCOUNTS}
        evidence.granted = {
            name: _CREDITS * MICROCREDITS_PER_CREDIT
            for name in _ACCOUNTS
            if name != _DELETING_ACCOUNT
        }
        settings = RedisSettings(url=server.url, partitions=_PARTITIONS)
        redis = Redis(settings)
        stack.push_async_callback(redis.close)
        fleet = CheckoutProcesses(environment, server.folder, stack, random.Random(plan.seed))
        mixed_clients = MixedClients(
            fleet, evidence, api_keys, deleting_account=_DELETING_ACCOUNT, seed=plan.seed
        )
        upgrade_run = _UpgradeRun(plan, server, settings, redis, fleet, mixed_clients)
        await upgrade_run.run()
        await library.load(redis)
        await _recount_stored(redis, settings)
        with server.raw_client() as raw_client:
            found = invariants.check(
                raw_client, settings, evidence, keys_of_older_release(settings)
            )
            tally = invariants.tally(raw_client, settings, evidence)
        return Report(
            seconds=clock.monotonic() - began,
            sent=mixed_clients.sent,
            stages=tally.stages,
            attempts=sum(tally.attempts.values()),
            kills=fleet.kills,
            seen=mixed_clients.seen,
            unfinished_max=upgrade_run.unfinished_max,
            logged=fleet.logged(),
            complaints=mixed_clients.complaints + fleet.bad_exits,
            findings=[each for each in found if each.about not in _keys_emptied_later(settings)],
        )


def keys_of_older_release(settings: RedisSettings) -> set[str]:
    """Return the names of keys that only release 0.6.1 knows.

    Its arq queue of chores has one name for all workers, and is never deleted.
    """
    root = keys.system_root(settings)
    return {f"{root}chores", f"{root}chores:health-check"}


def _keys_emptied_later(settings: RedisSettings) -> set[str]:
    """Return the names of keys that chores empty long after a session was deleted."""
    return {
        family(root)
        for root in records.roots(settings)
        for family in (keys.FILES_TO_DELETE, keys.TURNS_TO_DELETE)
    }


class _ScriptedUpstream:
    """The script of the upstream; the narrow provider refuses a share of its calls."""

    def __init__(self, evidence: Evidence, seed: int) -> None:
        self._upstream = Upstream(evidence, seed, _WORDS, _PACE)
        self._chance = random.Random(seed)

    def answer(self, request: Request) -> ScriptedAnswer:
        """Return the answer to a request; a refused one is not noted as a call."""
        if request.body["model"] == "beta" and self._chance.random() < _REFUSALS:
            return ScriptedAnswer(status=429, headers={"retry-after": "1"})
        return self._upstream.answer(request)


def _environment(server: Server, provider: ScriptedProvider) -> dict[str, str]:
    """Return the environment of all processes: settings that both checkouts know."""
    path = server.folder / "pollux.toml"
    path.write_text(
        _SETTINGS.format(partitions=_PARTITIONS, folder=server.folder, upstream=provider.url)
    )
    return {"PATH": "/usr/bin:/bin", "POLLUX_CONFIG": str(path), "REDIS_URL": server.url}


def _open(command: Path, environment: Mapping[str, str], name: str) -> str:
    """Create an account by a checkout's own command and return an API key."""
    words = ["keys", "create", "--account", name, "--tier", "enterprise", "--json"]
    created = subprocess.run(
        [str(command), *words, "--credits", str(_CREDITS)],
        env=dict(environment),
        capture_output=True,
        check=True,
        text=True,
    )
    return str(json.loads(created.stdout)["key"])


async def _recount_stored(redis: Redis, settings: RedisSettings) -> None:
    """Recount stored bytes, as a chore does: older versions do not count them."""
    for root in records.roots(settings):
        for account in _ACCOUNTS:
            if await redis.call("EXISTS", keys.ACCOUNT_TOTALS(root, account)):
                # The first call may finish a count that a killed worker had begun.
                for _ in range(2):
                    await count_stored(redis, root, account)


def main() -> int:
    """Read the options, run, print."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        report = runner.run(run(_plan()))
    for name, value in _rows(report):
        sys.stdout.write(f"{name:28} {value}\n")
    for fault in report.faults[:_SHOWN_MAX]:
        sys.stdout.write(f"{fault}\n")
    return 1 if report.faults else 0


def _plan() -> Plan:
    parser = command_line.parser("tests.chaos.upgrade", __doc__)
    parser.add_argument(
        "--old", type=_command, required=True, help="folder of a checkout with its .venv"
    )
    parser.add_argument(
        "--new", type=_command, help="folder of the new checkout (default: this one)"
    )
    parser.add_argument("--server", choices=get_args(ServerKind), help="kind of the Redis server")
    for name in ("clients", "fronts", "workers", "seed"):
        parser.add_argument(f"--{name}", type=int, help=f"the plan's {name}")
    times = {"seconds": "of all parts together", "kill-seconds": "between two kills"}
    for name, meaning in times.items():
        parser.add_argument(f"--{name}", type=float, help=meaning)
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    return Plan(**given)


def _command(folder: str) -> Path:
    """Return the command of a checkout, which must be installed in its own `.venv`."""
    return Path(folder).resolve() / ".venv" / "bin" / "pollux"


def _rows(report: Report) -> Iterator[tuple[str, str]]:
    broken = Counter(finding.invariant for finding in report.findings)
    yield "seconds", f"{report.seconds:.0f}"
    yield "messages", f"{report.sent:,} ({report.sent / report.seconds:.0f} a second)"
    yield "ended", _counts(report.stages)
    yield "attempts", f"{report.attempts:,}"
    yield "killed with -9", _counts(report.kills)
    yield "requests and responses", _counts(report.seen)
    by_wire = {f"of wire {wire}": count for wire, count in report.unfinished_max.items()}
    yield "unfinished at a time", _counts(by_wire)
    for (who, level, event), count in sorted(report.logged.items()):
        yield f"logged by {who}", f"{count} times, {level}: {event}"
    yield "invariants broken", _counts(broken) or "none"
    yield "complaints", f"{len(report.complaints)}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))


if __name__ == "__main__":
    sys.exit(main())
