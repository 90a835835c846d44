"""Receivers of webhooks that misbehave: `python -m tests.chaos.webhook_receivers`.

First a table: what a receiver does, how often it was called within a day (whose hours pass at
once), and what became of the delivery; beside each, another account's receiver that works must have
its event meanwhile. Then `--events N` ends of generations for a receiver that fails at random, with
two deliverers: each event must arrive at least once, with one id of its own.

The exit code is 1 if anything differs from what is promised.
"""

import asyncio
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, NamedTuple

import uvloop

from shared import ids
from shared.clock import SystemClock
from shared.redis import library
from shared.redis.client import Redis
from shared.redis.functions import ReplayDeliveryAsk, replay_delivery
from shared.settings import LogSettings, RedisSettings, Settings, WebhookSettings
from shared.telemetry import logs
from shared.wire.webhook import Delivery
from tests.support import command_line
from tests.support.redis_functions import RedisFunctions
from tests.support.redis_server import Server
from tests.support.webhook_receiver import (
    Answer,
    Received,
    Receiver,
    drip,
    hang,
    reset,
    slow_body,
    status,
)
from tests.worker.webhook_scene import WebhookScene

# Long enough for a receiver that works, on a machine that is busy with other tests.
_CALL_SECONDS: Final = 1.5
_DAY_MS: Final = 86_400_000
_FAILING_SHARE: Final = 0.3
HANGS: Final = "hangs for a day"
# 5 s doubled to an hour, of which up to half is left out: so many fit into a day.
_ATTEMPTS_A_DAY: Final = range(28, 65)


class Row(NamedTuple):
    """What a receiver answers, in turn, the last for ever; and what must become of a delivery."""

    name: str
    answers: Sequence[Answer]
    state: str
    reason: str | None
    calls: range


class Outcome(NamedTuple):
    """What became of a row's delivery, and what is wrong with that."""

    row: Row
    calls: int
    state: str
    reason: str | None
    statuses: str
    faults: tuple[str, ...]


def rows(private: Receiver) -> list[Row]:
    """Return the rows; `private` must never be called."""
    delivered = ("delivered", None)
    once = range(1, 2)
    return [
        Row("answers 204", [status(204)], *delivered, once),
        Row("fails twice, then works", [status(500), status(503), status(200)], *delivered,
            range(3, 4)),
        Row("fails for a day", [status(500)], "failed", "too_late", _ATTEMPTS_A_DAY),
        Row(HANGS, [hang], "failed", "too_late", _ATTEMPTS_A_DAY),
        Row("resets, then works", [reset, reset, status(200)], *delivered, range(3, 4)),
        Row("a byte a second", [drip, status(200)], *delivered, range(2, 3)),
        Row("answers, with a body a byte a second", [slow_body], *delivered, once),
        Row("redirects to a private address", [status(302, location=private.url), status(200)],
            *delivered, range(2, 3)),
        Row("answers 410", [status(410)], "failed", "gone", once),
        Row("answers 200 with 10 MB", [status(200, "x" * 10_000_000)], *delivered, once),
    ]  # fmt: skip


async def table(place: "Place", *, is_short: bool = False) -> list[Outcome]:
    """Send one event to each kind of receiver, and return what became of it.

    A short one leaves out the receiver that is waited for at each of fifty calls.
    """
    async with Receiver() as private:
        chosen = [row for row in rows(private) if not (is_short and row.name == HANGS)]
        return [await _outcome(place, row, private) for row in chosen]


async def _outcome(place: "Place", row: Row, private: Receiver) -> Outcome:
    async with Receiver() as receiver, Receiver() as neighbour:
        left = list(row.answers)

        async def answer(received: Received, writer: asyncio.StreamWriter) -> None:
            await (left.pop(0) if len(left) > 1 else left[0])(received, writer)

        receiver.answer = answer
        scene = place.scene(receiver, neighbour)
        account, other = ids.new_id(), ids.new_id()
        await scene.set_webhook(receiver.url, account)
        await scene.set_webhook(neighbour.url, other)
        await scene.end_one(account)
        await scene.end_one(other)
        deliverer = scene.deliverer()
        faults = []
        await scene.deliver(deliverer)
        if len(neighbour.received) != 1:
            faults.append("the neighbour's event did not arrive")
        while (delivery := await _delivery(scene, account)).state == "pending":
            await scene.skip_wait()
            await scene.deliver(deliverer)
        if (delivery.state, delivery.reason) != (row.state, row.reason):
            faults.append(f"{delivery.state} {delivery.reason}")
        if len(receiver.received) not in row.calls or len(set(receiver.ids)) != 1:
            faults.append(f"{len(receiver.received)} calls, {len(set(receiver.ids))} ids")
        if len(delivery.attempts) != len(receiver.received) or None in delivery.attempts:
            faults.append(f"{len(delivery.attempts)} attempts are listed")
        if private.received:
            faults.append("the private address was called")
        faults += await _replay(scene, account, delivery, receiver)
        return Outcome(
            row,
            len(delivery.attempts),
            delivery.state,
            delivery.reason,
            _statuses(delivery),
            tuple(faults),
        )


