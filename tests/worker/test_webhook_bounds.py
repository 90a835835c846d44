"""What an account's deliveries take at most, whatever its receivers do."""

from asyncio import StreamWriter
from collections.abc import AsyncIterator
from typing import Final

import msgspec
import pytest

from shared.redis import functions, keys
from shared.redis.functions import (
    EndDeliveryAsk,
    Outcome,
    ReplayDeliveryAsk,
    RotateWebhookSecretAsk,
    TakeDeliveriesAsk,
    TakenDelivery,
)
from shared.stores import webhooks
from shared.wire.webhook import ANSWER_BYTES_MAX, Attempt, encode_attempt, new_secret
from tests.support.redis_functions import RedisFunctions
from tests.support.system import System
from tests.support.webhook_receiver import Receiver, status
from tests.worker.webhook_scene import WebhookScene

_BODY: Final = "no " * 300


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture
def scene(system: System, receiver: Receiver) -> WebhookScene:
    """Return an account and its deliverers in the last partition."""
    queue = RedisFunctions(
        system.redis, system.settings.redis, system.settings.redis.partitions - 1
    )
    return WebhookScene(queue, system.settings, receiver)


def _with(scene: WebhookScene, **changes: object) -> None:
    scene.settings = msgspec.structs.replace(
        scene.settings, webhooks=msgspec.structs.replace(scene.settings.webhooks, **changes)
    )


async def _take(scene: WebhookScene, count: int = 64) -> list[TakenDelivery]:
    ask = TakeDeliveriesAsk.of(scene.settings.webhooks, count, {}, new_secret())
    found = await functions.take_deliveries(scene.queue.redis, scene.queue.root, ask)
    return found.deliveries


async def _end(scene: WebhookScene, taken: TakenDelivery, outcome: Outcome) -> None:
    ask = EndDeliveryAsk(
        account=taken.account,
        target=taken.target,
        id=taken.id,
        attempt=taken.attempt,
        outcome=outcome,
        retry_ms=1_000,
        calls_per_host=4,
    )
    attempt = encode_attempt(Attempt(at=1, duration_ms=2, status=500, answer=_BODY))
    await functions.end_delivery(scene.queue.redis, scene.queue.root, ask, attempt)


async def test_a_delivery_keeps_its_latest_attempts_and_the_answers_of_a_few(
    scene: WebhookScene,
) -> None:
    """A delivery can be replayed for ever, with a receiver that answers as much as is kept."""
    await scene.set_webhook("https://example.com/hook")
    await scene.end_one()
    for _ in range(105):
        [taken] = await _take(scene)
        await _end(scene, taken, "retry")
        await scene.pass_time()
    [delivery] = await scene.deliveries()
    assert (delivery.first_attempt, len(delivery.attempts)) == (6, 100)
    assert [each and each.answer for each in delivery.attempts] == [""] * 90 + [_BODY] * 10
    assert {each and each.status for each in delivery.attempts} == {500}
    name = keys.DELIVERY(scene.queue.root, "ann", delivery.id)
    assert await scene.queue.redis.call("MEMORY", "USAGE", name, "SAMPLES", 0) < 25_000


