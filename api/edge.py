"""The edge: uvicorn's HTTP protocol made fit for strangers.

Owns what happens on a connection before and around a request: how many bytes and seconds its head
may take, how many requests may wait behind one another, how long an answer may be left unread, and
that every refusal is JSON in the mount's own shape. Refuses to look into bodies: guards/body.py
bounds their size and time, where a route knows what it expects.

DESIGN
- Settings. `protocol(bounds)` is a partial of the class below. uvicorn only calls what it is given
  as `http`, and for `workers=N` pickles it: a class of a module and a frozen struct cross that as
  they stand, and neither a global nor the application has to be asked.
- Time. The watchdog waits for the rest of a head (`header_seconds` from its first byte), for a
  request (`header_seconds` for the first, then uvicorn's keep-alive), and for the rest of a body
  whose request is already answered (`header_seconds`). While an answer is owed the application has
  the word, and only the reading of what it sends is watched.
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

from api import cors, farewell, head, refusals
from api.connections import Connections
from api.cycle import Cycle
from api.transport import Gate
from api.watchdog import Watchdog
from shared.errors import Code, PolluxError, RequestError, UnavailableError
from shared.settings import ApiSettings

PIPELINED_MAX: Final = 16
LINGER_SECONDS: Final = 2.0


def protocol(bounds: ApiSettings, operators_port: int | None = None) -> type[asyncio.Protocol]:
    """Return what `uvicorn.Config(http=...)` takes: the protocol with its bounds.

    Connections to `operators_port` are not counted: operators come in where all others are taken;
    and no page in a browser reads an answer there.
    """
    others = Connections(bounds.connections_max, uncounted_port=operators_port)
    made = functools.partial(EdgeProtocol, bounds, others)
    # uvicorn names a class as the type, and only ever calls it.
    return cast("type[asyncio.Protocol]", made)


class EdgeProtocol(HttpToolsProtocol):
    """One connection of a stranger."""

    # uvicorn's own attributes fill what CPython keeps without a table; ours stand beside it.
    __slots__ = (
        "_barren_bytes", "_bounds", "_cors", "_first_bytes", "_gate", "_is_admitted", "_is_deaf",
        "_is_ending", "_is_in_head", "_is_last", "_is_receiving", "_last_words", "_others",
        "_read_bytes", "_served", "_task", "_watchdog", "_wire",
    )  # fmt: skip

    def __init__(
        self,
        bounds: ApiSettings,
        others: Connections,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._bounds, self._others = bounds, others
        self._is_admitted = True
        self._wire: asyncio.Transport
        self._gate: Gate
        self._watchdog: Watchdog
        self._served: RequestResponseCycle | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_receiving = self._is_in_head = self._is_last = False
        self._is_deaf = self._is_ending = False
        self._read_bytes = self._first_bytes = self._barren_bytes = 0
        self._last_words = self.url = b""

    # The connection

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # uvicorn's own
        self._wire = transport
        self._gate = Gate(transport, self._close)
        super().connection_made(cast("asyncio.Transport", self._gate))
        origins = self._bounds.cors_origins
        self._cors = cors.of(() if self._others.is_uncounted(self.server) else origins)
        self._watchdog = Watchdog(
            self.loop,
            transport,
            stuck_seconds=self._bounds.stuck_reader_seconds,
            least_seconds=min(self._bounds.header_seconds, self.timeout_keep_alive),
            late=self._give_up,
            stuck=self._cut,
        )
        self._watchdog.wait(self._bounds.header_seconds)
        self._is_admitted = self._others.admit(self, self.server)
        if not self._is_admitted and len(self.connections) > self._others.open_max:
            self._cut()

    def evict(self) -> None:
        """Close where no request is under way."""
        self._is_deaf = self._is_ending = True
        self._wire.close()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._is_deaf = self._is_ending = True
        self._others.leave(self)
        self._watchdog.end()
        self._forsake()
        super().connection_lost(exc)
        # What refers to itself would have to wait for the garbage collector.
        self._gate.close = self._wire.close
        if self._served is not None:
            self._served.on_response = self.cycle.on_response = lambda: None

    @override
    def shutdown(self) -> None:
        if self._is_owing:
            self._tell("process")
            super().shutdown()
        else:
            self._wire.close()

    @override
    def resume_writing(self) -> None:
        super().resume_writing()
        self._watchdog.all_read()

    @property
    def _is_owing(self) -> bool:
        """Whether a request waits for its answer; the latest is the last to get one."""
        return self.cycle is not None and not self.cycle.response_complete

    # Reading. Here super() would cost more than what it finds.

    @override
    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        self._read_bytes = len(data)
        self._barren_bytes += self._read_bytes
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
            method, version = self.parser.get_method(), self.parser.get_http_version()
            self.parser = httptools.HttpRequestParser(self)
            self.data_received(head.without_upgrade(method, self.url, version, self.headers) + rest)
        except httptools.HttpParserCallbackError:
            if not self._is_deaf:
                raise
        except httptools.HttpParserError:
            self._refuse(head.invalid("The request is not valid HTTP/1.1."))
        else:
            if self._is_receiving:
                self._bound_rest()

    def _bound_rest(self) -> None:
        """Bound what did not come in one read."""
        if self._barren_bytes > self._bounds.header_bytes_max:
            self._refuse(head.too_large(self._bounds.header_bytes_max))
        elif self._is_in_head and not self._barren_bytes and not self._is_owing:
            self._watchdog.wait(self._bounds.header_seconds)

    @override
    def on_message_begin(self) -> None:
        self._is_receiving = self._is_in_head = True
        self._first_bytes = self._read_bytes
        self._barren_bytes = 0
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
        self.url = head.origin_form(self.url)
        fault = head.fault(method, self.url, version, self.headers)
        size_max = self._bounds.header_bytes_max
        may_be_larger = self._first_bytes + self._barren_bytes > size_max
        if may_be_larger and head.size(method, self.url, self.headers) > size_max:
            fault = head.too_large(size_max)
        if len(self.pipeline) >= PIPELINED_MAX:
            fault = head.invalid(f"At most {PIPELINED_MAX} requests may wait on one connection.")
        if fault is not None:
            self._refuse(fault)
            raise fault
        if not self.parser.should_upgrade():
            self._begin(method.decode(), version)

    def _begin(self, method: str, version: str) -> None:
        """Hand the request over: to the application at once, or behind those that wait."""
        self._is_in_head, self._barren_bytes = False, 0
        self._watchdog.deadline = math.inf
        path, _, query = self.url.partition(b"?")
        plain = urllib.parse.unquote(path) if b"%" in path else path.decode()
        scope = self.scope
        scope["method"], scope["http_version"] = method, version
        scope["raw_path"] = self.root_path.encode() + path
        scope["path"], scope["query_string"] = self.root_path + plain, query
        # Trailers are fields too; among the head's they would be taken for them.
        answer_fields, self.headers = self._answer_fields(self.headers), []
        is_owing = self._is_owing
        self._is_last = version == "1.0" or not self.parser.should_keep_alive()
        self.cycle = Cycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=answer_fields,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue and version != "1.0",
            keep_alive=not self._is_last,
            on_response=self.on_response_complete,
        )
        app = self.app if self._is_admitted else refusals.overloaded
        self._others.begin(self)
        if is_owing:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, app))
        else:
            self._start_asgi_task(self.cycle, app)

    @override
    def on_body(self, body: bytes) -> None:
        self._barren_bytes = 0
        HttpToolsProtocol.on_body(self, body)

    @override
    def on_message_complete(self) -> None:
        if self._is_in_head:  # an upgrade, which will be read again without it
            return
        self._is_receiving = False
        self.cycle.scope["body_is_here"] = True  # type: ignore[typeddict-unknown-key]  # guards/body.py's word
        HttpToolsProtocol.on_message_complete(self)
        if self.cycle.response_complete:
            self._watchdog.wait(self.timeout_keep_alive)

    # Answering

    @override
    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
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
            self._say(self._answer(UnavailableError("The server is going away."), cycle))
        else:
            self._say(self._answer(PolluxError("Pollux failed to answer."), cycle))

    @override
    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self._is_ending or self._wire.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._others.end(self)
        if self._last_words:
            self._say(self._last_words)
        elif self._is_receiving:
            self._watchdog.wait(self._bounds.header_seconds)
        else:
            self._watchdog.wait(self.timeout_keep_alive)

    # Refusing

    def _refuse(self, error: PolluxError) -> None:
        """Hear no more, and end the connection with an answer, after those owed before it."""
        self._is_deaf = True
        cycle = self.cycle if self._is_receiving and not self._is_in_head else None
        if not self._is_owing:
            self._say(self._answer(error) if cycle is None else b"")
        elif cycle is None:
            self._last_words = self._answer(error)
        elif cycle is not self._served:
            self.pipeline.popleft()
            self._last_words = self._answer(error, cycle)
        else:
            self._forsake()
            # In the middle of an answer only its early end can say that it failed.
            self._say(b"" if cycle.response_started else self._answer(error, cycle))

    def _answer(self, error: PolluxError, cycle: RequestResponseCycle | None = None) -> bytes:
        """Return a refusal; without a cycle, of what is being read."""
        path, asked = self.url.partition(b"?")[0].decode("latin-1"), self.headers or []
        is_head = self.url != b"" and self.parser.get_method() == b"HEAD"
        if cycle is not None:
            path, asked = cycle.scope["path"], list(cycle.scope["headers"])
            is_head = cycle.scope["method"] == "HEAD"
        return refusals.raw(path, asked, error, self._answer_fields(asked), is_head=is_head)

    def _answer_fields(self, asked: head.Fields) -> head.Fields:
        return self._cors.added_to(self.server_state.default_headers, asked)

    # Ending

    def _say(self, last_words: bytes) -> None:
        if not self._wire.is_closing():
            self._wire.write(last_words)
            self._linger()

    def _linger(self) -> None:
        """Send no more, but read on for a moment."""
        self._is_deaf = self._is_ending = True
        self.flow.resume_reading()
        self._watchdog.wait(LINGER_SECONDS)
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
        if self._is_ending and self._watchdog.unread_bytes:
            self._watchdog.wait(LINGER_SECONDS)
        elif self._is_ending:
            self._cut()
        elif self._is_in_head:
            message = f"The request's head took over {self._bounds.header_seconds:g} s."
            self._refuse(RequestError(message, Code.REQUEST_TIMEOUT))
        else:
            self.evict()

    def _cut(self) -> None:
        self._is_deaf = self._is_ending = True
        self._forsake()
        self._wire.abort()

    def _tell(self, going: farewell.Going) -> None:
        """Wake an application that waits for something else, now or when its turn comes."""
        for cycle in filter(None, (self._served, *(queued for queued, _ in self.pipeline))):
            farewell.say(cast("dict[str, Any]", cycle.scope), going)

    def _forsake(self) -> None:
        """Tell the application that nobody waits for its answer, and drop what is queued behind."""
        self.pipeline.clear()
        if self._served is None or self._served.response_complete:
            return
        self._served.disconnected = True
        self._served.waiting_for_100_continue = False
        self._served.message_event.set()
        self._tell("caller")
        serving = cast("asyncio.Task[None]", self._task)
        if getcoroutinestate(cast("Coroutine[Any, Any, None]", serving.get_coro())) == CORO_CREATED:
            serving.cancel()
