"""A scripted API of batches on a real socket: keeps batches in memory and fails as a test wants.

Owns the HTTP contract of batches as far as the command line uses it. Each look at a batch ends
`items_per_look` more of its items, so a test needs no time to pass.
"""

import asyncio
import gzip
import json
import threading
import zlib
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NamedTuple, Self
from urllib.parse import parse_qs, urlsplit

_PIECE_BYTES: Final = 700
_ENDS: Final = ("completed", "failed", "cancelled", "expired")


class Request(NamedTuple):
    """A request as it was received; the body is unpacked."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def name(self) -> str:
        """Method and path, as in `POST /api/v1/batches`."""
        return f"{self.method} {self.path}"


class Fault(NamedTuple):
    """What happens to the next request of a name.

    A lookup of a key finds nothing (`hides`); it is refused with `status`; or `held` until the
    event is set; or its connection is cut: after so many bytes of the request's or the reply's
    body, or after the reply was prepared.
    """

    name: str
    status: int = 0
    headers: tuple[str, ...] = ()
    body_bytes: int | None = None
    reply_bytes: int | None = None
    held: asyncio.Event | None = None
    hides: bool = False


class StoredBatch:
    """A batch and how its items have ended."""

    def __init__(self, number: int, key: str, query: dict[str, str], lines: list[bytes]) -> None:
        self.id = f"batch-{number}"
        self.key = key
        self.query = query
        # By line; a blank one is left out.
        self.items = {number: _parsed(line) for number, line in enumerate(lines, 1) if line.strip()}
        # By line: state, the number of finishing, and the run.
        self.ends: dict[int, tuple[str, int, int]] = {}
        self.runs = 1
        self.seq = 0
        self.state = "running"
        self.reason: str | None = None
        self.max_credits = float(query["max_credits"]) if "max_credits" in query else None

    def end_items(self, count: int, state_of: Callable[[Any], str]) -> None:
        """End the next items, each for one credit."""
        waiting = [line for line in self.items if line not in self.ends]
        # Not in input order: pairs are swapped.
        swapped = [line for pair in zip(waiting[1::2], waiting[::2], strict=False) for line in pair]
        for line in (swapped + waiting[len(swapped) :])[:count]:
            if self.max_credits is not None and self.used >= self.max_credits:
                self.state, self.reason = "paused", "max_credits"
                return
            self.seq += 1
            item = self.items[line]
            state = "failed" if item is None else state_of(item)
            self.ends[line] = (state, self.seq, self.runs)
        if len(self.ends) == len(self.items):
            self.state = "completed" if self.count("completed") else "failed"

    def count(self, state: str) -> int:
        """How many items ended so."""
        return sum(end[0] == state for end in self.ends.values())

    @property
    def used(self) -> float:
        """The credits that were captured."""
        return float(self.count("completed"))

    def as_json(self) -> dict[str, Any]:
        """Return the object as the API sends it."""
        is_over = self.state in _ENDS
        counts = {state: self.count(state) for state in _ENDS}
        return {
            "batch_id": self.id,
            "state": self.state,
            "reason": self.reason,
            "cancelling": False,
            "total": len(self.items),
            "invalid": sum(item is None for item in self.items.values()),
            "counts": {"waiting": len(self.items) - len(self.ends), "open": 0, **counts},
            "progress": 100 * len(self.ends) // max(1, len(self.items)),
            "items_per_second": None if is_over else 12.5,
            "eta_seconds": None if is_over else {"p50": 5.0, "p90": 9.0},
            "credits": {"used": self.used, "held": 0, "forecast": None, "max": self.max_credits},
            "metadata": json.loads(self.query.get("metadata", "{}")),
            "created_at": "2026-11-30T21:00:00Z",
            "started_at": "2026-11-30T21:00:01Z",
            "finished_at": "2026-11-30T21:00:11Z" if is_over else None,
            "poll_interval_hint": 0.01,
        }

    def results(self, query: dict[str, str]) -> list[bytes]:
        """Return the lines of a stream of results."""
        is_finished = query.get("order") == "finished"
        after = int(query.get("after_seq" if is_finished else "after_line", 0))
        lines = []
        if is_finished:
            ordered = sorted(self.ends, key=lambda line: self.ends[line][1])
            lines = [line for line in ordered if self.ends[line][1] > after]
        else:
            for line in filter(lambda line: line > after, self.items):
                if line not in self.ends and query.get("partial") != "true":
                    break
                if line in self.ends:
                    lines.append(line)
        kept = [line for line in lines if query.get("state") in {None, self.ends[line][0]}]
        return [self._result(line, with_seq=is_finished) for line in kept]

    def _result(self, line: int, *, with_seq: bool) -> bytes:
        state, seq, run = self.ends[line]
        item = self.items[line] or {}
        is_answered = state == "completed"
        failure = (
            None if is_answered else {"message": "The provider \x1b[31mrefused it.", "code": "X"}
        )
        result = {"content": f"{run}: {item.get('message')}"} if is_answered else None
        content = {
            "custom_id": item.get("custom_id", str(line)),
            "line": line,
            "state": state,
            "result": result,
            "failure": failure,
            "usage": None,
            "credits": 1.0 if is_answered else 0.0,
            "model": "alpha",
        } | ({"seq": seq} if with_seq else {})
        return json.dumps(content, ensure_ascii=False).encode() + b"\n"


class ScriptedBatches:
    """The API, in a thread of its own, so that a command can run in the test's."""

    def __init__(self) -> None:
        self.url = ""
        self.items_per_look = 1_000_000
        self.requests: list[Request] = []
        self.faults: deque[Fault] = deque()
        self.batches: list[StoredBatch] = []
        self.state_of: Callable[[Any], str] = lambda _: "completed"
        # Bytes that have arrived of the body of the present upload.
        self.body_bytes = 0
        self.upload_bytes_max = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._port = 0
        self._errors: list[BaseException] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        assert not self._errors, self._errors

    def open(self) -> None:
        """Listen, on the same port as before."""
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()

    def close(self) -> None:
        """Stop listening, and cut all connections."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()

    def release(self, held: asyncio.Event) -> None:
        """Let a request that a fault holds go on."""
        self._loop.call_soon_threadsafe(held.set)

    async def _open(self) -> None:
        self._server = await asyncio.start_server(
            self._on_connect, "127.0.0.1", self._port, reuse_address=True
        )
        self._port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def of_key(self, key: str) -> StoredBatch | None:
        """Return the batch with an Idempotency-Key."""
        return next((batch for batch in self.batches if batch.key == key), None)

    def named(self, name: str) -> list[Request]:
        """Return the requests of a name, as in `POST /api/v1/batches`."""
        return [request for request in self.requests if request.name == name]

    def _on_connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._errors.append(error)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The client may disconnect at any moment.
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                request = _head(head)
                fault = self._next_fault(request.name)
                body = await self._read_body(reader, request, fault)
                if body is None:
                    return
                request = request._replace(body=body)
                self.requests.append(request)
                if fault is not None and fault.held is not None:
                    await fault.held.wait()
                await self._reply(writer, request, fault)
            finally:
                writer.close()
                await writer.wait_closed()

    def _next_fault(self, name: str) -> Fault | None:
        if self.faults and self.faults[0].name == name:
            return self.faults.popleft()
        return None

    async def _read_body(
        self, reader: asyncio.StreamReader, request: Request, fault: Fault | None
    ) -> bytes | None:
        """Return the body, unpacked; None if the connection is to be cut within it."""
        limit = None if fault is None else fault.body_bytes
        self.body_bytes, packed = 0, b""
        if "chunked" in request.headers.get("transfer-encoding", ""):
            while size := int(await reader.readuntil(b"\n"), 16):
                packed += await reader.readexactly(size)
                self.body_bytes = len(packed)
                if limit is not None and len(packed) >= limit:
                    if fault is not None and fault.held is not None:
                        await fault.held.wait()
                    return None
                await reader.readline()
            await reader.readline()
        else:
            packed = await reader.readexactly(int(request.headers.get("content-length", 0)))
        return gzip.decompress(packed) if request.headers.get("content-encoding") else packed

    async def _reply(
        self, writer: asyncio.StreamWriter, request: Request, fault: Fault | None
    ) -> None:
        if fault is not None and fault.status:
            content: tuple[int, bytes] = _refusal(fault.status, "Not now.")
            await _write(writer, content, *fault.headers)
            return
        if fault is not None and fault.hides:
            await _write(writer, _ok(batches=[]))
            return
        headers: tuple[str, ...] = ()
        parts = request.path.removeprefix("/api/v1/").split("/")
        if parts[-1] == "results":
            batch = self._of_id(parts[1])
            assert batch is not None
            headers = (f"Batch-State: {batch.state}",)
            content = 200, b"".join(batch.results(request.query))
        else:
            content = self._answer(request, parts)
        if fault is not None and fault.reply_bytes is None and fault.held is None:
            return
        cut = None if fault is None else fault.reply_bytes
        is_gzip = parts[-1] == "results" and "gzip" in request.headers.get("accept-encoding", "")
        await _write(writer, content, *headers, cut=cut, is_gzip=is_gzip)

    def _answer(self, request: Request, parts: list[str]) -> tuple[int, bytes]:
        if parts == ["models"]:
            return _ok(models=_MODELS)
        if request.method == "POST" and parts == ["batches"]:
            return self._accept(request)
        if parts == ["batches"]:
            return self._list(request)
        batch = self._of_id(parts[1])
        if batch is None:
            return _refusal(404, "There is no such batch.")
        if request.method == "DELETE":
            self.batches.remove(batch)
            return _ok(batch_id=batch.id, deleted=True)
        if request.method == "POST":
            return self._act(batch, parts[2], request)
        if batch.state == "running":
            batch.end_items(self.items_per_look, self.state_of)
        return _ok(**batch.as_json())

    def _accept(self, request: Request) -> tuple[int, bytes]:
        key = request.headers["idempotency-key"]
        lines = request.body.splitlines()
        known = self.of_key(key)
        if known is not None and known.query != request.query:
            return _refusal(422, "Another body or other options came with this key.")
        faults = [
            {"line": number, "custom_id": None, "error": "No JSON."}
            for number, line in enumerate(lines, 1)
            if line.strip() and _parsed(line) is None
        ]
        extra = {"invalid": len(faults), "errors": faults[:100]}
        if faults and request.query.get("on_invalid") == "reject":
            return _refusal(400, "Some lines are no valid items.", **extra)
        batch = known or StoredBatch(len(self.batches) + 1, key, request.query, lines)
        if known is None:
            self.batches.append(batch)
        return _ok(batch_id=batch.id, state=batch.state, total=len(batch.items), **extra)

    def _list(self, request: Request) -> tuple[int, bytes]:
        if "key" in request.query:
            found = self.of_key(request.query["key"])
            batches = [] if found is None else [found]
        else:
            page, limit = int(request.query["page"]), int(request.query["limit"])
            batches = self.batches[::-1][(page - 1) * limit : page * limit]
        return _ok(batches=[batch.as_json() for batch in batches])

    def _act(self, batch: StoredBatch, action: str, request: Request) -> tuple[int, bytes]:
        if batch.state in _ENDS and action != "retry":
            return _refusal(409, f"The batch is {batch.state}.")
        if action == "cancel":
            for line in batch.items:
                batch.ends.setdefault(line, ("cancelled", 0, 1))
            batch.state = "cancelled"
        elif action == "pause":
            batch.state, batch.reason = "paused", "user"
        elif action == "resume":
            batch.state, batch.reason = "running", None
            if request.body:
                batch.max_credits = json.loads(request.body)["max_credits"]
        elif action == "retry":
            batch.runs += 1
            batch.ends = {line: end for line, end in batch.ends.items() if end[0] != "failed"}
            batch.state = "running"
        return _ok(**batch.as_json())

    def _of_id(self, batch_id: str) -> StoredBatch | None:
        return next((batch for batch in self.batches if batch.id == batch_id), None)


_MODELS: Final = [
    {
        "identifier": "alpha",
        "input_token_rate": 1.0,
        "output_token_rate": 2.0,
        "max_output_tokens": 1000,
        "estimated_duration_seconds": 8.0,
        "available": True,
        "types": ["chat"],
    },
    {
        "identifier": "beta",
        "input_token_rate": 3.0,
        "output_token_rate": 10.0,
        "max_output_tokens": 200,
        "estimated_duration_seconds": 4.0,
        "available": True,
        "types": ["chat"],
    },
]


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Return an item, or None for a line that is no JSON object."""
    with suppress(ValueError):
        found = json.loads(line)
        return found if isinstance(found, dict) else None
    return None


