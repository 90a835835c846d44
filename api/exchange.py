"""A request and its answer as uvicorn runs them, where the application gives none.

Owns the JSON that stands in for uvicorn's plain texts: 500 when the application broke down before
its answer, 503 when the server is full or goes away, and the fields of every refusal of the edge.
The application's own catch-all is in errors.py; what arrives here got past it.
"""

import asyncio
import sys
from collections.abc import Iterable
from typing import Final, cast

from typing_extensions import override
from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, HTTPScope, Scope
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from api import errors
from shared import ids
from shared.errors import Code
from shared.telemetry import logs

_RETRY_AFTER_SECONDS: Final = b"2"

Field = tuple[bytes, bytes]


class Exchange(RequestResponseCycle):
    """uvicorn's own, but that its answer for a broken application is JSON."""

    @override
    async def send_500_response(self) -> None:
        code, message = Code.GENERATION_ERROR, "The request failed through a fault of the server."
        # Only a server that goes away cancels the application.
        if isinstance(sys.exception(), asyncio.CancelledError):
            code, message = Code.UNAVAILABLE, "The server is going away."
        await _send(self.scope, self.send, code, message)


async def overloaded(scope: Scope, _receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Answer in the application's place where uvicorn's `limit_concurrency` is reached."""
    await _send(
        cast("HTTPScope", scope), send, Code.UNAVAILABLE, "Too many requests are under way."
    )


async def _send(scope: HTTPScope, send: ASGISendCallable, code: Code, message: str) -> None:
    fields, body = refusal(scope["path"], scope["headers"], code, message)
    status = errors.STATUS[code]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


def refusal(
    path: str, asked: Iterable[Field], code: Code, message: str
) -> tuple[list[Field], bytes]:
    """Return the fields and body of a refusal that ends the connection, and log it.

    `asked` are the request's fields as far as they are known; a valid request id among them is
    kept.
    """
    given = (value.decode("latin-1") for name, value in asked if name == b"x-request-id")
    request_id = next(filter(ids.is_id, given), None) or ids.new_id()
    body = errors.refusal(path, code, message, request_id)
    fields = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", request_id.encode()),
        (b"connection", b"close"),
    ]
    if code is Code.UNAVAILABLE:
        fields.append((b"retry-after", _RETRY_AFTER_SECONDS))
    logs.logger().info("refused at the edge", code=code.value, request_id=request_id)
    return fields, body
