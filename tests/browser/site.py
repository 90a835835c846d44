"""An origin that serves the page, and the report that the page sends back to it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

_PAGE: Final = Path(__file__).with_name("page.html").read_bytes()

Report = dict[str, Any]


class Site:
    """One origin; `settings` are what its page reads at the start."""

    def __init__(self) -> None:
        self.settings: dict[str, str] = {}
        self.report: asyncio.Future[Report] = asyncio.get_running_loop().create_future()
        self.origin = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request of the browser, and end the connection."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        except asyncio.IncompleteReadError:
            # Browsers open connections that they may never use.
            writer.close()
            return
        method, path, *_ = head.split(" ")
        kind, content = "text/html", _PAGE
        if path == "/settings.json":
            kind, content = "application/json", json.dumps(self.settings).encode()
        elif method == "post":
            _, _, length = head.partition("content-length: ")
            body = await reader.readexactly(int(length.split("\r\n")[0]))
            self.report.set_result(json.loads(body))
            content = b""
        fields = f"content-type: {kind}\r\ncontent-length: {len(content)}\r\nconnection: close"
        writer.write(f"HTTP/1.1 200 OK\r\n{fields}\r\n\r\n".encode())
        writer.write(content)
        writer.close()


@asynccontextmanager
async def site() -> AsyncIterator[Site]:
    """Serve the page on a port of its own."""
    made = Site()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
