"""The results of a batch: both orders, what a later request continues, and what a client sees."""

import asyncio
import gzip
import json
import socket
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
import pytest

from api.guards import large_pages
from api.guards.large_pages import End, LargePages
from api.resources import batch_results
from shared.errors import Failure, UnavailableError
from shared.media.files import ROOT
from shared.redis import keys
from shared.redis.client import Redis
from shared.stores import batches
from shared.stores.batches import BatchRef, BatchResults
from shared.wire.batch import Batch, ItemResult
from shared.wire.conversation import CallPart
from shared.wire.message import AssistantMessage, Media, encode_assistant
from tests.support import waiting as waiting_for
from tests.support.api_client import ApiClient, Json, refused
from tests.support.stored_batch import StoredBatch, answered, waiting
from tests.support.system import System

pytestmark = pytest.mark.each_once


def url(batch: str) -> str:
    return f"/api/v1/batches/{batch}/results"


async def lines(api: ApiClient, batch: str, **parameters: object) -> list[Json]:
    asked = {name: str(value) for name, value in parameters.items()}
    answer = await api.get(url(batch), params=asked)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert not answer.text or answer.text.endswith("\n")
    return [json.loads(line) for line in answer.text.splitlines()]


async def numbers(api: ApiClient, batch: str, **parameters: object) -> list[int]:
    return [line["line"] for line in await lines(api, batch, **parameters)]


async def test_a_line_says_what_became_of_an_item(api: ApiClient, batch: StoredBatch) -> None:
    down = Failure(message="It is down.", category="provider_error", code="UPSTREAM_500")
    failed = AssistantMessage(status="failed", content="", created=0, failure=down)
    wrong = ItemResult(custom_id="w", line=2, state="failed", seq=2, fault="`message` is missing.")
    lost = ItemResult(custom_id="l", line=3, state="failed", seq=3, answer=encode_assistant(failed))
    late = ItemResult(custom_id="e", line=4, state="expired", seq=4)
    await batch.add([answered(1, "Hello."), wrong, lost, late])
    first, second, third, fourth = await lines(api, await batch.write("completed"))
    assert first == {
        "custom_id": "item-1",
        "line": 1,
        "state": "completed",
        "result": {
            "content": "Hello.",
            "reasoning_content": None,
            "image_urls": [],
            "video_urls": [],
            "audio_urls": [],
            "citations": [],
            "finish_reason": "stop",
            "model": "auto",
            "created_at": "2026-01-01T00:00:00Z",
        },
        "failure": None,
        "usage": {
            "input_tokens": 5,
            "cached_input_tokens": 0,
            "cache_write_tokens": 0,
            "output_tokens": 7,
            "reasoning_tokens": 0,
        },
        "credits": 0.25,
        "model": "alpha",
    }
    assert (second["result"], second["usage"], second["credits"]) == (None, None, 0)
    assert second["failure"]["message"] == "`message` is missing."
    assert [second["failure"][name] for name in ("category", "code")] == [
        "invalid_request",
        "INVALID_ITEM",
    ]
    assert (third["state"], third["failure"]["code"]) == ("failed", "UPSTREAM_500")
    assert (fourth["state"], fourth["failure"]["category"]) == ("expired", "expired")


async def test_calls_of_tools_are_the_answer(api: ApiClient, batch: StoredBatch) -> None:
    calls = (CallPart("c-1", "add", '{"a": 1}'), CallPart("c-2", "add", "1 and 2"))
    asked = AssistantMessage(
        status="completed", content="", created=0, finish_reason="tool_calls", parts=calls
    )
    answer = encode_assistant(asked)
    called = ItemResult(custom_id="a", line=1, state="completed", seq=1, answer=answer)
    await batch.add([called, answered(2, "Three.")])
    first, second = await lines(api, await batch.write("completed"))
    assert first["result"]["finish_reason"] == "tool_calls"
    assert first["result"]["tool_calls"] == [
        {"type": "tool_call", "call_id": "c-1", "tool": "add", "arguments": {"a": 1}},
        {
            "type": "tool_call",
            "call_id": "c-2",
            "tool": "add",
            "arguments": {},
            "malformed": "1 and 2",
        },
    ]
    assert "tool_calls" not in second["result"]


async def test_pictures_have_signed_urls(api: ApiClient, batch: StoredBatch) -> None:
    drawn = AssistantMessage(
        status="completed", content="", created=0, media=(Media("image", f"{ROOT}one/g/1.png"),)
    )
    answer = encode_assistant(drawn)
    await batch.add([ItemResult(custom_id="a", line=1, state="completed", seq=1, answer=answer)])
    [line] = await lines(api, await batch.write("completed"))
    assert "signature=" in line["result"]["image_urls"][0]


