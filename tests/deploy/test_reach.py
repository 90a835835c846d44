"""One small request to a provider, and the sentence that tells what became of it."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from deploy import reach
from shared.settings import Dialect, ProviderSettings, Secret
from tests.deploy.teller import Line, Teller
from tests.support.customer import NO_TLS

_KEY = "sk-hush"


@pytest.fixture(name="http")
async def _http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, verify=NO_TLS) as client:
        yield client


async def _ask(
    http: httpx.AsyncClient, url: str, dialect: Dialect = "openai", *upstreams: str
) -> tuple[bool, str]:
    provider = ProviderSettings(name="far", base_url=url, dialect=dialect)
    told = await reach.ask(http, provider, Secret(_KEY), upstreams)
    assert _KEY not in told[1]
    return told


@pytest.mark.parametrize(
    ("dialect", "path", "header", "value", "listed"),
    [
        ("openai", "/v1/models", "authorization", f"Bearer {_KEY}", {"data": [{"id": "a"}]}),
        ("openai", "/v1/models", "authorization", f"Bearer {_KEY}", [{"id": "a"}]),
        ("anthropic", "/v1/models?limit=1000", "x-api-key", _KEY, {"data": [{"id": "a"}]}),
        (
            *("gemini", "/v1/models?pageSize=1000", "x-goog-api-key", _KEY),
            {"models": [{"name": "models/a"}]},
        ),
    ],
)
async def test_each_dialect_has_its_own_list_and_place_for_a_key(
    http: httpx.AsyncClient,
    teller: Teller,
    dialect: Dialect,
    path: str,
    header: str,
    value: str,
    listed: object,
) -> None:
    teller.lines.extend([Line((json.dumps(listed).encode(),), kind="application/json")] * 2)
    assert await _ask(http, f"{teller.url}/v1/", dialect, "a") == (True, "ok")
    (asked,) = teller.asked
    assert (asked.method, asked.path, asked.headers[header]) == ("GET", path, value)
    told = await _ask(http, f"{teller.url}/v1", dialect, "a", "c", "b")
    assert told == (True, "ok, but does not list b, c")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (Line((b"sk-hush is wrong",), status=401), "refuses the key (status 401)"),
        (Line(status=403), "refuses the key (status 403)"),
        (Line(status=302, headers=("location: /elsewhere",)), "answered with status 302"),
        (Line(status=500), "answered with status 500"),
        (Line((b"{",), is_cut=True), "cannot be reached (RemoteProtocolError)"),
    ],
)
async def test_what_went_wrong_is_told(
    http: httpx.AsyncClient, teller: Teller, line: Line, sentence: str
) -> None:
    teller.lines.append(line)
    assert await _ask(http, teller.url) == (False, sentence)


@pytest.mark.parametrize("body", [b"no json", b"3", b'{"data": 3}', b'["a"]', b"{}", b""])
async def test_a_list_that_cannot_be_read_says_nothing(
    http: httpx.AsyncClient, teller: Teller, body: bytes
) -> None:
    teller.lines.append(Line((body,) if body else ()))
    assert await _ask(http, teller.url, "openai", "a") == (True, "ok")


async def test_who_is_not_there_is_told(http: httpx.AsyncClient) -> None:
    assert await _ask(http, "http://127.0.0.1:1") == (False, "cannot be reached (ConnectError)")


async def test_who_never_answers_is_not_waited_for(
    http: httpx.AsyncClient, teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "_SECONDS_MAX", 0.05)
    teller.lines.append(Line((b"{", asyncio.Event())))
    assert await _ask(http, teller.url) == (False, "did not answer within 0 s")
