"""Writes one response to the connection: head, body or chunks, end.

Owns the framing: `content-length` if the application gave one, else chunks, or for HTTP/1.0, which
has no chunks, the end of the connection. Refuses a head that a control character would split.
Receiving is uvicorn's part of the cycle; its sending copies each field twice and writes head and
body apart.

DESIGN. A head with a content length is written together with the first part of the body, which
follows at once. Field names are our own and in lower case; only values may come from elsewhere.
"""

from typing import Final

from typing_extensions import override
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from api.server.request_head import Fields

# All control characters but the tab, which a value may contain.
_CONTROLS: Final = bytes([*range(9), *range(10, 32), 127])
_WITHOUT_CONTENT: Final = frozenset({204, 304})
_CLOSE: Final = (b"connection", b"close")
_CHUNKED: Final = (b"transfer-encoding", b"chunked")


class ResponseWriter(RequestResponseCycle):
    """A request and its response, sent with a content length or in chunks."""

    _head = b""
    # What is still unsent of the content length; None without one.
    _unsent_length: int | None = None
    _is_chunked = False

    @override
    async def send(self, message: ASGISendEvent) -> None:
        """Send one part of the response; after a disconnect, drop it."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.start" and not self.response_started:
            self._start_response(message["status"], [*self.default_headers, *message["headers"]])
        elif message["type"] == "http.response.body" and not self.response_complete:
            is_last = not message.get("more_body", False)
            self._write_body(message["body"], is_last=is_last)
        else:
            raise RuntimeError(f"{message['type']} is out of order in a response.")

    def _start_response(self, status: int, fields: Fields) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        by_name = dict(fields)
        if by_name.get(b"connection", b"").lower() == b"close":
            self.keep_alive = False
        elif not self.keep_alive:
            fields.append(_CLOSE)
        if self.scope["method"] == "HEAD" or status in _WITHOUT_CONTENT:
            self._unsent_length = 0
        elif b"content-length" in by_name:
            self._unsent_length = int(by_name[b"content-length"])
        elif self.scope["http_version"] != "1.0":
            self._is_chunked = True
            fields.append(_CHUNKED)
        head = _head(status, fields)
        if self._unsent_length is None:
            self.transport.write(head)
        else:
            self._head = head

    def _write_body(self, body: bytes, *, is_last: bool) -> None:
        if self.scope["method"] == "HEAD":
            body = b""
        if self._unsent_length is not None:
            self._unsent_length -= len(body)
            if self._unsent_length < 0 or (is_last and self._unsent_length):
                raise RuntimeError("The body is not as long as its content-length.")
        elif self._is_chunked:
            body = _chunk(body) + (b"0\r\n\r\n" if is_last else b"")
        if self._head or body:
            self.transport.write(self._head + body)
            self._head = b""
        if is_last:
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()


def _head(status: int, fields: Fields) -> bytes:
    parts = [STATUS_LINE[status]]
    for name, value in fields:
        parts += (name, b": ", value, b"\r\n")
    parts.append(b"\r\n")
    head = b"".join(parts)
    # Each line ends with two control characters; any other came with a value.
    if len(head) - len(head.translate(None, _CONTROLS)) != 2 * (len(fields) + 2):
        raise RuntimeError("A response field contains a control character.")
    return head


def _chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body) if body else b""
