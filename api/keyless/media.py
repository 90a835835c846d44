"""The files that models made, to whoever has a signed URL of one: GET and HEAD, without a key.

Owns what a browser may do with them: show or save one, never keep it unasked, never run it.
What was not signed by us, or is over, is refused before any file is looked for.
"""

import asyncio
from pathlib import Path
from typing import BinaryIO, Final

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from api.server import responses
from api.state import State
from shared.errors import Code, RequestError
from shared.media.files import ROOT, MediaFiles
from shared.media.formats import Format
from shared.media.url_signing import UrlSigner

_PIECE_BYTES: Final = 262_144
_PATH: Final = "{account}/{session}/{name}"


class MediaFile:
    """One file, as an ASGI application; the URL's path below `mount` is what was signed."""

    def __init__(self, mount: str) -> None:
        self._mount = mount

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; errors rise to the front's catch-all."""
        request = Request(scope, receive)
        if request.method not in {"GET", "HEAD"}:
            await responses.reply_allowed_methods(scope, send, "GET, HEAD, OPTIONS")
            return
        state: State = scope["state"]["pollux"]
        path = str(scope["path"]).removeprefix(self._mount)
        _check_signed(request, path, state.url_signer)
        opened = await asyncio.to_thread(_open, state.files, path)
        if opened is None:
            raise RequestError("This file is no more.", Code.NOT_FOUND)
        file, length, media_format = opened
        try:
            scope["is_answered"] = True
            head = _head(scope, Path(path).name, media_format, length)
            await send({"type": "http.response.start", "status": 200, "headers": head})
            if request.method == "GET":
                await _relay(file, send)
            await send({"type": "http.response.body", "body": b""})
        finally:
            file.close()


def _check_signed(request: Request, path: str, url_signer: UrlSigner) -> None:
    """Raise RequestError (FORBIDDEN) for a URL that is not signed by us, or is over."""
    given = [request.query_params.getlist(name) for name in ("expires", "signature")]
    if [len(values) for values in given] == [1, 1]:
        (expires,), (signature,) = given
        if url_signer.seconds_left(path, expires, signature) is not None:
            return
    raise RequestError(
        "The URL is not one of ours, or is over; look at the generation again for another.",
        Code.FORBIDDEN,
    )


def _open(files: MediaFiles, path: str) -> tuple[BinaryIO, int, Format] | None:
    """Return a file, its length in bytes and its form; None where there is none."""
    found = files.find(path)
    if found is None:
        return None
    try:
        file = found[0].open("rb")
    except OSError:
        return None
    return file, file.seek(0, 2), found[1]


def _head(scope: Scope, name: str, media_format: Format, length: int) -> list[tuple[bytes, bytes]]:
    fields = {
        "x-request-id": scope["request_id"],
        "content-type": media_format.media_type,
        "content-length": str(length),
        "content-disposition": f'attachment; filename="{name}"',
        "content-security-policy": "default-src 'none'; sandbox",
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
    }
    return [(field.encode(), value.encode()) for field, value in fields.items()]


async def _relay(file: BinaryIO, send: Send) -> None:
    """Send a file piece by piece, as fast as it is read."""
    file.seek(0)
    while piece := await asyncio.to_thread(file.read, _PIECE_BYTES):
        await send({"type": "http.response.body", "body": piece, "more_body": True})


def routes() -> list[Route]:
    """Return the routes: as signed, and as a base that ends in /api makes of them."""
    return [Route(f"{mount}{ROOT}{_PATH}", endpoint=MediaFile(mount)) for mount in ("", "/api")]
