"""A batch over HTTP, from its body to what is stored: lines, JSON, gzip, and what is refused."""

import asyncio
import errno
import gc
import gzip
import json
import re
import secrets
import sqlite3
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import httpx
import msgspec
import pytest

from api.batches.item_maker import ItemMaker
from api.batches.item_names import ItemNames
from api.batches.json_items import JsonItems
from shared.errors import RequestError
from shared.redis import keys
from shared.redis.client import Redis
from shared.wire import submission as submissions
from shared.wire.batch import BatchItem, unpack_items
from tests.support import waiting
from tests.support.api_client import ApiClient, Json, body, refused
from tests.support.system import System

BATCHES: Final = "/api/v1/batches"
_LINES: Final = {"content-type": "application/x-ndjson"}
_GZIP: Final = {**_LINES, "content-encoding": "gzip"}


def _jsonl(*items: object) -> bytes:
    return b"".join(json.dumps(item).encode() + b"\n" for item in items)


async def _send(
    api: ApiClient, content: bytes, headers: dict[str, str] | None = None, **query: str
) -> httpx.Response:
    sent = _LINES if headers is None else headers
    return await api.post(BATCHES, content=content, headers=sent, params=query)


async def _keys(system: System) -> list[str]:
    """Return the keys of batches that are stored."""
    found: list[bytes] = []
    cursor: bytes | int = 0
    pattern = f"{system.settings.redis.prefix}:*"
    while True:
        cursor, names = await system.redis.call("SCAN", cursor, "MATCH", pattern, "COUNT", 1_000)
        found += names
        if int(cursor) == 0:
            return [name.decode() for name in found if b":batch" in name or b":idemp" in name]


async def _items(system: System, batch: str, account: str = "one") -> list[BatchItem]:
    root = system.accounts.root_of(await system.account(account))
    chunks = int(await system.redis.call("HGET", keys.BATCH(root, account, batch), "chunks"))
    found: list[BatchItem] = []
    for chunk in range(chunks):
        stored = await system.redis.call("GET", keys.BATCH_ITEMS(root, account, batch, chunk))
        found += unpack_items(stored)
    return found


async def _record(system: System, batch: str) -> dict[str, str]:
    root = system.accounts.root_of(await system.account())
    found = await system.redis.call("HGETALL", keys.BATCH(root, "one", batch))
    return {name.decode(): value.decode() for name, value in found.items()}


async def test_lines_are_stored_as_items_and_the_batch_runs(api: ApiClient, system: System) -> None:
    content = _jsonl({"message": "a", "custom_id": "x"}, {"message": "b", "metadata": {"k": "v"}})
    made = body(await _send(api, content, model="alpha", metadata='{"name":"n"}', max_credits="5"))
    assert (made["total"], made["invalid"], made["errors"], made["state"]) == (2, 0, [], "running")
    shown = body(await api.get(made["poll_url"]))
    assert (shown["state"], shown["total"], shown["metadata"]) == ("running", 2, {"name": "n"})
    assert shown["credits"]["max"] == 5
    first, second = await _items(system, made["batch_id"])
    assert (first.custom_id, first.line, first.content, first.model) == ("x", 1, "a", "alpha")
    assert (second.custom_id, second.line, second.metadata) == ("2", 2, {"k": "v"})
    assert first.hold == second.hold > 0
    asked = submissions.decode(first.submission)
    assert (asked.session, asked.model, asked.conversation) == (None, "alpha", None)
    record = await _record(system, made["batch_id"])
    assert int(record["deadline"]) - int(record["started"]) == 86_400_000


async def test_a_batch_holds_as_much_as_the_same_message_does(
    api: ApiClient, system: System
) -> None:
    await api.submit("hello there", model="beta")
    held = (await api.credits())["held"]
    made = body(await _send(api, _jsonl({"message": "hello there", "model": "beta"})))
    (item,) = await _items(system, made["batch_id"])
    assert item.hold / 1_000_000 == held


