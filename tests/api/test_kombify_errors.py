"""Every refusal under /v1/ai has the dialect's own shape, wherever it is made."""

import asyncio
import socket
from collections.abc import Iterator
from typing import Final, get_args
from urllib.parse import urlsplit

import httpx

from api.endpoints.endpoint import Endpoint
from api.errors import FAILURE_STATUS
from shared.errors import Category
from shared.wire.account import SCOPES
from tests.api.kombify_client import AI, CHAT, SESSIONS, refused
from tests.support.api_client import ApiClient
from tests.support.mounts import MOUNTS
from tests.support.redis_server import Server
from tests.support.system import System

METHODS: Final = "GET HEAD POST PUT PATCH DELETE TRACE PROPFIND".split()


def rows() -> Iterator[tuple[Endpoint, str]]:
    """Yield every route with its path filled in."""
    for endpoint in MOUNTS[AI]:
        path = endpoint.path.replace("{session_id}", "x").replace("{type}", "work")
        yield endpoint, AI + path.replace("{key_id}", "x")


async def test_what_is_not_there_is_not_found(api: ApiClient) -> None:
    for path in (
        AI,
        f"{AI}/",
        f"{AI}/nothing",
        f"{CHAT}//",
        f"{AI}/Chat",
        f"{AI}/companion/personal",
        f"{AI}/companion//chat",
        f"{AI}/companion/a/b/chat",
        f"{SESSIONS}/x/y",
        f"{AI}/preferences/models",
        f"{AI}/{'x' * 4000}",
    ):
        for method in ("GET", "POST", "DELETE", "PROPFIND"):
            refused(await api.request(method, path), 404, "NOT_FOUND")
    # A path that only looks like it belongs to the other dialect.
    for path in ("/v1/aid", "/v1", "/v1/a", "/api/v1/ai/chat"):
        answer = await api.get(path)
        assert (answer.status_code, answer.json()["success"]) == (404, False), path


async def test_a_method_that_a_route_lacks_is_refused_with_those_it_has(api: ApiClient) -> None:
    has: dict[str, set[str]] = {}
    for endpoint, path in rows():
        has.setdefault(path, set()).add(endpoint.method)
    for path, methods in has.items():
        serves = methods | ({"HEAD"} if "GET" in methods else set())
        for method in set(METHODS) - serves - {"HEAD"}:
            answer = await api.request(method, path)
            refused(answer, 405, "METHOD_NOT_ALLOWED")
            allowed = set(answer.headers["allow"].split(", "))
            assert allowed == serves | {"OPTIONS"}, (method, path)


async def test_every_route_needs_a_key_and_its_scope_before_anything_else(system: System) -> None:
    await system.front()
    nobody = await system.caller({})
    for scope in ("chat", "read", "keys"):
        without = await system.customer(scopes=tuple(set(SCOPES) - {scope}))
        for endpoint, path in rows():
            answer = await nobody.request(endpoint.method, path, content=b"{broken")
            refused(answer, 401, "INVALID_API_KEY")
            assert answer.headers["www-authenticate"] == "Bearer"
            if endpoint.scope == scope:
                answer = await without.request(endpoint.method, path, content=b"{broken")
                assert f"`{scope}`" in refused(answer, 403, "FORBIDDEN")["message"]
    assert {endpoint.scope for endpoint, _ in rows()} == {"chat", "read", "keys"}


async def test_a_body_that_is_wrong_in_itself_is_refused(system: System) -> None:
    system.change("api", body_bytes_max=1000)
    await system.front()
    api = await system.customer(scopes=SCOPES)
    for endpoint, path in rows():
        if endpoint.body is None:
            continue
        for content, kind, status, code in (
            (b"{broken", "application/json", 400, "INVALID_FIELDS"),
            (b"[]", "application/json", 400, "INVALID_FIELDS"),
            (b"{}", "text/plain", 415, "UNSUPPORTED_MEDIA_TYPE"),
            (b"{" + b" " * 1000 + b"}", "application/json", 413, "PAYLOAD_TOO_LARGE"),
        ):
            headers = {"content-type": kind}
            answer = await api.request(endpoint.method, path, content=content, headers=headers)
            refused(answer, status, code)


async def test_details_stand_inside_the_error(api: ApiClient) -> None:
    first = await api.submit("hello")
    asked = {"message": "hi", "session_id": first["session_id"], "on_conflict": "reject"}
    error = refused(await api.post(CHAT, json=asked), 409, "SESSION_BUSY")
    assert error["details"] == {"generation_id": first["message_id"]}


async def test_limits_say_when_to_retry(system: System) -> None:
    system.change("api", wait_seconds_max=1)
    await system.front()
    poor = await system.customer("poor", funds=0)
    refused(await poor.post(CHAT, json={"message": "hello"}), 402, "INSUFFICIENT_CREDITS")
    free = await system.customer("free", tier="free")
    for n in range(10):
        await free.submit(f"m{n}")
    answer = await free.post(CHAT, json={"message": "hello"})
    refused(answer, 429, "RATE_LIMITED")
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["ratelimit-remaining"] == "0"


async def test_what_the_edge_refuses_has_the_shape_too(api: ApiClient, system: System) -> None:
    assert api
    where = urlsplit(system.url)
    with socket.create_connection((where.hostname or "", where.port or 0)) as line:
        line.sendall(f"GET {AI}/agents HTTP/1.1\r\nHost: a\r\nX: {'x' * 20_000}\r\n\r\n".encode())
        answer = await _read(line)
    refused(answer, 431, "HEADERS_TOO_LARGE")


async def _read(line: socket.socket) -> httpx.Response:
    """Return what arrives until the server closes the connection."""
    line.setblocking(False)
    raw = b""
    while piece := await asyncio.get_running_loop().sock_recv(line, 65_536):
        raw += piece
    head, _, content = raw.partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    headers = [(name, value) for name, _, value in (field.partition(": ") for field in fields)]
    return httpx.Response(int(status.split()[1]), headers=headers, content=content)


async def test_redis_away_has_the_dialects_shape(own_system: System, own_server: Server) -> None:
    own_system.expected |= {"unavailable"}
    await own_system.front()
    api = await own_system.customer()
    await api.credits()
    own_server.kill()
    for method, path, asked in (
        ("GET", SESSIONS, None),
        ("POST", SESSIONS, {}),
        ("POST", CHAT, {"message": "hello"}),
    ):
        answer = await api.request(method, path, json=asked)
        refused(answer, 503, "UNAVAILABLE")
        assert int(answer.headers["retry-after"]) >= 1
        assert "Redis" not in answer.text


def test_every_failure_has_a_status() -> None:
    assert FAILURE_STATUS.keys() == set(get_args(Category))