async def test_input_order_ends_at_the_first_that_has_not_ended(
    api: ApiClient, batch: StoredBatch
) -> None:
    await batch.add([answered(number, "a") for number in (1, 2)])
    await batch.add([answered(3, "a"), None, answered(5, "a", 4)])
    await batch.add([waiting(number) for number in (6, 7)])
    id_ = await batch.write()
    assert await numbers(api, id_) == [1, 2, 3]
    assert await numbers(api, id_, after_line=1) == [2, 3]
    assert await numbers(api, id_, after_line=3) == []
    assert await numbers(api, id_, after_line=99) == []
    assert await numbers(api, id_, partial="true") == [1, 2, 3, 5]


async def test_chunks_that_have_not_begun_are_not_read(
    api: ApiClient, batch: StoredBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    await batch.add([answered(1, "a"), None])
    for number in range(3, 20):
        await batch.add([waiting(number)])
    id_ = await batch.write(position=2)
    chunks: list[int] = []
    read = BatchResults.read

    async def noted(reader: BatchResults, ref: BatchRef, of: Batch, chunk: int) -> object:
        chunks.append(chunk)
        return await read(reader, ref, of, chunk)

    monkeypatch.setattr(BatchResults, "read", noted)
    assert await numbers(api, id_, partial="true") == [1]
    assert chunks == [0, 1]


async def test_lines_count_the_lines_of_the_file_and_not_the_items(
    api: ApiClient, batch: StoredBatch
) -> None:
    """Empty lines of the file are no items, so lines run ahead of the items' indexes."""
    for first in range(100, 1_600, 300):
        await batch.add([answered(first + at, "a", len(batch.order) + 1 + at) for at in range(3)])
    id_ = await batch.write("completed")
    for after, expected in (
        (0, 100),
        (99, 100),
        (100, 101),
        (102, 400),
        (700, 701),
        (1_301, 1_302),
    ):
        assert (await numbers(api, id_, after_line=after))[0] == expected, after
    assert await numbers(api, id_, after_line=1_302) == []


async def test_a_filter_by_state(api: ApiClient, batch: StoredBatch) -> None:
    wrong = ItemResult(custom_id="w", line=2, state="failed", seq=2, fault="Wrong.")
    await batch.add([answered(1, "a"), wrong, answered(3, "a")])
    id_ = await batch.write("completed")
    assert await numbers(api, id_, state="failed") == [2]
    assert await numbers(api, id_, state="completed") == [1, 3]
    assert await numbers(api, id_, state="cancelled", order="finished") == []
    assert await numbers(api, id_, state="failed", order="finished") == [2]


async def test_the_order_of_finishing_continues_after_any_end(
    api: ApiClient, batch: StoredBatch
) -> None:
    await batch.add([answered(1, "a", 4), answered(2, "a", 1)])
    await batch.add([answered(3, "a", 3), None, answered(5, "a", 2)])
    id_ = await batch.write()
    found = await lines(api, id_, order="finished")
    assert [(each["seq"], each["line"]) for each in found] == [(1, 2), (2, 5), (3, 3), (4, 1)]
    assert await numbers(api, id_, order="finished", after_seq=2) == [3, 1]
    assert await numbers(api, id_, order="finished", after_seq=4) == []


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_a_batch_without_results_yet_has_no_lines(
    api: ApiClient, batch: StoredBatch, encoding: str
) -> None:
    await batch.add([None, None])
    for state in ("validating", "running"):
        id_ = await batch.write(state)
        for order in ("input", "finished"):
            headers = {"accept-encoding": encoding}
            answer = await api.get(url(id_), params={"order": order}, headers=headers)
            assert (answer.status_code, answer.text) == (200, ""), (state, order, answer.text)


async def test_what_was_retried_comes_again_and_only_its_last_end_counts(
    api: ApiClient, batch: StoredBatch
) -> None:
    """Of three failures that are run again, one has an answer by now."""
    again = [
        ItemResult(
            custom_id=f"f{number}", line=number, state="failed", seq=number, item=waiting(number)
        )
        for number in (2, 3)
    ]
    wrong = ItemResult(custom_id="w", line=4, state="failed", seq=4, fault="Wrong.")
    await batch.add([answered(1, "second try", 5), *again, wrong])
    batch.note_ends((1, 0))
    id_ = await batch.write(retried_seq=4)
    assert await numbers(api, id_, partial="true") == [1, 4]
    assert await numbers(api, id_) == [1]
    found = await lines(api, id_, order="finished")
    assert [(each["seq"], each["line"]) for each in found] == [(2, 2), (3, 3), (4, 4), (5, 1)]
    # A stop while they waited for their second run leaves them as they were, in either order, also
    # for a reader that was beyond them by then.
    await batch.write("cancelled", retried_seq=4)
    assert await numbers(api, id_) == [1, 2, 3, 4]


@pytest.mark.parametrize("state", ["cancelled", "expired"])
async def test_what_a_stop_cut_off_needs_no_record(
    api: ApiClient, batch: StoredBatch, state: str
) -> None:
    await batch.add([answered(1, "a", 2), answered(2, "a", 1)])
    await batch.add([answered(3, "a")])
    await batch.add([waiting(number) for number in (4, 5)])
    await batch.add([waiting(6)])
    id_ = await batch.write(state)
    found = await lines(api, id_)
    assert [each["state"] for each in found] == ["completed"] * 3 + [state] * 3
    assert [each["custom_id"] for each in found] == [f"item-{number}" for number in range(1, 7)]
    assert {each["credits"] for each in found[3:]} == {0}
    found = await lines(api, id_, order="finished")
    assert [each["line"] for each in found] == [2, 1, 3, 4, 5, 6]
    assert [each["seq"] for each in found] == [1, 2, 3, 4, 5, 6]
    for after in range(7):
        rest = await numbers(api, id_, order="finished", after_seq=after)
        assert rest == [2, 1, 3, 4, 5, 6][after:]


async def test_while_items_still_end_the_cut_off_ones_have_no_place_in_the_order(
    api: ApiClient, batch: StoredBatch
) -> None:
    await batch.add([answered(1, "a"), None])
    await batch.add([waiting(3)])
    id_ = await batch.write(stop="cancelled", position=2, open=1)
    assert await numbers(api, id_, order="finished") == [1]
    assert await numbers(api, id_, partial="true") == [1, 3]


async def test_items_that_end_while_the_order_is_read_are_not_passed_over(
    api: ApiClient, batch: StoredBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    await batch.add([answered(1, "a"), answered(2, "a")])
    await batch.add([waiting(number) for number in (3, 4)])
    batch.order.pop()
    id_ = await batch.write("running", stop="cancelled", position=2, open=1)
    read = batches.ended_after

    async def ends(redis: Redis, ref: BatchRef, seq: int, count: int) -> object:
        found = await read(redis, ref, seq, count)
        if not found and len(batch.order) == 1:
            batch.note_ends((2, 1))
            await batch.write("cancelled", position=2, open=0)
        return found

    monkeypatch.setattr(batches, "ended_after", ends)
    first = await lines(api, id_, order="finished")
    last = first[-1]["seq"]
    rest = await numbers(api, id_, order="finished", after_seq=last)
    assert [line["line"] for line in first] + rest == [1, 2, 3, 4]


async def test_gzip_if_it_is_asked_for(api: ApiClient, batch: StoredBatch) -> None:
    await batch.add([answered(number, "same words " * 20) for number in range(1, 120)])
    id_ = await batch.write("completed")
    plain = await api.get(url(id_), headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.headers["vary"] == "Accept-Encoding"
    assert plain.headers["batch-state"] == "completed"
    assert plain.headers["cache-control"] == "no-store"
    asked = {**api.headers, "accept-encoding": "br, gzip;q=0.5"}
    async with (
        httpx.AsyncClient(base_url=api.base_url, headers=asked, trust_env=False) as client,
        client.stream("GET", url(id_)) as answer,
    ):
        raw = b"".join([part async for part in answer.aiter_raw()])
    assert answer.headers["content-encoding"] == "gzip"
    assert gzip.decompress(raw) == plain.content
    assert len(raw) < len(plain.content) / 5
    for refused_ in ("gzip;q=0", "gzip; q=0.000", "br"):
        answer = await api.get(url(id_), headers={"accept-encoding": refused_})
        assert "content-encoding" not in answer.headers, refused_


async def test_lines_can_be_unpacked_as_they_come(
    api: ApiClient, batch: StoredBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client has the first chunk's lines while the second cannot be read yet."""
    await batch.add([answered(1, "a")])
    await batch.add([answered(2, "b")])
    id_ = await batch.write("completed")
    gate, read = asyncio.Event(), batch_results._Download._refreshed

    async def held(download: batch_results._Download) -> object:
        await gate.wait()
        return await read(download)

    monkeypatch.setattr(batch_results._Download, "_refreshed", held)
    asked = {**api.headers, "accept-encoding": "gzip"}
    async with (
        httpx.AsyncClient(base_url=api.base_url, headers=asked, trust_env=False) as client,
        client.stream("GET", url(id_)) as answer,
    ):
        parts: AsyncIterator[bytes] = answer.aiter_raw()
        unpack, first = zlib.decompressobj(16 + zlib.MAX_WBITS), b""
        while not first.endswith(b"\n"):
            first += unpack.decompress(await anext(parts))
        assert json.loads(first)["line"] == 1
        gate.set()
        rest = b"".join([unpack.decompress(part) async for part in parts])
    assert json.loads(rest)["line"] == 2


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"order": "random"}, "order"),
        ({"state": "waiting"}, "state"),
        ({"partial": "yes"}, "partial"),
        ({"after_line": "-1"}, "after_line"),
        ({"after_seq": "1"}, "after_seq"),
        ({"after_line": "1", "order": "finished"}, "after_line"),
        ({"partial": "true", "order": "finished"}, "partial"),
    ],
)
async def test_parameters_that_make_no_sense_are_named(
    api: ApiClient, batch: StoredBatch, parameters: dict[str, str], name: str
) -> None:
    await batch.add([answered(1, "a")])
    answer = await api.get(url(await batch.write()), params=parameters)
    assert f"`{name}`" in refused(answer, 400, "INVALID_FIELDS")["error"]


