"""What the front answers where no route does: whole refusals, for the edge.

Owns the fields that every such refusal carries, and the answer of a full server. The shapes of the
bodies are in errors.py.
"""

import re
from typing import Final, cast

from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, HTTPScope, Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from api import errors
from api.server.request_head import Fields
from shared import ids
from shared.errors import PolluxError, UnavailableError
from shared.telemetry import logs

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}")


def request_id(asked: Fields) -> str:
    """Return the caller's own id where it is a sane one, else a fresh one."""
    given = next((value for name, value in asked if name == b"x-request-id"), b"")
    return given.decode() if _REQUEST_ID.fullmatch(given) else ids.new_id()


def http_bytes(
    path: str, asked: Fields, error: PolluxError, fields: Fields, *, is_head: bool = False
) -> bytes:
    """Return a refusal as it goes over the wire; in answer to HEAD, its head alone.

    `asked` are the fields of the request, as far as they are known; `fields` go before our own.
    """
    refusal_fields, body = _compose(path, asked, error)
    lines = (name + b": " + value + b"\r\n" for name, value in fields + refusal_fields)
    rest = b"" if is_head else body
    return b"".join((STATUS_LINE[errors.STATUS[error.code]], *lines, b"\r\n", rest))


async def overloaded(scope: Scope, _receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Answer in the application's place on a connection beyond `api.connections_max`."""
    asked = cast("HTTPScope", scope)
    error = UnavailableError("Too many connections are open here; send it again in a moment.")
    fields, body = _compose(asked["path"], list(asked["headers"]), error)
    status = errors.STATUS[error.code]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


def _compose(path: str, asked: Fields, error: PolluxError) -> tuple[Fields, bytes]:
    """Return fields and body of a refusal that ends the connection, and log it."""
    status, headers, details = errors.describe(error)
    name = request_id(asked)
    body = errors.error_body(path, error.code, error.message, name, details)
    headers |= {
        "content-type": "application/json",
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
        "content-length": str(len(body)),
        "x-request-id": name,
        "connection": "close",
    }
    fields = [(name.encode(), value.encode()) for name, value in headers.items()]
    logs.logger().info("refused", at="edge", status=status, code=error.code.value, request_id=name)
    return fields, body
