"""Webhooks through the API: set, rotate, test, list, replay and delete; who may; whose they are."""

from typing import Final

import pytest
from standardwebhooks import Webhook

from shared.redis import keys
from shared.stores.webhooks import DeliveryLoad
from shared.wire.submission import WEBHOOK_WIRE
from tests.api.kombify_client import AI, CHAT, MANAGING, TIME, payload, refused
from tests.support.api_client import ApiClient, Json
from tests.support.redis_functions import RedisFunctions
from tests.support.system import System
from tests.support.waiting import until
from tests.support.webhook_receiver import Receiver, reachable

pytestmark = pytest.mark.each_once

HOOKS: Final = f"{AI}/webhooks"
CONFIG: Final = f"{HOOKS}/config"
DELIVERIES: Final = f"{HOOKS}/deliveries"
URL: Final = "https://example.com/hook"


async def _set(owner: ApiClient, url: str = URL, **fields: object) -> Json:
    return payload(await owner.put(CONFIG, json={"url": url, **fields}))


async def test_the_secret_is_shown_when_it_is_made_and_never_again(owner: ApiClient) -> None:
    made = await _set(owner, "HTTPS://Example.com:443/hook")
    assert made.keys() == {
        "url", "events", "secret", "former_secret_valid_until", "disabled_at", "created_at",
        "updated_at",
    }  # fmt: skip
    assert made["url"] == URL
    assert made["secret"].startswith("whsec_")
    assert "generation.completed" in made["events"]
    assert TIME.fullmatch(made["created_at"])
    again = await _set(owner, events=["batch.completed", "batch.completed"])
    assert (again["secret"], again["events"]) == (None, ["batch.completed"])
    assert payload(await owner.get(CONFIG)) == again
    assert made["secret"] not in str(payload(await owner.get(CONFIG)))


async def test_a_rotated_secret_is_shown_once_to_the_request_that_made_it(
    owner: ApiClient,
) -> None:
    """Also to an account without a webhook, whose requests name their own URLs."""
    header = {"idempotency-key": "one"}
    first = await owner.post(f"{CONFIG}/rotate", headers=header)
    secret = payload(first)["secret"]
    assert secret.startswith("whsec_")
    repeated = await owner.post(f"{CONFIG}/rotate", headers=header)
    assert payload(repeated) == {"secret": None}
    assert repeated.headers["idempotent-replayed"] == "true"
    assert (await _set(owner))["secret"] is None
    other = payload(await owner.post(f"{CONFIG}/rotate"))["secret"]
    assert other != secret
    assert TIME.fullmatch(payload(await owner.get(CONFIG))["former_secret_valid_until"])


async def test_a_repeated_request_gets_its_first_answer_though_others_came_since(
    owner: ApiClient,
) -> None:
    """A rotation that is repeated makes no third secret, a test no second event."""
    await _set(owner)
    for path, status in ((f"{CONFIG}/rotate", 200), (f"{HOOKS}/test", 202)):
        first, second = ({"idempotency-key": f"{name} {status}"} for name in ("one", "two"))
        made = payload(await owner.post(path, headers=first), status)
        other = payload(await owner.post(path, headers=second), status)
        before = payload(await owner.get(CONFIG)), payload(await owner.get(f"{AI}/events"))
        repeated = await owner.post(path, headers=first)
        assert repeated.headers["idempotent-replayed"] == "true"
        assert payload(repeated, status) == ({"secret": None} if status == 200 else made) != other
        after = payload(await owner.get(CONFIG)), payload(await owner.get(f"{AI}/events"))
        assert after == before


@pytest.mark.parametrize(
    ("body", "code", "named"),
    [
        ({}, "MISSING_FIELDS", "`url`"),
        ({"url": "example.com"}, "INVALID_FIELDS", "`url`"),
        ({"url": "http://127.0.0.1/"}, "INVALID_FIELDS", "`url`"),
        ({"url": "http://[::ffff:10.0.0.1]/"}, "INVALID_FIELDS", "`url`"),
        ({"url": "https://example.com:22/"}, "INVALID_FIELDS", "`url`"),
        ({"url": URL, "events": []}, "INVALID_FIELDS", "`events`"),
        ({"url": URL, "events": ["webhook.test"]}, "INVALID_FIELDS", "`events"),
        ({"url": URL, "secret": "mine"}, "INVALID_FIELDS", "`secret`"),
    ],
)
async def test_a_wrong_configuration_is_refused_by_its_field(
    owner: ApiClient, body: Json, code: str, named: str
) -> None:
    answer = await owner.put(CONFIG, json=body)
    assert named in refused(answer, 400, code)["message"]
    refused(await owner.get(CONFIG), 404, "NOT_FOUND")


