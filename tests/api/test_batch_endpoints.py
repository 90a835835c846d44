"""Batches as they are listed and shown: counts, pace, credits, and whose they are."""

import asyncio
import json

import httpx
import pytest

from api.resources import batches as batches_room
from shared.batches.feed import BatchFeeder
from shared.clock import SystemClock
from shared.redis import keys
from shared.stores import idempotency_records
from shared.wire.batch import BatchItem, ItemResult
from tests.support import stored_batches, waiting as waiting_for
from tests.support.api_client import ApiClient, Json, body, refused
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.stored_batch import (
    CREATED,
    StoreBatch,
    StoredBatch,
    answered,
    waiting,
)
from tests.support.stored_batches import in_chunks, item, items
from tests.support.stream_reader import following, text_of
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
        "copies": 0,
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
    # A header has no UTF-8: the bytes of such a key arrive as one character each.
    strange = "nächtlich".encode().decode("latin-1")
    where = keys.IDEMPOTENCY(root, account, idempotency_records.hash_key(strange))
    await system.redis.call("HSET", where, "fingerprint", "f", "batch", id_)
    await system.redis.call("PEXPIRE", where, 60_000)
    for key in ("nächtlich", strange):
        listed = body(await api.get(LIST, params={"key": key}))
        assert [each["batch_id"] for each in listed["batches"]] == [id_], key
    # A key that a message was sent with names no batch.
    await api.post("/api/v1/chat", json={"message": "hi"}, headers={"idempotency-key": "chat"})
    assert body(await api.get(LIST, params={"key": "chat"}))["batches"] == []


async def test_a_damaged_record_is_shown_as_far_as_it_is_sound(
    api: ApiClient, batch: StoredBatch
) -> None:
    id_ = await batch.write(total="?", reason="whim", metadata="{", completed=3)
    [shown] = body(await api.get(LIST))["batches"]
    assert [shown[name] for name in ("batch_id", "state", "total", "reason", "metadata")] == [
        id_, "running", 0, None, {},
    ]  # fmt: skip
    assert shown["counts"]["completed"] == 3


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


class Mill:
    """Batches that run, as an upload leaves them; the customer's account has them."""

    def __init__(self, system: System, api: ApiClient, root: str) -> None:
        self.system, self.api, self.root = system, api, root

    async def begin(self, lines: list[BatchItem], *, max_credits: int | None = None) -> str:
        chunks = in_chunks(lines, 4)
        return await stored_batches.store(
            self.system.redis, self.root, chunks, account="one", max_credits=max_credits
        )

    async def feed(self) -> None:
        feeder = BatchFeeder(self.system.redis, self.system.settings, SystemClock())
        await feeder.feed(self.root, "one")

    async def show(self, batch: str) -> Json:
        return body(await self.api.get(f"{LIST}/{batch}"))

    async def act(self, batch: str, action: str, **fields: object) -> Json:
        return body(await self.api.post(f"{LIST}/{batch}/{action}", json=fields or None))

    async def until(self, batch: str, state: str) -> Json:
        async def is_there() -> bool:
            return bool((await self.show(batch))["state"] == state)

        await waiting_for.until(is_there, what=f"the state {state}")
        return await self.show(batch)

    async def left(self, batch: str) -> list[bytes]:
        found: list[bytes] = await self.system.redis.call("KEYS", f"{self.root}*{batch}*")
        return found


@pytest.fixture
async def mill(system: System, api: ApiClient) -> Mill:
    """Return batches that run."""
    return Mill(system, api, system.accounts.root_of(await system.account()))


