"""An answer of unknown length to a caller of HTTP/1.0, who knows no chunks: the line's end is its.

Owns the form alone; uvicorn's cycle, which would send chunks to anybody, does the rest.
"""

from typing_extensions import override
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class UnframedCycle(RequestResponseCycle):
    """A request and its answer, in one piece that says its length or in pieces as they are."""

    _has_length = True

    @override
    async def send(self, message: ASGISendEvent) -> None:
        """Send a part; the line is closed after the last, as it is not to be kept."""
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message.get("headers", ())}
            self._has_length = b"content-length" in names
            if not self._has_length:
                self.chunked_encoding = False
        elif message["type"] == "http.response.body" and not self._has_length:
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)
