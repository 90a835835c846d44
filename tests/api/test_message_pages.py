"""Pages of long conversations: complete in both dialects, read in pieces, never cut unnoticed."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Final

import httpx
import pytest

from api.guards import large_pages
from api.guards.rate_limits import RateLimits
from api.resources import message_pages
from shared.errors import UnavailableError
from shared.redis import functions
from shared.stores import sessions
from shared.stores.sessions import READ_BYTES_MAX, Turn
from shared.wire.account import Account
from tests.support import stored_conversation, waiting
from tests.support.api_client import ApiClient, body, refused
from tests.support.system import System

_TURNS: Final = 7
# A piece holds two of these turns, or one of the longer.
_TEXTS: Final = [f"{number}" * 60_000 for number in range(1, _TURNS)] + [
    "\U0001f30d\x01\n" * 30_000
]
_LIST: Final = "/api/v1/chat/conversations/{}/messages"
_SESSION: Final = "/v1/ai/sessions/{}"

Read = Callable[..., Awaitable[list[Turn]]]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Return the bytes of each turn of each read, in order."""
    sizes: list[list[int]] = []
    read: Read = sessions.turns

    async def noted(*place: object, **turns: int) -> list[Turn]:
        found = await read(*place, **turns)
        sizes.append([_size(turn) for turn in found])
        return found

    monkeypatch.setattr(sessions, "turns", noted)
    return sizes


def _size(turn: Turn) -> int:
    answer = turn.assistant.content if turn.assistant is not None else ""
    return len(turn.user.content.encode()) + len(answer.encode())


@pytest.fixture
async def long_one(system: System, api: ApiClient) -> str:
    """Return a conversation that does not fit into one piece."""
    return await stored_conversation.conversation(system, api, _TEXTS)