async def _delivery(scene: WebhookScene, account: str) -> Delivery:
    [found] = await scene.deliveries(account)
    return found


def _statuses(delivery: Delivery) -> str:
    counts = Counter(each.status if each else None for each in delivery.attempts)
    return ", ".join(f"{count} x {code or 'no answer'}" for code, count in counts.items())


async def _replay(
    scene: WebhookScene, account: str, delivery: Delivery, receiver: Receiver
) -> list[str]:
    """Replay the delivery to a receiver that works now; a disabled webhook is set again before."""
    receiver.answer = status(200)
    await scene.set_webhook(receiver.url, account)
    ask = ReplayDeliveryAsk(
        account=account, id=delivery.id, request=ids.new_id(), give_up_ms=_DAY_MS, keep_ms=_DAY_MS
    )
    await replay_delivery(scene.queue.redis, scene.queue.root, ask)
    await scene.deliver(scene.deliverer())
    is_same = len(set(receiver.ids)) == 1 and (await _delivery(scene, account)).state == "delivered"
    return [] if is_same else ["a replay does not arrive with the same id"]


class Tally(NamedTuple):
    """Events, calls, and what is wrong."""

    events: int
    calls: int
    repeated: int
    seconds: float
    faults: tuple[str, ...]


async def at_random(place: "Place", events: int, seed: int) -> Tally:
    """End generations for a receiver that fails at random, and deliver by two deliverers."""
    chance, clock = random.Random(seed), SystemClock()
    arrived: Counter[str] = Counter()
    id_of: dict[str, set[str]] = {}
    failing: tuple[Answer, ...] = (
        status(500), status(429), status(302, location="http://127.0.0.1:9/"), reset, hang,
    )  # fmt: skip
    async with Receiver() as receiver:

        async def answer(received: Received, writer: asyncio.StreamWriter) -> None:
            subject = received.payload["data"]["id"]
            id_of.setdefault(subject, set()).add(received.id)
            if chance.random() < _FAILING_SHARE:
                await chance.choices(failing, (10, 10, 10, 10, 1))[0](received, writer)
                return
            arrived[subject] += 1
            await status(200)(received, writer)

        receiver.answer = answer
        scene = place.scene(receiver)
        account = ids.new_id()
        await scene.set_webhook(receiver.url, account)
        began = clock.monotonic()
        expected = {(await scene.end_one(account)).id for _ in range(events)}
        deliverers = [scene.deliverer(), scene.deliverer()]
        while True:
            await asyncio.gather(*(scene.deliver(each) for each in deliverers))
            if not await scene.deliveries(account, state="pending"):
                break
            await scene.pass_time(_DAY_MS // 48)
        faults = [f"{len(expected - arrived.keys())} events never arrived"] * (
            not expected <= arrived.keys()
        )
        one_id = [subject for subject, found in id_of.items() if len(found) != 1]
        faults += [f"{len(one_id)} events have several ids"] * bool(one_id)
        unique = {next(iter(found)) for found in id_of.values()}
        faults += ["two events share an id"] * (len(unique) != len(id_of))
        return Tally(
            events,
            len(receiver.received),
            sum(count - 1 for count in arrived.values()),
            clock.monotonic() - began,
            tuple(faults),
        )


class Place(NamedTuple):
    """A server of its own, and the settings of those who use it."""

    redis: Redis
    settings: Settings

    def scene(self, *receivers: Receiver) -> WebhookScene:
        """Return a scene in which these receivers may be called."""
        queue = RedisFunctions(self.redis, self.settings.redis)
        return WebhookScene(queue, self.settings, *receivers)


@asynccontextmanager
async def running() -> AsyncIterator[Place]:
    """Run a server, and yield the place."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(Server())
        redis_settings = RedisSettings(url=server.url)
        redis = Redis(redis_settings)
        stack.push_async_callback(redis.close)
        await library.load(redis)
        webhooks = WebhookSettings(call_seconds=_CALL_SECONDS)
        yield Place(redis, Settings(redis=redis_settings, webhooks=webhooks))


async def _run(events: int, seed: int) -> bool:
    logs.configure(LogSettings(level="error"), process="webhook-receivers")
    async with running() as place:
        outcomes = await table(place)
        for each in outcomes:
            end = each.state if each.reason is None else f"{each.state} ({each.reason})"
            line = f"{each.row.name:<38} {each.calls:>3} calls: {each.statuses:<24} {end}"
            sys.stdout.write(f"{line}{''.join(f'  FAULT: {fault}' for fault in each.faults)}\n")
        tally = await at_random(place, events, seed)
    sys.stdout.write(
        f"seed {seed}: {tally.events:,} events, {tally.calls:,} calls, {tally.repeated} arrived"
        f" again, {tally.seconds:.0f} s, faults: {', '.join(tally.faults) or 'none'}\n"
    )
    return not tally.faults and not any(each.faults for each in outcomes)


def main() -> int:
    """Read the options, run, print."""
    parser = command_line.parser("tests.chaos.webhook_receivers", __doc__)
    parser.add_argument("--events", type=int, default=10_000, help="number of events")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return 0 if runner.run(_run(options.events, options.seed)) else 1


if __name__ == "__main__":
    sys.exit(main())
