"""The answer to one request on the wire: its head, its body in pieces, and its end.

Owns the form: a length where one is said; else chunks, or for a caller of HTTP/1.0, who knows none,
the line's end. Refuses a head that some character would break in two. uvicorn's cycle, which looks
at every field twice and writes head and body apart, has the rest: what is received.

DESIGN. A head that says a length leaves together with the body's first piece, which follows at
once. Names of fields are our own, in lower case; only their values may come from elsewhere.
"""

from typing import Final

from typing_extensions import override
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from api.server.request_head import Fields

# All but the tab, which a value may have.
_CONTROLS: Final = bytes([*range(9), *range(10, 32), 127])
_WITHOUT_CONTENT: Final = frozenset({204, 304})
_CLOSE: Final = (b"connection", b"close")
_CHUNKED: Final = (b"transfer-encoding", b"chunked")


class ResponseWriter(RequestResponseCycle):
    """A request and its answer, in one piece that says its length or in pieces as they are."""

    _head = b""
    # How much of the length that was said is still to come; None where none was said.
    _unsent_length: int | None = None
    _is_chunked = False

    @override
    async def send(self, message: ASGISendEvent) -> None:
        """Send a part of the answer; what nobody waits for any more is dropped."""
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
            raise RuntimeError(f"{message['type']} has no place here in an answer.")

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
                raise RuntimeError("The answer has not the length that its head says.")
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
    # Each line ends with two of them; any more came with a value.
    if len(head) - len(head.translate(None, _CONTROLS)) != 2 * (len(fields) + 2):
        raise RuntimeError("A field of the answer has a character that no field may have.")
    return head


def _chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body) if body else b""
