"""Complete refusals where no route answers: by the protocol, or beyond the connection limit.

Owns the headers that every such refusal has. The shapes of the bodies are in api/errors.py.
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


def request_id(request_fields: Fields) -> str:
    """Return the caller's own id if it is well-formed, else a new one."""
    given = next((value for name, value in request_fields if name == b"x-request-id"), b"")
    return given.decode() if _REQUEST_ID.fullmatch(given) else ids.new_id()


def http_bytes(
    path: str, request_fields: Fields, error: PolluxError, fields: Fields, *, is_head: bool = False
) -> bytes:
    """Return a refusal as the bytes of an HTTP response; for HEAD, without its body.

    `request_fields` are those read so far of the request; `fields` precede the refusal's own.
    """
    refusal_fields, body = _compose(path, request_fields, error)
    lines = (name + b": " + value + b"\r\n" for name, value in fields + refusal_fields)
    rest = b"" if is_head else body
    return b"".join((STATUS_LINE[errors.STATUS[error.code]], *lines, b"\r\n", rest))


async def overloaded(scope: Scope, _receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Answer 503 in place of the application, on a connection beyond `api.connections_max`."""
    http_scope = cast("HTTPScope", scope)
    error = UnavailableError("Too many connections are open here; send it again in a moment.")
    fields, body = _compose(http_scope["path"], list(http_scope["headers"]), error)
    status = errors.STATUS[error.code]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


def _compose(path: str, request_fields: Fields, error: PolluxError) -> tuple[Fields, bytes]:
    """Return fields and body of a refusal that closes the connection, and log it."""
    status, headers, details = errors.describe(error)
    name = request_id(request_fields)
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
    logs.logger().info(
        "refused", at="protocol", status=status, code=error.code.value, request_id=name
    )
    return fields, body