def _head(text: str) -> Request:
    first, *rest = text.rstrip().split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}
    url = urlsplit(target)
    query = {name: values[0] for name, values in parse_qs(url.query).items()}
    return Request(method, url.path, query, headers, b"")


def _ok(**fields: object) -> tuple[int, bytes]:
    return 200, json.dumps({"success": True, **fields}).encode()


def _refusal(status: int, sentence: str, **fields: object) -> tuple[int, bytes]:
    body = {"success": False, "error": sentence, "code": "X", "request_id": "r", **fields}
    return status, json.dumps(body).encode()


async def _write(
    writer: asyncio.StreamWriter,
    content: tuple[int, bytes],
    *headers: str,
    cut: int | None = None,
    is_gzip: bool = False,
) -> None:
    """Write a reply in small pieces; with `cut`, close after so many bytes of its body."""
    status, body = content
    if is_gzip:
        # Flushed in between, so that a part of it can be unpacked.
        compressor = zlib.compressobj(wbits=31)
        flushed = [
            compressor.compress(body[at : at + _PIECE_BYTES]) + compressor.flush(zlib.Z_SYNC_FLUSH)
            for at in range(0, len(body), _PIECE_BYTES)
        ]
        body = b"".join((*flushed, compressor.flush()))
    head = (
        f"HTTP/1.1 {status} Scripted",
        *("content-type: application/json", "transfer-encoding: chunked", "connection: close"),
        *(("content-encoding: gzip",) if is_gzip else ()),
        *headers,
    )
    writer.write("\r\n".join((*head, "", "")).encode())
    sent = body if cut is None else body[:cut]
    for at in range(0, len(sent), _PIECE_BYTES):
        piece = sent[at : at + _PIECE_BYTES]
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        await writer.drain()
    if cut is None:
        writer.write(b"0\r\n\r\n")
    await writer.drain()
