"""The edge: uvicorn's HTTP protocol made fit for strangers.

Owns what happens on a connection before and around a request: how many bytes and seconds its head
may take, how many requests may wait behind one another, how long an answer may be left unread, and
that every refusal is JSON in the mount's own shape. Refuses to look into bodies: guards/body.py
bounds their size and time, where a route knows what it expects.

DESIGN
- Settings. `protocol(bounds)` is a partial of the class below. uvicorn only calls what it is given
  as `http`, and for `workers=N` pickles it with its configuration: a class of a module and a frozen
  struct cross that as they stand, and neither a global nor the application has to be asked.
- Time. Patience is for the next head (`header_seconds` from its first byte, or from the start of
  the connection), for a next request (uvicorn's keep-alive), and for the rest of a body whose
  request is already answered (`header_seconds`). While an answer is owed the application has the
  word, and only the reading of what it sends is watched.
- Bytes. Reads that bring neither a head's end nor any body are added up. That bounds heads,
  trailers and the extensions of chunks, which the parser gathers out of our sight. A head that may
  be too long is measured when it ends. So a connection holds at most the bound and one read.
- Ends. To close while bytes still come resets the connection, and the answer may never be seen.
  So who has not said `Connection: close` is told our end first, and what comes is dropped until
  theirs, or for LINGER_SECONDS.
- Upgrades are served as plain requests. The parser leaves all after such a head to the protocol
  that was asked for, so the head goes once more, without that field, to a new parser.
- Failures. The application's coroutine is the task itself; what it leaves without an end is ended
  when the task is done. A request found invalid before its task began never reaches it.
"""

import asyncio
import functools
import math
from collections.abc import Callable, Coroutine
from inspect import CORO_CREATED, getcoroutinestate
from typing import Any, Final, cast

import httptools
from typing_extensions import override
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from api import errors, refusals
from api.patience import Patience
from shared.errors import Code
from shared.settings import ApiSettings

PIPELINED_MAX: Final = 16
LINGER_SECONDS: Final = 2.0

_VERSIONS: Final = ("1.1", "1.0")
_HASH: Final = ord("#")
_PERCENT: Final = ord("%")


def protocol(bounds: ApiSettings) -> type[asyncio.Protocol]:
    """Return what `uvicorn.Config(http=...)` takes: the protocol with its bounds."""
    # uvicorn names a class as the type, and only ever calls it.
    return cast("type[asyncio.Protocol]", functools.partial(EdgeProtocol, bounds))