_WRONG: Final[Sequence[tuple[str, bytes, str]]] = (
    ("not JSON", b"{", "The line is not valid JSON."),
    ("not UTF-8", b'{"message": "\xff"}', "The line is not valid JSON."),
    ("no object", b"[]", "The line must be an object"),
    ("NUL", b'{"message": "a\\u0000"}', "The field `message` holds a character"),
    ("half a pair", b'{"message": "a\\udc00"}', "The line is not valid JSON."),
    ("nothing asked", b"{}", "The field `message` is required."),
    ("blank", b'{"message": " "}', "The field `message` is required."),
    ("a session", b'{"message": "a", "session_id": "s"}', "The field `session_id` is unknown."),
    ("a priority", b'{"message": "a", "priority": "batch"}', "The field `priority` is unknown."),
    ("a conflict", b'{"message": "a", "on_conflict": "reject"}', "`on_conflict` is unknown."),
    ("a webhook", b'{"message": "a", "webhook_url": "u"}', "`webhook_url` is unknown."),
    ("a deadline", b'{"message": "a", "deadline_seconds": 9}', "`deadline_seconds` is unknown."),
    ("no model", b'{"message": "a", "model": "zeta"}', "There is no model `zeta`"),
    (
        "cannot",
        b'{"message": "a", "deep_think": true}',
        "The field `deep_think` asks for a feature",
    ),
    (
        "too dear",
        b'{"message": "a", "model": "alpha", "max_credits": 0.000001}',
        "`alpha` by max_credits",
    ),
    ("a wrong URL", b'{"message": "a", "media_urls": ["x"]}', "The field `media_urls[0]` cannot"),
    ("a wrong type", b'{"message": "a", "top_p": "x"}', "The field `top_p` must be"),
    ("both", b'{"message": "a", "messages": []}', "`message` does not go with `messages`."),
    ("no messages", b'{"messages": []}', "The field `messages` is empty."),
    ("nothing to answer", b'{"messages": [{"role": "assistant", "content": "a"}]}', "is the last"),
    ("a long id", b'{"message": "a", "custom_id": "' + b"x" * 129 + b'"}', "`custom_id` must be"),
    ("a control", b'{"message": "a", "custom_id": "a\\n"}', "`custom_id` has a control character"),
    ("a deep one", b'{"message": ' + b"[" * 5_000, "`message` must be a string"),
)


async def test_a_wrong_line_is_an_item_that_says_what_is_wrong(
    api: ApiClient, system: System
) -> None:
    lines = [line for _, line, _ in _WRONG]
    made = body(await _send(api, b"\n".join([*lines, b'{"message": "right"}'])))
    assert made["total"] == len(lines) + 1
    for (what, _, sentence), error in zip(_WRONG, made["errors"], strict=True):
        assert sentence in error["error"], (what, error)
    assert [error["line"] for error in made["errors"]] == list(range(1, len(lines) + 1))
    *wrong, right = await _items(system, made["batch_id"])
    assert [item.fault for item in wrong] == [error["error"] for error in made["errors"]]
    assert not any(item.submission or item.content or item.hold for item in wrong)
    assert (right.fault, right.content) == ("", "right")


async def test_lines_without_anything_count_and_are_left_out(
    api: ApiClient, system: System
) -> None:
    content = b'\n{"message": "a"}\r\n  \n\n{"message": "b"}'
    made = body(await _send(api, content))
    items = await _items(system, made["batch_id"])
    assert [(item.line, item.custom_id) for item in items] == [(2, "2"), (5, "5")]


async def test_a_name_belongs_to_the_first_line_that_has_it(api: ApiClient, system: System) -> None:
    content = _jsonl(
        {"message": "a", "custom_id": "x"},
        {"message": "b"},
        {"message": "c", "custom_id": "x"},
        {"message": "d", "custom_id": "2"},
        {"message": "e", "custom_id": "6"},
        {"message": "f"},
        {"message": " ", "custom_id": "y"},
        {"message": "g", "custom_id": "y"},
    )
    made = body(await _send(api, content))
    assert [(error["line"], error["custom_id"]) for error in made["errors"]] == [
        (3, "x"), (4, "2"), (6, "6"), (7, "y"), (8, "y"),
    ]  # fmt: skip
    items = await _items(system, made["batch_id"])
    assert [item.content for item in items if not item.fault] == ["a", "b", "e"]


async def test_a_line_that_is_too_long_is_not_kept(system: System) -> None:
    system.change("api", body_bytes_max=10_000)
    await system.front()
    short = await system.customer("two")
    content = _jsonl({"message": "x" * 20_000}, {"message": "a"}, {"message": "y" * 20_000})
    made = body(await _send(short, content))
    assert [error["line"] for error in made["errors"]] == [1, 3]
    assert "longer than a message may be" in made["errors"][0]["error"]
    assert (await _items(system, made["batch_id"], "two"))[1].content == "a"


