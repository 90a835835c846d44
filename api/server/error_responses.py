"""Complete refusals where no route answers: by the protocol, or beyond the connection limit.

Owns the headers that every such refusal has. The shape of the body is that of the
path's mount, as far as the path is known.
"""

import re
from typing import Final, cast

from uvicorn._types import (
    ASGI3Application,
    ASGIReceiveCallable,
    ASGISendCallable,
    HTTPScope,
    Scope,
)
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from api.errors import ErrorShapes, Refusal
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
    shapes: ErrorShapes,
    path: str,
    request_fields: Fields,
    error: PolluxError,
    fields: Fields,
) -> tuple[bytes, bytes]:
    """Return a refusal as head and body of an HTTP response.

    `request_fields` are those read so far of the request; `fields` precede the refusal's own.
    """
    refusal, refusal_fields = _compose(shapes, path, request_fields, error)
    lines = (name + b": " + value + b"\r\n" for name, value in fields + refusal_fields)
    return b"".join((STATUS_LINE[refusal.status], *lines, b"\r\n")), refusal.content


def overloaded(shapes: ErrorShapes) -> ASGI3Application:
    """Return what answers 503 in place of the application, beyond `api.connections_max`."""

    async def answer(scope: Scope, _receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        http_scope = cast("HTTPScope", scope)
        error = UnavailableError("Too many connections are open here; send it again in a moment.")
        path, request_fields = http_scope["path"], list(http_scope["headers"])
        refusal, fields = _compose(shapes, path, request_fields, error)
        await send({"type": "http.response.start", "status": refusal.status, "headers": fields})
        await send({"type": "http.response.body", "body": refusal.content})

    return answer


def _compose(
    shapes: ErrorShapes, path: str, request_fields: Fields, error: PolluxError
) -> tuple[Refusal, Fields]:
    """Return a refusal that closes the connection, with all of its fields, and log it."""
    name = request_id(request_fields)
    refusal = shapes.refusal(path, error, error.message, name)
    headers = refusal.headers | {
        "content-type": refusal.content_type,
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
        "content-length": str(len(refusal.content)),
        "x-request-id": name,
        "connection": "close",
    }
    fields = [(name.encode(), value.encode()) for name, value in headers.items()]
    logs.logger().info(
        "refused", at="protocol", status=refusal.status, code=error.code.value, request_id=name
    )
    return refusal, fields