async def test_without_a_webhook_there_is_nothing_to_read_test_or_delete(owner: ApiClient) -> None:
    refused(await owner.get(CONFIG), 404, "NOT_FOUND")
    refused(await owner.delete(CONFIG), 404, "NOT_FOUND")
    header = {"idempotency-key": "one"}
    refused(await owner.post(f"{HOOKS}/test", headers=header), 404, "NOT_FOUND")
    refused(await owner.get(f"{DELIVERIES}/unknown"), 404, "NOT_FOUND")
    refused(await owner.get(f"{DELIVERIES}/no%20id"), 404, "NOT_FOUND")
    refused(await owner.post(f"{DELIVERIES}/unknown/replay", headers=header), 404, "NOT_FOUND")
    # The refusals are not stored.
    await _set(owner)
    payload(await owner.post(f"{HOOKS}/test", headers=header), 202)
    assert (await owner.delete(CONFIG)).status_code == 204
    refused(await owner.get(CONFIG), 404, "NOT_FOUND")


async def test_each_route_needs_its_scope(system: System, api: ApiClient) -> None:
    reader = await system.customer(scopes=("read",))
    for answer in (
        await api.put(CONFIG, json={"url": URL}),
        await api.delete(CONFIG),
        await api.post(f"{CONFIG}/rotate"),
        await reader.post(f"{HOOKS}/test"),
        await reader.post(f"{DELIVERIES}/some/replay"),
    ):
        refused(answer, 403, "FORBIDDEN")
    assert payload(await reader.get(DELIVERIES))["total"] == 0


async def _delivery(caller: ApiClient, state: str, count: int) -> list[Json]:
    """Return the deliveries of a state, once there are as many."""

    async def found() -> list[Json] | None:
        listed = payload(await caller.get(DELIVERIES, params={"state": state}))
        return listed["items"] if listed["total"] == count else None

    listed: list[Json] = await until(found, what=f"deliveries that are {state}")
    return listed


async def test_an_answer_is_reported_listed_and_replayed(system: System) -> None:
    """From chat to the receivers and back: the account's webhook, and the request's own URL."""
    async with Receiver() as receiver, Receiver() as own:
        egress = reachable(receiver, own)
        system.change("egress", allow=egress.allow, ports=egress.ports)
        await system.front()
        await system.worker()
        owner = await system.customer(scopes=MANAGING)
        secret = (await _set(owner, receiver.url))["secret"]
        asked = {"message": "hello", "model": "alpha", "webhook_url": own.url}
        answer = payload(await owner.post(CHAT, json=asked))
        delivered = await _delivery(owner, "delivered", 2)
        assert {each["subject"] for each in delivered} == {answer["id"]}
        for received in (*receiver.received, *own.received):
            sent = Webhook(secret).verify(received.body, received.headers)
            assert sent["type"] == "generation.completed"
            status = await owner.get(sent["data"]["url"])
            assert status.json()["result"]["content"] == answer["message"]["content"]
        [event] = payload(await owner.get(f"{AI}/events"))["items"]
        assert event["data"]["webhook_url"] == own.url
        await _replay(owner, receiver)
        test = payload(await owner.post(f"{HOOKS}/test"), 202)
        await until(lambda: len(receiver.received) == 3, what="a test")
        assert receiver.received[-1].id == test["delivery_id"]
        assert receiver.received[-1].payload["type"] == "webhook.test"
        ready = (await owner.get("/readyz")).json()["deliveries"]
        assert ready["delivered"] >= 3
        assert ready.keys() == set(DeliveryLoad._fields)
        other = await system.customer("other")
        refused(await other.get(f"{DELIVERIES}/{test['delivery_id']}"), 404, "NOT_FOUND")
        assert payload(await other.get(DELIVERIES))["total"] == 0