async def test_a_line_that_no_model_takes_is_freed_at_once(api: ApiClient) -> None:
    content = _jsonl({"message": "x" * 8_000, "model": "beta"}) * 30
    gc.collect()
    gc.disable()
    try:
        assert body(await _send(api, content))["invalid"] == 30
        errors = sum(isinstance(each, RequestError) for each in gc.get_objects())
    finally:
        gc.enable()
    assert errors < 10


async def test_options_of_the_batch_are_those_of_lines_without(
    api: ApiClient, system: System
) -> None:
    content = _jsonl(
        {"message": "a"},
        {"message": "b", "system_prompt": "Be long.", "temperature": 1, "model": "beta"},
        {"messages": [{"role": "system", "content": "Own."}, {"role": "user", "content": "c"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "d"}]}]},
    )
    made = body(
        await _send(
            api,
            content,
            system_prompt="Be short.",
            temperature="0.5",
            stop='["x","y"]',
            model="alpha",
            response_format='{"type": "json_object"}',
        )
    )
    assert [error["line"] for error in made["errors"]] == [2]
    items = await _items(system, made["batch_id"])
    asked = [submissions.decode(item.submission) for item in items if not item.fault]
    texts = [[(each.role, each.text) for each in one.conversation or ()] for one in asked]
    assert texts == [
        [("system", "Be short."), ("user", "a")],
        [("system", "Own."), ("user", "c")],
        [("system", "Be short."), ("user", "d")],
    ]
    assert {(one.sampling.temperature, one.sampling.stop) for one in asked} == {(0.5, ("x", "y"))}
    assert {one.form.kind for one in asked} == {"json_object"}


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ({"nonsense": "1"}, 400, "INVALID_FIELDS"),
        ({"temperature": "hot"}, 400, "INVALID_FIELDS"),
        ({"metadata": "{"}, 400, "INVALID_FIELDS"),
        ({"on_invalid": "x"}, 400, "INVALID_FIELDS"),
        ({"dedupe": "x"}, 400, "INVALID_FIELDS"),
        ({"model": "zeta"}, 400, "MODEL_NOT_FOUND"),
        ({"webhook_url": "example.org"}, 400, "INVALID_FIELDS"),
        ({"system_prompt": "x" * 200_001}, 400, "INVALID_FIELDS"),
    ],
)
async def test_wrong_options_refuse_the_whole(
    api: ApiClient, system: System, query: Json, status: int, code: str
) -> None:
    if len(query.get("system_prompt", "")) > 1_000:
        document = json.dumps({**query, "items": [{"message": "a"}]}).encode()
        answer = await _send(api, document, {"content-type": "application/json"})
    else:
        answer = await _send(api, _jsonl({"message": "a"}), **query)
    refused(answer, status, code)
    assert await _keys(system) == []


async def test_rejecting_names_what_is_wrong_and_stores_nothing(
    api: ApiClient, system: System
) -> None:
    lines = [{"message": "a"}] * 300 + [{}] * 150
    refusal = refused(await _send(api, _jsonl(*lines), on_invalid="reject"), 400, "INVALID_FIELDS")
    assert (refusal["invalid"], len(refusal["errors"])) == (150, 100)
    assert refusal["errors"][0]["line"] == 301
    assert await _keys(system) == []
    assert body(await _send(api, _jsonl(*lines[:300]), on_invalid="reject"))["total"] == 300


