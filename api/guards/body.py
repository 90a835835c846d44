"""Reads a request's body within its bounds of size and time.

Owns those bounds: what a dialect allows, else the settings. What a body contains is decoded by its
kind, in body_kinds.py.
"""

import asyncio
from dataclasses import dataclass
from typing import Literal

from starlette.requests import Request

from api.server.request_head import FieldsByName
from shared.errors import Code, RequestError
from shared.settings import ApiSettings

UnknownFields = Literal["refuse", "ignore"]


@dataclass(frozen=True, kw_only=True)
class BodyRules:
    """What a dialect allows its bodies: their size, by default the setting, and unknown fields."""

    bytes_max: int | None = None
    unknown_fields: UnknownFields = "refuse"

    def size_max(self, fields: FieldsByName, settings: ApiSettings) -> int:
        """Return how large a body may become. Raises RequestError (PAYLOAD_TOO_LARGE)."""
        bytes_max = self.bytes_max or settings.body_bytes_max
        declared = fields.get(b"content-length", "")
        if not declared.isdecimal():
            return bytes_max
        if int(declared) > bytes_max:
            raise _too_large(bytes_max)
        return int(declared)


async def read(request: Request, size_max: int, body_seconds: float) -> bytes:
    """Return the whole body.

    Raises:
        RequestError: PAYLOAD_TOO_LARGE beyond `size_max`, REQUEST_TIMEOUT when it does not arrive
            within `body_seconds`.
    """
    if "body_is_here" in request.scope:
        return await _collect(request, size_max)
    try:
        async with asyncio.timeout(body_seconds):
            return await _collect(request, size_max)
    except TimeoutError:
        raise RequestError("The body did not arrive in time.", Code.REQUEST_TIMEOUT) from None


async def _collect(request: Request, size_max: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    is_whole = False
    while not is_whole:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise RequestError("The body did not arrive whole.", Code.REQUEST_TIMEOUT)
        chunk = message.get("body", b"")
        is_whole = not message.get("more_body", False)
        size += len(chunk)
        if size > size_max:
            raise _too_large(size_max)
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(bytes_max: int) -> RequestError:
    return RequestError(f"The body is larger than {bytes_max} bytes.", Code.PAYLOAD_TOO_LARGE)
