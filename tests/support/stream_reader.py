"""A program that follows a generation: server-sent events, read as their specification says.

Owns the rules by which a follower arrives at an answer (`text_of`). Refuses to know how events are
made: what it hears it takes apart, and what is no event in their form fails the test.
"""

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import httpx

from tests.support.api_client import NO_TLS, ApiClient, Json

ENDS: Final = frozenset({"completed", "failed", "cancelled"})


class ReceivedEvent(NamedTuple):
    """One event: its id, its name, and what it says."""

    id: str
    name: str
    payload: Json


class Follower:
    """One stream being read. `comments` are the lines that are no events."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self.received: list[ReceivedEvent] = []
        self.comments: list[str] = []
        self._lines = answer.aiter_lines()

    async def next(self) -> ReceivedEvent | None:
        """Return the next event, or None at the end of the answer."""
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
        """Read to the end of the answer; return all that was heard."""
        while await self.next() is not None:
            pass
        return self.received


def _parse_event(lines: list[str]) -> ReceivedEvent | None:
    """Take an event apart; None if it is nothing but comments."""
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
    """Return the events that are whole in what was read; what was cut off is dropped."""
    blocks = raw.split(b"\n\n")[:-1]
    found = [_parse_event(block.decode().split("\n")) for block in blocks]
    return [received for received in found if received is not None]


@asynccontextmanager
async def following(
    customer: ApiClient, path: str, *, after: str | None = None, url: str = ""
) -> AsyncIterator[Follower]:
    """Yield the stream at a path, which must be one; from another front where a URL is given."""
    async with _listening(customer, after, url) as http, http.stream("GET", path) as answer:
        yield await _stream_of(answer)


@asynccontextmanager
async def posting(
    customer: ApiClient, path: str, asked: Json, *, after: str | None = None, url: str = ""
) -> AsyncIterator[Follower]:
    """Yield the stream that a POST is answered with, as `following` does."""
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
    """Return the text that a follower has in the end."""
    text = ""
    for _, name, payload in received:
        if name == "delta":
            text += payload["text"]
        elif name == "reset":
            text = text[: payload["keep"]]
        elif name == "snapshot":
            text = payload["text"]
    return text
