"""The check of a provider: its one request, and the sentence about the result."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from deploy import provider_check
from shared.settings import Dialect, ProviderSettings, Secret
from tests.deploy.scripted_api import ScriptedApi, ScriptedReply
from tests.support.api_client import NO_TLS

_KEY = "sk-hush"


@pytest.fixture(name="http")
async def _http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, verify=NO_TLS) as client:
        yield client


async def _ask(
    http: httpx.AsyncClient, url: str, dialect: Dialect = "openai", *upstreams: str
) -> tuple[bool, str]:
    provider = ProviderSettings(name="far", base_url=url, dialect=dialect)
    result = await provider_check.check_provider(http, provider, Secret(_KEY), upstreams)
    assert _KEY not in result[1]
    return result


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
async def test_each_dialect_has_its_own_path_and_key_header(
    http: httpx.AsyncClient,
    scripted_api: ScriptedApi,
    dialect: Dialect,
    path: str,
    header: str,
    value: str,
    listed: object,
) -> None:
    scripted_api.replies.extend(
        [ScriptedReply((json.dumps(listed).encode(),), kind="application/json")] * 2
    )
    assert await _ask(http, f"{scripted_api.url}/v1/", dialect, "a") == (True, "ok")
    (request,) = scripted_api.requests
    assert (request.method, request.path, request.headers[header]) == ("GET", path, value)
    result = await _ask(http, f"{scripted_api.url}/v1", dialect, "a", "c", "b")
    assert result == (True, "ok, but does not list b, c")


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (ScriptedReply((b"sk-hush is wrong",), status=401), "refuses the key (status 401)"),
        (ScriptedReply(status=403), "refuses the key (status 403)"),
        (ScriptedReply(status=302, headers=("location: /elsewhere",)), "answered with status 302"),
        (ScriptedReply(status=500), "answered with status 500"),
        (ScriptedReply((b"{",), is_cut=True), "cannot be reached (RemoteProtocolError)"),
    ],
)
async def test_a_failure_is_one_sentence(
    http: httpx.AsyncClient, scripted_api: ScriptedApi, reply: ScriptedReply, sentence: str
) -> None:
    scripted_api.replies.append(reply)
    assert await _ask(http, scripted_api.url) == (False, sentence)


@pytest.mark.parametrize("body", [b"no json", b"3", b'{"data": 3}', b'["a"]', b"{}", b""])
async def test_a_list_that_cannot_be_parsed_counts_as_complete(
    http: httpx.AsyncClient, scripted_api: ScriptedApi, body: bytes
) -> None:
    scripted_api.replies.append(ScriptedReply((body,) if body else ()))
    assert await _ask(http, scripted_api.url, "openai", "a") == (True, "ok")


async def test_an_unreachable_provider_is_reported(http: httpx.AsyncClient) -> None:
    assert await _ask(http, "http://127.0.0.1:1") == (False, "cannot be reached (ConnectError)")


async def test_a_provider_that_never_answers_times_out(
    http: httpx.AsyncClient, scripted_api: ScriptedApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_check, "_SECONDS_MAX", 0.05)
    scripted_api.replies.append(ScriptedReply((b"{", asyncio.Event())))
    assert await _ask(http, scripted_api.url) == (False, "did not answer within 0 s")
