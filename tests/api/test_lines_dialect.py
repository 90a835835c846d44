"""A dialect that is mounted from outside: refused, followed and resumed in its own words.

Its folder is `tests/support/lines_dialect.py`; nothing of the API knows it.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import httpx
import pytest

from api.app import DIALECTS
from api.follow import ring
from shared import ids
from shared.redis import keys
from tests.support import waiting
from tests.support.api_client import NO_TLS, ApiClient, body
from tests.support.lines_dialect import BODY_BYTES_MAX, LINES
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.stream_reader import following, text_of
from tests.support.system import System

_ASK: Final = "/lines/ask"
_TEXT: Final = {"content-type": "text/plain"}
_ALL: Final = (*DIALECTS, LINES)


class LineReader:
    """A client that keeps whole lines, and how many of them count."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self.lines: list[str] = []
        self._pieces = answer.aiter_bytes()
        self._partial = b""

    async def until(self, count: int) -> list[str]:
        """Read until there are so many lines, the head included."""
        while len(self.lines) < count:
            *whole, self._partial = (self._partial + await anext(self._pieces)).split(b"\n")
            self.lines += [line.decode() for line in whole]
        return self.lines

    async def rest(self) -> list[str]:
        """Read to the end."""
        while True:
            try:
                await self.until(len(self.lines) + 1)
            except StopAsyncIteration:
                assert self._partial == b""
                return self.lines


def _unchecked(client: ApiClient) -> httpx.AsyncClient:
    """Return a client that does not read a whole response before it gives any of it."""
    return httpx.AsyncClient(
        base_url=client.base_url, headers=client.headers, verify=NO_TLS, trust_env=False
    )


@asynccontextmanager
async def _asking(client: ApiClient, text: str) -> AsyncIterator[LineReader]:
    async with (
        _unchecked(client) as own,
        own.stream("POST", _ASK, content=text, headers=_TEXT) as answer,
    ):
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.headers["cache-control"] == "no-store, no-transform"
        yield LineReader(answer)


@asynccontextmanager
async def _resuming(client: ApiClient, generation: str, after: int) -> AsyncIterator[LineReader]:
    async with (
        _unchecked(client) as own,
        own.stream("GET", f"/lines/{generation}", params={"after": after}) as answer,
    ):
        assert answer.status_code == 200, await answer.aread()
        yield LineReader(answer)


async def _lines(client: ApiClient, generation: str, after: int = 0) -> list[str]:
    async with _resuming(client, generation, after) as reader:
        return await reader.rest()


@pytest.fixture
async def client(system: System) -> ApiClient:
    """Return a client of a front with a third dialect."""
    await system.front(dialects=_ALL)
    return await system.customer()


@pytest.mark.usefixtures("worker")
async def test_it_answers_beside_the_other_dialects(
    client: ApiClient, provider: ScriptedProvider
) -> None:
    provider.script.append(ScriptedAnswer(text="one two\n\nthree é\nfour"))
    async with _asking(client, "caf\xe9?") as reader:
        lines = await reader.rest()
    head, *answered, tail = lines
    assert (answered, tail) == (["> one two", "> ", "> three é", "> four"], "# end")
    assert provider.requests[-1].messages[-1]["content"] == "caf\xe9?"
    generation = head.removeprefix("# ")
    # Any dialect follows what any other made.
    status = body(await client.get(f"/api/v1/generate/{generation}/status"))
    assert status["result"]["content"] == "one two\n\nthree é\nfour"
    receipt = await client.submit("hello [tokens=3]")
    content = (await client.wait_for_end(receipt))["result"]["content"]
    assert await _lines(client, receipt["message_id"]) == [
        f"# {receipt['message_id']}",
        *(f"> {line}" for line in content.split("\n")),
        "# end",
    ]
    document = (await client.get("/openapi.json")).json()
    asked = document["paths"][_ASK]["post"]
    assert list(asked["requestBody"]["content"]) == ["text/plain"]
    assert list(asked["responses"]["200"]["content"]) == ["text/plain"]
    assert list(asked["responses"]["420"]["content"]) == ["text/plain"]
    assert "lines" in [tag["name"] for tag in document["tags"]]
    assert "/lines" in (await client.get("/")).json()["apis"]