@pytest.mark.parametrize(
    "document",
    [
        {"items": [{"message": "a", "custom_id": "x"}, {"message": "b"}], "model": "alpha"},
        {"model": "alpha", "items": [{"message": "a", "custom_id": "x"}, {"message": "b"}]},
        {
            "metadata": {"items": '[{"'},
            "items": [{"message": "a", "custom_id": "x"}, {"message": "b"}],
            "model": "alpha",
        },
    ],
)
async def test_a_document_has_its_items_anywhere(
    api: ApiClient, system: System, document: Json
) -> None:
    made = body(await api.post(BATCHES, json=document))
    assert (made["total"], made["invalid"]) == (2, 0)
    items = await _items(system, made["batch_id"])
    assert [(item.custom_id, item.content, item.model) for item in items] == [
        ("x", "a", "alpha"), ("2", "b", "alpha"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "INVALID_FIELDS"),
        (b"{", "INVALID_FIELDS"),
        (b"[]", "INVALID_FIELDS"),
        (b'{"model": "alpha"}', "MISSING_FIELDS"),
        (b'{"items": []}', "MISSING_FIELDS"),
        (b'{"items": [{"message": "a"},]}', "INVALID_FIELDS"),
        (b'{"items": [{"message": "a"}}', "INVALID_FIELDS"),
        (b'{"items": [{"message": "a"}], "items": [{"message": "a"}]}', "INVALID_FIELDS"),
        (b'{"items": [{"message": "a"}], "nonsense": 1}', "INVALID_FIELDS"),
        (b'{"items": {"message": "a"}}', "INVALID_FIELDS"),
        (b'{"items": [{"message": "a"}]} x', "INVALID_FIELDS"),
        (b'{"items": [{"message": "a"}], "model": "\xff"}', "INVALID_FIELDS"),
        (b'{"items": [{"message": "a"}], "metadata": {"a": "\\u0000"}}', "INVALID_FIELDS"),
    ],
)
async def test_a_wrong_document_is_refused_whole(
    api: ApiClient, system: System, content: bytes, code: str
) -> None:
    refused(await _send(api, content, {"content-type": "application/json"}), 400, code)
    assert await _keys(system) == []


async def test_kinds_of_bodies(api: ApiClient) -> None:
    line = _jsonl({"message": "a"})
    for kind in ("application/jsonl", "application/x-ndjson", "application/x-jsonlines"):
        assert body(await _send(api, line, {"content-type": kind}))["total"] == 1
    refused(await _send(api, line, {"content-type": "text/csv"}), 415, "UNSUPPORTED_MEDIA_TYPE")
    odd = {**_LINES, "content-encoding": "br"}
    refused(await _send(api, line, odd), 415, "UNSUPPORTED_MEDIA_TYPE")
    document = {"items": [{"message": "a"}]}
    refused(
        await api.post(BATCHES, json=document, params={"model": "alpha"}), 400, "INVALID_FIELDS"
    )
    refused(await _send(api, b""), 400, "MISSING_FIELDS")
    refused(await _send(api, b"\n \n"), 400, "MISSING_FIELDS")


async def test_gzip_of_one_and_of_many_members(api: ApiClient, system: System) -> None:
    lines = [{"message": f"number {each}"} for each in range(500)]
    whole = _jsonl(*lines)
    members = [gzip.compress(whole[first : first + 999]) for first in range(0, len(whole), 999)]
    for packed in (gzip.compress(whole), b"".join(members) + bytes(100)):
        made = body(await _send(api, packed, _GZIP))
        assert (made["total"], made["invalid"]) == (500, 0)
        items = await _items(system, made["batch_id"])
        assert [item.content for item in items] == [line["message"] for line in lines]
    document = gzip.compress(json.dumps({"items": lines}).encode())
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    assert body(await _send(api, document, headers))["total"] == 500


async def test_wrong_gzip_leaves_nothing(api: ApiClient, system: System) -> None:
    packed = gzip.compress(_jsonl(*([{"message": "a"}] * 1_000)))
    for wrong in (b"", b"plain", packed[:-4], packed + b"x", packed[:60] + b"xx" + packed[62:]):
        refused(await _send(api, wrong, _GZIP), 400, "INVALID_FIELDS")
        assert await _keys(system) == []


async def test_a_body_that_unpacks_to_too_much_is_refused(system: System) -> None:
    system.change("limits", batch_bytes_max=1_000_000)
    await system.front()
    api = await system.customer()
    packed = gzip.compress(b" " * 2_000_000)
    refused(await _send(api, packed, _GZIP), 413, "PAYLOAD_TOO_LARGE")
    refused(await _send(api, b" " * 1_000_001), 413, "PAYLOAD_TOO_LARGE")
    assert await _keys(system) == []


