"""HTTP around the dialect: both prefixes, request ids, methods, unknown routes, operations."""

import asyncio
from typing import Final

import pytest

from api.app import DOUBLED, MOUNTS
from shared import ids
from shared.redis.server import HOLDS
from tests.support.customer import Customer, Json, body, refused
from tests.support.system import System

pytestmark = pytest.mark.each_once

METHODS: Final = "GET HEAD POST PUT PATCH DELETE OPTIONS TRACE PROPFIND SEARCH".split()


def paths() -> dict[str, set[str]]:
    """Return every path under both prefixes, filled in, with the methods that it has."""
    found: dict[str, set[str]] = {}
    for prefix, endpoints in ({"/api/v1": MOUNTS["/api/v1"]} | DOUBLED).items():
        for endpoint in endpoints:
            path = prefix + endpoint.path
            for name in ("generation_id", "session_id"):
                path = path.replace(f"{{{name}}}", "x")
            found.setdefault(path, set()).add(endpoint.method)
    return found


@pytest.mark.usefixtures("worker")
async def test_the_doubled_prefix_answers_for_all_of_it(api: Customer) -> None:
    assert DOUBLED["/api/api/v1"] == MOUNTS["/api/v1"]
    doubled = "/api/api/v1"
    receipt = body(await api.post(f"{doubled}/chat", json={"message": "hello"}))
    await api.end(receipt)
    # The samples join a base that ends in /api and a link that begins with it.
    assert body(await api.get("/api" + receipt["poll_url"])) == await api.look(receipt)
    session = receipt["session_id"]
    for tail in (
        "/models",
        "/account/credits",
        "/chat/conversations",
        f"/chat/conversations/{session}/messages",
    ):
        assert body(await api.get(doubled + tail)) == body(await api.get("/api/v1" + tail))
    refused(await api.post("/api" + receipt["cancel_url"]), 409, "ALREADY_FINISHED")
    path = f"{doubled}/chat/conversations/{session}"
    assert body(await api.patch(path, json={"name": "n"}))["conversation"]["name"] == "n"
    assert body(await api.delete(path))


async def test_a_callers_request_id_comes_back(api: Customer) -> None:
    for given in ("a", "req-1.2_3", "A" * 128):
        answer = await api.get("/api/v1/account/credits", headers={"x-request-id": given})
        assert answer.headers["x-request-id"] == given
        answer = await api.get("/api/v1/nothing", headers={"x-request-id": given})
        assert refused(answer, 404, "NOT_FOUND")["request_id"] == given


async def test_what_is_no_request_id_is_replaced(api: Customer) -> None:
    seen = set()
    for given in (None, "", "a b", "A" * 129, "a/b", "a;b", "<script>", '"', "é", "a:b"):
        headers = {} if given is None else {"x-request-id": given.encode()}
        answer = await api.get(
            "/api/v1/nothing",
            headers=headers,  # type: ignore[arg-type]  # httpx takes bytes too
        )
        made = refused(answer, 404, "NOT_FOUND")["request_id"]
        assert made != given
        assert ids.is_id(made)
        seen.add(made)
    assert len(seen) == 10


async def test_a_method_that_a_route_lacks_is_refused_with_those_it_has(api: Customer) -> None:
    for path, has in paths().items():
        serves = has | ({"HEAD"} if "GET" in has else set())
        for method in set(METHODS) - serves:
            answer = await api.request(method, path)
            if method == "HEAD":
                assert (answer.status_code, answer.content) == (405, b"")
            else:
                refused(answer, 405, "METHOD_NOT_ALLOWED")
            assert set(answer.headers["allow"].split(", ")) == serves, (method, path)


async def test_head_answers_as_get_without_a_body(api: Customer) -> None:
    receipt = await api.ask("hello")
    session = receipt["session_id"]
    for path in (
        receipt["poll_url"],
        "/api/v1/models",
        "/api/v1/account/credits",
        "/api/v1/chat/conversations",
        f"/api/v1/chat/conversations/{session}/messages",
        "/api/v1/generate/x/status",
        "/api/v1/nothing",
        "/healthz",
        "/readyz",
        "/openapi.json",
    ):
        asked, looked = await api.get(path), await api.head(path)
        assert looked.status_code == asked.status_code, path
        assert looked.content == b""
        for name in ("content-type", "content-length", "etag"):
            assert looked.headers.get(name) == asked.headers.get(name), (path, name)


async def test_unknown_routes_are_not_found_whatever_is_asked_of_them(api: Customer) -> None:
    for path in (
        "/",
        "/api",
        "/api/v1",
        "/api/v1/",
        "/api/v1/chat/",
        "/api/v1/Chat",
        "/API/v1/chat",
        "//api/v1/chat",
        "/api//v1/chat",
        "/api/v1/chat/conversations/",
        "/api/v1/chat/conversations/x/messages/",
        "/api/v1/chat/conversations/x%2Fy/messages",
        "/api/v1/generate//status",
        "/api/v1/generate/x",
        "/api/v1/generate/x/status/more",
        "/api/v2/chat",
        "/api/api/api/v1/chat",
        "/v1/chat",
        "/docs",
        "/healthz/",
        "/%F0%9F%9A%80",
        "/%FF%FE",
        "/.env",
        "/api/v1/" + "x" * 4000,
    ):
        for method in ("GET", "POST", "DELETE", "OPTIONS", "PROPFIND"):
            refused(await api.request(method, path), 404, "NOT_FOUND")


async def test_health_readiness_and_the_document_need_no_key(system: System) -> None:
    await system.front()
    nobody = await system.caller({})
    for path in ("/healthz", "/readyz"):
        answer = await nobody.get(path)
        told = {"status": "ok", "durability": "process", "holds": HOLDS["process"]}
        assert answer.json() == told
        assert answer.status_code == 200
        assert answer.headers["x-request-id"]
    for path in ("/healthz", "/readyz", "/openapi.json"):
        answer = await nobody.post(path)
        refused(answer, 405, "METHOD_NOT_ALLOWED")
        assert answer.headers["allow"] == "GET, HEAD"


async def test_every_answer_is_json_that_names_its_request(api: Customer) -> None:
    receipt = await api.ask("hello")
    for answer in (
        await api.get(receipt["poll_url"]),
        await api.get("/api/v1/models"),
        await api.get("/openapi.json"),
        await api.get("/nothing"),
        await api.put("/api/v1/chat"),
    ):
        assert answer.headers["content-type"] == "application/json"
        assert int(answer.headers["content-length"]) == len(answer.content)
        assert answer.headers["x-request-id"]
        assert "server" not in answer.headers


async def test_query_parameters_that_nobody_knows_change_nothing(api: Customer) -> None:
    receipt = await api.ask("hello")
    plain = await api.look(receipt)
    assert await api.look(receipt, utm="x", page="0") == plain


async def test_a_hundred_requests_at_once_get_each_its_own_answer(api: Customer) -> None:
    names = [f"r{n}" for n in range(100)]
    answers = await asyncio.gather(
        *(api.get("/api/v1/generate/x/status", headers={"x-request-id": name}) for name in names)
    )
    told: list[Json] = [refused(answer, 404, "GENERATION_NOT_FOUND") for answer in answers]
    assert [each["request_id"] for each in told] == names
