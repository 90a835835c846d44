"""Follows a generation: reads server-sent events as their specification says.

Owns the rules by which a client assembles the text of an answer (`text_of`). Knows nothing of how
events are written: a line that is no valid event fails the test.
"""

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import httpx

from tests.support.api_client import NO_TLS, ApiClient, Json

ENDS: Final = frozenset({"completed", "failed", "cancelled"})


class ReceivedEvent(NamedTuple):
    """One event: its id, its name and its data."""

    id: str
    name: str
    payload: Json


class Follower:
    """One open stream. `comments` are the lines that start with a colon."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self.received: list[ReceivedEvent] = []
        self.comments: list[str] = []
        self._lines = answer.aiter_lines()

    async def next(self) -> ReceivedEvent | None:
        """Return the next event, or None at the end of the stream."""
        lines: list[str] = []
        async for line in self._lines:
            if line:
                lines.append(line)
                continue
            self.comments += [line for line in lines if line.startswith(":")]
            received = _parse_event(lines)
            lines = []
            if received is not None:
                self.received.append(received)
                return received
        assert not lines, f"cut in the middle of an event: {lines}"
        return None

    async def until(self, name: str) -> ReceivedEvent:
        """Read up to an event of that name and return it."""
        while (received := await self.next()) is not None:
            if received.name == name:
                return received
        raise AssertionError(f"{name} did not come: {self.received}")

    async def rest(self) -> list[ReceivedEvent]:
        """Read to the end of the stream; return all events."""
        while await self.next() is not None:
            pass
        return self.received


def _parse_event(lines: list[str]) -> ReceivedEvent | None:
    """Parse the lines of one event; None if they are comments only."""
    fields = dict[str, str]()
    for line in lines:
        if not line.startswith(":"):
            name, _, value = line.partition(": ")
            assert name in {"id", "event", "data"}, line
            assert name not in fields, line
            fields[name] = value
    if not fields:
        return None
    payload: dict[str, Any] = json.loads(fields["data"])
    assert payload["type"] == fields["event"]
    return ReceivedEvent(fields["id"], fields["event"], payload)


def read_events(raw: bytes) -> list[ReceivedEvent]:
    """Return the complete events of what was read; an incomplete last one is dropped."""
    blocks = raw.split(b"\n\n")[:-1]
    found = [_parse_event(block.decode().split("\n")) for block in blocks]
    return [received for received in found if received is not None]


@asynccontextmanager
async def following(
    customer: ApiClient, path: str, *, after: str | None = None, url: str = ""
) -> AsyncIterator[Follower]:
    """Yield the stream at a path, from the front at `url` if given; no stream fails the test."""
    async with _listening(customer, after, url) as http, http.stream("GET", path) as answer:
        yield await _stream_of(answer)


@asynccontextmanager
async def posting(
    customer: ApiClient, path: str, asked: Json, *, after: str | None = None, url: str = ""
) -> AsyncIterator[Follower]:
    """Yield the stream that answers a POST, as `following` does."""
    async with (
        _listening(customer, after, url) as http,
        http.stream("POST", path, json=asked) as answer,
    ):
        yield await _stream_of(answer)


def _listening(customer: ApiClient, after: str | None, url: str) -> httpx.AsyncClient:
    headers = dict(customer.headers) | ({"last-event-id": after} if after is not None else {})
    return httpx.AsyncClient(
        base_url=url or customer.base_url,
        headers=headers,
        timeout=20.0,
        verify=NO_TLS,
        trust_env=False,
    )


async def _stream_of(answer: httpx.Response) -> Follower:
    assert answer.status_code == 200, await answer.aread()
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    return Follower(answer)


def text_of(received: Iterable[ReceivedEvent]) -> str:
    """Return the text that a client has after these events."""
    text = ""
    for _, name, payload in received:
        if name == "delta":
            text += payload["text"]
        elif name == "reset":
            text = text[: payload["keep"]]
        elif name == "snapshot":
            text = payload["text"]
    return text
