"""An item of a batch by its own id, before it enters the queue and after its results are folded."""

import msgspec
import pytest

from shared.wire.batch import ItemResult
from tests.support.api_client import ApiClient, body, refused
from tests.support.stored_batch import StoredBatch, answered, waiting
from tests.support.stream_reader import following

pytestmark = pytest.mark.each_once


def url(item: str, what: str = "status") -> str:
    return f"/api/v1/generate/{item}/{what}"


async def test_one_that_has_ended_shows_its_answer(api: ApiClient, batch: StoredBatch) -> None:
    late = ItemResult(custom_id="e", line=2, state="expired", seq=2)
    await batch.add([answered(1, "Hello."), late])
    id_ = await batch.write("completed")
    shown = body(await api.get(url(f"{id_}-0")))
    assert (shown["state"], shown["stage"], shown["progress"]) == ("completed", "completed", 100)
    assert shown["result"]["content"] == "Hello."
    assert (shown["credits_used"], shown["usage"]["output_tokens"]) == (0.25, 7)
    assert shown["routing"]["chosen"] == "alpha"
    assert (shown["generation_id"], shown["session_id"]) == (f"{id_}-0", None)
    shown = body(await api.get(url(f"{id_}-1"), params={"wait": "5"}))
    assert (shown["state"], shown["failure"]["category"]) == ("failed", "expired")
    answer = await api.get(url(f"{id_}-0"))
    tag = {"if-none-match": answer.headers["etag"]}
    assert (await api.get(url(f"{id_}-0"), headers=tag)).status_code == 304


async def test_a_late_follower_gets_a_snapshot_and_the_end(
    api: ApiClient, batch: StoredBatch
) -> None:
    await batch.add([answered(1, "Hello.")])
    item = f"{await batch.write('completed')}-0"
    last = ""
    for after in (None, "1-57", "2-1"):
        async with following(api, url(item, "events"), after=after) as follower:
            await follower.rest()
        *_, snapshot, end = follower.received
        assert (snapshot.name, snapshot.payload["text"]) == ("snapshot", "Hello.")
        assert (end.name, end.payload["message"]["content"]) == ("completed", "Hello.")
        last = end.id
    answer = await api.get(url(item, "events"), headers={"last-event-id": last})
    assert answer.status_code == 204


async def test_one_that_waits_is_queued_behind_those_before_it(
    api: ApiClient, batch: StoredBatch
) -> None:
    await batch.add([answered(1, "Hello."), None])
    await batch.add([waiting(number) for number in (3, 4)])
    id_ = await batch.write(position=2, open=1)
    shown = body(await api.get(url(f"{id_}-3")))
    assert (shown["state"], shown["stage"], shown["queue_position"]) == ("processing", "queued", 2)
    assert (shown["result"]["content"], shown["result"]["partial"]) == ("", True)
    assert 1 <= shown["poll_interval_hint"] <= 30
    error = refused(await api.post(url(f"{id_}-3", "cancel")), 400, "FEATURE_UNAVAILABLE")
    assert "batch as a whole" in error["error"]
    error = refused(await api.post(url(f"{id_}-0", "cancel")), 409, "ALREADY_FINISHED")
    assert error["state"] == "completed"


async def test_ids_that_name_no_item_are_unknown(
    api: ApiClient, other: ApiClient, batch: StoredBatch
) -> None:
    await batch.add([answered(1, "Hello.")])
    id_ = await batch.write("completed")
    for name in (id_, f"{id_}-1", f"{id_}-00", f"{id_}-0-1", f"{id_}-0-2", f"{id_}-", f"{id_}-x"):
        for what in ("status", "events"):
            refused(await api.get(url(name, what)), 404, "GENERATION_NOT_FOUND")
        refused(await api.post(url(name, "cancel")), 404, "GENERATION_NOT_FOUND")
    refused(await other.get(url(f"{id_}-0")), 404, "GENERATION_NOT_FOUND")


async def test_a_retried_item_is_found_by_each_of_its_ids(
    api: ApiClient, batch: StoredBatch
) -> None:
    await batch.add([answered(1, "Second try.", 2)])
    batch.note_ends((1, 0))
    id_ = await batch.write("completed", retried_seq=1)
    for name in (f"{id_}-0", f"{id_}-0-2"):
        assert body(await api.get(url(name)))["result"]["content"] == "Second try."


async def test_an_item_keeps_what_it_was_given_to_be_found_by(
    api: ApiClient, batch: StoredBatch
) -> None:
    given = {"metadata": {"team": "b"}, "project": "p-1"}
    await batch.add([msgspec.structs.replace(answered(1, "Hello."), **given), answered(2, "Yes.")])
    await batch.add([msgspec.structs.replace(waiting(3), **given, model="alpha")])
    id_ = await batch.write(position=2)
    ended, bare, queued = [body(await api.get(url(f"{id_}-{index}"))) for index in range(3)]
    for shown in (ended, queued):
        assert (shown["metadata"], shown["project_id"]) == ({"team": "b"}, "p-1")
    assert (bare["metadata"], bare["project_id"]) == ({}, None)
    assert ended["enhancement"] == bare["enhancement"]
    assert queued["result"]["model"] == "alpha"
