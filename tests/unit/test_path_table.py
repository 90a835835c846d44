"""Which application answers a path, and with which parameters."""

from typing import Any, Never

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from api.endpoints.path_table import PathTable

PATHS = (
    "/v1/chat",
    "/v1/dead/retry",
    "/v1/dead/{account}/{id}",
    "/v1/jobs/{id}",
    "/v1/jobs/{id}/status",
    "/v1/jobs/{id}/{what}",
    "/v1.0/jobs/{id}",
)


def named(name: str, found: dict[str, Any]) -> ASGIApp:
    async def application(scope: Scope, _receive: Receive, _send: Send) -> None:
        found[name] = dict(scope["path_params"])

    return application


async def find(path: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    table = PathTable([(each, named(each, found)) for each in PATHS], named("none", found))

    async def nothing(*_: object) -> Never:
        raise AssertionError

    await table({"type": "http", "path": path}, nothing, nothing)
    return found


@pytest.mark.parametrize(
    ("path", "pattern", "parameters"),
    [
        ("/v1/chat", "/v1/chat", {}),
        ("/v1/dead/retry", "/v1/dead/retry", {}),
        ("/v1/dead/retry/7", "/v1/dead/{account}/{id}", {"account": "retry", "id": "7"}),
        ("/v1/jobs/a%b c\n", "/v1/jobs/{id}", {"id": "a%b c\n"}),
        ("/v1/jobs/7/status", "/v1/jobs/{id}/status", {"id": "7"}),
        ("/v1/jobs/7/events", "/v1/jobs/{id}/{what}", {"id": "7", "what": "events"}),
        ("/v1.0/jobs/7", "/v1.0/jobs/{id}", {"id": "7"}),
        ("/v1x0/jobs/7", "none", {}),
        ("/v1/jobs/", "none", {}),
        ("/v1/jobs//status", "none", {}),
        ("/v1/jobs/7/status/", "none", {}),
        ("/v1/chat\n", "none", {}),
        ("", "none", {}),
    ],
)
async def test_a_path_is_answered_by_what_fits_it(
    path: str, pattern: str, parameters: dict[str, str]
) -> None:
    assert await find(path) == {pattern: parameters}
