"""Sends as many requests as a server takes: by wrk where it is installed, else by a bare client.

Counts the responses with 200, and all others. Both clients run in a process of their own, keep
their connections open, and send the next request once a response is complete.
"""

import asyncio
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
from typing_extensions import override

from shared.clock import SystemClock

_WRK_SCRIPT: Final = """
local volley, at = {}, 0
function init()
  for _, path in ipairs({PATHS}) do
    table.insert(volley, wrk.format('METHOD', path, {HEADERS}, BODY))
  end
end
function request()
  at = at % #volley + 1
  return volley[at]
end
function done(summary)
  local faults = summary.errors
  local lost = faults.connect + faults.read + faults.write + faults.timeout
  print(string.format('%d %d %.6f', summary.requests - faults.status, faults.status + lost,
    summary.duration / 1e6))
end
"""
_GIVE_UP_SECONDS: Final = 60


class Volley(msgspec.Struct, frozen=True, kw_only=True):
    """The requests to send: the paths in turn, repeatedly."""

    url: str
    paths: tuple[str, ...]
    method: str = "GET"
    headers: dict[str, str] = {}
    body: str = ""


class Hits(msgspec.Struct, frozen=True):
    """How many were answered with 200, how many were not, in how many seconds."""

    good: int
    bad: int
    seconds: float

    @property
    def per_second(self) -> float:
        """The rate of responses with 200."""
        return self.good / self.seconds


def tool() -> str:
    """Return the name of the client that `fire` uses."""
    return "wrk" if shutil.which("wrk") else "tests.bench.http_load"


async def fire(volley: Volley, *, connections: int, seconds: float) -> Hits:
    """Keep `connections` busy for some seconds and return the counts."""
    # wrk takes whole seconds only.
    wrk = shutil.which("wrk") if seconds >= 1 else None
    with tempfile.NamedTemporaryFile("w", suffix=".lua", encoding="utf-8") as file:
        if wrk is not None:
            file.write(_script(volley))
            pace = ["-t1", f"-c{connections}", f"-d{round(seconds)}s"]
            words = [wrk, *pace, "-s", file.name, volley.url]
        else:
            file.write(msgspec.json.encode(volley).decode())
            words = [sys.executable, "-m", __name__, file.name, str(connections), str(seconds)]
        file.flush()
        running = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
        async with asyncio.timeout(seconds + _GIVE_UP_SECONDS):
            output, _ = await running.communicate()
    good, bad, took = output.decode().splitlines()[-1].split()
    return Hits(int(good), int(bad), float(took))


def _script(volley: Volley) -> str:
    fields = ", ".join(f"[ {_lua(name)} ] = {_lua(text)}" for name, text in volley.headers.items())
    return (
        _WRK_SCRIPT.replace("PATHS", ", ".join(_lua(path) for path in volley.paths))
        .replace("METHOD", volley.method)
        .replace("HEADERS", fields)
        .replace("BODY", _lua(volley.body))
    )


def _lua(text: str) -> str:
    return f"[==[{text}]==]"


class _Client(asyncio.Protocol):
    """One connection that is never idle; every response must have a content length."""

    def __init__(self, requests: list[bytes], first: int) -> None:
        self._requests = requests
        self._at = first
        self._unread = bytearray()
        self._transport: asyncio.Transport | None = None
        self.good = 0
        self.bad = 0

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    @override
    def data_received(self, data: bytes) -> None:
        self._unread += data
        head, found, body = self._unread.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        is_good = head.startswith(b"HTTP/1.1 200")
        self.good, self.bad = self.good + is_good, self.bad + (not is_good)
        self._unread.clear()
        self._ask()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.bad += exc is not None

    def _ask(self) -> None:
        assert self._transport is not None
        self._at = (self._at + 1) % len(self._requests)
        self._transport.write(self._requests[self._at])


async def _keep_busy(volley: Volley, connections: int, seconds: float) -> Hits:
    host, _, port = volley.url.removeprefix("http://").partition(":")
    fields = {"host": host, **volley.headers, "content-length": str(len(volley.body.encode()))}
    rest = "".join(f"{name}: {text}\r\n" for name, text in fields.items()) + "\r\n" + volley.body
    requests = [f"{volley.method} {path} HTTP/1.1\r\n{rest}".encode() for path in volley.paths]
    loop = asyncio.get_running_loop()
    began = time.monotonic()
    opened = [
        await loop.create_connection(partial(_Client, requests, first), host, int(port))
        for first in range(connections)
    ]
    await SystemClock().sleep(seconds)
    for transport, _ in opened:
        transport.close()
    clients = [client for _, client in opened]
    took = time.monotonic() - began
    return Hits(sum(c.good for c in clients), sum(c.bad for c in clients), took)


def main() -> None:
    """Read a volley from a file, send it, print the counts."""
    volley = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Volley)
    hits = asyncio.run(_keep_busy(volley, int(sys.argv[2]), float(sys.argv[3])))
    sys.stdout.write(f"{hits.good} {hits.bad} {hits.seconds:.6f}\n")


if __name__ == "__main__":
    main()
