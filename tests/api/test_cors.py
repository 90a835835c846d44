"""Pages in browsers: which origins may call the API, and that they may read all of its responses.

What a real browser makes of these headers is tested by `python -m tests.browser`.
"""

from typing import Final

import httpx
import pytest

from api.server import cors
from tests.support.api_client import ApiClient, body
from tests.support.system import System

PAGE: Final = "https://app.example.org"
OTHER: Final = "http://localhost:5173"
STRANGER: Final = "https://evil.example"
CHAT: Final = "/api/v1/chat"
# What a browser always lets a page read, or keeps for itself.
READABLE: Final = {"cache-control", "content-length", "content-type", "x-content-type-options"}
FOR_THE_BROWSER: Final = {
    *("vary", "connection", "transfer-encoding", "x-accel-buffering"),
    *("access-control-allow-origin", "access-control-expose-headers"),
}


@pytest.fixture
async def page(system: System) -> ApiClient:
    """Return a customer whose requests come from a page that may send them."""
    system.change("api", cors_origins=(PAGE, OTHER))
    await system.front()
    customer = await system.customer()
    customer.headers["origin"] = PAGE
    return customer


def _preflight(method: str, *fields: str, origin: str = PAGE) -> dict[str, str]:
    asked = {"origin": origin, "access-control-request-method": method}
    return asked | ({"access-control-request-headers": ",".join(fields)} if fields else {})


def _listed(answer: httpx.Response, name: str) -> set[str]:
    return set(answer.headers[name].lower().split(", "))


async def test_no_page_may_call_unless_the_settings_say_so(api: ApiClient) -> None:
    headers = _preflight("POST", "x-api-key")
    for answer in (
        await api.options(CHAT, headers=headers),
        await api.post(CHAT, json={"message": "hello"}, headers={"origin": PAGE}),
        await api.get("/nothing", headers={"origin": PAGE}),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert "vary" not in answer.headers


async def test_a_preflight_is_answered_without_a_key_for_any_path(page: ApiClient) -> None:
    for path in (CHAT, "/v1/ai/chat", "/api/api/v1/models", "/healthz", "/nothing", "/media/a/b/c"):
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            asked = _preflight(method, "x-api-key", "content-type")
            asked |= {"x-api-key": "nobody's"}
            answer = await page.options(path, headers=asked)
            assert (answer.status_code, answer.content) == (204, b""), path
            assert answer.headers["access-control-allow-origin"] == PAGE
            assert method.lower() in _listed(answer, "access-control-allow-methods")
            assert int(answer.headers["access-control-max-age"]) > 0
            assert _listed(answer, "vary") == {"origin"}
            assert _listed(answer, "access-control-allow-headers") == {
                *("x-api-key", "authorization", "content-type", "idempotency-key"),
                *("last-event-id", "if-none-match", "x-request-id"),
            }


async def test_every_header_that_a_route_reads_may_be_sent_by_a_page(page: ApiClient) -> None:
    described = (await page.get("/openapi.json")).json()
    read = {
        parameter["name"].lower()
        for item in described["paths"].values()
        for operation in item.values()
        for parameter in operation["parameters"]
        if parameter["in"] == "header"
    }
    answer = await page.options(CHAT, headers=_preflight("POST"))
    # Accept is always allowed.
    assert read - {"accept"} <= _listed(answer, "access-control-allow-headers")


async def test_another_origin_is_not_allowed_and_caches_vary_by_origin(page: ApiClient) -> None:
    for origin in (STRANGER, "null", "", PAGE + ".evil.example", PAGE.upper(), PAGE + ":443", "*"):
        for answer in (
            await page.options(CHAT, headers=_preflight("POST", origin=origin)),
            await page.get("/openapi.json", headers={"origin": origin}),
        ):
            assert "access-control-allow-origin" not in answer.headers, origin
            assert _listed(answer, "vary") == {"origin"}
    for origin in (PAGE, OTHER):
        answer = await page.get("/healthz", headers={"origin": origin})
        assert answer.headers["access-control-allow-origin"] == origin
    del page.headers["origin"]
    assert _listed(await page.get("/healthz"), "vary") == {"origin"}


async def test_a_page_can_read_every_refusal(page: ApiClient, system: System) -> None:
    often = await system.customer("often", tier="free")
    often.headers["origin"] = PAGE
    limited = [await often.post(CHAT, json={"message": "hello"}) for _ in range(11)][-1]
    large = b" " * (system.settings.api.body_bytes_max + 1)
    for answer, status in (
        (await page.get("/api/v1/models", headers={"x-api-key": ""}), 401),
        (await page.get("/nothing"), 404),
        (await page.put(CHAT), 405),
        (await page.post(CHAT, content=large), 413),
        (await page.get("/nothing", headers={"x": "y" * 20_000}), 431),
        (limited, 429),
        (await page.get("/v1/ai/agents"), 503),
    ):
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == PAGE, status
        exposed = _listed(answer, "access-control-expose-headers")
        assert set(answer.headers) <= exposed | READABLE | FOR_THE_BROWSER, status
    assert limited.headers["retry-after"]


@pytest.mark.usefixtures("worker")
async def test_a_page_can_read_all_headers_of_a_response(system: System) -> None:
    system.change("api", cors_origins=(PAGE,))
    await system.front()
    page = await system.customer()
    page.headers["origin"] = PAGE
    once = {"idempotency-key": "once"}
    receipt = body(await page.post(CHAT, json={"message": "hello"}, headers=once))
    await page.wait_for_end(receipt)
    looked = await page.get(receipt["poll_url"])
    tag = {"if-none-match": looked.headers["etag"]}
    answers = {
        "ratelimit-remaining": await page.post(CHAT, json={"message": "hello"}),
        "idempotent-replayed": await page.post(CHAT, json={"message": "hello"}, headers=once),
        "etag": looked,
        "poll-interval-hint": await page.get(receipt["poll_url"], headers=tag),
        "location": await page.post("/v1/ai/sessions", json={}),
        "x-request-id": await page.get(receipt["events_url"]),
        "allow": await page.options(CHAT),
    }
    for name, answer in answers.items():
        assert answer.headers["access-control-allow-origin"] == PAGE, name
        exposed = _listed(answer, "access-control-expose-headers")
        assert name in answer.headers
        assert name in exposed
        assert set(answer.headers) <= exposed | READABLE | FOR_THE_BROWSER, name
    streamed = answers["x-request-id"]
    assert streamed.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert _listed(streamed, "cache-control") == {"no-store", "no-transform"}


async def test_all_pages_may_call_where_the_settings_say_any(system: System) -> None:
    system.change("api", cors_origins=(cors.ANY,))
    await system.front()
    customer = await system.customer()
    for origin in (PAGE, STRANGER, "null"):
        answer = await customer.get("/openapi.json", headers={"origin": origin})
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "vary" not in answer.headers
        asked = _preflight("POST", "x-api-key", origin=origin)
        assert (await customer.options(CHAT, headers=asked)).status_code == 204


async def test_no_page_may_call_the_operators_port(system: System) -> None:
    system.change("api", cors_origins=(PAGE,))
    door = await system.front_with_admin_port()
    customer = await system.customer(scopes=("operator",))
    customer.headers["origin"] = PAGE
    for answer in (
        await customer.get(f"{door}/admin/v1/dead"),
        await customer.options(f"{door}/admin/v1/dead", headers=_preflight("GET", "x-api-key")),
    ):
        assert answer.is_success
        assert "access-control-allow-origin" not in answer.headers
    answer = await customer.get(f"{system.url}/healthz")
    assert answer.headers["access-control-allow-origin"] == PAGE