async def _replay(owner: ApiClient, receiver: Receiver) -> None:
    path = f"{DELIVERIES}/{receiver.ids[0]}"
    header = {"idempotency-key": "again"}
    for is_repeated in (False, True):
        replayed = await owner.post(f"{path}/replay", headers=header)
        assert payload(replayed, 202)["id"] == receiver.ids[0]
        assert ("idempotent-replayed" in replayed.headers) is is_repeated
        await until(lambda: len(receiver.received) == 2, what="a replay")
    assert receiver.ids == [receiver.ids[0]] * 2

    async def is_over() -> bool:
        found: str = payload(await owner.get(path))["state"]
        return found == "delivered"

    await until(is_over, what="the replay to be stored")
    attempts = payload(await owner.get(path))["attempts"]
    assert [(each["number"], each["status"]) for each in attempts] == [(1, 200), (2, 200)]
    assert TIME.fullmatch(attempts[0]["started_at"])


async def test_the_end_of_a_batch_is_reported(system: System) -> None:
    async with Receiver() as receiver:
        egress = reachable(receiver)
        system.change("egress", allow=egress.allow, ports=egress.ports)
        await system.front()
        await system.worker()
        owner = await system.customer()
        made = await owner.post(
            "/api/v1/batches",
            params={"webhook_url": receiver.url},
            content=b'{"message": "hello", "model": "alpha"}\n' * 2,
            headers={"content-type": "application/x-ndjson"},
        )
        assert made.status_code == 200, made.text
        await until(lambda: receiver.received, 20.0, what="the end of the batch")
        [received] = receiver.received
        about = received.payload["data"]
        assert received.payload["type"] == "batch.completed"
        assert about["id"] == made.json()["batch_id"]
        assert (await owner.get(about["url"])).json()["state"] == "completed"
        [event] = payload(await owner.get(f"{AI}/events"))["items"]
        assert event["subject"] == about["id"]
        await _delivery(owner, "delivered", 1)


async def test_a_url_is_kept_in_its_normal_form_and_left_to_workers_that_report(
    system: System, api: ApiClient
) -> None:
    """Both dialects. A worker of a version without webhooks would end it without an event."""
    receipt = await api.submit("hello", webhook_url="HTTPS://Example.com:443/a%20b")
    account = await system.account()
    queue = RedisFunctions(system.redis, system.settings.redis, account.partition)
    name = keys.GENERATION(queue.root, account.id, receipt["message_id"])
    wire, url = await system.redis.call("HMGET", name, "wire", "webhook")
    assert (int(wire), url) == (WEBHOOK_WIRE, b"https://example.com/a%20b")
    assert await queue.claim(wire=WEBHOOK_WIRE - 1) == []
    answer = await api.post(CHAT, json={"message": "hello", "webhook_url": "http://a@b/"})
    assert "`webhook_url`" in refused(answer, 400, "INVALID_FIELDS")["message"]


@pytest.mark.parametrize("after", ["0-0", "1-5", None])
async def test_a_reader_of_a_young_account_has_missed_nothing(
    owner: ApiClient, after: str | None
) -> None:
    """A log from its begin on: nothing can be older than it reaches."""
    asked = {} if after is None else {"after": after}
    for items in (0, 1):
        found = payload(await owner.get(f"{AI}/events", params=asked))
        assert (len(found["items"]), found["has_gap"]) == (items, False)
        await _set(owner)
        payload(await owner.post(f"{HOOKS}/test"), 202)


async def test_numbers_that_are_too_large_are_refused_by_their_bound(owner: ApiClient) -> None:
    answer = await owner.get(f"{AI}/events", params={"limit": "1" * 21})
    assert "from 1 to 999999999" in refused(answer, 400, "INVALID_FIELDS")["message"]


async def test_bad_filters_are_refused(owner: ApiClient) -> None:
    answer = await owner.get(DELIVERIES, params={"state": "lost"})
    assert "`state`" in refused(answer, 400, "INVALID_FIELDS")["message"]
