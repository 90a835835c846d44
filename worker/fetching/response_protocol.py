"""Reads an answer of a stranger: at most a few interim answers (1xx) before the one that counts.

aiohttp bounds the lines and headers of each answer, but not how many interim answers there are. It
reads all that has arrived before anything else runs, so some seconds of them would stop a worker.
"""

from typing import Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_parser import RawResponseMessage
from aiohttp.streams import StreamReader
from typing_extensions import override

INTERIM_MAX: Final = 8
# Until the answer is there, so much is parsed between two looks at what came.
_PIECE_BYTES: Final = 4_096
_SWITCHING, _FINAL = 101, 200


class BoundedResponseProtocol(ResponseHandler):
    """The protocol of one connection that is used for one request."""

    _has_answer = False
    _interim = 0

    @override
    def data_received(self, data: bytes) -> None:
        """Parse what arrived, in pieces until the answer's headers are there."""
        begin = 0
        while not self._has_answer and len(data) - begin > _PIECE_BYTES:
            super().data_received(data[begin : begin + _PIECE_BYTES])
            begin += _PIECE_BYTES
            if not self.is_connected():
                return
        super().data_received(data[begin:])

    @override
    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """Note an answer; after too many interim ones the connection ends."""
        code = data[0].code
        self._has_answer = self._has_answer or code == _SWITCHING or code >= _FINAL
        if not self._has_answer:
            self._interim += 1
            if self._interim > INTERIM_MAX:
                self._refuse()
                return
        super().feed_data(data, size)

    def _refuse(self) -> None:
        if self.is_connected() and self.transport is not None:
            self.transport.abort()
            self.set_exception(aiohttp.ClientPayloadError("too many interim answers"))