class EdgeProtocol(HttpToolsProtocol):
    """One connection of a stranger."""

    # What most connections never change stands here, and costs them nothing.
    url = b""
    _served: RequestResponseCycle | None = None
    _task: asyncio.Task[None] | None = None
    _is_receiving = False
    _is_in_head = False
    _is_last = False
    _read_bytes = 0
    _first_bytes = 0
    _barren_bytes = 0
    _is_deaf = False
    _is_ending = False
    _last_words = b""

    _wire: asyncio.Transport
    _gate: "_Gate"
    _patience: Patience

    def __init__(
        self,
        bounds: ApiSettings,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._bounds = bounds

    # The connection

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # uvicorn's own
        self._wire = transport
        self._gate = _Gate(transport, self._close)
        super().connection_made(cast("asyncio.Transport", self._gate))
        self._patience = Patience(
            self.loop,
            transport,
            stuck_seconds=self._bounds.stuck_reader_seconds,
            least_seconds=min(self._bounds.header_seconds, self.timeout_keep_alive),
            late=self._give_up,
            stuck=self._cut,
        )
        self._patience.wait(self._bounds.header_seconds)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._is_deaf = self._is_ending = True
        self._patience.end()
        self._forsake()
        super().connection_lost(exc)
        # What refers to itself would have to wait for the garbage collector.
        self._gate.close = self._wire.close
        if self._served is not None:
            self._served.on_response = self.cycle.on_response = _nothing

    @override
    def shutdown(self) -> None:
        if self._is_owing:
            super().shutdown()
        else:
            self._wire.close()

    @override
    def pause_writing(self) -> None:
        super().pause_writing()
        self._patience.held()

    @override
    def resume_writing(self) -> None:
        super().resume_writing()
        self._patience.resumed()

    @property
    def _is_owing(self) -> bool:
        """Whether a request waits for its answer; the latest is the last to get one."""
        return self.cycle is not None and not self.cycle.response_complete

    # Reading. The parser's calls are the hot path, where super() costs more than what it finds.

    @override
    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        self._read_bytes = len(data)
        self._barren_bytes += self._read_bytes
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.data_received(self._head_without_upgrade() + data[upgrade.args[0] :])
        except httptools.HttpParserCallbackError:
            if not self._is_deaf:
                raise
        except httptools.HttpParserError:
            self._refuse(Code.INVALID_FIELDS, "The request is not valid HTTP/1.1.")
        else:
            if self._is_receiving:
                self._bound_rest()

    def _head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b" ".join((self.parser.get_method(), self.url, b"HTTP/" + version))]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return b"\r\n".join([*lines, b"", b""])

    def _bound_rest(self) -> None:
        """Bound what did not come in one read."""
        if self._barren_bytes > self._bounds.header_bytes_max:
            self._refuse_size()
        elif self._is_in_head and not self._barren_bytes and self._served and not self._is_owing:
            self._patience.wait(self._bounds.header_seconds)

    @override
    def on_message_begin(self) -> None:
        self._is_receiving = self._is_in_head = True
        self._first_bytes = self._read_bytes
        self._barren_bytes = 0
        HttpToolsProtocol.on_message_begin(self)

    @override
    def on_headers_complete(self) -> None:
        if self._first_bytes + self._barren_bytes > self._bounds.header_bytes_max:
            self._measure_head()
        url = self.url
        if url[:1] != b"/" or _HASH in url or (_PERCENT in url and b"%00" in url):
            self._stop("The request's target must be a path, without a fragment and without NUL.")
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                self._stop("The method CONNECT is not served.")
            return
        if len(self.pipeline) >= PIPELINED_MAX:
            self._stop(f"At most {PIPELINED_MAX} requests may wait on one connection.")
        self._is_in_head = False
        self._barren_bytes = 0
        self._patience.deadline = math.inf
        HttpToolsProtocol.on_headers_complete(self)
        if self.scope["http_version"] not in _VERSIONS:
            self._stop("The request's version must be HTTP/1.1 or HTTP/1.0.")
        self._is_last = not self.cycle.keep_alive
        # Trailers are fields too; among the head's they would be taken for them.
        self.headers = []

    def _measure_head(self) -> None:
        fields = sum(len(name) + len(value) + len(b": \r\n") for name, value in self.headers)
        frame = len(self.parser.get_method()) + len(b"  HTTP/1.1\r\n\r\n")
        if frame + len(self.url) + fields > self._bounds.header_bytes_max:
            self._refuse_size()
            raise _StoppedError

    @override
    def on_body(self, body: bytes) -> None:
        self._barren_bytes = 0
        HttpToolsProtocol.on_body(self, body)

    @override
    def on_message_complete(self) -> None:
        if self._is_in_head:  # an upgrade, which will be read again without it
            return
        self._is_receiving = False
        HttpToolsProtocol.on_message_complete(self)
        if self.cycle.response_complete:
            self._patience.wait(self.timeout_keep_alive)

    @override
    def _should_upgrade(self) -> bool:
        return False

    # Answering

    @override
    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        app = app if app is self.app else refusals.overloaded
        serving = app(cycle.scope, cycle.receive, cycle.send)
        task = self.loop.create_task(cast("Coroutine[Any, Any, None]", serving))
        self._served, self._task = cycle, task
        self.tasks.add(task)
        task.add_done_callback(self._settle)

    def _settle(self, task: asyncio.Task[None]) -> None:
        """End what the application has left without an end."""
        self.tasks.discard(task)
        fault = None if task.cancelled() else task.exception()
        if fault is not None:
            self.logger.error("The application broke down.", exc_info=fault)
        cycle = self._served
        # Another task is served only once the answer of this one has ended.
        if cycle is None or cycle.response_complete or cycle.disconnected or task is not self._task:
            return
        if cycle.response_started:
            self._close()
        elif task.cancelled():
            self._say(self._answer(Code.UNAVAILABLE, "The server is going away.", cycle))
        else:
            self._say(self._answer(Code.GENERATION_ERROR, "Pollux failed to answer.", cycle))

    @override
    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self._is_ending or self._wire.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._last_words:
            self._say(self._last_words)
        elif self._is_receiving:
            self._patience.wait(self._bounds.header_seconds)
        else:
            self._patience.wait(self.timeout_keep_alive)

    # Refusing

    def _stop(self, message: str) -> None:
        self._refuse(Code.INVALID_FIELDS, message)
        raise _StoppedError

    def _refuse_size(self) -> None:
        bound = self._bounds.header_bytes_max
        self._refuse(Code.HEADERS_TOO_LARGE, f"The request's head is larger than {bound} bytes.")

    def _refuse(self, code: Code, message: str) -> None:
        """Hear no more, and end the connection with an answer, after those owed before it."""
        self._is_deaf = True
        cycle = self.cycle if self._is_receiving and not self._is_in_head else None
        if not self._is_owing:
            self._say(self._answer(code, message) if cycle is None else b"")
        elif cycle is None:
            self._last_words = self._answer(code, message)
        elif cycle is not self._served:
            self.pipeline.popleft()
            self._last_words = self._answer(code, message, cycle)
        else:
            self._forsake()
            # In the middle of an answer only its early end can say that it failed.
            self._say(b"" if cycle.response_started else self._answer(code, message, cycle))

    def _answer(self, code: Code, message: str, cycle: RequestResponseCycle | None = None) -> bytes:
        """Return a refusal as it goes over the wire; without a cycle, of what is being read."""
        path, asked = self.url.partition(b"?")[0].decode("latin-1"), self.headers or []
        if cycle is not None:
            path, asked = cycle.scope["path"], list(cycle.scope["headers"])
        fields, body = refusals.compose(path, asked, code, message)
        fields = self.server_state.default_headers + fields
        lines = (name + b": " + value + b"\r\n" for name, value in fields)
        return b"".join((STATUS_LINE[errors.STATUS[code]], *lines, b"\r\n", body))

    # Ending

    def _say(self, last_words: bytes) -> None:
        if not self._wire.is_closing():
            self._wire.write(last_words)
            self._linger()

    def _linger(self) -> None:
        """Send no more, but read on for a moment."""
        self._is_deaf = self._is_ending = True
        self.pipeline.clear()
        self.flow.resume_reading()
        self._patience.wait(LINGER_SECONDS)
        if self._wire.can_write_eof():
            self._wire.write_eof()
        else:
            self._wire.close()

    def _close(self) -> None:
        """Do what uvicorn's calls of `transport.close()` come to."""
        may_send = self._is_receiving or not self._is_last
        if may_send and not self._is_ending and not self._wire.is_closing():
            self._linger()
        else:
            self._is_deaf = self._is_ending = True
            self._wire.close()

    def _give_up(self) -> None:
        if self._is_ending and self._patience.unread_bytes:
            self._patience.wait(LINGER_SECONDS)
        elif self._is_ending:
            self._cut()
        elif self._is_in_head:
            seconds = self._bounds.header_seconds
            self._refuse(Code.REQUEST_TIMEOUT, f"The request's head took over {seconds:g} s.")
        else:
            self._is_deaf = self._is_ending = True
            self._wire.close()

    def _cut(self) -> None:
        self._is_deaf = self._is_ending = True
        self._forsake()
        self._wire.abort()

    def _forsake(self) -> None:
        """Tell the application that nobody waits for its answer, and drop what is queued behind."""
        self.pipeline.clear()
        if self._served is None or self._served.response_complete:
            return
        self._served.disconnected = True
        self._served.waiting_for_100_continue = False
        self._served.message_event.set()
        serving = cast("asyncio.Task[None]", self._task)
        if getcoroutinestate(cast("Coroutine[Any, Any, None]", serving.get_coro())) == CORO_CREATED:
            serving.cancel()


class _StoppedError(Exception):
    """Makes the parser stop; what there was to say has been said."""


class _Gate:
    """The transport as uvicorn sees it: the same, but that closing goes by the protocol."""

    __slots__ = (
        "close",
        "get_extra_info",
        "is_closing",
        "pause_reading",
        "resume_reading",
        "write",
    )

    def __init__(self, wire: asyncio.Transport, close: Callable[[], None]) -> None:
        self.close = close
        self.get_extra_info = wire.get_extra_info
        self.is_closing = wire.is_closing
        self.pause_reading = wire.pause_reading
        self.resume_reading = wire.resume_reading
        self.write = wire.write


def _nothing() -> None:
    pass
