"""A client of the front with one API key and one connection, in the words of the Kolbo dialect.

Owns short calls for what most tests do: submit, poll, wait for the end. Knows only what is
published: it follows the links and states of responses, and checks each response against the
OpenAPI document.
"""

import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, cast

import httpx

from tests.support import openapi_document

_GIVE_UP_SECONDS: Final = 15.0
_WAIT_SECONDS: Final = 5
# No test speaks TLS; a context without certificates is created much faster.
NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

Json = dict[str, Any]


class ApiClient(httpx.AsyncClient):
    """An HTTP client of the front that sends its API key."""

    async def submit(self, message: str, **fields: object) -> Json:
        """Send a message and return its receipt."""
        return body(await self.post("/api/v1/chat", json={"message": message, **fields}))

    async def poll(self, receipt: Json, **parameters: object) -> Json:
        """Return the current status of a generation."""
        answer = await self.get(receipt["poll_url"], params=cast("dict[str, str]", parameters))
        return body(answer)

    async def wait_for_end(self, receipt: Json) -> Json:
        """Wait until a generation has ended and return its last status."""
        ends = time.monotonic() + _GIVE_UP_SECONDS
        while (status := await self.poll(receipt, wait=_WAIT_SECONDS))["state"] == "processing":
            assert time.monotonic() < ends, status
        return status

    async def submit_and_wait(self, message: str, **fields: object) -> Json:
        """Send a message, wait for its end, and return the last status."""
        return await self.wait_for_end(await self.submit(message, **fields))

    async def messages(self, session: str, **parameters: object) -> list[Json]:
        """Return a page of a conversation's messages."""
        path = f"/api/v1/chat/conversations/{session}/messages"
        answer = await self.get(path, params=cast("dict[str, str]", parameters))
        return cast("list[Json]", body(answer)["messages"])

    async def credits(self) -> Json:
        """Return the credits of the account."""
        return cast("Json", body(await self.get("/api/v1/account/credits"))["credits"])


@asynccontextmanager
async def connected(url: str, headers: dict[str, str]) -> AsyncIterator[ApiClient]:
    """Yield a client of the front at `url`; each response must match the OpenAPI document."""
    faults: list[str] = []

    async def compare(answer: httpx.Response) -> None:
        asked = answer.request
        where = (asked.method, asked.url.path, answer.status_code)
        faults.extend(openapi_document.faults(*where, answer.headers, await answer.aread()))

    async with ApiClient(
        base_url=url,
        headers=headers,
        timeout=20.0,
        verify=NO_TLS,
        trust_env=False,
        event_hooks={"response": [compare]},
    ) as customer:
        yield customer
    assert not faults, faults


def body(answer: httpx.Response) -> Json:
    """Return the decoded body of a response that must be a success."""
    assert answer.status_code == 200, answer.text
    decoded: Json = answer.json()
    assert decoded["success"] is True
    return decoded


def refused(answer: httpx.Response, status: int, code: str) -> Json:
    """Return the decoded body of a response that must be this error, in Kolbo's own shape."""
    assert answer.status_code == status, (answer.status_code, answer.text)
    assert answer.headers["content-type"] == "application/json"
    decoded: Json = answer.json()
    assert decoded["success"] is False
    assert decoded["code"] == code, decoded
    assert decoded["request_id"] == answer.headers["x-request-id"]
    assert isinstance(decoded["error"], str)
    assert decoded["error"].endswith(".")
    return decoded
