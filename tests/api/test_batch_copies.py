"""Batches with `dedupe`: identical items are answered once, charged once, and all delivered."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from typing import Final

import pytest

from api.batches import copies
from api.resources import batch_copies
from shared.redis import keys
from shared.wire.batch import ItemResult, unpack_items
from shared.wire.batch_copies import Copy
from shared.wire.submission import BATCH_WIRE, COPIES_WIRE
from tests.support import waiting
from tests.support.api_client import ApiClient, Json, body
from tests.support.scripted_provider import ScriptedAnswer
from tests.support.stored_batch import StoredBatch, answered, waiting as waiting_item
from tests.support.system import System

BATCHES: Final = "/api/v1/batches"
_LINES: Final = {"content-type": "application/x-ndjson"}
_ITEM: Final = {"model": "alpha", "enhance_prompt": False}


async def _send(api: ApiClient, texts: Sequence[str | Json], **query: str) -> Json:
    items = [{"message": each} if isinstance(each, str) else each for each in texts]
    content = b"".join(json.dumps(_ITEM | item).encode() + b"\n" for item in items)
    return body(
        await api.post(BATCHES, content=content, headers=_LINES, params={"dedupe": "true"} | query)
    )


async def _results(api: ApiClient, made: Json, **query: object) -> list[Json]:
    sent = {name: str(value) for name, value in query.items()}
    answer = await api.get(made["results_url"], params=sent)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


async def _numbers(api: ApiClient, made: Json, **query: object) -> list[int]:
    return [line["line"] for line in await _results(api, made, **query)]


async def _shown(api: ApiClient, made: Json) -> Json:
    return body(await api.get(made["poll_url"]))


async def _until(api: ApiClient, made: Json, *states: str) -> Json:
    async def has_ended() -> bool:
        return (await _shown(api, made))["state"] in states

    await waiting.until(has_ended, 20)
    return await _shown(api, made)


async def _until_packed(system: System, made: Json) -> None:
    root = system.accounts.root_of(await system.account())

    async def is_packed() -> bool:
        return not await system.redis.call(
            "EXISTS", keys.BATCH_ITEMS(root, "one", made["batch_id"], 0)
        )

    await waiting.until(is_packed, 20)


def _asked(system: System) -> Counter[str]:
    return Counter(request.last for request in system.provider.requests)


async def test_identical_items_are_answered_and_charged_once(
    api: ApiClient, system: System
) -> None:
    await system.worker()
    system.provider.answer = lambda request: ScriptedAnswer(text=f"Re: {request.last}")
    texts = ["a", "b", "a", "a", "c", "b", "a"]
    made = await _send(api, texts)
    assert (made["total"], made["invalid"]) == (7, 0)
    shown = await _until(api, made, "completed")
    assert (shown["total"], shown["copies"], shown["counts"]["completed"]) == (7, 4, 7)
    assert sum(shown["counts"].values()) == 7
    assert _asked(system) == {"a": 1, "b": 1, "c": 1}
    for _ in range(2):
        found = await _results(api, made)
        assert [line["line"] for line in found] == list(range(1, 8))
        assert [line["result"]["content"] for line in found] == [f"Re: {text}" for text in texts]
        copy_of = [line.get("copy_of") for line in found]
        assert copy_of == [None, None, "1", "1", None, "2", "1"]
        costs = [line["credits"] for line in found]
        assert [cost > 0 for cost in costs] == [one is None for one in copy_of]
        assert [line["usage"] is None for line in found] == [one is not None for one in copy_of]
        assert sum(costs) == pytest.approx(shown["credits"]["used"])
        await _until_packed(system, made)
    account = await api.credits()
    left = 1000 - shown["credits"]["used"]
    assert (account["held"], account["total"]) == (0, pytest.approx(left))


async def test_both_orders_are_continued_after_any_line(api: ApiClient, system: System) -> None:
    await system.worker()
    made = await _send(api, ["a", "b", "a", "c", "b", "a"])
    await _until(api, made, "completed")
    for line in range(8):
        assert await _numbers(api, made, after_line=line) == list(range(line + 1, 7))
    whole = await _results(api, made, order="finished")
    assert sorted(line["line"] for line in whole) == [1, 2, 3, 4, 5, 6]
    seqs = [line["seq"] for line in whole]
    assert seqs == sorted(set(seqs))
    ended: set[str] = set()
    for at, one in enumerate(whole):
        ended.add(one["custom_id"])
        assert one.get("copy_of", one["custom_id"]) in ended
        assert await _results(api, made, order="finished", after_seq=one["seq"]) == whole[at + 1 :]


async def test_more_copies_than_a_section_holds(
    api: ApiClient, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "SECTION_COPIES", 8)
    monkeypatch.setattr(batch_copies, "_AT_ONCE", 3)
    await system.worker()
    made = await _send(api, ["a" if number % 3 else "b" for number in range(1, 61)])
    shown = await _until(api, made, "completed")
    assert (shown["total"], shown["copies"], shown["counts"]["completed"]) == (60, 58, 60)
    assert _asked(system) == {"a": 1, "b": 1}
    for line in (0, 9, 30, 58):
        assert await _numbers(api, made, after_line=line) == list(range(line + 1, 61))
    found = await _results(api, made, order="finished")
    assert sorted(line["line"] for line in found) == list(range(1, 61))
    for at in (5, 30, 41, 55):
        seq = found[at]["seq"]
        assert await _results(api, made, order="finished", after_seq=seq) == found[at + 1 :]


async def test_copies_wait_for_their_original_only(api: ApiClient, system: System) -> None:
    gates = {"a": asyncio.Event(), "b": asyncio.Event()}
    system.provider.answer = lambda request: ScriptedAnswer(gate=gates[request.last])
    await system.worker()
    made = await _send(api, ["a", "a", "b", "a", "b"])
    assert await _results(api, made) == []
    gates["a"].set()

    async def has(lines: list[int]) -> bool:
        return await _numbers(api, made) == lines

    await waiting.until(lambda: has([1, 2]), 20)
    counts = (await _shown(api, made))["counts"]
    assert (counts["completed"], counts["open"], counts["waiting"]) == (3, 1, 1)
    assert await _numbers(api, made, partial="true") == [1, 2, 4]
    assert await _numbers(api, made, order="finished") == [1, 2, 4]
    gates["b"].set()
    await _until(api, made, "completed")
    assert await _numbers(api, made) == [1, 2, 3, 4, 5]


async def test_copies_of_a_failure_fail_and_follow_its_retry(
    api: ApiClient, system: System
) -> None:
    is_down, gate = True, asyncio.Event()

    def answer(request: object) -> ScriptedAnswer:
        if getattr(request, "last", "") != "b":
            return ScriptedAnswer()
        return ScriptedAnswer(status=400) if is_down else ScriptedAnswer(text="B", gate=gate)

    system.provider.answer = answer
    await system.worker()
    made = await _send(api, ["a", "b", "a", "b", "b", {"message": ""}, {"message": ""}])
    assert (made["total"], made["invalid"]) == (7, 2)
    shown = await _until(api, made, "completed")
    assert (shown["copies"], shown["counts"]["completed"], shown["counts"]["failed"]) == (3, 2, 5)
    assert await _numbers(api, made, state="failed") == [2, 4, 5, 6, 7]
    await _until_packed(system, made)
    last = (await _results(api, made, order="finished"))[-1]["seq"]
    is_down = False
    body(await api.post(f"{made['poll_url']}/retry"))

    async def is_asked_again() -> bool:
        return _asked(system)["b"] == 2

    await waiting.until(is_asked_again, 20)
    assert await _numbers(api, made) == [1]
    assert await _numbers(api, made, partial="true") == [1, 3, 6, 7]
    gate.set()
    shown = await _until(api, made, "completed")
    assert (shown["counts"]["completed"], shown["counts"]["failed"]) == (5, 2)
    assert sum(shown["counts"].values()) == 7
    again = await _results(api, made, order="finished", after_seq=last)
    assert [line["line"] for line in again] == [2, 4, 5]
    assert {line["result"]["content"] for line in again} == {"B"}
    assert await _numbers(api, made, state="failed") == [6, 7]
    assert [line["credits"] > 0 for line in again] == [True, False, False]


async def test_copies_of_what_a_cancel_cuts_off_are_cancelled(
    api: ApiClient, system: System
) -> None:
    made = await _send(api, ["a", "b", "a", "b", "b"])
    assert (await _shown(api, made))["counts"]["waiting"] >= 3
    body(await api.post(f"{made['poll_url']}/cancel"))
    shown = await _until(api, made, "cancelled")
    assert (shown["counts"]["cancelled"], shown["credits"]["used"]) == (5, 0)
    assert await _numbers(api, made, state="cancelled") == [1, 2, 3, 4, 5]
    found = await _results(api, made, order="finished")
    assert sorted(line["line"] for line in found) == [1, 2, 3, 4, 5]
    for at, line in enumerate(found):
        assert await _results(api, made, order="finished", after_seq=line["seq"]) == found[at + 1 :]
    body(await api.delete(made["poll_url"]))
    assert await system.redis.call("KEYS", f"*:batch*{made['batch_id']}*") == []


async def test_identical_is_what_asks_for_the_same(api: ApiClient, system: System) -> None:
    await system.worker()
    user = {"role": "user", "content": "m"}
    made = await _send(
        api,
        [
            {"message": ""},
            {"message": "a", "custom_id": "x"},
            {"message": "a", "custom_id": "y", "metadata": {"k": "v"}},
            {"message": "a", "temperature": 0.5},
            {"message": "a", "temperature": 0.7},
            {"message": "a", "model": "beta"},
            {"message": "a", "max_output_tokens": 9},
            {"message": "a", "system_prompt": "Be brief."},
            {"message": "A"},
            {"messages": [user]},
            {"message": "m"},
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "m"}]}]},
            {"message": "a", "custom_id": "x"},
        ],
        temperature="0.5",
    )
    await _until(api, made, "completed")
    copies = {
        line["custom_id"]: line["copy_of"]
        for line in await _results(api, made)
        if "copy_of" in line
    }
    assert copies == {"y": "x", "4": "x", "12": "10"}
    assert made["invalid"] == 2


async def test_no_copy_is_passed_over_while_its_original_runs_again(
    api: ApiClient, batch: StoredBatch
) -> None:
    failed = ItemResult(custom_id="f", line=2, state="failed", seq=2, item=waiting_item(2))
    await batch.add([answered(1, "a"), failed])
    await batch.add([answered(3, "a"), answered(5, "a", 4)])
    await batch.add_copies([Copy("copy", 4, 1), Copy("last", 6, 0)])
    made = {
        "results_url": f"{BATCHES}/{await batch.write(retrying=0, retried_seq=4, runs=2)}/results"
    }
    assert await _numbers(api, made) == [1]
    # Line 2 was read before the retry began.
    assert await _numbers(api, made, after_line=3) == []
    assert await _numbers(api, made, partial="true") == [1, 3, 5, 6]


async def test_without_dedupe_identical_items_are_each_answered(
    api: ApiClient, system: System
) -> None:
    await system.worker()
    made = await _send(api, ["a", "a"], dedupe="false")
    shown = await _until(api, made, "completed")
    assert (shown["copies"], _asked(system)["a"]) == (0, 2)
    assert all("copy_of" not in line for line in await _results(api, made))


async def test_older_workers_leave_items_that_may_have_copies(
    api: ApiClient, system: System
) -> None:
    root = system.accounts.root_of(await system.account())
    for dedupe, wire in (("true", COPIES_WIRE), ("false", BATCH_WIRE)):
        made = await _send(api, ["a", "b", "a"], dedupe=dedupe)
        where = keys.BATCH_ITEMS(root, "one", made["batch_id"], 0)
        stored = unpack_items(await system.redis.call("GET", where))
        assert {item.wire for item in stored} == {wire}
        assert len(stored) == (2 if dedupe == "true" else 3)


async def test_an_upload_that_is_repeated_tells_all_items(api: ApiClient) -> None:
    content = b'{"message": "a"}\n' * 3
    headers = _LINES | {"idempotency-key": "k"}
    for _ in range(2):
        made = body(
            await api.post(BATCHES, content=content, headers=headers, params={"dedupe": "true"})
        )
        assert made["total"] == 3
