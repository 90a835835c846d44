"""Batches as they are listed and shown: counts, pace, credits, and whose they are."""

import pytest

from shared.redis import keys
from shared.stores import idempotency_records
from tests.support.api_client import ApiClient, body, refused
from tests.support.stored_batch import (
    CREATED,
    StoreBatch,
    StoredBatch,
    answered,
    waiting,
)
from tests.support.system import System

pytestmark = pytest.mark.each_once

LIST = "/api/v1/batches"


async def test_a_batch_says_how_far_it_is(
    system: System, api: ApiClient, batch: StoredBatch
) -> None:
    now = system.clock.now_ms()
    await batch.add([answered(number, "a") for number in range(1, 5)])
    await batch.add([waiting(number) for number in range(5, 11)])
    marks = f"{now - 4_000} 1 {now - 3_000} 2 {now - 2_000} 3 {now - 1_000} 4"
    id_ = await batch.write(
        completed=3, failed=1, open=2, position=6, used=2_000_000, held=500_000,
        max_credits=9_000_000, marks=marks, metadata={"a": "b"}, deadline=CREATED + 60_000,
    )  # fmt: skip
    shown = body(await api.get(f"{LIST}/{id_}"))
    # The clock goes on meanwhile.
    assert shown.pop("items_per_second") == pytest.approx(0.75, rel=0.2)
    eta = shown.pop("eta_seconds")
    assert eta["p50"] <= eta["p90"] <= 10
    assert shown == {
        "success": True,
        "batch_id": id_,
        "state": "running",
        "reason": None,
        "cancelling": False,
        "total": 10,
        "invalid": 0,
        "counts": {
            "waiting": 4, "open": 2, "completed": 3, "failed": 1, "cancelled": 0, "expired": 0,
        },
        "progress": 40,
        "credits": {"used": 2.0, "held": 0.5, "forecast": 5.0, "max": 9.0},
        "metadata": {"a": "b"},
        "created_at": "2026-01-01T00:00:00Z",
        "started_at": "2026-01-01T00:00:01Z",
        "finished_at": None,
        "deadline_at": "2026-01-01T00:01:00Z",
        "deleted_at": None,
        "poll_interval_hint": 2,
        "poll_url": f"{LIST}/{id_}",
        "results_url": f"{LIST}/{id_}/results",
        "cancel_url": f"{LIST}/{id_}/cancel",
    }  # fmt: skip


async def test_one_that_has_ended_says_how_fast_it_was_and_when_it_is_deleted(
    api: ApiClient, batch: StoredBatch
) -> None:
    await batch.add([answered(number, "a") for number in range(1, 6)])
    shown = body(await api.get(f"{LIST}/{await batch.write('completed', completed=5, used=7)}"))
    assert (shown["progress"], shown["items_per_second"]) == (100, 0.5)
    assert (shown["eta_seconds"], shown["poll_interval_hint"]) == (None, 1)
    assert shown["credits"]["forecast"] == shown["credits"]["used"] == 7e-6
    assert shown["finished_at"] == "2026-01-01T00:00:11Z"
    assert shown["deleted_at"] == "2026-01-01T00:01:39Z"


async def test_one_that_pauses_says_why(api: ApiClient, batch: StoredBatch) -> None:
    await batch.add([waiting(1)])
    shown = body(await api.get(f"{LIST}/{await batch.write('paused', reason='max_credits')}"))
    assert (shown["state"], shown["reason"]) == ("paused", "max_credits")
    assert (shown["items_per_second"], shown["poll_interval_hint"]) == (None, 30)
    shown = body(await api.get(f"{LIST}/{await batch.write(stop='cancelled')}"))
    assert (shown["cancelling"], shown["poll_interval_hint"]) == (True, 1)


async def test_the_list_has_the_newest_first(api: ApiClient, store_batch: StoreBatch) -> None:
    made = [await store_batch().write(created=CREATED + at) for at in range(5)]
    listed = body(await api.get(LIST, params={"limit": 2, "page": 2}))
    assert [each["batch_id"] for each in listed["batches"]] == [made[2], made[1]]
    assert listed["pagination"] == {"page": 2, "limit": 2, "total": 5, "pages": 3}
    assert "success" not in listed["batches"][0]
    assert body(await api.get(LIST, params={"limit": 1_000}))["pagination"]["limit"] == 100
    refused(await api.get(LIST, params={"page": "0"}), 400, "INVALID_FIELDS")


async def test_a_batch_is_found_by_its_key(
    system: System, api: ApiClient, batch: StoredBatch, store_batch: StoreBatch
) -> None:
    id_ = await batch.write()
    await store_batch().write()
    root, account, _ = batch.ref
    where = keys.IDEMPOTENCY(root, account, idempotency_records.hash_key("nightly"))
    await system.redis.call("HSET", where, "fingerprint", "f", "batch", id_)
    await system.redis.call("PEXPIRE", where, 60_000)
    listed = body(await api.get(LIST, params={"key": "nightly"}))
    assert [each["batch_id"] for each in listed["batches"]] == [id_]
    assert body(await api.get(LIST, params={"key": "other"}))["batches"] == []
    # A key that a message was sent with names no batch.
    await api.post("/api/v1/chat", json={"message": "hi"}, headers={"idempotency-key": "chat"})
    assert body(await api.get(LIST, params={"key": "chat"}))["batches"] == []


async def test_another_accounts_batch_is_unknown(
    api: ApiClient, other: ApiClient, batch: StoredBatch
) -> None:
    await batch.add([answered(1, "a")])
    id_ = await batch.write()
    for path in (f"{LIST}/{id_}", f"{LIST}/{id_}/results"):
        assert (await api.get(path)).status_code == 200
        refused(await other.get(path), 404, "BATCH_NOT_FOUND")
        refused(await api.get(path.replace(id_, "unknown")), 404, "BATCH_NOT_FOUND")
        refused(await api.get(path.replace(id_, "no%0aid")), 404, "BATCH_NOT_FOUND")
    assert body(await other.get(LIST))["batches"] == []
