"""HTTP around the dialect: both prefixes, request ids, methods, unknown routes, operations."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

import pytest

from shared import ids
from shared.redis.server_check import GUARANTEES
from tests.support.api_client import ApiClient, Json, body, refused
from tests.support.mounts import DOUBLED_MOUNTS, MOUNTS
from tests.support.system import System

METHODS: Final = "GET HEAD POST PUT PATCH DELETE TRACE PROPFIND SEARCH".split()


def paths() -> dict[str, set[str]]:
    """Return every path under both prefixes, filled in, with the methods that it has."""
    found: dict[str, set[str]] = {}
    for prefix, endpoints in ({"/api/v1": MOUNTS["/api/v1"]} | DOUBLED_MOUNTS).items():
        for endpoint in endpoints:
            path = prefix + endpoint.path
            for name in ("generation_id", "session_id"):
                path = path.replace(f"{{{name}}}", "x")
            found.setdefault(path, set()).add(endpoint.method)
    return found


@pytest.mark.usefixtures("worker")
async def test_the_doubled_prefix_answers_for_all_of_it(api: ApiClient) -> None:
    assert DOUBLED_MOUNTS["/api/api/v1"] == MOUNTS["/api/v1"]
    doubled = "/api/api/v1"
    receipt = body(await api.post(f"{doubled}/chat", json={"message": "hello"}))
    await api.wait_for_end(receipt)
    # The samples join a base that ends in /api and a link that begins with it.
    assert body(await api.get("/api" + receipt["poll_url"])) == await api.poll(receipt)
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


async def test_a_callers_request_id_comes_back(api: ApiClient) -> None:
    for given in ("a", "req-1.2_3", "A" * 128):
        answer = await api.get("/api/v1/account/credits", headers={"x-request-id": given})
        assert answer.headers["x-request-id"] == given
        answer = await api.get("/api/v1/nothing", headers={"x-request-id": given})
        assert refused(answer, 404, "NOT_FOUND")["request_id"] == given


async def test_what_is_no_request_id_is_replaced(api: ApiClient) -> None:
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


async def test_a_method_that_a_route_lacks_is_refused_with_those_it_has(api: ApiClient) -> None:
    for path, has in paths().items():
        serves = has | ({"HEAD"} if "GET" in has else set())
        for method in set(METHODS) - serves:
            answer = await api.request(method, path)
            if method == "HEAD":
                assert (answer.status_code, answer.content) == (405, b"")
            else:
                refused(answer, 405, "METHOD_NOT_ALLOWED")
            allowed = serves | {"OPTIONS"}
            assert set(answer.headers["allow"].split(", ")) == allowed, (method, path)


async def test_every_path_answers_options_with_its_methods_and_needs_no_key(
    system: System,
) -> None:
    await system.front()
    nobody = await system.caller({})
    others = ("/", "/healthz", "/readyz", "/openapi.json", "/media/a/b/c")
    for path, has in (paths() | {path: {"GET"} for path in others}).items():
        answer = await nobody.options(path)
        assert (answer.status_code, answer.content) == (204, b""), path
        serves = has | ({"HEAD"} if "GET" in has else set()) | {"OPTIONS"}
        assert set(answer.headers["allow"].split(", ")) == serves, path
        assert "content-type" not in answer.headers


async def test_head_answers_as_get_without_a_body(api: ApiClient) -> None:
    receipt = await api.submit("hello")
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


async def test_unknown_routes_are_not_found_whatever_is_asked_of_them(api: ApiClient) -> None:
    for path in (
        "/api",
        "/api/v1",
        "/api/v1/",
        "/api/v1/chat//",
        "/api/v1/Chat",
        "/API/v1/chat",
        "//api/v1/chat",
        "/api//v1/chat",
        "/api/v1/chat/conversations//x/messages",
        "/api/v1/chat/conversations/x%2Fy/messages",
        "/api/v1/generate//status",
        "/api/v1/generate/x",
        "/api/v1/generate/x/status/more",
        "/api/v2/chat",
        "/api/api/api/v1/chat",
        "/v1/chat",
        "/docs",
        "/docs/",
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
        payload = {"status": "ok", "durability": "process", "holds": GUARANTEES["process"]}
        assert answer.json() == payload
        assert answer.status_code == 200
        assert answer.headers["x-request-id"]
    for path in ("/healthz", "/readyz", "/openapi.json"):
        answer = await nobody.post(path)
        refused(answer, 405, "METHOD_NOT_ALLOWED")
        assert answer.headers["allow"] == "GET, HEAD, OPTIONS"


async def test_the_root_says_what_this_is_and_where_it_is_described(system: System) -> None:
    await system.front()
    nobody = await system.caller({})
    payload = (await nobody.get("/")).json()
    described = (await nobody.get(payload["openapi"])).json()
    assert (payload["name"], payload["version"]) == ("Pollux", described["info"]["version"])
    for path in (payload["health"], payload["ready"]):
        assert (await nobody.get(path)).status_code == 200
    for mount in payload["apis"]:
        assert any(path.startswith(f"{mount}/") for path in described["paths"])


async def test_a_trailing_slash_changes_nothing(api: ApiClient) -> None:
    chat = {"message": "hello"}
    headers = {"idempotency-key": "once"}
    receipt = body(await api.post("/api/v1/chat/", json=chat, headers=headers))
    again = await api.post("/api/v1/chat", json=chat, headers=headers)
    assert body(again)["message_id"] == receipt["message_id"]
    assert again.headers["idempotent-replayed"] == "true"
    assert body(await api.get(f"{receipt['poll_url']}/"))["state"] == "processing"
    assert body(await api.get("/api/v1/chat/conversations/?limit=1"))["conversations"]
    assert (await api.get("/healthz/")).status_code == 200
    headers["idempotency-key"] = "two"
    first = await api.post("/v1/ai/sessions/", json={}, headers=headers)
    second = await api.post("/v1/ai/sessions", json={}, headers=headers)
    assert first.json()["id"] == second.json()["id"]
    refused(await api.post("/api/v1/models/"), 405, "METHOD_NOT_ALLOWED")


async def test_every_answer_is_dated_and_nobodys_to_keep_or_to_guess_at(api: ApiClient) -> None:
    receipt = await api.submit("hello")
    tag = (await api.get(receipt["poll_url"])).headers["etag"]
    for answer, status in (
        (await api.get(receipt["poll_url"]), 200),
        (await api.get(receipt["poll_url"], headers={"if-none-match": tag}), 304),
        (await api.get(receipt["poll_url"], headers={"x-api-key": "x"}), 401),
        (await api.post("/api/v1/chat", content=b"{"), 400),
        (await api.get("/api/v1/generate/x/status"), 404),
        (await api.get("/nothing"), 404),
        (await api.put("/api/v1/chat"), 405),
        (await api.get("/nothing", headers={"x": "y" * 20_000}), 431),
        (await api.post("/v1/ai/sessions", json={}), 201),
        (await api.get("/v1/ai/sessions"), 200),
        (await api.get("/healthz"), 200),
        (await api.options("/healthz"), 204),
    ):
        assert answer.status_code == status
        assert answer.headers["cache-control"] == "no-store", answer.request.url
        assert answer.headers["x-content-type-options"] == "nosniff"
        dated = parsedate_to_datetime(answer.headers["date"])
        assert abs(dated - datetime.now(UTC)) < timedelta(minutes=1)


async def test_blanks_around_a_header_are_none_of_its_value(system: System) -> None:
    await system.front()
    key = (await system.key()).key
    for field in (
        f"X-API-Key: {key} ",
        f"X-API-Key:\t {key}\t ",
        f"X-API-Key:{key}",
        f"Authorization: Bearer {key} ",
    ):
        status, _ = await _raw(system, f"GET /api/v1/models HTTP/1.1\r\nHost: a\r\n{field}")
        assert status == 200, field


async def test_a_target_with_a_host_in_it_is_taken(system: System) -> None:
    await system.front()
    key = (await system.key()).key
    for target in ("http://pollux.example/api/v1/models?type=chat", "HTTPS://a:1/api/v1/models/"):
        lines = f"GET {target} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}"
        status, content = await _raw(system, lines)
        assert (status, content["success"]) == (200, True)
    for target, whole in (("http://a", 200), ("http://a?b=c", 200), ("http://a/nothing", 404)):
        status, _ = await _raw(system, f"GET {target} HTTP/1.1\r\nHost: a")
        assert status == whole, target


async def _raw(system: System, head: str) -> tuple[int, Json]:
    """Send a head unchanged, and return the response's status and JSON."""
    port = int(system.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{head}\r\nConnection: close\r\n\r\n".encode())
    answered, _, content = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return int(answered.split(b" ")[1]), json.loads(content)


async def test_every_answer_is_json_that_names_its_request(api: ApiClient) -> None:
    receipt = await api.submit("hello")
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


async def test_query_parameters_that_nobody_knows_change_nothing(api: ApiClient) -> None:
    receipt = await api.submit("hello")
    plain = await api.poll(receipt)
    assert await api.poll(receipt, utm="x", page="0") == plain


async def test_a_hundred_requests_at_once_get_each_its_own_answer(api: ApiClient) -> None:
    names = [f"r{n}" for n in range(100)]
    answers = await asyncio.gather(
        *(api.get("/api/v1/generate/x/status", headers={"x-request-id": name}) for name in names)
    )
    payload: list[Json] = [refused(answer, 404, "GENERATION_NOT_FOUND") for answer in answers]
    assert [each["request_id"] for each in payload] == names