async def test_a_long_page_has_all_messages_and_is_read_in_pieces(
    api: ApiClient, long_one: str, reads: list[list[int]]
) -> None:
    answer = await api.get(_LIST.format(long_one), params={"limit": 100})
    payload = body(answer)
    said = [text for text in ["hi", *_TEXTS] for _ in range(2)]
    said[1] = ""
    assert [each["content"] for each in payload["messages"]] == said
    assert payload["pagination"] == {"page": 1, "limit": 100, "total": len(said), "pages": 1}
    assert "content-length" not in answer.headers
    assert len(reads) >= 4
    assert all(sum(sizes) <= READ_BYTES_MAX or len(sizes) == 1 for sizes in reads)
    whole = (await api.get(_SESSION.format(long_one))).json()
    assert [each["content"] for each in whole["messages"]] == said
    assert (whole["messages_total"], whole["name"]) == (len(said), whole["name"])
    before = (await api.get(_SESSION.format(long_one), params={"before": 5})).json()
    assert [each["turn"] for each in before["messages"]] == [1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("limit", [1, 3, 5, 16])
async def test_pages_hold_the_messages_that_their_numbers_say(
    api: ApiClient, long_one: str, limit: int
) -> None:
    ids = [each["message_id"] for each in await api.messages(long_one, limit=100)]
    assert len(set(ids)) == 2 * (_TURNS + 1)
    for page in range(1, -(-len(ids) // limit) + 2):
        got = await api.messages(long_one, limit=limit, page=page)
        assert [each["message_id"] for each in got] == ids[(page - 1) * limit : page * limit], page


async def test_a_small_page_is_one_read_with_a_content_length(
    api: ApiClient, long_one: str, reads: list[list[int]]
) -> None:
    answer = await api.get(_LIST.format(long_one), params={"limit": 3})
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert len(reads) == 1
    short = (await api.submit("hello"))["session_id"]
    answer = await api.get(_SESSION.format(short))
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert len(reads) == 2


async def test_head_of_a_long_page_reads_no_more_than_a_piece(
    api: ApiClient, long_one: str, reads: list[list[int]]
) -> None:
    answer = await api.head(_LIST.format(long_one), params={"limit": 100})
    assert (answer.status_code, answer.content) == (200, b"")
    assert len(reads) == 1


class Gate:
    """Lets reads of turns through up to one, and calls `event` before that one continues."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, closed_from: int) -> None:
        self.count = 0
        self.event: Callable[[], Awaitable[None]] | None = None
        self.is_open = asyncio.Event()
        self._closed_from = closed_from
        self._read: Read = sessions.turns
        monkeypatch.setattr(sessions, "turns", self._wait)

    async def _wait(self, *place: object, **turns: int) -> list[Turn]:
        self.count += 1
        if self.count >= self._closed_from:
            await self.is_open.wait()
            if self.event is not None:
                await self.event()
        return await self._read(*place, **turns)

    async def reached(self) -> None:
        """Wait until a read waits at the gate."""
        await waiting.until(lambda: self.count >= self._closed_from, what="a read")


async def _redis_goes() -> None:
    raise UnavailableError("Redis is away.")


@pytest.mark.parametrize("what", ["Redis goes", "deleted", "revoked"])
async def test_a_page_that_cannot_go_on_ends_broken(
    system: System, api: ApiClient, long_one: str, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    async def delete() -> None:
        await (await system.customer()).delete(f"/api/v1/chat/conversations/{long_one}")

    async def revoke() -> None:
        for key in await system.accounts.list_keys():
            await system.accounts.revoke_key(key.id)
        # As the server receives it, in the order of its messages.
        await waiting.until(is_refused, what="the revocation")

    async def is_refused() -> bool:
        return (await api.get("/api/v1/account/credits")).status_code == 401

    gate = Gate(monkeypatch, closed_from=2)
    gate.event = {"Redis goes": _redis_goes, "deleted": delete, "revoked": revoke}[what]
    gate.is_open.set()
    system.expected |= {"answer cut off"}
    path = _LIST.format(long_one) + "?limit=100"
    with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
        await api.get(path)


@pytest.mark.parametrize("path", [_LIST, _SESSION])
@pytest.mark.parametrize("closed_from", [1, 4])
async def test_a_page_whose_turns_are_deleted_once_they_are_found_is_not_taken_for_whole(
    system: System,
    api: ApiClient,
    long_one: str,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    closed_from: int,
) -> None:
    account = await system.account()
    root = system.accounts.root_of(account)

    async def delete() -> None:
        await (await system.customer()).delete(f"/api/v1/chat/conversations/{long_one}")
        # As a worker does when the turn starts.
        ask = functions.DeleteTurnsAsk(account=account.id, id=long_one)
        await functions.delete_turns(system.redis, root, ask)

    gate = Gate(monkeypatch, closed_from=closed_from)
    gate.event = delete
    gate.is_open.set()
    system.expected |= {"answer cut off"}
    asked = path.format(long_one) + "?limit=100"
    if closed_from == 1:
        assert (await api.get(asked)).status_code == 404
    else:
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
            await api.get(asked)


async def test_a_part_of_a_page_is_no_json_for_a_client_of_http_1_0(
    system: System, api: ApiClient, long_one: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, closed_from=3)
    gate.event = _redis_goes
    gate.is_open.set()
    system.expected |= {"answer cut off"}
    raw = await _raw(api, _LIST.format(long_one) + "?limit=100", "HTTP/1.0")
    head, _, content = raw.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b'"message_id":"u2"' in content
    with pytest.raises(json.JSONDecodeError):
        json.loads(content)


async def _raw(api: ApiClient, path: str, version: str) -> bytes:
    """Return everything that arrives on a connection of its own until it is closed."""
    reader, writer = await asyncio.open_connection(api.base_url.host, api.base_url.port)
    key = api.headers["x-api-key"]
    writer.write(f"GET {path} {version}\r\nx-api-key: {key}\r\n\r\n".encode())
    try:
        return await reader.read(-1)
    finally:
        writer.close()


async def test_a_client_of_http_1_0_gets_a_long_page_whole(api: ApiClient, long_one: str) -> None:
    path = _LIST.format(long_one) + "?limit=100"
    raw = await _raw(api, path, "HTTP/1.0")
    head, _, content = raw.partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert json.loads(content) == body(await api.get(path))


async def test_nothing_more_is_read_after_a_disconnect(
    api: ApiClient, long_one: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, closed_from=2)
    reading = asyncio.create_task(_raw(api, _LIST.format(long_one) + "?limit=100", "HTTP/1.0"))
    await gate.reached()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    # The cancelled task's connection closes with it; a later request shows that this was noticed.
    assert (await api.get("/api/v1/account/credits")).status_code == 200
    gate.is_open.set()
    assert body(await api.get(_LIST.format(long_one), params={"limit": 1}))
    assert gate.count <= 3


async def test_large_pages_under_way_are_bounded_for_each_account_and_for_all(
    system: System,
    api: ApiClient,
    other: ApiClient,
    long_one: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(large_pages, "PER_ACCOUNT", 2)
    monkeypatch.setattr(large_pages, "PER_PROCESS", 3)
    theirs = await stored_conversation.conversation(system, other, _TEXTS[:3], account="two")
    gate = Gate(monkeypatch, closed_from=1)
    path = _LIST.format(long_one) + "?limit=100"
    under_way = [asyncio.create_task(api.get(path)) for _ in range(2)]
    await gate.reached()

    async def refusal() -> httpx.Response:
        return await asyncio.wait_for(api.get(path), 10)

    answer = await refusal()
    refused(answer, 429, "RATE_LIMITED")
    assert (answer.headers["retry-after"], answer.headers["ratelimit-limit"]) == ("1", "2")
    under_way.append(asyncio.create_task(other.get(_LIST.format(theirs))))
    third = await system.customer("three")
    long_third = await stored_conversation.conversation(system, third, _TEXTS[:3], account="three")
    refused(await third.get(_LIST.format(long_third)), 503, "UNAVAILABLE")
    gate.is_open.set()
    assert [body(await each)["success"] for each in under_way] == [True] * 3
    body(await third.get(_LIST.format(long_third)))


async def test_each_further_piece_counts_as_a_read_and_waits_for_one(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    system.change("api", reads_per_unfinished=1)
    system.change_tier("enterprise", reads_per_minute=1)
    await system.front()
    api = await system.customer()
    session = await stored_conversation.conversation(system, api, _TEXTS)
    waits: list[float] = []
    take = RateLimits.take_further_read

    def noted(limits: RateLimits, account: Account) -> float:
        waits.append(take(limits, account))
        system.clock.advance(waits[-1])
        return waits[-1]

    monkeypatch.setattr(RateLimits, "take_further_read", noted)
    monkeypatch.setattr(message_pages, "_DISCONNECT_CHECK_SECONDS", 0.01)
    answer = await api.get(_LIST.format(session), params={"limit": 100})
    assert len(body(answer)["messages"]) == 2 * (_TURNS + 1)
    assert waits.count(0) >= 3
    assert any(wait > 10 for wait in waits)