@pytest.mark.usefixtures("worker")
async def test_a_failure_is_a_line(client: ApiClient, provider: ScriptedProvider) -> None:
    provider.script.append(ScriptedAnswer(status=400, code="content_policy_violation"))
    async with _asking(client, "bad") as reader:
        _, failure, tail = await reader.rest()
    assert failure.startswith("! ")
    assert tail == "# end"


async def test_it_refuses_in_its_own_shape_with_statuses_of_its_own(
    system: System, client: ApiClient
) -> None:
    nobody = await system.caller({})
    unknown = f"/lines/{ids.new_id()}"
    too_long = "x" * (BODY_BYTES_MAX + 1)
    json = {"content-type": "application/json"}
    form = {"content-type": "multipart/form-data; boundary=x"}
    latin = {"content-type": "text/plain; charset=latin-1"}
    for answer, status, code in (
        (await nobody.post(_ASK, content="hi"), 401, "INVALID_API_KEY"),
        (await client.get(unknown), 404, "GENERATION_NOT_FOUND"),
        (await client.get("/lines/nothing/here"), 410, "NOT_FOUND"),
        (await client.get("/lines"), 410, "NOT_FOUND"),
        (await client.put(_ASK, content="hi"), 405, "METHOD_NOT_ALLOWED"),
        (await client.get(f"{unknown}?after=x"), 400, "INVALID_FIELDS"),
        (await client.post(_ASK, content=too_long, headers=_TEXT), 413, "PAYLOAD_TOO_LARGE"),
        (await client.post(_ASK, content="{}", headers=json), 415, "UNSUPPORTED_MEDIA_TYPE"),
        (await client.post(_ASK, content="--x", headers=form), 415, "UNSUPPORTED_MEDIA_TYPE"),
        (await client.post(_ASK, content="hi", headers=latin), 415, "UNSUPPORTED_MEDIA_TYPE"),
        (await client.post(_ASK, content=b"\xff", headers=_TEXT), 400, "INVALID_FIELDS"),
        (await client.post(_ASK, content=" ", headers=_TEXT), 400, "MISSING_FIELDS"),
    ):
        assert (answer.status_code, answer.headers["content-type"]) == (status, "text/plain")
        assert answer.text.startswith(f"{code}: "), answer.text
        assert answer.text.endswith(f"({answer.headers['x-request-id']})\n")
    # The size is this dialect's own, and its paths alone have its shape.
    assert (await client.post("/api/v1/chat", json={"message": too_long})).status_code == 200
    assert (await client.get("/linesmen")).json()["code"] == "NOT_FOUND"


async def test_a_limit_has_its_own_status_and_header(system: System) -> None:
    system.change_tier("enterprise", waits_max=1)
    await system.front(dialects=_ALL)
    client = await system.customer()
    async with _asking(client, "hi") as reader:
        (head,) = await reader.until(1)
        refused = await client.get(f"/lines/{head.removeprefix('# ')}")
    assert refused.status_code == 420
    assert refused.text.startswith("RATE_LIMITED: ")
    assert int(refused.headers["x-wait-seconds"]) >= 1
    assert "retry-after" not in refused.headers


