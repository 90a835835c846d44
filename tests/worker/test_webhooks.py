"""Deliveries against real receivers: what is sent, what answers mean, and what holds up whom."""

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Final

import msgspec
import pytest
from standardwebhooks import Webhook
from structlog.testing import capture_logs

from shared.redis import functions, keys
from shared.redis.functions import (
    ReplayDeliveryAsk,
    RotateWebhookSecretAsk,
    SendTestEventAsk,
)
from shared.settings import EgressSettings
from shared.stores import webhooks
from shared.wire.webhook import new_secret
from tests.support import waiting
from tests.support.redis_functions import RedisFunctions
from tests.support.system import System
from tests.support.webhook_receiver import Receiver, drip, hang, reset, status
from tests.worker.webhook_scene import WebhookScene

pytestmark = pytest.mark.each_once

_DAY_MS: Final = 86_400_000
Made = Callable[..., WebhookScene]


@pytest.fixture
async def receivers() -> AsyncIterator[list[Receiver]]:
    """Return five receivers, which answer 200."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Receiver()) for _ in range(5)]


@pytest.fixture
def receiver(receivers: list[Receiver]) -> Receiver:
    return receivers[0]


@pytest.fixture
def scene(system: System, receivers: list[Receiver]) -> WebhookScene:
    """Return an account and its deliverers in the last partition."""
    queue = RedisFunctions(
        system.redis, system.settings.redis, system.settings.redis.partitions - 1
    )
    return WebhookScene(queue, system.settings, *receivers)


def _with(scene: WebhookScene, **changes: object) -> None:
    scene.settings = msgspec.structs.replace(
        scene.settings, webhooks=msgspec.structs.replace(scene.settings.webhooks, **changes)
    )


async def test_an_end_is_delivered_once_and_its_signature_verifies(
    scene: WebhookScene, receiver: Receiver
) -> None:
    await scene.set_webhook(receiver.url)
    _with(scene, public_url="https://api.example.com/")
    ticket = await scene.end_one()
    deliverer = scene.deliverer()
    for _ in range(2):
        await scene.deliver(deliverer)
    [received] = receiver.received
    assert Webhook(scene.secret).verify(received.body, received.headers) == received.payload
    assert received.payload.keys() == {"type", "timestamp", "data"}
    about = received.payload["data"]
    assert received.payload["type"] == "generation.cancelled"
    assert about["id"] == ticket.id
    assert about["url"] == f"https://api.example.com/api/v1/generate/{ticket.id}/status"
    assert received.id == f"{ticket.id}-{about['event_id']}"
    assert received.headers["content-type"] == "application/json"
    [delivery] = await scene.deliveries()
    assert (delivery.id, delivery.state) == (received.id, "delivered")
    [attempt] = delivery.attempts
    assert attempt is not None
    assert (attempt.status, attempt.error) == (200, "")


async def test_both_secrets_sign_for_a_day_after_a_rotation(
    scene: WebhookScene, receiver: Receiver
) -> None:
    await scene.set_webhook(receiver.url)
    fresh = new_secret()
    ask = RotateWebhookSecretAsk(account="ann", secret=fresh, request="one", former_ms=_DAY_MS)
    for _ in range(2):
        assert await functions.rotate_webhook_secret(scene.queue.redis, scene.queue.root, ask)
    again = msgspec.structs.replace(ask, secret=new_secret())
    assert not await functions.rotate_webhook_secret(scene.queue.redis, scene.queue.root, again)
    await scene.end_one()
    deliverer = scene.deliverer()
    await scene.deliver(deliverer)
    received = receiver.received[-1]
    for secret in (scene.secret, fresh):
        assert Webhook(secret).verify(received.body, received.headers)
    name = keys.WEBHOOK(scene.queue.root, "ann")
    await scene.queue.redis.call("HINCRBY", name, "former_until", -_DAY_MS)
    await scene.end_one()
    await scene.deliver(deliverer)
    assert receiver.received[-1].headers["webhook-signature"].count("v1,") == 1
    assert Webhook(fresh).verify(receiver.received[-1].body, receiver.received[-1].headers)


async def test_a_receiver_that_fails_is_called_again_with_the_same_id_and_body(
    scene: WebhookScene, receiver: Receiver
) -> None:
    await scene.set_webhook(receiver.url)
    await scene.end_one()
    deliverer = scene.deliverer()
    for answer in (status(500, "no " * 1_000), status(302, location=receiver.url), reset):
        receiver.answer = answer
        await scene.deliver(deliverer)
        await scene.deliver(deliverer)
        await scene.pass_time()
    receiver.answer = status(204)
    await scene.deliver(deliverer)
    assert len(set(receiver.ids)) == 1
    assert len({each.body for each in receiver.received}) == 1
    [delivery] = await scene.deliveries()
    attempts = [each for each in delivery.attempts if each]
    assert [each.status for each in attempts] == [500, 302, None, 204]
    assert len(attempts[0].answer) == 1_024
    assert attempts[2].error
    assert delivery.state == "delivered"


async def test_attempts_end_after_a_day(scene: WebhookScene, receiver: Receiver) -> None:
    await scene.set_webhook(receiver.url)
    receiver.answer = status(503)
    await scene.end_one()
    deliverer = scene.deliverer()
    await scene.deliver(deliverer)
    await scene.grow_old(_DAY_MS)
    await scene.pass_time()
    with capture_logs() as logged:
        await scene.deliver(deliverer)
    [delivery] = await scene.deliveries()
    assert (delivery.state, delivery.reason, len(delivery.attempts)) == ("failed", "too_late", 2)
    assert "delivery failed" in [each["event"] for each in logged]
    await scene.pass_time()
    await scene.deliver(deliverer)
    assert len(receiver.received) == 2


async def test_gone_disables_the_webhook_until_it_is_set_again(
    scene: WebhookScene, receiver: Receiver
) -> None:
    await scene.set_webhook(receiver.url)
    receiver.answer = status(410)
    for _ in range(3):
        await scene.end_one()
    deliverer = scene.deliverer()
    with capture_logs() as logged:
        await scene.deliver(deliverer)
    assert any("410" in each["event"] for each in logged)
    reasons = {each.reason for each in await scene.deliveries()}
    assert reasons <= {"gone", "disabled"}
    assert "gone" in reasons
    before = len(receiver.received)
    await scene.end_one()
    await scene.deliver(deliverer)
    assert len(receiver.received) == before
    receiver.answer = status(200)
    await scene.set_webhook(receiver.url)
    await scene.end_one()
    await scene.deliver(deliverer)
    assert len(receiver.received) == before + 1


async def test_a_request_may_name_its_own_receiver(
    scene: WebhookScene, receivers: list[Receiver]
) -> None:
    """Without a webhook of the account, and beside one; a 410 there ends that delivery alone."""
    account, own = receivers[:2]
    deliverer = scene.deliverer()
    first = await scene.end_one(webhook_url=own.url)
    await scene.deliver(deliverer)
    assert [each.payload["data"]["id"] for each in own.received] == [first.id]
    secret = await scene.queue.redis.call("HGET", keys.WEBHOOK(scene.queue.root, "ann"), "secret")
    assert Webhook(secret.decode()).verify(own.received[0].body, own.received[0].headers)
    await scene.set_webhook(account.url)
    own.answer = status(410)
    second = await scene.end_one(webhook_url=own.url)
    with capture_logs():
        await scene.deliver(deliverer)
    third = await scene.end_one(webhook_url=account.url)
    await scene.deliver(deliverer)
    assert [each.payload["data"]["id"] for each in account.received] == [second.id, third.id]
    assert len(own.received) == 2
    assert own.received[1].id == account.received[0].id + "-r"


async def test_only_events_that_are_wanted_are_delivered(
    scene: WebhookScene, receiver: Receiver
) -> None:
    await scene.set_webhook(receiver.url, events=("generation.completed", "approval.requested"))
    await scene.end_one()
    ticket = await scene.queue.submit_alone()
    await scene.queue.complete(await scene.queue.claim_one())
    test = SendTestEventAsk(account="ann", request="T-1", key="key-1", log_ms=_DAY_MS)
    for _ in range(2):
        assert await functions.send_test_event(scene.queue.redis, scene.queue.root, test)
    await scene.deliver(scene.deliverer())
    sent = [(each.payload["type"], each.payload["data"]["id"]) for each in receiver.received]
    assert sorted(sent) == [("generation.completed", ticket.id), ("webhook.test", "T-1")]


async def test_urls_that_must_not_be_called_are_never_tried_again(
    scene: WebhookScene, receiver: Receiver
) -> None:
    scene.settings = msgspec.structs.replace(
        scene.settings, egress=EgressSettings(ports=(receiver.port,))
    )
    await scene.set_webhook(receiver.url)
    await scene.end_one()
    with capture_logs() as logged:
        await scene.deliver(scene.deliverer())
    assert [each["event"] for each in logged] == ["delivery failed"]
    [delivery] = await scene.deliveries()
    assert (delivery.state, delivery.reason) == ("failed", "refused")
    assert "127.0.0.1" not in str(delivery.attempts)
    assert receiver.received == []


async def test_a_receiver_that_hangs_or_drips_holds_up_nobody_elses(
    scene: WebhookScene, receivers: list[Receiver]
) -> None:
    """More events than calls at once, and one call at a time once the receiver has failed."""
    hanging, dripping, own, *_ = receivers
    hanging.answer, dripping.answer = hang, drip
    _with(scene, call_seconds=0.3)
    await scene.set_webhook(hanging.url)
    await scene.set_webhook(own.url, account="bob")
    for _ in range(20):
        await scene.end_one(webhook_url=dripping.url)
    for _ in range(10):
        await scene.end_one("bob")
    deliverer = scene.deliverer()
    looks = 0
    while len(own.received) < 10 or not (hanging.received and dripping.received):
        await deliverer.deliver()
        await deliverer.until_next()
        looks += 1
        assert looks < 200
    assert len(hanging.received) + len(dripping.received) < 40
    assert max(each.open_most for each in receivers) <= 4
    await deliverer.drain(30.0)
    await waiting.until(lambda: hanging.open + dripping.open == 0, what="calls to end")
    hanging.open_most = dripping.open_most = 0
    await scene.pass_time()
    await deliverer.deliver()
    assert deliverer.calls == 2
    await deliverer.close()


async def test_an_account_waits_in_its_log_while_too_much_is_undelivered(
    scene: WebhookScene, receiver: Receiver
) -> None:
    _with(scene, undelivered_max=3, kept_max=5)
    await scene.set_webhook(receiver.url)
    receiver.answer = status(500)
    tickets = [await scene.end_one() for _ in range(12)]
    deliverer = scene.deliverer()
    await scene.deliver(deliverer)
    assert len(await scene.deliveries(state="pending")) == 3
    receiver.answer = status(200)
    for _ in range(8):
        await scene.pass_time()
        await scene.deliver(deliverer)
    delivered = {each.payload["data"]["id"] for each in receiver.received}
    assert delivered == {each.id for each in tickets}
    assert len(await scene.deliveries()) <= 5


async def test_a_worker_that_dies_leaves_its_delivery_to_another(
    scene: WebhookScene, receiver: Receiver
) -> None:
    await scene.set_webhook(receiver.url)
    receiver.answer = hang
    await scene.end_one()
    dying, heir = scene.deliverer(), scene.deliverer()
    await dying.deliver()
    await scene.received(receiver, 1)
    await dying.close()
    receiver.answer = status(200)
    await scene.deliver(heir)
    assert len(receiver.received) == 1
    await scene.pass_time()
    await scene.deliver(heir)
    assert len(set(receiver.ids)) == 1
    [delivery] = await scene.deliveries()
    assert delivery.state == "delivered"
    assert [each is None for each in delivery.attempts] == [True, False]


async def test_a_late_result_of_an_attempt_that_was_replaced_changes_nothing(
    scene: WebhookScene, receiver: Receiver
) -> None:
    await scene.set_webhook(receiver.url)
    receiver.answer = hang
    await scene.end_one()
    slow, heir = scene.deliverer(), scene.deliverer()
    await slow.deliver()
    await scene.received(receiver, 1)
    await scene.pass_time()
    await heir.deliver()
    await scene.received(receiver, 2)
    await slow.close()
    [delivery] = await scene.deliveries()
    ask = functions.EndDeliveryAsk(
        account="ann",
        target=await _target(scene),
        id=delivery.id,
        attempt=1,
        outcome="failed",
        calls_per_host=4,
    )
    attempt = msgspec.msgpack.encode({"at": 1, "duration_ms": 1, "status": 500})
    assert (
        await functions.end_delivery(scene.queue.redis, scene.queue.root, ask, attempt) == "pending"
    )
    await heir.close()
    receiver.answer = status(200)
    await scene.pass_time()
    await scene.deliver(scene.deliverer())
    [delivery] = await scene.deliveries()
    assert delivery.state == "delivered"
    assert len(delivery.attempts) == 3


async def _target(scene: WebhookScene) -> str:
    [name] = await scene.queue.redis.call("ZRANGE", keys.DUE_TARGETS(scene.queue.root), 0, -1)
    return str(name.decode().split(":")[1])


async def test_a_delivery_is_replayed_with_its_id_to_where_the_webhook_is_now(
    scene: WebhookScene, receivers: list[Receiver]
) -> None:
    before, now, *_ = receivers
    await scene.set_webhook(before.url)
    await scene.end_one()
    deliverer = scene.deliverer()
    await scene.deliver(deliverer)
    await scene.set_webhook(now.url)
    [delivery] = await scene.deliveries()
    ask = ReplayDeliveryAsk(
        account="ann", id=delivery.id, request="R-1", give_up_ms=_DAY_MS, keep_ms=_DAY_MS
    )
    place = (scene.queue.redis, scene.queue.root)
    for _ in range(2):
        assert await functions.replay_delivery(*place, ask) == "replayed"
        await scene.deliver(deliverer)
    assert now.ids == before.ids == [delivery.id]
    unknown = msgspec.structs.replace(ask, id="other")
    assert await functions.replay_delivery(*place, unknown) == "unknown"
    await webhooks.delete(*place, "ann")
    again = msgspec.structs.replace(ask, request="R-2")
    assert await functions.replay_delivery(*place, again) == "unknown"


async def test_what_waits_follows_the_webhook_to_its_new_url(
    scene: WebhookScene, receivers: list[Receiver]
) -> None:
    broken, mended, *_ = receivers
    broken.answer = status(500)
    await scene.set_webhook(broken.url)
    await scene.end_one()
    deliverer = scene.deliverer()
    await scene.deliver(deliverer)
    await scene.set_webhook(mended.url)
    await scene.pass_time()
    await scene.deliver(deliverer)
    assert mended.ids == broken.ids


async def test_a_deleted_webhook_takes_its_deliveries_with_it(
    scene: WebhookScene, receivers: list[Receiver]
) -> None:
    account, own, *_ = receivers
    account.answer = own.answer = status(500)
    await scene.set_webhook(account.url)
    await scene.end_one(webhook_url=own.url)
    deliverer = scene.deliverer()
    await scene.deliver(deliverer)
    assert await webhooks.delete(scene.queue.redis, scene.queue.root, "ann")
    assert not await webhooks.delete(scene.queue.redis, scene.queue.root, "ann")
    [left] = await scene.deliveries()
    assert left.url == own.url
    await scene.end_one()
    await scene.pass_time()
    own.answer = status(200)
    await scene.deliver(deliverer)
    assert (len(account.received), len(own.received)) == (1, 2)
    waiting_names = await scene.queue.redis.call("KEYS", f"{scene.queue.root}*-due:*")
    assert waiting_names == []


async def test_a_damaged_key_of_one_account_stops_no_other(
    scene: WebhookScene, receiver: Receiver
) -> None:
    for account in ("ann", "bob", "cid"):
        await scene.set_webhook(receiver.url, account)
        await scene.end_one(account)
    redis, root = scene.queue.redis, scene.queue.root
    await redis.call("DEL", keys.WEBHOOK(root, "ann"))
    await redis.call("SET", keys.WEBHOOK(root, "ann"), "theirs")
    origin = receiver.url.removesuffix("/hook").encode()
    target = hashlib.sha1(origin, usedforsecurity=False).hexdigest()[:16]
    await redis.call("SET", keys.DELIVERIES_SENT(root, "bob", target), "theirs")
    with capture_logs() as logged:
        await scene.deliver(scene.deliverer())
    faults = [each["fault"] for each in logged if each["log_level"] == "error"]
    assert [fault.split(":")[0].split(" ")[0] for fault in faults] == ["ann", "bob"]
    assert len(receiver.received) == 1
    for name in (keys.WEBHOOK(root, "ann"), keys.DELIVERIES_SENT(root, "bob", target)):
        await redis.call("DEL", name)
    await scene.pass_time()
    await scene.deliver(scene.deliverer())
    assert len(receiver.received) == 2


async def test_every_key_of_a_delivery_ends(scene: WebhookScene, receiver: Receiver) -> None:
    await scene.set_webhook(receiver.url)
    receiver.answer = status(500)
    await scene.end_one()
    await scene.deliver(scene.deliverer())
    [delivery] = await scene.deliveries()
    root = scene.queue.root
    for name in (keys.DELIVERY(root, "ann", delivery.id), keys.DELIVERIES(root, "ann")):
        assert 6 * _DAY_MS < await scene.queue.redis.call("PTTL", name) <= 7 * _DAY_MS


async def test_a_running_worker_delivers_within_moments(
    system: System, receiver: Receiver, scene: WebhookScene
) -> None:
    from tests.worker.running_workers import running_worker  # noqa: PLC0415  only here

    system.settings = scene.settings
    await scene.set_webhook(receiver.url)
    async with running_worker(system):
        ticket = await scene.end_one()
        await scene.received(receiver, 1)
        await waiting.until(lambda: _is_delivered(scene), what="the delivery to be stored")
    assert receiver.received[0].payload["data"]["id"] == ticket.id


async def _is_delivered(scene: WebhookScene) -> bool:
    return [each.state for each in await scene.deliveries()] == ["delivered"]


async def test_the_worker_that_ends_a_generation_delivers_its_event_at_once(
    scene: WebhookScene, receiver: Receiver
) -> None:
    """Where nobody wants the event, no look is asked for."""
    wants = []
    for account, webhook_url in (("bob", None), ("bob", receiver.url), ("ann", None)):
        if account == "ann":
            await scene.set_webhook(receiver.url)
        await scene.queue.submit_alone(account, webhook=webhook_url)
        settled = await scene.queue.complete(await scene.queue.claim_one())
        assert settled is not None
        wants.append((settled.wants_delivery, settled.wants_feed, settled.wants_pack))
    assert wants == [(False,) * 3, (True, False, False), (True, False, False)]


async def test_looks_that_find_nothing_are_further_apart(
    scene: WebhookScene, receiver: Receiver
) -> None:
    """An idle worker asks Redis less, until there is something to deliver again."""
    await scene.set_webhook(receiver.url)
    deliverer, apart = scene.deliverer(), []
    for _ in range(6):
        await deliverer.deliver()
        apart.append(deliverer.look_seconds)
    assert apart == sorted(apart)
    assert apart[0] < apart[-1] == 2.0
    await scene.end_one()
    await deliverer.deliver()
    assert deliverer.look_seconds == 0.5
    await deliverer.drain(30.0)
    assert len(receiver.received) == 1