async def test_a_batch_is_paused_and_resumed(mill: Mill) -> None:
    id_ = await mill.begin(items(6))
    for _ in range(2):
        paused = await mill.act(id_, "pause")
        assert (paused["state"], paused["reason"]) == ("paused", "user")
    await mill.feed()
    assert (await mill.show(id_))["counts"]["open"] == 0
    resumed = await mill.act(id_, "resume", max_credits=12.5)
    assert (resumed["state"], resumed["reason"]) == ("running", None)
    assert resumed["credits"]["max"] == 12.5

    async def is_fed() -> bool:
        return bool((await mill.show(id_))["counts"]["open"] == 6)

    # Without any worker: this process feeds it.
    await waiting_for.until(is_fed, what="items in the queue")
    # No body is as good as an empty one.
    assert (await mill.act(id_, "resume"))["credits"]["max"] == 12.5
    wrong = await mill.api.post(f"{LIST}/{id_}/resume", json={"max_credits": 0})
    refused(wrong, 400, "INVALID_FIELDS")
    await mill.act(id_, "cancel")


async def test_a_cancel_is_answered_at_once_and_ends_what_is_open_after_it(mill: Mill) -> None:
    id_ = await mill.begin(items(100))
    await mill.feed()
    cancelled = await mill.act(id_, "cancel")
    assert cancelled["cancelling"] or cancelled["state"] == "cancelled"
    assert cancelled["counts"]["waiting"] == 0
    ended = await mill.until(id_, "cancelled")
    assert ended["counts"]["cancelled"] == 100
    assert (ended["cancelling"], ended["credits"]["held"]) == (False, 0)
    assert (await mill.act(id_, "cancel"))["state"] == "cancelled"
    for action in ("pause", "resume", "retry"):
        answer = await mill.api.post(f"{LIST}/{id_}/{action}")
        assert refused(answer, 409, "ALREADY_FINISHED")["state"] == "cancelled"
    assert (await mill.api.credits())["held"] == 0


@pytest.mark.usefixtures("worker")
async def test_failed_items_run_again(mill: Mill, provider: ScriptedProvider) -> None:
    fails = {"prompt 2"}
    provider.answer = lambda request: (
        ScriptedAnswer(status=400) if request.last in fails else ScriptedAnswer(text=request.last)
    )
    id_ = await mill.begin([*items(3), item(4, fault="Wrong.")])
    await mill.feed()
    ended = await mill.until(id_, "completed")
    assert [ended["counts"][state] for state in ("completed", "failed")] == [2, 2]
    answer = await mill.api.post(f"{LIST}/{id_}/cancel")
    assert refused(answer, 409, "ALREADY_FINISHED")["state"] == "completed"
    fails.clear()
    assert (await mill.act(id_, "retry"))["state"] == "running"
    ended = await mill.until(id_, "completed")
    assert [ended["counts"][state] for state in ("completed", "failed")] == [3, 1]
    results = await mill.api.get(f"{LIST}/{id_}/results", params={"state": "completed"})
    assert len(results.text.splitlines()) == 3
    results = await mill.api.get(f"{LIST}/{id_}/results", params={"order": "finished"})
    [*_, last] = results.text.splitlines()
    assert json.loads(last)["result"]["content"] == "prompt 2"


async def test_a_retry_counts_among_the_open_batches(
    system: System, mill: Mill, batch: StoredBatch
) -> None:
    system.change_tier("enterprise", open_batches_max=1)
    await mill.begin(items(1))
    mill.api.base_url = httpx.URL(await system.front())
    failed = ItemResult(custom_id="f", line=1, state="failed", seq=1, item=waiting(1))
    await batch.add([failed])
    id_ = await batch.write("failed", failed=1)
    error = refused(await mill.api.post(f"{LIST}/{id_}/retry"), 403, "QUOTA_EXCEEDED")
    assert [error[name] for name in ("quota", "used", "limit")] == ["open_batches", 1, 1]


