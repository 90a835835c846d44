"""Bodies that arrive slowly: how many bytes a process admits at once, by account and in total."""

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import msgspec
import pytest

from api.guards.inflight_bodies import InflightBodies
from shared import ids
from shared.errors import RefusedError
from shared.settings import ApiSettings
from tests.api.kombify_client import CHAT as KOMBIFY_CHAT
from tests.support import waiting
from tests.support.api_client import ApiClient, Json, body
from tests.support.system import System

CHAT: Final = "/api/v1/chat"
_MOST: Final = 4_000
_BODY: Final = b'{"message": "hello", "project_id": "' + b"x" * 50 + b'"}'


class Upload:
    """A POST whose head was sent; the response is read to its end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def answer(self) -> tuple[int, dict[str, str], Json]:
        """Return status, fields and content."""
        head, _, content = (await self._reader.read()).decode().partition("\r\n\r\n")
        status, *lines = head.split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines)
        return int(status.split(" ")[1]), fields, json.loads(content)

    def finish(self, size: int) -> None:
        """Send a message of so many bytes."""
        self.send(_BODY.ljust(size))

    def send(self, content: bytes) -> None:
        """Send a body."""
        self._writer.write(content)


@asynccontextmanager
async def _uploading(api: ApiClient, length: str, path: str = CHAT) -> AsyncIterator[Upload]:
    """Send the head of a message, and nothing of its body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.base_url.port)
    writer.write(
        f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{length}\r\n"
        f"Connection: close\r\nX-API-Key: {api.headers['x-api-key']}\r\n\r\n".encode()
    )
    try:
        yield Upload(reader, writer)
    finally:
        writer.close()


def _length(size: int) -> str:
    return f"Content-Length: {size}"


async def _customers(system: System, count: int) -> list[ApiClient]:
    system.change("api", bodies_bytes_max=_MOST, body_bytes_max=_MOST)
    await system.front()
    return [await system.customer(f"account{number}") for number in range(count)]


async def _is_taken(api: ApiClient, size: int) -> bool:
    """Whether a body of this size, sent at once, is admitted."""
    answer = await api.post(
        CHAT, content=_BODY.ljust(size), headers={"content-type": "application/json"}
    )
    return answer.status_code == 200


async def test_what_does_not_fit_beside_others_is_refused_before_it_is_read(
    system: System,
) -> None:
    *slow, late = await _customers(system, 5)
    async with AsyncExitStack() as stack:
        uploads = [await stack.enter_async_context(_uploading(each, _length(900))) for each in slow]

        async def is_full() -> bool:
            return not await _is_taken(late, 900)

        await waiting.until(is_full, what="the bodies that arrive")
        # No byte of the body was sent; a chunked one may become as large as allowed.
        for length in (_length(900), "Transfer-Encoding: chunked"):
            async with _uploading(late, length) as upload:
                status, fields, said = await upload.answer()
            assert (status, said["code"]) == (503, "UNAVAILABLE")
            assert (fields["retry-after"], fields["connection"]) == ("1", "close")
            assert said["success"] is False
        async with _uploading(late, _length(900), KOMBIFY_CHAT) as upload:
            status, fields, said = await upload.answer()
        assert (status, said["status"], said["code"]) == (503, "error", "UNAVAILABLE")
        assert await _is_taken(late, 300), "small ones fit"
        for upload in uploads:
            upload.finish(900)
            status, _, said = await upload.answer()
            assert (status, said["success"]) == (200, True)
        assert await _is_taken(late, 900)


async def test_an_accounts_slow_bodies_leave_room_for_others(system: System) -> None:
    slow, other = await _customers(system, 2)
    async with _uploading(slow, _length(900)) as upload:

        async def is_full() -> bool:
            return not await _is_taken(slow, 200)

        await waiting.until(is_full, what="the body that arrives")
        async with _uploading(slow, _length(200)) as second:
            status, fields, said = await second.answer()
        assert (status, said["code"], fields["retry-after"]) == (429, "RATE_LIMITED", "1")
        assert await _is_taken(other, 900)
        upload.finish(900)
        assert (await upload.answer())[0] == 200
    assert await _is_taken(slow, _MOST), "one alone always fits"


async def test_bodies_that_never_come_give_their_room_back(system: System) -> None:
    (api,) = await _customers(system, 1)
    async with _uploading(api, _length(_MOST)):

        async def is_full() -> bool:
            return not await _is_taken(api, 200)

        await waiting.until(is_full, what="the body that arrives")

    async def has_room() -> bool:
        return await _is_taken(api, _MOST)

    await waiting.until(has_room, what="the room that is given back")
    assert body(await api.get("/api/v1/account/credits"))


@pytest.mark.parametrize("stream", ["false", "true"])
async def test_who_waits_or_follows_keeps_no_body_in_memory(system: System, stream: str) -> None:
    models = [
        msgspec.structs.replace(each, context_window=200_000) for each in system.settings.models
    ]
    system.settings = msgspec.structs.replace(system.settings, models=tuple(models))
    await system.front()
    account = ids.new_id()
    api = await system.customer(account)
    size, count = 150_000, 8
    fields = f'"stream": {stream}, "message": "'.encode()
    content = b"{" + fields + b"x" * (size - len(fields) - 3) + b'"}'

    async with AsyncExitStack() as stack:

        async def kept_bytes(waits: int) -> int:
            """Return the memory in use while this many chats wait."""

            async def are_waiting() -> bool:
                names = await system.redis.call("PUBSUB", "CHANNELS", f"*:events:{account}:*")
                return len(names) == waits

            uploading = _uploading(api, _length(size), KOMBIFY_CHAT)
            (await stack.enter_async_context(uploading)).send(content)
            await waiting.until(are_waiting, what="the chat that waits")
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            kept = [await kept_bytes(waits) for waits in range(1, count + 1)]
        finally:
            tracemalloc.stop()
    # The first figures include what only the first requests allocate.
    assert (kept[-1] - kept[1]) / (count - 2) < size / 2


def test_bodies_of_no_bytes_count_for_nothing() -> None:
    arriving = InflightBodies(ApiSettings(bodies_bytes_max=100))
    for size in (0, 0, 100):
        arriving.add("one", size)
    for size in (0, 100, 0):
        arriving.remove("one", size)
    arriving.add("one", 100)
    with pytest.raises(RefusedError):
        arriving.add("two", 1)


def test_large_bodies_of_many_accounts_leave_room_for_small_ones() -> None:
    arriving = InflightBodies(ApiSettings(bodies_bytes_max=1_000_000))
    for number in range(3):
        arriving.add(f"stranger{number}", 200_000)
    with pytest.raises(RefusedError):
        arriving.add("stranger3", 200_000)
    for number in range(4):
        arriving.add(f"person{number}", 60_000)
    # There, an account that sends much is refused, also in small parts; beyond the total, all are.
    with pytest.raises(RefusedError):
        arriving.add("person0", 60_000)
    arriving.add("person4", 60_000)
    arriving.add("person5", 60_000)
    with pytest.raises(RefusedError):
        arriving.add("person6", 60_000)
