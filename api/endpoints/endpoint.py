"""One row of a dialect's table of routes, and the walk of a request through it.

Owns the order of the guards: who (the key and its scope), how often, how big (the body), then the
handler. The same rows make the OpenAPI document, so what is documented is what runs.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

import msgspec
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from api.guards import body as body_guard
from api.guards.identify import Caller
from api.guards.rate_limits import RequestKind
from api.server import request_head
from api.server.request_head import Fields
from api.state import State
from shared.errors import (
    Code,
    FailedError,
    PolluxError,
    RefusedError,
    RequestError,
    UnavailableError,
)
from shared.stores import idempotency_records
from shared.telemetry import logs
from shared.wire.account import Scope as KeyScope

encode = msgspec.json.Encoder().encode

_NO_QUERY: Final = QueryParams()

_JSON: Final = (b"content-type", b"application/json")
_NO_SNIFFING: Final = (b"x-content-type-options", b"nosniff")
# An answer is its account's; whoever stored it might show it to another.
_PRIVATE: Final = ((b"cache-control", b"no-store"), _NO_SNIFFING)
# Buffers and compressors between us and the reader would hold back what is worth most now.
_EVENTS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
    _NO_SNIFFING,
)
_PART_BYTES: Final = 65_536
_WITHOUT_CONTENT: Final = frozenset({204, 304})


@dataclass(kw_only=True, slots=True)
class RequestContext:
    """A request that has passed the guards; `raw` is the body as it came, `body` what it says."""

    state: State
    caller: Caller
    request: Request
    request_id: str
    route: str
    body: Any = None
    raw: bytes = b""

    def drop_body(self) -> None:
        """Let go of the body's memory, before a wait that may be long."""
        self.body, self.raw = None, b""

    @property
    def path(self) -> dict[str, str]:
        """The path's parameters."""
        return self.request.path_params

    @property
    def query(self) -> QueryParams:
        """The query's parameters, as texts."""
        return self.request.query_params if self.request.scope["query_string"] else _NO_QUERY

    @property
    def fields(self) -> Fields:
        """The fields of the request's head; their names are in lower case."""
        fields: Fields = self.request.scope["headers"]
        return fields

    def field(self, name: bytes) -> str | None:
        """Return what the first field of a name says, or None where there is none."""
        return request_head.value(self.fields, name)


class Response(NamedTuple):
    """What goes back: a value to encode, or None for an empty body."""

    value: object
    status: int = 200
    headers: dict[str, str] = {}  # noqa: RUF012  never changed, only read


class EventStream(NamedTuple):
    """What goes back piece by piece: whole server-sent events, until the source ends.

    The source has begun, and what it holds is given back by closing it; `first` may be empty.
    """

    first: bytes
    events: AsyncGenerator[bytes, None]
    headers: dict[str, str] = {}  # noqa: RUF012  never changed, only read

    @classmethod
    async def begin(cls, events: AsyncGenerator[bytes, None]) -> "EventStream":
        """Take the first piece of a source; until then the request may still be refused."""
        return cls(await anext(events), events)


class ChunkedResponse(NamedTuple):
    """A JSON answer that goes back piece by piece, since all of it may be large.

    The source has begun, as that of a `Stream`. Where it raises, the body is left without its end.
    """

    first: bytes
    rest: AsyncGenerator[bytes, None]

    @classmethod
    async def begin(cls, pieces: AsyncGenerator[bytes, None]) -> "ChunkedResponse":
        """Take the first piece of a source; until then the request may still be refused."""
        return cls(await anext(pieces), pieces)


AnyResponse = Response | EventStream | ChunkedResponse


class Query(NamedTuple):
    """A query parameter, for the document; handlers read and check it themselves."""

    name: str
    kind: str
    description: str
    choices: tuple[str, ...] = ()


Handler = Callable[[RequestContext], Awaitable[AnyResponse]]