async def test_a_key_makes_one_batch_of_one_body(api: ApiClient) -> None:
    content, keyed = _jsonl({"message": "a"}, {}), {**_LINES, "idempotency-key": "k"}
    first = await _send(api, content, keyed)
    again = await _send(api, content, keyed)
    assert body(again) == body(first)
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    packed = await _send(api, gzip.compress(content), {**keyed, **_GZIP})
    assert packed.headers["idempotent-replayed"] == "true"
    for other, query in ((_jsonl({"message": "b"}), {}), (content, {"model": "alpha"})):
        refused(await _send(api, other, keyed, **query), 422, "IDEMPOTENCY_MISMATCH")
    document = {"items": [{"message": "a"}]}
    answer = await api.post(BATCHES, json=document, headers={"idempotency-key": "k"})
    refused(answer, 422, "IDEMPOTENCY_MISMATCH")
    listed = body(await api.get(BATCHES, params={"key": "k"}))["batches"]
    assert [each["batch_id"] for each in listed] == [body(first)["batch_id"]]
    assert len(body(await api.get(BATCHES))["batches"]) == 1


async def test_a_repeated_upload_reads_and_feeds_nothing_more(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyed, content = {**_LINES, "idempotency-key": "k"}, _jsonl({"message": "a"}, {})
    called: list[str] = []
    call = Redis.call

    async def noted(redis: Redis, *words: Any, repeat: bool = True) -> Any:  # noqa: ANN401  as it is
        called.append(repr(words))
        return await call(redis, *words, repeat=repeat)

    monkeypatch.setattr(Redis, "call", noted)
    first = body(await _send(api, content, keyed))
    # Feeding ends with a look that finds nothing more.
    await waiting.until(lambda: re.search("enqueue_items.*plan_feed", " ".join(called)) is not None)
    called.clear()
    assert body(await _send(api, content, keyed)) == first
    mine = [each for each in called if "begin_batch" in each]
    assert len(mine) == 1
    others = [each for each in called if "plan_feed" in each or first["batch_id"] in each]
    assert others == []


async def _paused(
    parts: Sequence[bytes], until: asyncio.Event, reached: asyncio.Event
) -> AsyncIterator[bytes]:
    """Yield all parts but the last, then that once the event is set."""
    for part in parts[:-1]:
        yield part
    reached.set()
    await until.wait()
    yield parts[-1]


async def test_a_second_upload_with_a_key_waits_for_the_first(
    api: ApiClient, system: System
) -> None:
    until, reached, keyed = asyncio.Event(), asyncio.Event(), {**_LINES, "idempotency-key": "k"}
    line = _jsonl({"message": "a"})
    second = await system.customer()
    first = asyncio.create_task(
        api.post(BATCHES, content=_paused([line, line], until, reached), headers=keyed)
    )
    await reached.wait()

    async def is_under_way() -> bool:
        return bool(await _keys(system))

    await waiting.until(is_under_way, what="the upload")
    refusal = await _send(second, line + line, keyed)
    refused(refusal, 409, "UPLOAD_UNDER_WAY")
    assert 1 <= int(refusal.headers["retry-after"]) <= 10
    # A short body has arrived by then, so the connection stays.
    assert refusal.headers.get("connection") != "close"
    until.set()
    made = body(await first)
    assert body(await _send(second, line + line, keyed)) == made


async def test_many_uploads_with_one_key_make_one_batch(api: ApiClient, system: System) -> None:
    keyed, content = {**_LINES, "idempotency-key": "k"}, _jsonl(*([{"message": "a"}] * 20))

    async def send() -> str:
        while True:
            answer = await _send(api, content, keyed)
            if answer.status_code == 200:
                return str(body(answer)["batch_id"])
            assert answer.status_code in {409, 429, 503}, answer.text
            assert int(answer.headers["retry-after"]) >= 1

    made = await asyncio.gather(*(send() for _ in range(20)))
    assert len(set(made)) == 1
    assert len(body(await api.get(BATCHES))["batches"]) == 1
    assert system.url


async def test_a_broken_upload_leaves_nothing_and_frees_its_key(
    api: ApiClient, system: System
) -> None:
    line, keyed = _jsonl({"message": "a"}), {**_LINES, "idempotency-key": "k"}
    until, reached = asyncio.Event(), asyncio.Event()
    sending = asyncio.create_task(
        api.post(BATCHES, content=_paused([line * 300, line], until, reached), headers=keyed)
    )

    async def has_chunks() -> bool:
        return any(":batch-items:" in name for name in await _keys(system))

    await waiting.until(has_chunks, what="the first chunk")
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)

    async def is_gone() -> bool:
        return not await _keys(system)

    await waiting.until(is_gone, what="the end of the upload")
    assert body(await _send(api, line, keyed))["total"] == 1


