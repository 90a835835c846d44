"""A key of another type: 503 in the caller's shape, its name for the operator, then recovery."""

from typing import Final

import httpx
import pytest

from shared.redis import keys
from tests.support import waiting
from tests.support.api_client import ApiClient, Json, refused
from tests.support.system import System

pytestmark = pytest.mark.each_once

_LOGGED: Final = "a key is of another type"
# By whichever process inspects the server at that time.
_UNFIT: Final = "Redis is no longer fit"
_ACCOUNTS: Final = tuple(f"account-{number}" for number in range(8))


def _roots(system: System) -> list[str]:
    settings = system.settings.redis
    return [keys.partition_root(settings, number) for number in range(settings.partitions)]


@pytest.mark.parametrize("key", [keys.DEADLINES, keys.CLOCKS], ids=lambda key: key.pattern)
async def test_submissions_are_503_in_each_dialect_until_the_key_is_mended(
    system: System, key: keys.Key
) -> None:
    system.expected |= {_LOGGED, _UNFIT}
    await system.front()
    api = await system.customer()
    names = [key(root) for root in _roots(system)]
    for name in names:
        await system.redis.call("SET", name, "x")
    for _ in range(3):
        kolbo = await api.post("/api/v1/chat", json={"message": "hello"})
        refused(kolbo, 503, "UNAVAILABLE")
        kombify = await api.post("/v1/ai/chat", json={"message": "hello"})
        assert (kombify.status_code, kombify.json()["code"]) == (503, "UNAVAILABLE")
        for answer in (kolbo, kombify):
            assert int(answer.headers["retry-after"]) >= 20
            assert "Redis" not in answer.text
    [said] = [line["fault"] for line in system.lines if line["event"] == _LOGGED]
    assert said in {f"{name} is a string where a {key.type} should be" for name in names}
    await system.redis.call("DEL", *names)
    assert (await api.submit("hello", model="alpha"))["success"]
    await system.worker()


async def test_worker_goes_on_beside_a_damaged_partition_and_comes_back_to_it(
    system: System,
) -> None:
    system.expected |= {_LOGGED, _UNFIT}
    await system.front()
    customers = [await system.customer(account) for account in _ACCOUNTS]
    receipts = [await api.submit("hello", model="alpha") for api in customers]
    root = _roots(system)[0]
    await system.redis.call("SET", keys.LEASES(root), "x")
    await system.worker()
    held_up = [await _is_in(system, root, *each) for each in zip(_ACCOUNTS, receipts, strict=True)]

    async def are_others_answered() -> bool:
        return [not done for done in await _are_done(customers, receipts)] == held_up

    await waiting.until(are_others_answered, 10, what="the answers of other partitions")
    await system.redis.call("DEL", keys.LEASES(root))

    async def are_all_answered() -> bool:
        return all(await _are_done(customers, receipts))

    await waiting.until(are_all_answered, 10, what="the answers of the mended partition")


async def _is_in(system: System, root: str, account: str, receipt: Json) -> bool:
    name = keys.GENERATION(root, account, receipt["message_id"])
    return bool(await system.redis.call("EXISTS", name))


async def _are_done(customers: list[ApiClient], receipts: list[Json]) -> list[bool]:
    return [
        (await api.poll(receipt))["state"] == "completed"
        for api, receipt in zip(customers, receipts, strict=True)
    ]


async def _events_overwritten(system: System, receipt: Json) -> str:
    account = await system.account()
    name = keys.EVENTS(system.accounts.root_of(account), account.id, receipt["message_id"])
    await system.redis.call("DEL", name)
    await system.redis.call("SET", name, "theirs")
    return name


def _named_once(system: System, name: str) -> bool:
    said = [line["fault"] for line in system.lines if line["event"] == _LOGGED]
    return len(said) == 1 and said[0].startswith(f"{name} is of another type")


async def test_damaged_events_of_what_has_ended_are_503_and_named_once(
    system: System, caplog: pytest.LogCaptureFixture
) -> None:
    system.expected |= {_LOGGED}
    await system.front()
    await system.worker()
    api = await system.customer()
    receipt = await api.submit("hello", model="alpha")
    await api.wait_for_end(receipt)
    name = await _events_overwritten(system, receipt)
    for _ in range(3):
        refused(await api.get(receipt["events_url"]), 503, "UNAVAILABLE")
    assert _named_once(system, name)
    assert [record for record in caplog.records if record.exc_info] == []
    await system.redis.call("DEL", name)
    assert (await api.get(receipt["events_url"])).text.count("event: snapshot") == 1


async def test_damaged_events_of_what_is_under_way_end_the_answer_and_are_named_once(
    system: System, caplog: pytest.LogCaptureFixture
) -> None:
    system.expected |= {_LOGGED}
    await system.front()
    api = await system.customer()
    receipt = await api.submit("hello", model="alpha")
    name = await _events_overwritten(system, receipt)
    for _ in range(3):
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
            await api.get(receipt["events_url"])
    assert _named_once(system, name)
    assert [record for record in caplog.records if record.exc_info] == []
    await system.redis.call("DEL", name)
    await system.worker()
    assert (await api.wait_for_end(receipt))["state"] == "completed"
