"""Runs one failure, from before it begins until everything works again, and returns the results.

Owns what is running when it strikes: answers that end upstream during it, one that ends after it,
one that waits for its turn, a follower; and clients that keep submitting, polling and waiting.
"""

import asyncio
from collections import Counter
from typing import Final

import httpx
import msgspec

from shared import ids
from shared.clock import SystemClock
from tests.chaos.redis_failures.clients import Call, Clients, Kind, calling
from tests.chaos.redis_failures.deployment import FailureDeployment, cpu_seconds
from tests.chaos.redis_failures.failures import RedisFailure
from tests.support import waiting
from tests.support.api_client import Json

_GAP_SECONDS: Final = 0.1
# Answers that end upstream while Redis cannot be written.
_SHORT_ANSWERS: Final = 12
# How long the long answer lasts beyond the failure.
_MORE_SECONDS: Final = 1.0
_GIVE_UP_SECONDS: Final = 30.0
_RETRY_PAUSE_SECONDS: Final = 0.05
_CLOCK: Final = SystemClock()


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The results of a failure. `calls` are those that overlapped with it.

    `recovered_seconds` is from its end until the first message sent after it is answered,
    `ready_seconds` until /readyz answers 200. `reruns` are upstream calls beyond one a message,
    `busy` is the largest share of a core that a process used during the failure.
    """

    seconds: float
    calls: list[Call]
    recovered_seconds: float
    ready_seconds: float
    acknowledged: int
    lost: list[str]
    reruns: int
    logged: dict[str, int]
    busy: float
    ended: list[str]
    wrong: list[str]

    @property
    def slowest(self) -> Call:
        """The call that took longest, beyond the time that it asked to wait for."""
        return max(self.calls, key=lambda call: call.seconds)

    def saw(self) -> dict[Kind, Counter[str]]:
        """Return the statuses that clients saw, by the kind of call."""
        found: dict[Kind, Counter[str]] = {}
        for call in self.calls:
            found.setdefault(call.kind, Counter())[call.status] += 1
        return found


async def play(
    redis_failure: RedisFailure, deployment: FailureDeployment, seconds: float | None = None
) -> Result:
    """Inject a failure into a running system, for `seconds` if given."""
    duration = redis_failure.seconds if seconds is None else seconds
    name = f"a{ids.new_id()[-10:].lower()}"
    with deployment.loud_lines() as logged:
        async with calling(deployment.url, await deployment.open(name), name) as clients:
            result = await _play(redis_failure, deployment, clients, name, duration)
    wrong = [*result.wrong, *await asyncio.to_thread(deployment.faults)]
    return msgspec.structs.replace(
        result, logged=dict(logged), ended=deployment.ended(), wrong=wrong
    )


async def _play(
    redis_failure: RedisFailure,
    deployment: FailureDeployment,
    clients: Clients,
    name: str,
    seconds: float,
) -> Result:
    long = await _send_slow(clients, seconds + _MORE_SECONDS)
    queued = await clients.send(session_id=long["session_id"])
    assert queued is not None
    following = asyncio.create_task(clients.follow(long))
    async with clients.calls_going_on(long, queued):
        await waiting.until(clients.followed_text, _GIVE_UP_SECONDS, what="an answer")
        short = [await _send_slow(clients, seconds / 2) for _ in range(_SHORT_ANSWERS)]
        await _wait_until_begun(clients, short[-1])
        before, began = await cpu_seconds(deployment), _CLOCK.monotonic()
        await redis_failure.inject(deployment, seconds)
        after, ended = await cpu_seconds(deployment), _CLOCK.monotonic()
        ready, recovered = await asyncio.gather(
            _time_of_readiness(deployment), _time_of_recovery(redis_failure, deployment, clients)
        )
    last_statuses = {} if redis_failure.loses_all else await _last_statuses(clients)
    await asyncio.wait_for(following, _GIVE_UP_SECONDS)
    upstream_calls = Counter(
        each.last for each in deployment.provider.requests if each.last.startswith(f"{name} ")
    )
    return Result(
        seconds=ended - began,
        calls=[call for call in clients.calls if call.ended >= began and call.began <= ended],
        recovered_seconds=recovered - ended,
        ready_seconds=ready - ended,
        acknowledged=len(clients.receipts),
        lost=[] if redis_failure.loses_all else _lost(last_statuses),
        reruns=sum(count - 1 for count in upstream_calls.values()),
        logged={},
        busy=max(after[each] - before[each] for each in after) / max(ended - began, 0.5),
        ended=[],
        wrong=[] if redis_failure.loses_all else _wrong_answers(clients, long, last_statuses),
    )


async def _send_slow(clients: Clients, seconds: float) -> Json:
    """Send a message whose answer takes this long."""
    tokens = max(3, round(seconds / _GAP_SECONDS))
    receipt = await clients.send(f"[tokens={tokens} gap={_GAP_SECONDS}]")
    assert receipt is not None
    return receipt


async def _wait_until_begun(clients: Clients, receipt: Json) -> None:
    async def has_begun() -> bool:
        status = await clients.poll(receipt)
        return bool(status is not None and status["result"]["content"])

    await waiting.until(has_begun, _GIVE_UP_SECONDS, what="an answer")


async def _time_of_readiness(deployment: FailureDeployment) -> float:
    """Return the time at which the front is ready."""
    async with calling(deployment.url, {}, "") as prober:

        async def is_ready() -> bool:
            answer = await prober.call("readyz", "/readyz")
            return answer is not None and answer.status_code == httpx.codes.OK

        await waiting.until(is_ready, _GIVE_UP_SECONDS, what="the front to be ready")
    return _CLOCK.monotonic()


async def _time_of_recovery(
    redis_failure: RedisFailure, deployment: FailureDeployment, clients: Clients
) -> float:
    """Return the time at which the first message sent after the failure is answered."""
    async with asyncio.timeout(_GIVE_UP_SECONDS):
        if not redis_failure.loses_all:
            return await _time_of_answer(clients)
        # All accounts are gone: a new one is created.
        name = f"b{ids.new_id()[-10:].lower()}"
        async with calling(deployment.url, await deployment.open(name), name) as new_clients:
            return await _time_of_answer(new_clients)


async def _time_of_answer(clients: Clients) -> float:
    receipt = await clients.send()
    assert receipt is not None
    status = await clients.end(receipt)
    assert status["state"] == "completed", status
    return _CLOCK.monotonic()


async def _last_statuses(clients: Clients) -> dict[str, Json | None]:
    """Return the last status of each accepted message; None where it has none."""

    async def final(receipt: Json) -> Json | None:
        try:
            return await asyncio.wait_for(clients.end(receipt), _GIVE_UP_SECONDS)
        except TimeoutError:
            return await clients.poll(receipt)

    texts = list(clients.receipts)
    ends = await asyncio.gather(*(final(clients.receipts[text]) for text in texts))
    return dict(zip(texts, ends, strict=True))


def _lost(last_statuses: dict[str, Json | None]) -> list[str]:
    """Return the accepted messages that were not answered."""
    return [
        f"{text}: {status and (status['state'], status['stage'], status['failure'])}"
        for text, status in last_statuses.items()
        if status is None or status["state"] != "completed"
    ]


def _wrong_answers(
    clients: Clients, long: Json, last_statuses: dict[str, Json | None]
) -> list[str]:
    """Return wrong answers: other than the upstream gave, or one generation for two messages."""
    found = [
        f"{text} was answered {status['result']['content']!r}"
        for text, status in last_statuses.items()
        if status is not None and status["result"]["content"] != _expected(text)
    ]
    kept = [receipt["message_id"] for receipt in clients.receipts.values()]
    if len(set(kept)) < len(kept):
        found.append("two messages are one generation")
    status = next(last_statuses[text] for text, each in clients.receipts.items() if each == long)
    if status is not None and clients.followed_text() != status["result"]["content"]:
        found.append(f"a follower has {clients.followed_text()!r}")
    if not clients.received or clients.received[-1].name != "completed":
        found.append(f"a stream ended with {clients.received[-1:]}")
    return found


def _expected(text: str) -> str:
    _, is_slow, tokens = text.partition("[tokens=")
    if not is_slow:
        return f"You said: {text}"
    return " ".join(f"word{n}" for n in range(int(tokens.partition(" ")[0])))
