"""Parses server-sent events from an upstream's bytes, as they come and within bounds.

Owns the framing of the event-stream standard, as far as upstreams use it: it returns the data of
each event. A body that is no event stream is recognised by its first byte, whatever its content
type: JSON is held until the body ends, and each document in it is an event; a web page is refused.
Bounds the size of an event and of the whole body.

Besides data of the form `{"error": ...}`, an error has two forms that become such data: an event
named `error`, and llama.cpp's field of that name.

DESIGN. It works on bytes, since the content is JSON and its decoder reads bytes. The form that all
upstreams send, a `data: ` line before a blank line, is found by two searches in C.
"""

from typing import Final

import msgspec

from worker.providers.tolerant_json import is_json

EVENT_BYTES_MAX: Final = 1_048_576
BODY_BYTES_MAX: Final = 16_777_216
# For models that make images or sounds: each is one line of base64, a third larger than its bytes.
MEDIA_EVENT_BYTES_MAX: Final = 25_165_824
MEDIA_BODY_BYTES_MAX: Final = 100_663_296
# A token comes in an event of a few hundred bytes, so a long answer may need more than that.
_BYTES_PER_TOKEN_MAX: Final = 1_024
_MARK: Final = b"\xef\xbb\xbf"
_END: Final = b"\n\n"
_PLAIN: Final = b"data: "
_PLAIN_LENGTH: Final = len(_PLAIN)
# The second fast form: a token from Anthropic, whose events have names.
_NAMED: Final = b"event: content_block_delta\ndata: "
_NAMED_LENGTH: Final = len(_NAMED)
# The bound of a whole answer in JSON, which is held in memory.
_DOCUMENT_BYTES_PER_TOKEN_MAX: Final = 64
_DOCUMENT_STARTS: Final = (b"{", b"[")
_PAGE_START: Final = b"<"


class TooLargeError(Exception):
    """An event, or the whole body, is larger than any answer should be."""


class PageError(Exception):
    """The body is a web page instead of an answer."""


class SSEParser:
    """Parses the events of one answer of at most `max_tokens`: bytes in, data of events out.

    An incomplete event is held as a list of pieces, so that one that arrives byte by byte costs no
    more than one that arrives at once. `has_media` raises the bounds to what media need.
    """

    def __init__(self, max_tokens: int, *, has_media: bool = False) -> None:
        body_bytes = MEDIA_BODY_BYTES_MAX if has_media else BODY_BYTES_MAX
        self._bytes_left = max(body_bytes, max_tokens * _BYTES_PER_TOKEN_MAX)
        self._event_bytes_max = MEDIA_EVENT_BYTES_MAX if has_media else EVENT_BYTES_MAX
        self._pieces: list[bytes] = []
        self._held_bytes = 0
        self._document_bytes_max = max(
            self._event_bytes_max, max_tokens * _DOCUMENT_BYTES_PER_TOKEN_MAX
        )
        self._has_begun = False
        self._is_document = False
        self._ends_in_cr = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of each event that ends in this chunk.

        Raises TooLargeError, PageError.
        """
        self._bytes_left -= len(chunk)
        if self._bytes_left < 0:
            raise TooLargeError
        if not self._has_begun:
            chunk = self._begin(chunk)
        if self._ends_in_cr or b"\r" in chunk:
            chunk = self._with_plain_ends(chunk)
        last = self._pieces[-1][-1:] if self._pieces else b""
        if self._is_document or _END not in last + chunk:
            self._hold(chunk)
            return []
        blocks = (b"".join((*self._pieces, chunk)) if self._pieces else chunk).split(_END)
        self._pieces, self._held_bytes = [], 0
        self._hold(blocks.pop())
        # The form of nearly all events is read inline: a function call would double the cost.
        return [
            data
            for block in blocks
            if (
                data := (
                    block[_PLAIN_LENGTH:]
                    if block.startswith(_PLAIN) and b"\n" not in block and block.isascii()
                    else _data(block)
                )
            )
        ]

    def rest(self) -> list[bytes]:
        """Return the data of what is left at the end of the body, if it is complete.

        That is an event without its blank line, or every document of a JSON body.
        """
        left, self._pieces = b"".join(self._pieces), []
        if self._is_document:
            return _documents(_as_utf8(left))
        data = _data(left.rstrip(b"\n"))
        return [data] if is_json(data) else []

    def _hold(self, piece: bytes) -> None:
        if piece:
            self._pieces.append(piece)
            self._held_bytes += len(piece)
            bytes_max = self._document_bytes_max if self._is_document else self._event_bytes_max
            if self._held_bytes > bytes_max:
                raise TooLargeError

    def _begin(self, chunk: bytes) -> bytes:
        """Return the start of the body without its byte order mark; nothing while undecided."""
        received = b"".join((*self._pieces, chunk))
        is_mark = len(received) < len(_MARK) and _MARK.startswith(received)
        self._pieces, self._held_bytes = [received] if is_mark else [], 0
        start = received.removeprefix(_MARK).lstrip()
        if is_mark or not start:
            # Blanks before the first event are signs of life.
            return b""
        if start.startswith(_PAGE_START):
            raise PageError
        self._has_begun, self._is_document = True, start.startswith(_DOCUMENT_STARTS)
        return received.removeprefix(_MARK)

    def _with_plain_ends(self, chunk: bytes) -> bytes:
        """Return the chunk with LF for every line end, also for a CRLF split between two chunks."""
        if self._ends_in_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._ends_in_cr = False
        self._ends_in_cr = self._ends_in_cr or chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _data(block: bytes) -> bytes:
    """Return the data of one event, with invalid UTF-8 replaced; empty if it has none."""
    if block.startswith(_PLAIN) and b"\n" not in block:
        data = block[_PLAIN_LENGTH:]
    elif block.startswith(_NAMED) and block.find(b"\n", _NAMED_LENGTH) < 0:
        data = block[_NAMED_LENGTH:]
    else:
        data = _from_fields(block)
    return data if data.isascii() else _as_utf8(data)


def _as_utf8(data: bytes) -> bytes:
    return data if data.isascii() else data.decode(errors="replace").encode()


def _from_fields(block: bytes) -> bytes:
    """Return the joined `data` fields of an event; an error event becomes `{"error": ...}`."""
    found: list[bytes] = []
    is_error = False
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            found.append(value)
        elif name == b"error":
            return _error(value)
        elif name == b"event":
            is_error = value.strip().lower() == b"error"
    data = b"\n".join(found)
    return _error(data) if is_error and data.strip() else data


def _error(error_text: bytes) -> bytes:
    """Return `{"error": ...}` around an error's JSON or text."""
    if is_json(error_text):
        return b'{"error":' + error_text + b"}"
    return msgspec.json.encode({"error": error_text.decode(errors="replace")})


def _documents(body: bytes) -> list[bytes]:
    """Return the JSON documents in a body: the items of an array, else the whole, else lines."""
    try:
        return [bytes(item) for item in msgspec.json.decode(body, type=list[msgspec.Raw])]
    except msgspec.MsgspecError:
        whole = [body] if is_json(body) else body.split(b"\n")
    return [each for each in whole if is_json(each)]