async def test_a_sender_that_is_too_slow_is_refused(api: ApiClient, system: System) -> None:
    line = _jsonl({"message": "a"})

    async def is_under_way() -> bool:
        return any(":batch:" in name for name in await _keys(system))

    async def slow() -> AsyncIterator[bytes]:
        yield line
        await waiting.until(is_under_way, what="the upload")
        # Only time that the front waits for the body counts, and it may be busy at one moment.
        for _ in range(50):
            await _keys(system)
            system.clock.advance(31.0)
            yield line

    refused(await api.post(BATCHES, content=slow(), headers=_LINES), 408, "REQUEST_TIMEOUT")
    assert await _keys(system) == []


async def test_a_slow_upload_that_brings_enough_is_renewed(api: ApiClient, system: System) -> None:
    line = _jsonl({"message": "x" * 6_000})

    async def steady() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield line
            system.clock.advance(5.0)

    assert body(await api.post(BATCHES, content=steady(), headers=_LINES))["total"] == 20


async def test_quotas_name_figure_and_limit(system: System) -> None:
    system.change_tier("free", open_batches_max=1, batch_items_max=200, stored_bytes_max=100_000)
    await system.front()
    api = await system.customer("two", tier="free")
    line = _jsonl({"message": "a"})
    refusal = refused(await _send(api, line * 201), 403, "QUOTA_EXCEEDED")
    assert (refusal["quota"], refusal["limit"]) == ("batch_items", 200)
    content = _jsonl(*({"message": secret} for secret in _random_texts(150, 2_000)))
    refusal = refused(await _send(api, content), 403, "QUOTA_EXCEEDED")
    assert (refusal["quota"], refusal["used"], refusal["limit"]) == ("stored_bytes", 0, 100_000)
    assert await _keys(system) == []
    body(await _send(api, line * 200))
    refusal = refused(await _send(api, line), 403, "QUOTA_EXCEEDED")
    assert (refusal["quota"], refusal["used"], refusal["limit"]) == ("open_batches", 1, 1)


async def test_blank_lines_are_not_free(system: System) -> None:
    system.change_tier("free", batch_items_max=200)
    await system.front()
    api = await system.customer("two", tier="free")
    line = _jsonl({"message": "a"})
    assert body(await _send(api, (line + b"\r\n") * 200))["total"] == 200
    for blank in (b"\n", b" \n", b"\r\n"):
        content = gzip.compress(blank * 1_000_000 + line)
        refusal = refused(await _send(api, content, _GZIP), 403, "QUOTA_EXCEEDED")
        assert (refusal["quota"], refusal["limit"]) == ("batch_lines", 400)
    refused(await _send(api, b" " * 1_000_000, _LINES), 400, "MISSING_FIELDS")


