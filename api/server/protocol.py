"""uvicorn's HTTP protocol, hardened: what a client may send, how long it may take, how it ends.

Owns what happens on a connection before and around a request: how many bytes and seconds its head
may take, how many pipelined requests may wait, how long a response may stay unread, and that every
refusal has the shape of its mount. Does not read bodies: guards/body.py bounds their size and
time, where the route knows what it expects.

DESIGN
- Settings. `protocol(bounds)` returns a partial of the class below. uvicorn only calls its `http`
  argument, and with `workers=N` pickles it: classes and functions of a module and frozen structs
  can be pickled, so no global is needed.
- Time. The watchdog limits the rest of a head (`header_seconds` from its first byte), the wait for
  a request (`header_seconds` for the first, then uvicorn's keep-alive), and the rest of a body
  whose request is already answered (`header_seconds`). While the application works on a response,
  the watchdog only checks that the client reads.
- Bytes. Reads that bring neither the end of a head nor any body are added up. That bounds heads,
  trailers and chunk extensions, which the parser buffers where we cannot see them. A head that may
  be too long is measured when it ends. So a connection buffers at most the bound and one read.
- Closing. To close while bytes still arrive resets the connection, and the client may never see
  the response. So unless the client sent `Connection: close`, we send our end (FIN) first and drop
  what arrives until the client's end, or for LINGER_SECONDS.
- Upgrades are served as plain requests. The parser stops after such a head, so the head goes to a
  new parser once more, without the upgrade field.
- Failures. The application's coroutine is the task itself; a response that it leaves unfinished is
  ended when the task is done. A request found invalid before its task began never reaches it.
"""

import asyncio
import functools
import math
import urllib.parse
from collections.abc import Coroutine
from inspect import CORO_CREATED, getcoroutinestate
from typing import Any, Final, cast

import httptools
from typing_extensions import override
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from api.errors import ErrorShapes
from api.server import cors, disconnect, error_responses, request_head
from api.server.connections import Connections
from api.server.response_writer import ResponseWriter
from api.server.transport import TransportProxy
from api.server.watchdog import Watchdog
from api.wire import error_reply
from shared.errors import Code, PolluxError, RequestError, UnavailableError
from shared.settings import ApiSettings

PIPELINED_MAX: Final = 16
LINGER_SECONDS: Final = 2.0


