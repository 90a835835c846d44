"""Which limit each kind of request counts against: reads, polls, cancels, submissions."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

import httpx
import msgspec
import pytest

from shared.settings import Settings
from shared.tiers import Tier
from tests.api import kombify_client
from tests.api.kombify_client import SESSIONS
from tests.support import waiting
from tests.support.api_client import ApiClient, body, refused
from tests.support.mounts import ADMIN_MOUNTS, MOUNTS
from tests.support.stream_reader import following
from tests.support.system import System

CHAT: Final = "/api/v1/chat"
LIST: Final = "/api/v1/chat/conversations"
CREDITS: Final = "/api/v1/account/credits"
_SUBMISSIONS: Final = 600


def _limits(answer: httpx.Response) -> int:
    """Check what a refusal by a limit carries; return when to retry."""
    assert answer.status_code == 429, answer.text
    assert answer.json()["code"] == "RATE_LIMITED"
    again = int(answer.headers["retry-after"])
    assert again >= 1
    assert int(answer.headers["ratelimit-limit"]) >= 1
    assert answer.headers["ratelimit-remaining"] == "0"
    assert int(answer.headers["ratelimit-reset"]) >= again
    return again


async def _exhaust_reads(api: ApiClient) -> int:
    async def is_refused() -> httpx.Response | None:
        answer = await api.get(CREDITS)
        return None if answer.status_code == 200 else answer

    return _limits(await waiting.until(is_refused))


def test_every_route_counts_as_what_it_does() -> None:
    # These change what exists, and must work where nothing more may be created.
    changes = ("/cancel", "/pause", "/resume", "/retry")
    for mount, endpoints in (MOUNTS | ADMIN_MOUNTS).items():
        for each in endpoints:
            if each.method == "DELETE" or each.path.endswith(changes) or "admin" in mount:
                expected = {"cancel"} if each.method != "GET" else {"read"}
            elif each.method == "POST":
                # A POST that stores nothing may be declared a read.
                expected = {"submission", "read"} - ({"read"} if each.status == 201 else set())
            else:
                expected = {"poll"} if each.path.endswith("/status") else {"read"}
            assert each.request_kind in expected, (mount, each.route)


async def test_reads_that_are_used_up_stop_nothing_else(system: System) -> None:
    system.change_tier("enterprise", reads_per_minute=3)
    system.change("api", reads_per_unfinished=1)
    await system.front()
    api = await system.customer()
    receipts = [await api.submit("hello") for _ in range(2)]
    made = kombify_client.payload(await api.post(SESSIONS, json={}), 201)
    # No time passes between these but their own.
    for _ in range(3):
        await _exhaust_reads(api)
        # A poll that the hint allows, a cancel, deletions, and submissions.
        for receipt in receipts:
            system.clock.advance(receipt["poll_interval_hint"])
            await _exhaust_reads(api)
            receipt["poll_interval_hint"] = (await api.poll(receipt))["poll_interval_hint"]
    assert _limits(await api.get(receipts[1]["poll_url"])) >= 1
    body(await api.post(receipts[0]["cancel_url"]))
    body(await api.delete(f"{LIST}/{receipts[1]['session_id']}"))
    assert (await api.delete(f"{SESSIONS}/{made['id']}")).status_code == 204
    kombify_client.payload(await api.post(SESSIONS, json={}), 201)
    await api.submit("hello")


async def test_sessions_count_as_submissions(system: System) -> None:
    await system.front()
    api = await system.customer(tier="free")
    for number in range(5):
        await api.submit("hello")
        answer = await api.post(SESSIONS, json={})
        kombify_client.payload(answer, 201)
        assert answer.headers["ratelimit-limit"] == "10"
        assert 9 - number * 2 - 1 <= int(answer.headers["ratelimit-remaining"]) < 10
    for path, asked in ((SESSIONS, {}), (CHAT, {"message": "hello"}), (SESSIONS, {})):
        assert 1 <= _limits(await api.post(path, json=asked)) <= 6
    assert kombify_client.payload(await api.get(SESSIONS))["total"] == 10


async def test_refused_submissions_are_limited_before_their_body_is_read(system: System) -> None:
    system.change_tier("free", refused_per_minute=3)
    await system.front()
    api, other = await system.customer(tier="free"), await system.customer("two", tier="free")
    refused(await api.post(CHAT, json={}), 400, "MISSING_FIELDS")
    refused(await api.post(CHAT, json={"message": "x", "model": "none"}), 400, "MODEL_NOT_FOUND")
    kombify_client.refused(await api.post(SESSIONS, json={"name": 3}), 400, "INVALID_FIELDS")
    again = _limits(await api.post(CHAT, json={"message": "hello"}))
    assert again == 20
    # The body was not even sent.
    payload = await _send_head(api, f"POST {CHAT}", "Content-Length: 1000000")
    assert payload.startswith(b"HTTP/1.1 429 "), payload
    body(await other.post(CHAT, json={"message": "hello"}))
    body(await api.get(CREDITS))
    system.clock.advance(again)
    body(await api.post(CHAT, json={"message": "hello"}))


async def test_replays_are_limited_before_their_body_is_read(system: System) -> None:
    system.change_tier("enterprise", refused_per_minute=2)
    await system.front()
    api = await system.customer()
    key, asked = {"idempotency-key": "k"}, {"message": "hello"}
    first, *replays = [await api.post(CHAT, json=asked, headers=key) for _ in range(3)]
    assert {body(each)["message_id"] for each in replays} == {body(first)["message_id"]}
    payload = await _send_head(api, f"POST {CHAT}", "Content-Length: 100", "Idempotency-Key: k")
    assert payload.startswith(b"HTTP/1.1 429 "), payload
    seconds = _limits(await api.post(CHAT, json=asked, headers=key))
    # None of these was a refused submission.
    for _ in range(2):
        refused(await api.post(CHAT, json={}), 400, "MISSING_FIELDS")
    system.clock.advance(seconds)
    again = body(await api.post(CHAT, json=asked, headers=key))
    assert again["message_id"] == body(first)["message_id"]


async def test_beyond_the_limit_in_redis_the_body_is_not_read_either(system: System) -> None:
    system.change("limits", free=Tier(submissions_per_minute=1))
    await system.front()
    api = await system.customer(tier="free")
    asked, key = {"message": "hello"}, {"idempotency-key": "k"}
    first = body(await api.post(CHAT, json=asked, headers=key))
    again = _limits(await api.post(CHAT, json=asked))
    assert 50 <= again <= 60
    payload = await _send_head(api, f"POST {CHAT}", "Content-Length: 1000000")
    assert payload.startswith(b"HTTP/1.1 429 "), payload
    assert b"ratelimit-limit: 1\r\n" in payload
    # A repeated request is answered even where a new one would be refused.
    assert body(await api.post(CHAT, json=asked, headers=key))["message_id"] == first["message_id"]


async def _send_head(api: ApiClient, line: str, *fields: str) -> bytes:
    """Send the head of a request and no body; return the head of the response."""
    url = httpx.URL(api.base_url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    head = [
        f"{line} HTTP/1.1",
        "Host: a",
        f"X-API-Key: {api.headers['x-api-key']}",
        "Content-Type: application/json",
        *fields,
    ]
    writer.write("\r\n".join((*head, "", "")).encode())
    async with asyncio.timeout(15):
        payload = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return payload


Call = Callable[[ApiClient, str], Coroutine[Any, Any, httpx.Response]]
CALLS: Final[dict[str, Call]] = {
    "read": lambda api, _: api.get(CREDITS),
    "poll": lambda api, url: api.get(url),
    "cancel": lambda api, url: api.post(url.replace("/status", "/cancel")),
    "deletion": lambda api, _: api.delete(f"{LIST}/none"),
    "submission": lambda api, _: api.post(CHAT, json={}),
    "session": lambda api, _: api.post(SESSIONS, json={"name": 3}),
}


@pytest.mark.parametrize("name", CALLS)
async def test_who_waits_as_long_as_told_is_served(system: System, name: str) -> None:
    few = {"reads_per_minute": 3, "cancels_per_minute": 2, "refused_per_minute": 4}
    system.change_tier("enterprise", **few)
    system.change("api", reads_per_unfinished=1)
    await system.front()
    api = await system.customer()
    url = (await api.submit("hello"))["poll_url"]
    for _ in range(3):
        while (answer := await CALLS[name](api, url)).status_code != 429:
            pass
        system.clock.advance(_limits(answer))
        assert (await CALLS[name](api, url)).status_code != 429


async def test_a_stream_s_place_goes_to_a_request_at_its_retry_after(system: System) -> None:
    system.change_tier("enterprise", waits_max=2)
    system.change("api", wait_seconds_max=30, ping_seconds=0.05)
    await system.front()
    api = await system.customer()
    path = (await api.submit("hello"))["events_url"]
    async with following(api, path) as first, following(api, path) as second:
        assert await first.next()
        assert await second.next()
        again = _limits(await api.get(path))
        assert again <= 30
        for query in ({"wait": 5}, {"wait": 30}):
            assert _limits(await api.get(path.replace("/events", "/status"), params=query)) <= 30
        system.clock.advance(again)
        async with following(api, path) as third:
            assert await third.next()
            assert await first.rest() == first.received
            assert first.comments[-1].startswith(": going away")
            # The other wait keeps its place.
            pings = len(second.comments)
            ahead = asyncio.create_task(second.next())
            await waiting.until(lambda: len(second.comments) > pings)
            ahead.cancel()


@pytest.mark.timeout(90)
async def test_an_enterprise_account_waits_for_each_of_its_submissions(system: System) -> None:
    """600 messages at once, and one long poll each, all open at the same time."""
    url = httpx.URL(await system.front())
    api = await system.customer()
    state = system.settings.limits.enterprise
    assert state.running_max >= _SUBMISSIONS
    senders = await asyncio.gather(*(_Connection.to(url, api) for _ in range(8)))
    shares = await asyncio.gather(*(each.submit(_SUBMISSIONS // 8) for each in senders))
    urls = [each for share in shares for each in share]
    assert len(set(urls)) == _SUBMISSIONS
    waits = await asyncio.gather(*(_wait(url, api, each) for each in urls))
    assert waits == [200] * _SUBMISSIONS


class _Connection:
    """A minimal connection: hundreds of them are open at once."""

    def __init__(
        self, api: ApiClient, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._key = api.headers["x-api-key"]
        self._reader, self._writer = reader, writer

    @classmethod
    async def to(cls, url: httpx.URL, api: ApiClient) -> "_Connection":
        return cls(api, *await asyncio.open_connection(url.host, url.port))

    async def call(self, line: str, content: bytes = b"") -> tuple[int, bytes]:
        self._writer.write(
            f"{line} HTTP/1.1\r\nHost: a\r\nX-API-Key: {self._key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode()
            + content
        )
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return int(head[9:12]), await self._reader.readexactly(length)

    async def submit(self, count: int) -> list[str]:
        """Send this many messages; return their poll URLs."""
        urls = []
        for _ in range(count):
            status, payload = await self.call(f"POST {CHAT}", b'{"message":"hello"}')
            assert status == 200, payload
            urls.append(msgspec.json.decode(payload)["poll_url"])
        await self.close()
        return urls

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


async def _wait(url: httpx.URL, api: ApiClient, path: str) -> int:
    line = await _Connection.to(url, api)
    status, _ = await line.call(f"GET {path}?wait=1")
    await line.close()
    return status


@pytest.mark.parametrize("text", ["\\u00e9", "\\ud83c\\udf0d"])
async def test_the_longest_message_fits_however_it_is_escaped(system: System, text: str) -> None:
    await system.front()
    api = await system.customer()
    most = Settings().limits.message_characters_max
    texts = f'"message": "{text * most}", "system_prompt": "{text * most}"'
    headers = {"content-type": "application/json"}
    answer = await api.post(CHAT, content=f"{{{texts}}}", headers=headers)
    # It was read and priced; no model here has a window that large.
    refused(answer, 400, "CONTEXT_TOO_LONG")
    longer = texts.replace('"system', f'"project_id": "", "message": "{text * (most + 1)}", "sys')
    answer = await api.post(CHAT, content=f"{{{longer}}}", headers=headers)
    assert answer.status_code in {400, 413}