_KIND_OF_METHOD: Final[dict[str, RequestKind]] = {"DELETE": "cancel", "POST": "submission"}


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A row. `body` is None where none is read.

    `limit` is what the request counts as; where it is not said, DELETE counts as a cancel, POST as
    a submission, and everything else as a read.

    A success answers `status` with `replies`, or with no body where that is None. With `later`, an
    answer is waited for: 202 and that shape when it is not there in time. `stream` is the shape of
    the events where it may go out as server-sent events. `operation` is what generated clients call
    it; `headers` are those that it reads, `sends` those that a success may have.
    """

    operation: str
    method: str
    path: str
    scope: KeyScope
    handler: Handler
    summary: str
    replies: Any
    body: body_guard.Body | None = None
    query: tuple[Query, ...] = ()
    errors: tuple[Code, ...] = ()
    limit: RequestKind | None = None
    headers: tuple[str, ...] = ()
    response_headers: tuple[str, ...] = ()
    description: str = ""
    status: int = 200
    pending_reply: Any = None
    stream: Any = None

    @cached_property
    def route(self) -> str:
        """The row's name, as in `POST /chat`."""
        return f"{self.method} {self.path}"

    @cached_property
    def request_kind(self) -> RequestKind:
        """What a request of this row counts as."""
        return self.limit or _KIND_OF_METHOD.get(self.method, "read")

    async def respond(self, request: Request, state: State, request_id: str) -> AnyResponse:
        """Walk a request through the guards to the handler. Raises PolluxError."""
        caller = await state.identities.identify(request.scope["headers"], self.scope)
        match self.request_kind:
            case "submission":
                return await self._submit(request, state, caller, request_id)
            case "cancel":
                state.rate_limits.take_cancel(caller.account)
            case "poll":
                state.rate_limits.take_poll(caller.account, request.path_params["generation_id"])
            case "read":
                state.rate_limits.take_read(caller.account)
        return await self._serve(request, state, caller, request_id)

    async def _submit(
        self, request: Request, state: State, caller: Caller, request_id: str
    ) -> AnyResponse:
        """Serve what creates something; what comes of it counts."""
        fields: Fields = request.scope["headers"]
        key = request_head.value(fields, b"idempotency-key")
        last_event_id = request_head.value(fields, b"last-event-id")
        may_repeat = bool(key or last_event_id)
        if may_repeat:
            await _check_replay(state, caller, None if last_event_id else key)
        attempt = state.rate_limits.begin_submission(caller.account, may_repeat=may_repeat)
        try:
            submitting_caller = Caller(caller.key, caller.account, caller.root, attempt)
            answer = await self._serve(request, state, submitting_caller, request_id)
        except (RequestError, RefusedError) as error:
            if not isinstance(error, FailedError):
                attempt.note_refused(error, state.clock.monotonic())
            raise
        finally:
            attempt.give_back()
        return answer

    async def _serve(
        self, request: Request, state: State, caller: Caller, request_id: str
    ) -> AnyResponse:
        context = RequestContext(
            state=state,
            caller=caller,
            request=request,
            request_id=request_id,
            route=self.route,
        )
        if self.body is not None:
            await self._read(context, self.body)
        return await self.handler(context)

    async def _read(self, context: RequestContext, body: body_guard.Body) -> None:
        """Read and decode the body of a call, which alone holds it from then on."""
        settings = context.state.settings.api
        account, size = context.caller.account.id, body_guard.size_max(context.request, settings)
        context.state.inflight_bodies.add(account, size)
        try:
            context.raw = await body_guard.read(context.request, settings)
            context.body = body.decode(context.raw)
        finally:
            context.state.inflight_bodies.remove(account, size)


async def _check_replay(state: State, caller: Caller, key: str | None) -> None:
    """Raise RefusedError (RATE_LIMITED) for one repeated request too many.

    Redis is asked whether it is one only when there were too many of them. Without a key it goes on
    with a generation and begins none.
    """
    refusal = state.rate_limits.replays_refusal(caller.account)
    if refusal is None:
        return
    if key is None:
        raise refusal
    hashed = idempotency_records.hash_key(key)
    if (
        await idempotency_records.find(state.redis, caller.root, caller.account.id, hashed)
        is not None
    ):
        raise refusal


