"""The transport as uvicorn's protocol sees it: `close` goes through our protocol."""

import asyncio
from collections.abc import Callable


class TransportProxy:
    """The methods of a transport that uvicorn calls, with another `close`."""

    __slots__ = (
        "close",
        "get_extra_info",
        "is_closing",
        "pause_reading",
        "resume_reading",
        "write",
    )

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.close = close
        self.get_extra_info = transport.get_extra_info
        self.is_closing = transport.is_closing
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading
        self.write = transport.write