def _random_texts(count: int, length: int) -> list[str]:
    return [secrets.token_hex(length // 2) for _ in range(count)]


async def test_more_uploads_than_may_be_are_refused_for_a_moment(system: System) -> None:
    system.change("api", uploads_max=2, uploads_per_account=1)
    await system.front()
    line, until = _jsonl({"message": "a"}), asyncio.Event()
    clients = [await system.customer(name) for name in ("one", "two", "three")]
    begun = []
    for client in clients[:2]:
        reached = asyncio.Event()
        content = _paused([line, line], until, reached)
        begun.append(asyncio.create_task(client.post(BATCHES, content=content, headers=_LINES)))
        await reached.wait()

    async def are_begun() -> bool:
        return sum(":batch:" in name for name in await _keys(system)) == 2

    await waiting.until(are_begun, what="both uploads")
    another = await system.customer("one")
    limited = await _send(another, line)
    refused(limited, 429, "RATE_LIMITED")
    full = await _send(clients[2], line)
    refused(full, 503, "UNAVAILABLE")
    assert min(int(each.headers["retry-after"]) for each in (limited, full)) >= 1
    until.set()
    assert [body(await each)["total"] for each in begun] == [2, 2]
    assert body(await _send(clients[2], line))["total"] == 1


async def test_slow_uploads_keep_nobody_out(system: System) -> None:
    system.change("api", uploads_max=4, uploads_per_account=2)
    await system.front()
    slow = [
        await _begin_slowly(await system.customer(name, tier="free"), media_type)
        for name in ("one", "two")
        for media_type in ("application/jsonl", "application/json")
    ]
    other = await system.customer("three", tier="free")
    assert body(await _send(other, _jsonl({"message": "a"})))["total"] == 1
    answers = [asyncio.create_task(reader.readuntil(b"}")) for reader, _ in slow]
    (ended,), waiting_still = await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
    answer = (await ended).decode()
    assert answer.startswith("HTTP/1.1 503")
    assert "ended for that of another account" in answer
    assert "\r\nretry-after: 5\r\n" in answer
    for _, writer in slow:
        writer.close()
    await asyncio.gather(*waiting_still, return_exceptions=True)


async def _begin_slowly(
    api: ApiClient, media_type: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Begin an upload, and return when the front waits for its body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.base_url.port)
    key = api.headers["x-api-key"]
    head = f"POST {BATCHES} HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\nexpect: 100-continue\r\n"
    fields = f"content-type: {media_type}\r\ncontent-length: 1000000\r\n\r\n"
    writer.write(f"{head}{fields}".encode())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
    return reader, writer


async def test_long_lines_are_decoded_one_at_a_time(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, entered, most = ItemMaker.make, threading.Semaphore(0), 0

    def counted(self: ItemMaker, number: int, raw: bytes | None) -> BatchItem:
        nonlocal most
        most += 1
        # Nobody else enters meanwhile.
        assert not entered.acquire(timeout=0.02), "two lines at a time"
        entered.release()
        item = make(self, number, raw)
        assert entered.acquire(blocking=False)
        return item

    monkeypatch.setattr(ItemMaker, "make", counted)
    line = _jsonl({"message": "a" * 20_000})
    made = await asyncio.gather(*(_send(api, line) for _ in range(4)))
    assert [body(each)["total"] for each in made] == [1] * 4
    assert most == 4


@pytest.mark.parametrize(
    ("media_type", "what", "error"),
    [
        ("application/jsonl", (ItemNames, "take"), sqlite3.OperationalError("disk is full")),
        ("application/json", (JsonItems, "feed"), OSError(errno.ENOSPC, "No space left")),
    ],
)
async def test_a_full_disk_refuses_for_now(
    api: ApiClient,
    system: System,
    monkeypatch: pytest.MonkeyPatch,
    media_type: str,
    what: tuple[type, str],
    error: Exception,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(*what, fail)
    system.expected |= {"an upload cannot be kept in a temporary file", "unavailable"}
    content = _jsonl({"items": [], "message": "a"})
    refused(await _send(api, content, {"content-type": media_type}), 503, "UNAVAILABLE")
    assert await _keys(system) == []


async def test_a_server_without_room_refuses_before_the_body(
    own_system: System,
) -> None:
    system = own_system
    used = int((await _memory(system))["used_memory"])
    await system.redis.call("CONFIG", "SET", "maxmemory", used + 40_000_000)
    system.change("limits", memory_share_max_batch=0.9)
    await system.front()
    api = await system.customer()
    content = _jsonl(*({"message": text} for text in _random_texts(200, 20_000)))
    size = 900_000_000
    reader, writer = await asyncio.open_connection("127.0.0.1", api.base_url.port)
    key = api.headers["x-api-key"]
    head = f"POST {BATCHES} HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\n"
    writer.write(
        f"{head}content-type: application/jsonl\r\ncontent-length: {size}\r\n\r\n".encode()
    )
    answer = (await reader.readuntil(b"}")).decode()
    writer.close()
    assert answer.startswith("HTTP/1.1 503")
    assert "QUEUE_FULL" in answer
    assert "\r\nretry-after: " in answer
    assert "\r\nconnection: close\r\n" in answer
    assert body(await _send(api, content))["total"] == 200


async def _memory(system: System) -> dict[str, str]:
    text: bytes = await system.redis.call("INFO", "memory")
    rows = (row.partition(":") for row in text.decode().split("\r\n"))
    return {name: value for name, _, value in rows}


async def test_a_batch_can_be_read_by_nobody_else(
    api: ApiClient, other: ApiClient, system: System
) -> None:
    made = body(await _send(api, _jsonl({"message": "a"})))
    refused(await other.get(made["poll_url"]), 404, "BATCH_NOT_FOUND")
    assert msgspec.json.decode((await other.get(BATCHES)).content)["batches"] == []
    assert system.url