def protocol(
    bounds: ApiSettings,
    admin_port: int | None = None,
    error_shapes: ErrorShapes = error_reply.WITHOUT_DIALECTS,
) -> type[asyncio.Protocol]:
    """Return what `uvicorn.Config(http=...)` takes: the protocol with its bounds.

    Connections to `admin_port` are not counted, so that operators can connect when all places are
    taken, and get no CORS headers. `error_shapes` are those of the application's mounts.
    """
    open_connections = Connections(bounds.connections_max, uncounted_port=admin_port)
    factory = functools.partial(BoundedHttpProtocol, bounds, open_connections, error_shapes)
    # uvicorn's annotation asks for a class, but it only calls it.
    return cast("type[asyncio.Protocol]", factory)


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection."""

    # uvicorn's attributes fill the instance dict that CPython shares by class; ours are slots.
    __slots__ = (
        "_bounds",
        "_bytes_without_progress",
        "_cors",
        "_current_cycle",
        "_current_task",
        "_error_shapes",
        "_final_response",
        "_first_read_bytes",
        "_ignores_input",
        "_is_admitted",
        "_is_closing",
        "_is_last_request",
        "_is_reading_head",
        "_is_reading_request",
        "_open_connections",
        "_read_bytes",
        "_real_transport",
        "_transport_proxy",
        "_watchdog",
    )  # fmt: skip

    def __init__(
        self,
        bounds: ApiSettings,
        open_connections: Connections,
        error_shapes: ErrorShapes,
        *,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._bounds, self._open_connections = bounds, open_connections
        self._error_shapes = error_shapes
        self._is_admitted = True
        self._real_transport: asyncio.Transport
        self._transport_proxy: TransportProxy
        self._watchdog: Watchdog
        self._current_cycle: RequestResponseCycle | None = None
        self._current_task: asyncio.Task[None] | None = None
        self._is_reading_request = self._is_reading_head = self._is_last_request = False
        self._ignores_input = self._is_closing = False
        self._read_bytes = self._first_read_bytes = self._bytes_without_progress = 0
        self._final_response = self.url = b""

    # The connection

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # uvicorn's own
        self._real_transport = transport
        self._transport_proxy = TransportProxy(transport, self._close)
        super().connection_made(cast("asyncio.Transport", self._transport_proxy))
        origins = self._bounds.cors_origins
        self._cors = cors.for_origins(
            () if self._open_connections.is_uncounted(self.server) else origins
        )
        self._watchdog = Watchdog(
            self.loop,
            transport,
            stuck_seconds=self._bounds.stuck_reader_seconds,
            shortest_wait_seconds=min(self._bounds.header_seconds, self.timeout_keep_alive),
            on_timeout=self._time_out,
            on_stuck_reader=self._abort,
        )
        self._watchdog.set_timeout(self._bounds.header_seconds)
        self._is_admitted = self._open_connections.admit(self, self.server)
        if not self._is_admitted and len(self.connections) > self._open_connections.open_max:
            self._abort()

    def evict(self) -> None:
        """Close an idle connection."""
        self._ignores_input = self._is_closing = True
        self._real_transport.close()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._ignores_input = self._is_closing = True
        self._open_connections.remove(self)
        self._watchdog.stop()
        self._abandon_requests()
        super().connection_lost(exc)
        # Break reference cycles, which only the garbage collector would free.
        self._transport_proxy.close = self._real_transport.close
        if self._current_cycle is not None:
            self._current_cycle.on_response = self.cycle.on_response = lambda: None

    @override
    def shutdown(self) -> None:
        if self._owes_response:
            self._signal_disconnect("process")
            super().shutdown()
        else:
            self._real_transport.close()

    @override
    def resume_writing(self) -> None:
        super().resume_writing()
        self._watchdog.note_drained()

    @property
    def _owes_response(self) -> bool:
        """Whether a request has no complete response; the latest is answered last."""
        return self.cycle is not None and not self.cycle.response_complete

    # Reading. On this hot path `super()` would cost more than the method it finds.

    @override
    def data_received(self, data: bytes) -> None:
        if self._ignores_input:
            return
        self._read_bytes = len(data)
        self._bytes_without_progress += self._read_bytes
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
            method, version = self.parser.get_method(), self.parser.get_http_version()
            self.parser = httptools.HttpRequestParser(self)
            self.data_received(
                request_head.without_upgrade(method, self.url, version, self.headers) + rest
            )
        except httptools.HttpParserCallbackError:
            if not self._ignores_input:
                raise
        except httptools.HttpParserError:
            self._refuse(request_head.invalid("The request is not valid HTTP/1.1."))
        else:
            if self._is_reading_request:
                self._limit_partial_request()

    def _limit_partial_request(self) -> None:
        """Bound the bytes and seconds of a request that did not arrive in one read."""
        if self._bytes_without_progress > self._bounds.header_bytes_max:
            self._refuse(request_head.too_large(self._bounds.header_bytes_max))
        elif self._is_reading_head and not self._bytes_without_progress and not self._owes_response:
            self._watchdog.set_timeout(self._bounds.header_seconds)

    @override
    def on_message_begin(self) -> None:
        self._is_reading_request = self._is_reading_head = True
        self._first_read_bytes = self._read_bytes
        self._bytes_without_progress = 0
        HttpToolsProtocol.on_message_begin(self)

    @override
    def on_header(self, name: bytes, value: bytes) -> None:
        name, value = name.lower(), value.rstrip(b" \t")
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    @override
    def on_headers_complete(self) -> None:
        method, version = self.parser.get_method(), self.parser.get_http_version()
        self.url = request_head.origin_form(self.url)
        fault = request_head.fault(method, self.url, version, self.headers)
        size_max = self._bounds.header_bytes_max
        may_be_larger = self._first_read_bytes + self._bytes_without_progress > size_max
        if may_be_larger and request_head.size(method, self.url, self.headers) > size_max:
            fault = request_head.too_large(size_max)
        if len(self.pipeline) >= PIPELINED_MAX:
            fault = request_head.invalid(
                f"At most {PIPELINED_MAX} requests may wait on one connection."
            )
        if fault is not None:
            self._refuse(fault)
            raise fault
        if not self.parser.should_upgrade():
            self._start_request(method.decode(), version)

    def _start_request(self, method: str, version: str) -> None:
        """Pass the request to the application: at once, or after those pipelined before it."""
        self._is_reading_head, self._bytes_without_progress = False, 0
        self._watchdog.deadline = math.inf
        path, _, query = self.url.partition(b"?")
        decoded_path = urllib.parse.unquote(path) if b"%" in path else path.decode()
        scope = self.scope
        scope["method"], scope["http_version"] = method, version
        scope["raw_path"] = self.root_path.encode() + path
        scope["path"], scope["query_string"] = self.root_path + decoded_path, query
        # Trailers go to `headers` too; a new list keeps them apart from the head's fields.
        response_fields, self.headers = self._response_fields(self.headers), []
        owes_response = self._owes_response
        self._is_last_request = version == "1.0" or not self.parser.should_keep_alive()
        self.cycle = ResponseWriter(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=response_fields,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue and version != "1.0",
            keep_alive=not self._is_last_request,
            on_response=self.on_response_complete,
        )
        app = self.app if self._is_admitted else error_responses.overloaded(self._error_shapes)
        self._open_connections.mark_busy(self)
        if owes_response:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, app))
        else:
            self._start_asgi_task(self.cycle, app)

    @override
    def on_body(self, body: bytes) -> None:
        self._bytes_without_progress = 0
        HttpToolsProtocol.on_body(self, body)

    @override
    def on_message_complete(self) -> None:
        if self._is_reading_head:  # an upgrade: its head is parsed again
            return
        self._is_reading_request = False
        self.cycle.scope["body_is_here"] = True  # type: ignore[typeddict-unknown-key]  # read by guards/body.py
        HttpToolsProtocol.on_message_complete(self)
        if self.cycle.response_complete:
            self._watchdog.set_timeout(self.timeout_keep_alive)

    # Answering

    @override
    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        serving = app(cycle.scope, cycle.receive, cycle.send)
        task = self.loop.create_task(cast("Coroutine[Any, Any, None]", serving))
        self._current_cycle, self._current_task = cycle, task
        self.tasks.add(task)
        task.add_done_callback(self._finish_response)

    def _finish_response(self, task: asyncio.Task[None]) -> None:
        """End a response that the application has left unfinished."""
        self.tasks.discard(task)
        fault = None if task.cancelled() else task.exception()
        if fault is not None:
            self.logger.error("The application failed.", exc_info=fault)
        cycle = self._current_cycle
        # The next task starts only after this one's response has ended.
        if (
            cycle is None
            or cycle.response_complete
            or cycle.disconnected
            or task is not self._current_task
        ):
            return
        if cycle.response_started:
            self._close()
        elif task.cancelled():
            self._send_final_response(
                self._refusal_bytes(UnavailableError("The server is shutting down."), cycle)
            )
        else:
            self._send_final_response(
                self._refusal_bytes(PolluxError("Pollux failed to answer."), cycle)
            )

    @override
    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self._is_closing or self._real_transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._open_connections.mark_idle(self)
        if self._final_response:
            self._send_final_response(self._final_response)
        elif self._is_reading_request:
            self._watchdog.set_timeout(self._bounds.header_seconds)
        else:
            self._watchdog.set_timeout(self.timeout_keep_alive)

    # Refusing

    def _refuse(self, error: PolluxError) -> None:
        """Ignore further input, and close with a refusal after the responses owed before it."""
        self._ignores_input = True
        cycle = self.cycle if self._is_reading_request and not self._is_reading_head else None
        if not self._owes_response:
            self._send_final_response(self._refusal_bytes(error) if cycle is None else b"")
        elif cycle is None:
            self._final_response = self._refusal_bytes(error)
        elif cycle is not self._current_cycle:
            self.pipeline.popleft()
            self._final_response = self._refusal_bytes(error, cycle)
        else:
            self._abandon_requests()
            # A response under way can only be cut short.
            self._send_final_response(
                b"" if cycle.response_started else self._refusal_bytes(error, cycle)
            )

    def _refusal_bytes(
        self, error: PolluxError, cycle: RequestResponseCycle | None = None
    ) -> bytes:
        """Return a refusal; without a cycle, of the request that is being read."""
        path, request_fields = self.url.partition(b"?")[0].decode("latin-1"), self.headers or []
        is_head = self.url != b"" and self.parser.get_method() == b"HEAD"
        if cycle is not None:
            path, request_fields = cycle.scope["path"], list(cycle.scope["headers"])
            is_head = cycle.scope["method"] == "HEAD"
        response_fields = self._response_fields(request_fields)
        head, body = error_responses.http_bytes(
            self._error_shapes, path, request_fields, error, response_fields
        )
        return head if is_head else head + body

    def _response_fields(self, request_fields: request_head.Fields) -> request_head.Fields:
        return self._cors.add_to(self.server_state.default_headers, request_fields)

    # Ending

    def _send_final_response(self, final_response: bytes) -> None:
        if not self._real_transport.is_closing():
            self._real_transport.write(final_response)
            self._linger()

    def _linger(self) -> None:
        """Send our end, then read and drop input for a moment."""
        self._ignores_input = self._is_closing = True
        self.flow.resume_reading()
        self._watchdog.set_timeout(LINGER_SECONDS)
        if self._real_transport.can_write_eof():
            self._real_transport.write_eof()
        else:
            self._real_transport.close()

    def _close(self) -> None:
        """Close as uvicorn asked, lingering if the client may still send."""
        may_receive_more = self._is_reading_request or not self._is_last_request
        if may_receive_more and not self._is_closing and not self._real_transport.is_closing():
            self._linger()
        else:
            self._ignores_input = self._is_closing = True
            self._real_transport.close()

    def _time_out(self) -> None:
        if self._is_closing and self._watchdog.unread_bytes:
            self._watchdog.set_timeout(LINGER_SECONDS)
        elif self._is_closing:
            self._abort()
        elif self._is_reading_head:
            message = f"The request's head took over {self._bounds.header_seconds:g} s."
            self._refuse(RequestError(message, Code.REQUEST_TIMEOUT))
        else:
            self.evict()

    def _abort(self) -> None:
        self._ignores_input = self._is_closing = True
        self._abandon_requests()
        self._real_transport.abort()

    def _signal_disconnect(self, cause: disconnect.Cause) -> None:
        """Signal the waiting applications, now or when their turn comes."""
        for cycle in filter(None, (self._current_cycle, *(queued for queued, _ in self.pipeline))):
            disconnect.signal(cast("dict[str, Any]", cycle.scope), cause)

    def _abandon_requests(self) -> None:
        """Signal the application that the client is gone, and drop pipelined requests."""
        self.pipeline.clear()
        if self._current_cycle is None or self._current_cycle.response_complete:
            return
        self._current_cycle.disconnected = True
        self._current_cycle.waiting_for_100_continue = False
        self._current_cycle.message_event.set()
        self._signal_disconnect("caller")
        serving = cast("asyncio.Task[None]", self._current_task)
        if getcoroutinestate(cast("Coroutine[Any, Any, None]", serving.get_coro())) == CORO_CREATED:
            serving.cancel()
