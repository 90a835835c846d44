"""A deployment with two models: the upstream of the first misbehaves, that of the second does not.

Owns its short timeouts, and the measurements: outcomes, calls of the faulty model, time.
"""

import socket
import time
from collections import Counter
from typing import Final, NamedTuple

import msgspec

from shared.settings import ProviderSettings
from shared.wire.submission import AUTO
from tests.support.system import System
from tests.worker.front import Front
from tests.worker.providers.openai import ROW
from tests.worker.providers.upstream import Line, Upstream, whole
from tests.worker.running_workers import running_worker
from tests.worker.upstream_faults.faults import Fault

COOLING_SECONDS: Final = 0.5
COOLING_SECONDS_MAX: Final = 2.0
_WELL: Final = whole(ROW.answer("Two bears"))
_FAULTY: Final = b'"upstream-alpha"'


class Result(NamedTuple):
    """What became of a fault's messages: outcomes and codes counted, calls, seconds until the end.

    `calls` are those of the faulty model.
    """

    stages: Counter[str]
    codes: Counter[str]
    calls: int
    seconds: list[float]


async def play(fault: Fault, system: System, upstream: Upstream, *, is_named: bool) -> Result:
    """Send a fault's messages and wait for their ends."""

    async def script(line: Line) -> None:
        is_faulty = _FAULTY in line.request and fault.script is not None
        await (fault.script if is_faulty and fault.script is not None else _WELL)(line)

    upstream.script = script
    # The worker and who reaps see the same deadline pass.
    system.expected.add("reaped")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
        first_url = upstream.url if fault.script is not None else url
        _arrange(system, first_url, upstream.url, fault.wait_seconds)
        front = Front(system.redis, system.settings)
        async with running_worker(system):
            model = "alpha" if is_named else AUTO
            began = time.monotonic()
            deadline_ms = int(fault.deadline_seconds * 1000)
            tickets = [
                await front.submit(account=f"account{n}", model=model, deadline_ms=deadline_ms)
                for n in range(fault.messages)
            ]
            ended, seconds = [], []
            for ticket in tickets:
                ended.append(await front.end(ticket, fault.deadline_seconds + 5))
                seconds.append(time.monotonic() - began)
    failures = [each.assistant.failure for each in ended if each.assistant is not None]
    return Result(
        stages=Counter(each.stage for each in ended),
        codes=Counter(failure.code for failure in failures if failure is not None),
        calls=_count_calls(fault, system, upstream),
        seconds=seconds,
    )


def _count_calls(fault: Fault, system: System, upstream: Upstream) -> int:
    """Count the calls that the faulty model received; if none arrived, those that were reported."""
    if fault.script is not None:
        return sum(_FAULTY in line.request for line in upstream.lines)
    told = [line for line in system.lines if line["event"] == "the provider failed"]
    return sum(line["provider"] == "first" for line in told)


def _arrange(system: System, first_url: str, second_url: str, wait_seconds: float) -> None:
    """Give each model a provider of its own, little time, and a breaker that soon tries again."""
    alpha, beta, _ = system.settings.models
    first, second = (
        ProviderSettings(name=name, base_url=url, idle_seconds=seconds)
        for name, url, seconds in (
            ("first", first_url, wait_seconds),
            ("second", second_url, 10.0),
        )
    )
    system.change(
        "breaker", cooling_seconds=COOLING_SECONDS, cooling_seconds_max=COOLING_SECONDS_MAX
    )
    system.settings = msgspec.structs.replace(
        system.settings,
        providers=(first, second),
        models=(
            msgspec.structs.replace(alpha, provider="first", first_token_seconds=wait_seconds),
            msgspec.structs.replace(beta, provider="second"),
        ),
    )
