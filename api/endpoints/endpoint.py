"""One row of a dialect's route table, and how a request passes through it.

Owns the order of the guards: who (the key and its scope), how often, how big (the body); then the
handler runs. The OpenAPI document is made from the same rows, so what is documented is what runs.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Final, NamedTuple

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from api.guards import body as body_guard, body_kinds
from api.guards.body import BodyRules
from api.guards.body_kinds import Body, StreamedBody
from api.guards.identify import Caller
from api.guards.rate_limits import RequestKind
from api.server import request_head
from api.server.request_head import FieldsByName
from api.server.responses import AnyResponse, reply_allowed_methods, send_response
from api.state import State
from shared.errors import Code, FailedError, RefusedError, RequestError
from shared.stores import idempotency_records
from shared.wire.account import Scope as KeyScope

_NO_QUERY: Final = QueryParams()


@dataclass(kw_only=True, slots=True)
class RequestContext:
    """A request that has passed the guards.

    `path` are the path's parameters, `fields` those of its head by their names in lower case;
    `raw` is its body as it was sent, `body` the decoded value.
    """

    state: State
    caller: Caller
    request: Request
    request_id: str
    route: str
    path: dict[str, str]
    fields: FieldsByName
    body: Any = None
    raw: bytes = b""

    def drop_body(self) -> None:
        """Free the memory of body and fields, before a wait that may be long."""
        self.body, self.raw, self.fields = None, b"", {}

    @property
    def query(self) -> QueryParams:
        """The query's parameters, as texts."""
        return self.request.query_params if self.request.scope["query_string"] else _NO_QUERY


class Query(NamedTuple):
    """A query parameter, for the document; the handler reads and checks it itself."""

    name: str
    kind: str
    description: str
    choices: tuple[str, ...] = ()


Handler = Callable[[RequestContext], Awaitable[AnyResponse]]

_KIND_OF_METHOD: Final[dict[str, RequestKind]] = {"DELETE": "cancel", "POST": "submission"}


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A row. `body` is None where no body is read, or where the handler reads a `streamed_body`.

    `limit` is what a request counts as; by default DELETE counts as a cancel, POST as a submission,
    and every other method as a read.

    A success has `status` and the type `replies`, or no body where that is None. Where the handler
    waits for an answer, `pending_reply` is the type of a 202 when it is not there in time. `stream`
    is the type of the events where the response may be server-sent events, `lines` that of each
    line where it is JSON lines. `operation` is what generated clients call the row; `headers` are
    those that it reads, `response_headers` those that a success may have.
    """

    operation: str
    method: str
    path: str
    scope: KeyScope
    handler: Handler
    summary: str
    replies: Any
    body: Body | None = None
    streamed_body: StreamedBody | None = None
    query: tuple[Query, ...] = ()
    errors: tuple[Code, ...] = ()
    limit: RequestKind | None = None
    headers: tuple[str, ...] = ()
    response_headers: tuple[str, ...] = ()
    description: str = ""
    status: int = 200
    pending_reply: Any = None
    stream: Any = None
    lines: Any = None

    @property
    def bodies(self) -> tuple[Body, ...]:
        """The kinds of body that a request may have."""
        if self.streamed_body is not None:
            return self.streamed_body.kinds
        return () if self.body is None else (self.body,)

    @cached_property
    def route(self) -> str:
        """The row's name, as in `POST /chat`."""
        return f"{self.method} {self.path}"

    @cached_property
    def request_kind(self) -> RequestKind:
        """What a request of this row counts as."""
        return self.limit or _KIND_OF_METHOD.get(self.method, "read")

    async def respond(
        self, rules: BodyRules, request: Request, state: State, request_id: str
    ) -> AnyResponse:
        """Pass a request through the guards to the handler. Raises PolluxError."""
        if self.streamed_body is not None:
            request.scope["streams_body"] = True
        context = await self._identify(request, state, request_id)
        match self.request_kind:
            case "submission":
                return await self._submit(context, rules)
            case "cancel":
                state.rate_limits.take_cancel(context.caller.account)
            case "poll":
                generation = request.path_params["generation_id"]
                state.rate_limits.take_poll(context.caller.account, generation)
            case "read":
                state.rate_limits.take_read(context.caller.account)
        return await self._serve(context, rules)

    async def _identify(self, request: Request, state: State, request_id: str) -> RequestContext:
        fields = request_head.by_name(request.scope["headers"])
        return RequestContext(
            state=state,
            caller=await state.identities.identify(fields, self.scope),
            request=request,
            request_id=request_id,
            route=self.route,
            path=request.path_params,
            fields=fields,
        )

    async def _submit(self, context: RequestContext, rules: BodyRules) -> AnyResponse:
        """Serve a request that creates something; accepted, refused or repeated, it counts."""
        state, caller = context.state, context.caller
        key, last_event_id = (
            context.fields.get(b"idempotency-key"),
            context.fields.get(b"last-event-id"),
        )
        may_repeat = bool(key or last_event_id)
        if may_repeat:
            await _check_replay(state, caller, None if last_event_id else key)
        attempt = state.rate_limits.begin_submission(caller.account, may_repeat=may_repeat)
        context.caller = Caller(caller.key, caller.account, caller.root, attempt)
        try:
            return await self._serve(context, rules)
        except (RequestError, RefusedError) as error:
            if not isinstance(error, FailedError):
                attempt.note_refused(error, state.clock.monotonic())
            raise
        finally:
            attempt.give_back()

    async def _serve(self, context: RequestContext, rules: BodyRules) -> AnyResponse:
        if self.body is not None:
            await self._read(context, self.body, rules)
        return await self.handler(context)

    async def _read(self, context: RequestContext, body: Body, rules: BodyRules) -> None:
        """Read and decode the body, which only the context holds from then on."""
        settings, bodies = context.state.settings.api, context.state.inflight_bodies
        account, size = context.caller.account.id, rules.size_max(context.fields, settings)
        bodies.add(account, size)
        try:
            body_kinds.check_kind(body, context.fields)
            size_max = rules.bytes_max or settings.body_bytes_max
            context.raw = await body_guard.read(context.request, size_max, settings.body_seconds)
            context.body = body.decode(context.raw, rules.unknown_fields)
        finally:
            bodies.remove(account, size)