class Resource:
    """All methods of one path, as an ASGI application."""

    def __init__(self, endpoints: list[Endpoint]) -> None:
        self._by_method = {endpoint.method: endpoint for endpoint in endpoints}
        head_method = {"HEAD"} if "GET" in self._by_method else set()
        self._allow = ", ".join(sorted(self._by_method.keys() | head_method | {"OPTIONS"}))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; errors rise to the front's catch-all."""
        request = Request(scope, receive)
        method = "GET" if request.method == "HEAD" else request.method
        endpoint = self._by_method.get(method)
        if endpoint is None:
            await reply_allowed_methods(scope, send, self._allow)
            return
        answer = await endpoint.respond(request, scope["state"]["pollux"], scope["request_id"])
        if isinstance(answer, EventStream):
            await send_events(scope, send, answer)
            return
        if isinstance(answer, ChunkedResponse):
            await send_chunks(scope, send, answer)
            return
        content = b"" if answer.value is None else encode(answer.value)
        await reply(scope, send, answer.status, content, answer.headers)


async def reply_allowed_methods(scope: Scope, send: Send, allow: str) -> None:
    """Answer OPTIONS with the methods that a path has, and refuse those that it has not.

    Raises:
        RequestError: METHOD_NOT_ALLOWED.

    """
    if scope["method"] != "OPTIONS":
        scope["allow"] = allow
        raise RequestError(
            f"{scope['method']} is not allowed here; allowed: {allow}.", Code.METHOD_NOT_ALLOWED
        )
    await reply(scope, send, 204, b"", {"allow": allow})


async def reply(
    scope: Scope, send: Send, status: int, content: bytes, headers: dict[str, str]
) -> None:
    """Send one JSON answer; every answer names its request."""
    raw = [(b"x-request-id", scope["request_id"].encode()), *_PRIVATE]
    raw += [(name.encode(), value.encode()) for name, value in headers.items()]
    if status not in _WITHOUT_CONTENT:
        raw += [_JSON, (b"content-length", b"%d" % len(content))]
    # From here on nothing else can be answered, whatever goes wrong.
    scope["is_answered"] = True
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": content})


async def send_events(scope: Scope, send: Send, stream: EventStream) -> None:
    """Send an answer piece by piece; HEAD is told how it would begin.

    Pieces are whole events, so one that cannot go on ends as if it were at its end: the caller goes
    on after the last id.
    """
    raw = [(b"x-request-id", scope["request_id"].encode()), *_EVENTS]
    raw += [(name.encode(), value.encode()) for name, value in stream.headers.items()]
    async with aclosing(stream.events) as pieces:
        scope["is_answered"] = True
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        if scope["method"] != "HEAD":
            await send({"type": "http.response.body", "body": stream.first, "more_body": True})
            try:
                async for piece in pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            except UnavailableError as error:
                logs.logger().warning("unavailable", reason=error.message, path=scope["path"])
        await send({"type": "http.response.body", "body": b""})


async def send_chunks(scope: Scope, send: Send, answer: ChunkedResponse) -> None:
    """Send a JSON answer of unknown length; HEAD is told how it would begin.

    A body that cannot be gone on with is left without its end, and the connection is closed: so
    nobody takes a part for the whole.
    """
    raw = [(b"x-request-id", scope["request_id"].encode()), *_PRIVATE, _JSON]
    async with aclosing(answer.rest) as rest:
        scope["is_answered"] = True
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        if scope["method"] != "HEAD":
            await _send_chunk(send, answer.first)
            try:
                async for piece in rest:
                    await _send_chunk(send, piece)
            except PolluxError as error:
                logs.logger().warning("answer cut off", reason=error.message, path=scope["path"])
                return
        await send({"type": "http.response.body", "body": b""})


async def _send_chunk(send: Send, piece: bytes) -> None:
    """Send a piece in parts, so that a slow reader keeps little of it in the transport, too."""
    for at in range(0, len(piece), _PART_BYTES):
        part = piece[at : at + _PART_BYTES]
        await send({"type": "http.response.body", "body": part, "more_body": True})
        # A reader that is fast holds nobody up: others are served between two parts.
        await asyncio.sleep(0)  # noqa: TID251  a turn of the loop


def routes(prefix: str, endpoints: tuple[Endpoint, ...]) -> list[Route]:
    """Return one route a path below a prefix, in the order of the table."""
    paths: dict[str, list[Endpoint]] = {}
    for endpoint in endpoints:
        paths.setdefault(prefix + endpoint.path, []).append(endpoint)
    return [Route(path, endpoint=Resource(rows)) for path, rows in paths.items()]