async def test_bytes_that_are_no_text_take_no_more_than_others(
    scene: WebhookScene, receiver: Receiver
) -> None:
    async def answer(_: object, writer: StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2000\r\n\r\n" + b"\xff" * 2_000)

    receiver.answer = answer
    await scene.set_webhook(receiver.url)
    await scene.end_one()
    await scene.deliver(scene.deliverer())
    [delivery] = await scene.deliveries()
    [attempt] = delivery.attempts
    assert attempt is not None
    assert ANSWER_BYTES_MAX - 4 < len(attempt.answer.encode()) <= ANSWER_BYTES_MAX


async def test_deliveries_under_way_do_not_keep_those_that_have_ended(
    scene: WebhookScene, receiver: Receiver
) -> None:
    """The oldest are under way for a day; behind them, others end and are deleted in time."""
    _with(scene, kept_max=5)
    receiver.answer = status(500)
    for _ in range(40):
        await scene.end_one(webhook_url=receiver.url)
    await scene.deliver(scene.deliverer())
    await scene.set_webhook("https://example.com/hook")
    for _ in range(120):
        await scene.end_one()
        for taken in await _take(scene):
            await _end(scene, taken, "delivered")
    states = [each.state for each in await scene.deliveries()]
    assert states.count("pending") == 40
    assert states.count("delivered") < 20


async def test_attempts_whose_workers_died_end_after_a_day_too(scene: WebhookScene) -> None:
    """Nobody stores how they ended."""
    await scene.set_webhook("https://example.com/hook")
    await scene.end_one()
    for number in range(3):
        assert [each.attempt for each in await _take(scene)] == [number + 1]
        await scene.pass_time()
    await scene.grow_old(100_000_000)
    assert await _take(scene) == []
    [delivery] = await scene.deliveries()
    assert (delivery.state, delivery.reason) == ("failed", "too_late")


async def test_every_former_secret_signs_for_its_day(scene: WebhookScene) -> None:
    """Also where a rotation is made again, because its answer was lost."""
    await scene.set_webhook("https://example.com/hook")
    secrets = [scene.secret]
    for number in range(6):
        secrets.insert(0, new_secret())
        ask = RotateWebhookSecretAsk(
            account="ann", secret=secrets[0], request=f"r{number}", former_ms=86_400_000
        )
        await functions.rotate_webhook_secret(scene.queue.redis, scene.queue.root, ask)
        await scene.end_one()
        [taken] = await _take(scene)
        assert taken.secrets == tuple(secrets[:5])
        await _end(scene, taken, "delivered")
    name = keys.WEBHOOK(scene.queue.root, "ann")
    earlier = f"{secrets[2]} 9999999999999 {secrets[3]} 1"
    await scene.queue.redis.call("HSET", name, "former_until", 1, "earlier", earlier)
    await scene.end_one()
    [taken] = await _take(scene)
    assert taken.secrets == (secrets[0], secrets[2])


async def test_an_operator_reads_what_deliveries_came_to(scene: WebhookScene) -> None:
    root, redis = scene.queue.root, scene.queue.redis
    before = await webhooks.load(redis, [root])
    await scene.set_webhook("https://example.com/hook")
    outcomes: tuple[Outcome, ...] = ("delivered", "failed", "retry", "gone")
    for _ in outcomes:
        await scene.end_one()
    for taken, outcome in zip(await _take(scene), outcomes, strict=True):
        await _end(scene, taken, outcome)
    found = await webhooks.load(redis, [root])
    counts = (found.delivered - before.delivered, found.failed - before.failed)
    assert (counts, found.undelivered, found.disabled) == ((1, 2), 1, 1)
    [waiting] = await scene.deliveries(state="pending")
    await redis.call("ZADD", keys.UNDELIVERED(root), "XX", 1, f"ann:{waiting.id}")
    # Left behind by a process that does not know the lists.
    await redis.call("ZADD", keys.UNDELIVERED(root), 0, "ann:gone")
    await redis.call("ZADD", keys.DISABLED_WEBHOOKS(root), 0, "bob")
    assert await _take(scene) == []
    await scene.pass_time()
    late = await webhooks.load(redis, [root])
    assert (late.undelivered, late.disabled) == (1, 1)
    assert abs(late.oldest_seconds - await scene.queue.now_ms() // 1000) < 60
    assert late.late_seconds > 1_000
    await scene.set_webhook("https://example.com/hook")
    [again] = await _take(scene)
    await _end(scene, again, "delivered")
    done = await webhooks.load(redis, [root])
    assert done[2:] == (0, 0, 0, 0)


async def test_a_webhook_with_many_deliveries_is_deleted_piece_by_piece(
    scene: WebhookScene,
) -> None:
    """Those to the URLs of single requests stay, wherever they are in the list."""
    await scene.set_webhook("https://example.com/hook")
    redis, root = scene.queue.redis, scene.queue.root
    for number in range(450):
        await scene.end_one(webhook_url="https://example.org/" if number % 50 == 0 else None)
    for _ in range(10):
        await _take(scene, 0)
    assert len(await scene.deliveries()) == 459
    is_deleted, offset = await functions.delete_webhook(
        redis, root, functions.DeleteWebhookAsk(account="ann", offset=0)
    )
    assert (is_deleted, offset > 0) == (True, True)
    assert len(await scene.deliveries()) > 200
    assert not await webhooks.delete(redis, root, "ann")
    left = await scene.deliveries()
    assert [each.url for each in left] == ["https://example.org/"] * 9
    assert await redis.call("HGET", keys.WEBHOOK(root, "ann"), "open") == b"9"


async def test_a_repeated_replay_sends_nothing_though_another_came_since(
    scene: WebhookScene,
) -> None:
    redis, root = scene.queue.redis, scene.queue.root
    await scene.set_webhook("https://example.com/hook")
    await scene.end_one()
    [taken] = await _take(scene)
    await _end(scene, taken, "delivered")
    await redis.call("HSET", keys.IDEMPOTENCY(root, "ann", "hash"), "api_key", "first")
    for request, key, count in (("first", "hash", 1), ("second", None, 1), ("first", "hash", 0)):
        ask = ReplayDeliveryAsk(
            account="ann",
            id=taken.id,
            request=request,
            give_up_ms=86_400_000,
            keep_ms=86_400_000,
            idempotency=key,
        )
        assert await functions.replay_delivery(redis, root, ask) == "replayed"
        again = await _take(scene)
        assert [each.id for each in again] == [taken.id] * count
        for each in again:
            await _end(scene, each, "delivered")
    await redis.call("DEL", keys.IDEMPOTENCY(root, "ann", "hash"))