async def test_a_head_that_is_too_large_is_refused_in_its_shape(
    system: System, client: ApiClient
) -> None:
    assert client
    url = urlsplit(system.url)
    assert url.hostname is not None
    assert url.port is not None
    reader, writer = await asyncio.open_connection(url.hostname, url.port, family=socket.AF_INET)
    writer.write(b"GET /lines/ask HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 70_000 + b"\r\n\r\n")
    answer = (await reader.read()).decode()
    writer.close()
    assert answer.startswith("HTTP/1.1 431 ")
    assert "content-type: text/plain\r\n" in answer
    assert "\r\n\r\nHEADERS_TOO_LARGE: " in answer


@pytest.mark.usefixtures("worker")
async def test_a_client_that_was_cut_goes_on_after_its_last_whole_line(
    system: System, client: ApiClient, provider: ScriptedProvider
) -> None:
    """In this process or another, while the answer comes and after its end."""
    text = "".join(f"line {number} of\nten or so\n" for number in range(10)) + "end"
    expected = [f"> {line}" for line in text.split("\n")]
    gates = [asyncio.Event(), asyncio.Event()]
    answers = [ScriptedAnswer(text=text, gate=gate, gate_after=20) for gate in gates]
    other = await system.caller(dict(client.headers), await system.front(dialects=_ALL))
    for place, gate, answer in zip((client, other), gates, answers, strict=True):
        provider.script.append(answer)
        async with _asking(client, "hello") as reader:
            head, *received = (await reader.until(6))[:4]
        generation = head.removeprefix("# ")
        async with _resuming(place, generation, len(received)) as resumed:
            await resumed.until(1)
            gate.set()
            received += await resumed.rest()
        assert received == [*expected, "# end"]
        for after in (1, 7, len(expected) - 1, len(expected), len(expected) + 1):
            assert await _lines(place, generation, after) == [*expected[after:], "# end"]


@pytest.mark.usefixtures("worker")
async def test_numbers_stay_when_the_ring_has_dropped_the_beginning(
    client: ApiClient, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ring, "BYTES_MAX", 2_000)
    # Each line has a number of words that its number does not tell.
    lines = [" ".join(str(number) for _ in range(1 + number * number % 5)) for number in range(80)]
    gate = asyncio.Event()
    text = "\n".join(lines)
    provider.script.append(ScriptedAnswer(text=text, gate=gate, gate_after=150))
    async with _asking(client, "hello") as reader:
        head, *_ = await reader.until(50)
        generation = head.removeprefix("# ")
        async with (
            _resuming(client, generation, 3) as early,
            _resuming(client, generation, 45) as late,
            following(client, f"/api/v1/generate/{generation}/events") as events,
        ):
            assert (await early.until(5))[:5] == [f"> {line}" for line in lines[3:8]]
            gate.set()
            whole = await reader.rest()
            assert whole == [head, *(f"> {line}" for line in lines), "# end"]
            assert await early.rest() == whole[4:]
            assert await late.rest() == whole[46:]
            # Both forms come from the same events.
            assert text_of(await events.rest()) == text


async def test_a_lost_stream_is_continued_from_the_record(
    system: System, client: ApiClient, provider: ScriptedProvider
) -> None:
    gate = asyncio.Event()
    await system.worker()
    provider.script.append(ScriptedAnswer(text="one\ntwo\nthree\nfour", gate=gate, gate_after=3))
    async with _asking(client, "hello") as reader:
        head, *_ = await reader.until(3)
        generation = head.removeprefix("# ")
        account = await system.account()
        root = system.accounts.root_of(account)
        other = await system.caller(dict(client.headers), await system.front(dialects=_ALL))
        await system.redis.call("DEL", keys.EVENTS(root, account.id, generation))
        async with _resuming(other, generation, 1) as resumed:
            gate.set()
            lines = await resumed.rest()
        assert lines == ["> two", "> three", "> four", "# end"]

    async def has_ended() -> bool:
        status = body(await client.get(f"/api/v1/generate/{generation}/status"))
        return bool(status["state"] == "completed")

    await waiting.until(has_ended)
    await system.redis.call("DEL", keys.EVENTS(root, account.id, generation))
    assert await _lines(other, generation, 2) == ["> three", "> four", "# end"]
