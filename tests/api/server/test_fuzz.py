"""Randomly corrupted requests: none may break the server, hang it, or be answered in part."""

import asyncio
import itertools
import random
from typing import Final

import pytest

from tests.api.server.clients import (
    CHUNKED,
    GET,
    H2C,
    INVALID,
    LAST,
    POST,
    WEBSOCKET,
    RunningServer,
    split,
)

VALID: Final = [
    GET,
    LAST,
    CHUNKED + b"5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n",
    POST + b"Content-Length: 5\r\n\r\nhello",
    POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    POST + H2C + b"Content-Length: 5\r\n\r\nhello",
    b"GET /early?a=%20%41 HTTP/1.1\r\nHost: a\r\n" + WEBSOCKET + b"\r\n",
    b"GET /early HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
]
SPICE: Final = [
    *(bytes([byte]) for byte in b"\x00\r\n\t :;,%/?#\x7f\x80\xff"),
    *(b"\r\n", b"\r\n\r\n", b"%00", b"chunked", b"HTTP/1.1", b"0\r\n\r\n", b"x" * 20_000),
    *(b"Connection: upgrade\r\n", b"Upgrade: h2c\r\n", b"Connection: close\r\n"),
    *(b"Content-Length: 9\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n"),
]


def mutated(chance: random.Random) -> list[bytes]:
    """Return one to four requests, corrupted in some places or none, cut as reads would be."""
    requests = chance.choices(VALID, k=chance.randint(1, 3))
    if chance.random() < 0.3:
        requests.append(chance.choice(list(INVALID.values())))
    raw = b"".join(requests)
    for _ in range(chance.choice([0, 1, 1, 2, 4])):
        start, end = sorted(chance.choices(range(len(raw) + 1), k=2))
        end = min(end, start + chance.randint(0, 20))
        raw = raw[:start] + chance.choice([b"", raw[start:end] * 2, *SPICE]) + raw[end:]
    places = sorted({0, len(raw), *chance.choices(range(len(raw) + 1), k=chance.randint(0, 4))})
    return [raw[start:end] for start, end in itertools.pairwise(places)]


@pytest.mark.parametrize("seed", range(6))
async def test_chance_never_breaks_or_holds_the_server(
    live_server: RunningServer, seed: int
) -> None:
    async def bare_client(pieces: list[bytes]) -> None:
        async with live_server.client() as client:
            await client.send(*pieces)
            read = (await client.read_all()).replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
        # A client that sends more after `Connection: close` may lose the end of the response.
        is_whole = not any(word in b"".join(pieces) for word in (b"close", b"HTTP/1.0"))
        statuses = {answer.status for answer in split(read, is_whole=is_whole)}
        assert statuses <= {200, 400, 408, 431}, (pieces, read)

    chance = random.Random(seed)
    await asyncio.gather(*[bare_client(mutated(chance)) for _ in range(60)])