async def test_a_batch_that_arrives_still_or_has_no_item_has_no_results(
    api: ApiClient, batch: StoredBatch
) -> None:
    id_ = await batch.write("validating")
    assert await numbers(api, id_) == []
    assert await numbers(api, id_, order="finished") == []


@pytest.mark.parametrize("what", ["deleted", "revoked", "Redis goes", "shutdown"])
async def test_an_answer_that_cannot_go_on_ends_broken(
    system: System,
    api: ApiClient,
    batch: StoredBatch,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    for first in (1, 3):
        await batch.add([answered(first, "a"), answered(first + 1, "a")])
    id_ = await batch.write("completed")
    system.expected.add("answer cut off")
    read, stopping = batch_results._Download._refreshed, set[asyncio.Task[None]]()

    async def is_refused() -> bool:
        return (await api.get("/api/v1/account/credits")).status_code == 401

    async def happens(download: batch_results._Download) -> object:
        if what == "Redis goes":
            raise UnavailableError("Redis is away.")
        if what == "deleted":
            await system.redis.call("DEL", keys.BATCH(*batch.ref))
        elif what == "revoked":
            for key in await system.accounts.list_keys():
                await system.accounts.revoke_key(key.id)
            await waiting_for.until(is_refused, what="the revocation")
        else:
            stopping.add(asyncio.create_task(system.stop_front(system.url)))
            await waiting_for.until(lambda: download._is_shutting_down, what="the shutdown")
        return await read(download)

    monkeypatch.setattr(batch_results._Download, "_refreshed", happens)
    with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
        await api.get(url(id_))
    await asyncio.gather(*stopping)


async def test_an_answer_ends_broken_when_another_account_needs_its_place(
    system: System, api: ApiClient, batch: StoredBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    await batch.add([answered(1, "a")])
    await batch.add([answered(2, "b")])
    id_ = await batch.write("completed")
    system.expected.add("answer cut off")
    monkeypatch.setattr(large_pages, "PER_PROCESS", 2)
    read = batch_results._Download._refreshed

    async def another_comes(download: batch_results._Download) -> object:
        pages = download._state.large_pages
        with pages.hold("one"), pages.hold("another"):
            return await read(download)

    monkeypatch.setattr(batch_results._Download, "_refreshed", another_comes)
    with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
        await api.get(url(id_))


async def test_a_reader_that_is_stuck_is_cut_off_and_holds_little(
    system: System, batch: StoredBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's speed decides when the next chunk is read."""
    system.change("api", stuck_reader_seconds=0.2)
    url_ = urlsplit(await system.front())
    customer = await system.customer()
    text = "long " * 400_000
    for number in range(1, 31):
        await batch.add([answered(number, text)])
    id_ = await batch.write("completed")
    chunks: list[int] = []
    ended: list[str] = []
    read, hold = BatchResults.read, LargePages.hold

    @contextmanager
    def noted_hold(pages: LargePages, account: str, end: End) -> Iterator[None]:
        try:
            with hold(pages, account, end):
                yield
        finally:
            ended.append(account)

    async def noted(reader: BatchResults, ref: BatchRef, of: Batch, chunk: int) -> object:
        chunks.append(chunk)
        return await read(reader, ref, of, chunk)

    monkeypatch.setattr(BatchResults, "read", noted)
    monkeypatch.setattr(LargePages, "hold", noted_hold)
    key = customer.headers["x-api-key"]
    head = f"GET {url(id_)} HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\n\r\n"
    with socket.create_connection((url_.hostname, url_.port)) as sock:
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, head.encode())

        async def is_cut_off() -> bool:
            return bool(ended)

        await waiting_for.until(is_cut_off, what="the end of the connection")
    assert 0 < len(chunks) < 30


async def test_an_account_has_few_long_answers_at_once(api: ApiClient, batch: StoredBatch) -> None:
    await batch.add([answered(1, "a")])
    id_ = await batch.write("completed")
    [answer] = [await api.head(url(id_))]
    assert (answer.status_code, answer.content) == (200, b"")
    # Each place is given back.
    for _ in range(10):
        assert await numbers(api, id_) == [1]
