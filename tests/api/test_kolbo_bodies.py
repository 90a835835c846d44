"""Malformed bodies: each is one clean refusal, and the next request is answered."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from shared.settings import ApiSettings
from tests.support import waiting
from tests.support.api_client import ApiClient, body, refused
from tests.support.system import System

CHAT: Final = "/api/v1/chat"
JSON: Final = {"content-type": "application/json"}
DEEP: Final = 100_000


def _with(value: bytes, name: bytes = b"max_credits") -> bytes:
    return b'{"message":"hello","' + name + b'":' + value + b"}"


def _message(raw: bytes) -> bytes:
    return b'{"message":"' + raw + b'"}'


MALFORMED: Final[dict[str, bytes]] = {
    "nothing": b"",
    "blank": b" \r\n\t",
    "truncated text": b'{"message":"hel',
    "truncated object": b'{"message":"hello"',
    "truncated name": b'{"mess',
    "truncated escape": b'{"message":"\\u12',
    "null": b"null",
    "a number": b"3",
    "a text": b'"hello"',
    "a truth": b"true",
    "a list": b'[{"message":"hello"}]',
    "two bodies": b'{"message":"hello"}{"message":"hello"}',
    "more after": b'{"message":"hello"} x',
    "trailing comma": b'{"message":"hello",}',
    "single quotes": b"{'message':'hello'}",
    "comment": b'{"message":"hello" /* hi */}',
    "bare name": b'{message:"hello"}',
    "form": b"message=hello",
    "xml": b"<message>hello</message>",
    "two BOMs": b"\xef\xbb\xbf" * 2 + b'{"message":"hello"}',
    "BOM behind": b'{"message":"hello"}\xef\xbb\xbf',
    "UTF-16": '{"message":"hello"}'.encode("utf-16"),
    "UTF-32": '{"message":"hello"}'.encode("utf-32-le"),
    "invalid UTF-8": _message(b"\xff"),
    "cut UTF-8": _message(b"\xc3"),
    "overlong UTF-8": _message(b"\xc0\xaf"),
    "invalid UTF-8 in a name": b'{"message":"hello","\xff":1}',
    "raw surrogate": _message(b"\xed\xa0\x80"),
    "lone high surrogate": _message(b"\\ud800"),
    "lone low surrogate": _message(b"\\udc00"),
    "swapped surrogates": _message(b"\\udc00\\ud800"),
    "lone surrogate in a map": _with(b'{"k":"\\ud83d"}', b"metadata"),
    "lone surrogate in a map's name": _with(b'{"\\ud83d":"v"}', b"metadata"),
    "NUL": _message(b"a\0b"),
    "escaped NUL": _message(b"a\\u0000b"),
    "raw newline": _message(b"a\nb"),
    "unknown escape": _message(b"\\x41"),
    "NaN": _with(b"NaN"),
    "infinity": _with(b"Infinity"),
    "minus infinity": _with(b"-Infinity"),
    "1e999": _with(b"1e999"),
    "-1e999": _with(b"-1e999"),
    "huge exponent": _with(b"1e99999999999999999999"),
    "huge number": _with(b"9" * 5000),
    "huge integer": _with(b"9" * 5000, b"deadline_seconds"),
    "large integer": _with(b"9" * 25, b"deadline_seconds"),
    "leading zero": _with(b"01"),
    "plus": _with(b"+1"),
    "hexadecimal": _with(b"0x1"),
    "dot": _with(b"."),
    "deep lists": b"[" * DEEP,
    "closed deep lists": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"m":' * DEEP,
    "deep unknown field": _with(b"[" * DEEP + b"]" * DEEP, b"unknown"),
    "deep metadata": _with(b'{"a":' * DEEP + b"1" + b"}" * DEEP, b"metadata"),
    "deep list field": _with(b"[" * DEEP + b"]" * DEEP, b"media_urls"),
    "unknown field of many": json.dumps({f"f{n}": n for n in range(10_000)}).encode(),
    "many labels": json.dumps(
        {"message": "x", "metadata": {f"{n}": "" for n in range(9999)}}
    ).encode(),
}


async def _nothing_happened(api: ApiClient, system: System) -> None:
    """Nothing was accepted, nothing failed inside, and the next request is answered."""
    assert [line for line in system.lines if line["event"] == "accepted"] == []
    assert (await api.credits())["held"] == 0
    assert await api.submit("hello")


async def test_malformed_bodies_are_refused(api: ApiClient, system: System) -> None:
    assert len(MALFORMED) > 25
    for name, raw in MALFORMED.items():
        answer = await api.post(CHAT, content=raw, headers=JSON)
        assert answer.status_code == 400, (name, answer.status_code, answer.text[:200])
        assert refused(answer, 400, "INVALID_FIELDS"), name
    session = (await api.submit("hello"))["session_id"]
    system.lines.clear()
    path = f"/api/v1/chat/conversations/{session}"
    for name, raw in MALFORMED.items():
        answer = await api.patch(path, content=raw.replace(b"message", b"name"), headers=JSON)
        assert answer.status_code == 400, (name, answer.status_code, answer.text[:200])
    assert (await api.credits())["held"] > 0


async def test_a_refusal_repeats_little_of_the_request(api: ApiClient) -> None:
    long = b"a" * 100_000
    for raw in (
        b'{"message":"hello","' + long + b'":1}',
        _with(b'"' + long + b'"', b"priority"),
        _with(b'"' + long + b'"', b"model"),
    ):
        answer = await api.post(CHAT, content=raw, headers=JSON)
        assert (answer.status_code, len(answer.content) < 1_000) == (400, True)
        answer = await api.post("/v1/ai/chat", content=raw, headers=JSON)
        assert (answer.status_code, len(answer.content) < 2_000) == (400, True)


async def test_odd_but_valid_bodies_are_taken(api: ApiClient) -> None:
    for raw, message in (
        (b' \r\n\t{"message" :\n"hello"}\n ', "hello"),
        (b'{"message":"first","message":"last"}', "last"),
        (_message(b"\\ud83d\\ude80"), "🚀"),
        (_message("🚀".encode()), "🚀"),
        (_message(b"\\/\\u0041\\t"), "/A\t"),
        (_message(b"\x7f"), "\x7f"),
        (b"\xef\xbb\xbf" + _message(b"hello"), "hello"),
        (_with(b"60.0", b"deadline_seconds"), "hello"),
        (_with(b"6e1", b"deadline_seconds"), "hello"),
        (_with(b'60.0,"max_credits":5.0,"message":"last"', b"deadline_seconds"), "last"),
        (_with(b"5"), "hello"),
        (_with(b"5.0e0"), "hello"),
        (_with(b"0." + b"9" * 5000), "hello"),
    ):
        receipt = body(await api.post(CHAT, content=raw, headers=JSON))
        asked, _ = await api.messages(receipt["session_id"])
        assert asked["content"] == message


async def test_a_body_must_say_that_it_is_json(api: ApiClient, system: System) -> None:
    raw = b'{"message":"hello"}'
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/xml",
        "application/jsonx",
        "json",
        "*/*",
        ", application/json",
    ):
        answer = await api.post(CHAT, content=raw, headers={"content-type": kind})
        refused(answer, 415, "UNSUPPORTED_MEDIA_TYPE")
    for encoding in ("gzip", "br", "deflate, gzip", "x"):
        answer = await api.post(CHAT, content=raw, headers=JSON | {"content-encoding": encoding})
        refused(answer, 415, "UNSUPPORTED_MEDIA_TYPE")
    await _nothing_happened(api, system)
    for kind in ("application/json", "application/json; charset=utf-8", "Application/JSON", ""):
        assert body(await api.post(CHAT, content=raw, headers={"content-type": kind}))
    for encoding in ("identity", "Identity", ""):
        answer = await api.post(CHAT, content=raw, headers=JSON | {"content-encoding": encoding})
        assert body(answer)


async def test_a_body_over_the_cap_is_refused_announced_or_in_chunks(
    api: ApiClient, system: System
) -> None:
    most = ApiSettings().body_bytes_max
    large = _message(b"x" * most)

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(large), 65_536):
            yield large[start : start + 65_536]

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(2 * most // 65_536):
            yield b" " * 65_536

    for content in (large, chunks(), endless()):
        answer = await api.post(CHAT, content=content, headers=JSON)
        refused(answer, 413, "PAYLOAD_TOO_LARGE")
        assert answer.headers["connection"] == "close"
    # One of exactly that size is read; its message is then too long.
    answer = await api.post(CHAT, content=_message(b"x" * (most - 14)), headers=JSON)
    assert "`message`" in refused(answer, 400, "INVALID_FIELDS")["error"]
    await _nothing_happened(api, system)


@asynccontextmanager
async def _line(api: ApiClient) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a connection and send the head of a message of 100 bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.base_url.port)
    writer.write(
        b"POST /api/v1/chat HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        b"Content-Length: 100\r\nX-API-Key: " + api.headers["x-api-key"].encode() + b"\r\n\r\n"
    )
    yield reader, writer
    writer.close()


async def test_a_body_that_does_not_come_is_not_waited_for(system: System) -> None:
    system.change("api", body_seconds=0.1)
    await system.front()
    api = await system.customer()
    for piece in (b"", b'{"message":'):
        async with _line(api) as (reader, writer):
            writer.write(piece)
            head, _, content = (await reader.read()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ")
        assert b"connection: close" in head
        refusal = json.loads(content)
        assert (refusal["success"], refusal["code"]) == (False, "REQUEST_TIMEOUT")
        assert f"x-request-id: {refusal['request_id']}".encode() in head
    await _nothing_happened(api, system)


async def test_a_body_that_drips_is_not_waited_for(system: System) -> None:
    system.change("api", body_seconds=0.1)
    await system.front()
    api = await system.customer()
    async with _line(api) as (reader, writer):
        answer = asyncio.create_task(reader.read())

        async def drip() -> bool:
            writer.write(b" ")
            return answer.done()

        await waiting.until(drip)
        # Bytes still in flight may have reset the connection before the response was read.
        (said,) = await asyncio.gather(answer, return_exceptions=True)
    assert isinstance(said, ConnectionError) or (isinstance(said, bytes) and b" 408 " in said)
    await _nothing_happened(api, system)


async def test_a_disconnect_within_the_body_leaves_nothing(api: ApiClient, system: System) -> None:
    async with _line(api) as (_, writer):
        writer.write(b'{"message":"hello')
    await waiting.until(lambda: any(line["event"] == "refused" for line in system.lines))
    await _nothing_happened(api, system)


async def test_a_body_where_none_is_read_changes_nothing(api: ApiClient) -> None:
    receipt = await api.submit("hello")
    for raw in (b"", b"{}", b"\xff\0{", b"x" * 100_000):
        answer = await api.request("GET", receipt["poll_url"], content=raw, headers=JSON)
        assert body(answer)["state"] == "processing"
    answer = await api.post(receipt["cancel_url"], content=b"{broken", headers=JSON)
    assert body(answer)["state"] == "cancelled"
