"""A program that follows a generation: server-sent events, read as their specification says.

Owns the rules by which a follower arrives at an answer (`text_of`). Refuses to know how events are
made: what it hears it takes apart, and what is no event in their form fails the test.
"""

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import httpx

from tests.support.customer import NO_TLS, Customer, Json

ENDS: Final = frozenset({"completed", "failed", "cancelled"})


class Heard(NamedTuple):
    """One event: its id, its name, and what it says."""

    id: str
    name: str
    told: Json


class Follower:
    """One stream being read. `comments` are the lines that are no events."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self.heard: list[Heard] = []
        self.comments: list[str] = []
        self._lines = answer.aiter_lines()

    async def next(self) -> Heard | None:
        """Return the next event, or None at the end of the answer."""
        lines: list[str] = []
        async for line in self._lines:
            if line:
                lines.append(line)
                continue
            self.comments += [line for line in lines if line.startswith(":")]
            heard = _heard(lines)
            lines = []
            if heard is not None:
                self.heard.append(heard)
                return heard
        assert not lines, f"cut in the middle of an event: {lines}"
        return None

    async def until(self, name: str) -> Heard:
        """Read up to an event of that name and return it."""
        while (heard := await self.next()) is not None:
            if heard.name == name:
                return heard
        raise AssertionError(f"{name} did not come: {self.heard}")

    async def rest(self) -> list[Heard]:
        """Read to the end of the answer; return all that was heard."""
        while await self.next() is not None:
            pass
        return self.heard


def _heard(lines: list[str]) -> Heard | None:
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
    told: dict[str, Any] = json.loads(fields["data"])
    assert told["type"] == fields["event"]
    return Heard(fields["id"], fields["event"], told)


def read_events(raw: bytes) -> list[Heard]:
    """Return the events that are whole in what was read; what was cut off is dropped."""
    blocks = raw.split(b"\n\n")[:-1]
    found = [_heard(block.decode().split("\n")) for block in blocks]
    return [heard for heard in found if heard is not None]


@asynccontextmanager
async def following(
    customer: Customer, path: str, *, after: str | None = None, url: str = ""
) -> AsyncIterator[Follower]:
    """Yield the stream at a path, which must be one; from another front where a URL is given."""
    async with _listening(customer, after, url) as http, http.stream("GET", path) as answer:
        yield await _stream_of(answer)


@asynccontextmanager
async def posting(
    customer: Customer, path: str, asked: Json, *, after: str | None = None, url: str = ""
) -> AsyncIterator[Follower]:
    """Yield the stream that a POST is answered with, as `following` does."""
    async with (
        _listening(customer, after, url) as http,
        http.stream("POST", path, json=asked) as answer,
    ):
        yield await _stream_of(answer)


def _listening(customer: Customer, after: str | None, url: str) -> httpx.AsyncClient:
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


def text_of(heard: Iterable[Heard]) -> str:
    """Return the text that a follower has in the end."""
    text = ""
    for _, name, told in heard:
        if name == "delta":
            text += told["text"]
        elif name == "reset":
            text = text[: told["keep"]]
        elif name == "snapshot":
            text = told["text"]
    return text
