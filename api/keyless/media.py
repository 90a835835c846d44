"""The files that models generated, under signed URLs: GET and HEAD, without a key.

Owns what a browser may do with a file: show or save it, never cache it, never run it. A URL that we
did not sign, or that has expired, is refused before any file is opened.
"""

import asyncio
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from starlette.requests import Request

from api.endpoints.endpoint import KeylessEndpoint
from api.server.responses import FileResponse
from api.state import State
from shared.errors import Code, RequestError
from shared.media.files import ROOT, MediaFiles
from shared.media.formats import Format
from shared.media.url_signing import UrlSigner

_PATH: Final = "{account}/{session}/{name}"


async def read_file(mount: str, request: Request, state: State) -> FileResponse:
    """GET the file that a URL names; its path below `mount` is what was signed."""
    path = str(request.scope["path"]).removeprefix(mount)
    _check_signed(request, path, state.url_signer)
    opened = await asyncio.to_thread(_open, state.files, path)
    if opened is None:
        raise RequestError("The file no longer exists.", Code.NOT_FOUND)
    file, length, media_format = opened
    return FileResponse(file, length, _headers(Path(path).name, media_format))


def _check_signed(request: Request, path: str, url_signer: UrlSigner) -> None:
    """Raise RequestError (FORBIDDEN) for a URL that we did not sign, or that has expired."""
    given = [request.query_params.getlist(name) for name in ("expires", "signature")]
    if [len(values) for values in given] == [1, 1]:
        (expires,), (signature,) = given
        if url_signer.seconds_left(path, expires, signature) is not None:
            return
    raise RequestError(
        "The URL is not one of ours, or has expired; poll the generation again for a new one.",
        Code.FORBIDDEN,
    )


def _open(files: MediaFiles, path: str) -> tuple[BinaryIO, int, Format] | None:
    """Return a file, its length in bytes and its format; None if there is none."""
    found = files.find(path)
    if found is None:
        return None
    try:
        file = found[0].open("rb")
    except OSError:
        return None
    return file, file.seek(0, 2), found[1]


def _headers(name: str, media_format: Format) -> dict[str, str]:
    return {
        "content-type": media_format.media_type,
        "content-disposition": f'attachment; filename="{name}"',
        "content-security-policy": "default-src 'none'; sandbox",
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
    }


# As signed, and below /api, for clients that join URLs to a base that ends in it.
ENDPOINTS: Final = tuple(
    KeylessEndpoint(path=f"{mount}{ROOT}{_PATH}", handler=partial(read_file, mount))
    for mount in ("", "/api")
)
