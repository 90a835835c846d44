"""What the front answers where no route does: whole refusals, for the edge.

Owns the fields that every such refusal carries, and the answer of a full server. The shapes of the
bodies are in errors.py.
"""

import re
from collections.abc import Iterable
from typing import Final, cast

from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, HTTPScope, Scope

from api import errors
from shared import ids
from shared.errors import Code
from shared.telemetry import logs

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_RETRY_AFTER_SECONDS: Final = b"2"

Field = tuple[bytes, bytes]


def request_id(asked: Iterable[Field]) -> str:
    """Return the caller's own id where it is a sane one, else a fresh one."""
    given = next((value for name, value in asked if name == b"x-request-id"), b"")
    return given.decode() if _REQUEST_ID.fullmatch(given) else ids.new_id()


def compose(
    path: str, asked: Iterable[Field], code: Code, message: str
) -> tuple[list[Field], bytes]:
    """Return fields and body of a refusal that ends the connection, and log it.

    `asked` are the fields of the request, as far as they are known.
    """
    name = request_id(asked)
    body = errors.refusal(path, code, message, name)
    fields = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", name.encode()),
        (b"connection", b"close"),
    ]
    if code is Code.UNAVAILABLE:
        fields.append((b"retry-after", _RETRY_AFTER_SECONDS))
    logs.logger().info("refused at the edge", code=code.value, request_id=name)
    return fields, body


async def overloaded(scope: Scope, _receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Answer in the application's place where uvicorn's `limit_concurrency` is reached."""
    asked = cast("HTTPScope", scope)
    code, message = Code.UNAVAILABLE, "Too many requests are under way."
    fields, body = compose(asked["path"], asked["headers"], code, message)
    status = errors.STATUS[code]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})