async def test_a_batch_that_has_ended_is_deleted_whole(mill: Mill) -> None:
    id_ = await mill.begin(items(9))
    await mill.act(id_, "cancel")
    await mill.until(id_, "cancelled")
    assert body(await mill.api.delete(f"{LIST}/{id_}")) == {
        "success": True, "batch_id": id_, "deleted": True,
    }  # fmt: skip
    refused(await mill.api.get(f"{LIST}/{id_}"), 404, "BATCH_NOT_FOUND")
    assert body(await mill.api.get(LIST))["batches"] == []

    async def is_gone() -> bool:
        return not await mill.left(id_)

    await waiting_for.until(is_gone, what="the end of its keys")
    refused(await mill.api.delete(f"{LIST}/{id_}"), 404, "BATCH_NOT_FOUND")


async def test_a_batch_that_runs_is_cancelled_and_deleted(mill: Mill) -> None:
    id_ = await mill.begin(items(30))
    await mill.feed()
    assert body(await mill.api.delete(f"{LIST}/{id_}"))["deleted"] is True
    refused(await mill.api.get(f"{LIST}/{id_}"), 404, "BATCH_NOT_FOUND")
    assert (await mill.api.credits())["held"] == 0


async def test_a_batch_whose_workers_do_not_stop_is_due_for_deletion_when_they_have(
    system: System, mill: Mill, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches_room, "_DELETION_SECONDS", 0.0)
    gate = asyncio.Event()
    provider.answer = lambda _: ScriptedAnswer(gate=gate)
    await system.worker()
    id_ = await mill.begin(items(1))
    await mill.feed()

    async def runs() -> bool:
        return bool(provider.requests)

    await waiting_for.until(runs, what="the item's call")
    assert body(await mill.api.delete(f"{LIST}/{id_}"))["deleted"] is True
    gate.set()

    async def is_due() -> bool:
        record = keys.BATCH(mill.root, "one", id_)
        state, finished, due = await system.redis.call(
            "HMGET", record, "state", "finished", "delete_at"
        )
        return state is None or (state == b"cancelled" and finished == due)

    await waiting_for.until(is_due, what="a batch that is due")
    await mill.api.delete(f"{LIST}/{id_}")


@pytest.mark.usefixtures("worker")
async def test_a_batch_from_its_upload_to_its_results(
    mill: Mill, provider: ScriptedProvider
) -> None:
    """An item can be polled and followed by its own id while it runs, and after it."""
    gate = asyncio.Event()
    provider.answer = lambda request: ScriptedAnswer(
        text=f"Re: {request.last}", gate=gate if request.last == "two" else None
    )
    sent = {"items": [{"message": text, "custom_id": text} for text in ("one", "two", "three")]}
    created = body(await mill.api.post(LIST, json=sent))
    id_, results = created["batch_id"], created["results_url"]

    async def lines(**parameters: str) -> list[str]:
        answer = await mill.api.get(results, params=parameters)
        return [json.loads(line)["custom_id"] for line in answer.text.splitlines()]

    async def others_have_ended() -> bool:
        return set(await lines(order="finished")) == {"one", "three"}

    await waiting_for.until(others_have_ended, what="the answers of two items")
    assert await lines() == ["one"]
    assert await lines(partial="true") == ["one", "three"]
    assert body(await mill.api.get(created["poll_url"]))["progress"] == 66
    second = f"/api/v1/generate/{id_}-1"
    assert body(await mill.api.get(f"{second}/status"))["state"] == "processing"
    async with following(mill.api, f"{second}/events") as follower:
        gate.set()
        await follower.until("completed")
    assert text_of(follower.received) == "Re: two"
    ended = await mill.until(id_, "completed")
    assert ended["credits"]["used"] > 0

    async def is_folded() -> bool:
        return not await mill.system.redis.call("KEYS", f"{mill.root}*{id_}-*")

    await waiting_for.until(is_folded, what="the fold of its chunk")
    assert await lines() == ["one", "two", "three"]
    shown = body(await mill.api.get(f"{second}/status"))
    assert (shown["state"], shown["result"]["content"]) == ("completed", "Re: two")
    assert shown["credits_used"] > 0