async def _check_replay(state: State, caller: Caller, key: str | None) -> None:
    """Raise RefusedError (RATE_LIMITED) for one repeated request too many.

    Redis is asked whether the key was used only when the account's replays are used up. Without a
    key the request continues a generation, and creates none.
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


@dataclass(frozen=True, kw_only=True)
class KeylessEndpoint:
    """A row that needs no API key, counts against no limit, and is not in the document."""

    path: str
    handler: Callable[[Request, State], Awaitable[AnyResponse]]
    method: str = "GET"

    async def respond(self, request: Request, state: State, _request_id: str) -> AnyResponse:
        """Call the handler. Raises PolluxError."""
        return await self.handler(request, state)


Responder = Callable[[Request, State, str], Awaitable[AnyResponse]]


class Resource:
    """All methods of one path, as an ASGI application."""

    def __init__(self, by_method: Mapping[str, Responder]) -> None:
        self._by_method = by_method
        head_method = {"HEAD"} if "GET" in self._by_method else set()
        self._allow = ", ".join(sorted(self._by_method.keys() | head_method | {"OPTIONS"}))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; errors rise to RequestMiddleware in app.py."""
        request = Request(scope, receive)
        method = "GET" if request.method == "HEAD" else request.method
        respond = self._by_method.get(method)
        if respond is None:
            await reply_allowed_methods(scope, send, self._allow)
            return
        response = await respond(request, scope["state"]["pollux"], scope["request_id"])
        await send_response(scope, send, response)


def resources(
    prefix: str, endpoints: Sequence[Endpoint], rules: BodyRules
) -> list[tuple[str, Resource]]:
    """Return each path below a prefix with its resource, in the order of the table."""
    return _resources(
        [(row.method, prefix + row.path, partial(row.respond, rules)) for row in endpoints]
    )


def keyless_resources(endpoints: Sequence[KeylessEndpoint]) -> list[tuple[str, Resource]]:
    """Return each path that needs no key with its resource."""
    return _resources([(row.method, row.path, row.respond) for row in endpoints])


def _resources(rows: list[tuple[str, str, Responder]]) -> list[tuple[str, Resource]]:
    by_path: dict[str, dict[str, Responder]] = {}
    for method, path, respond in rows:
        by_path.setdefault(path, {})[method] = respond
    return [(path, Resource(by_method)) for path, by_method in by_path.items()]
