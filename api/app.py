"""The application: mounts, routers, the lifespan, and the middleware around every request.

    middleware (request id, catch-all) -> paths -> endpoint: identify -> limits -> body -> handler

Everything that a request may reach is made once by `wiring.connected_state`.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Final

from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from api import errors, wiring
from api.admin.dialect import OPERATORS
from api.admin.routes import DOCUMENT
from api.dialects.kolbo.dialect import KOLBO
from api.dialects.kombify.dialect import KOMBIFY
from api.endpoints import dialect, endpoint
from api.endpoints.dialect import Dialect
from api.endpoints.endpoint import Resource
from api.endpoints.path_table import PathTable
from api.errors import ErrorShapes
from api.keyless import media, operations
from api.openapi import generator
from api.server import cors, error_responses, responses
from api.state import State
from shared.clock import Clock
from shared.errors import Code, PolluxError, RequestError, UnavailableError, WrongTypeError
from shared.settings import Settings
from shared.sighup import Sighup
from shared.telemetry import logs
from shared.telemetry.throttled_log import ThrottledLog

DIALECTS: Final = (KOLBO, KOMBIFY)


def build(
    settings: Settings,
    environment: Mapping[str, str],
    clock: Clock,
    admin_port: int | None = None,
    dialects: Sequence[Dialect] = DIALECTS,
) -> ASGIApp:
    """Return the ASGI application; a connection to `admin_port` reaches the operators' API only."""
    dialect.check(dialects)
    document = generator.document(dialects, version=version("pollux"))
    prefixes = [each.prefixes[0] for each in dialects]
    about = operations.about(document["info"], prefixes)
    keyless = (*media.ENDPOINTS, *operations.endpoints(document, about))

    @asynccontextmanager
    async def lifespan(_app: object) -> AsyncIterator[dict[str, State]]:
        async with wiring.connected_state(settings, environment, clock) as state:
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGHUP, Sighup(state.reload_catalogue).reload_or_end)
            try:
                yield {"pollux": state}
            finally:
                loop.remove_signal_handler(signal.SIGHUP)
        # uvicorn ends the process by raising the signal again, so no exit handler would run.
        await asyncio.to_thread(logs.flush)

    table = PathTable([*_resources(dialects), *endpoint.keyless_resources(keyless)], _not_found)
    application = table if admin_port is None else PortRouter(table, _operators(), admin_port)
    return RequestMiddleware(
        application,
        Router(lifespan=lifespan),
        dialect.error_shapes(dialects),
        answers_preflights=bool(settings.api.cors_origins),
    )


def _operators() -> ASGIApp:
    """Return the operators' API."""
    document = generator.document([OPERATORS], version=version("pollux"), about=OPERATORS.about)
    rows = _resources([OPERATORS])
    rows += endpoint.keyless_resources([operations.document_endpoint(DOCUMENT, document)])
    return PathTable(rows, _not_found)


def _resources(dialects: Sequence[Dialect]) -> list[tuple[str, Resource]]:
    return [
        row
        for each in dialects
        for prefix in each.prefixes
        for row in endpoint.resources(prefix, each.endpoints, each.bodies)
    ]


async def _not_found(scope: Scope, _receive: Receive, _send: Send) -> None:
    raise RequestError(f"There is nothing at {scope['path']}.", Code.NOT_FOUND)


class PortRouter:
    """Two applications in one process, chosen by the local port of the connection.

    The port is that of our end: nothing that a caller sends can change it.
    """

    def __init__(self, public: ASGIApp, operators: ASGIApp, admin_port: int) -> None:
        self._public = public
        self._operators = operators
        self._admin_port = admin_port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request to its application."""
        is_operators = scope["server"][1] == self._admin_port
        await (self._operators if is_operators else self._public)(scope, receive, send)


class RequestMiddleware:
    """Around every request: its id, CORS preflights, and the single catch-all of the API server.

    A trailing slash of a path is ignored. Preflights are answered for any path, so that a page can
    also read the 404 of a path that does not exist.
    """

    def __init__(
        self,
        app: ASGIApp,
        lifespan: ASGIApp,
        error_shapes: ErrorShapes,
        *,
        answers_preflights: bool,
    ) -> None:
        self._app = app
        self._lifespan = lifespan
        self._error_shapes = error_shapes
        self._answers_preflights = answers_preflights
        self._log_throttle = ThrottledLog()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever fails inside."""
        if scope["type"] != "http":
            await self._lifespan(scope, receive, send)
            return
        scope["request_id"] = error_responses.request_id(scope["headers"])
        # Each request has a task of its own, so these bindings end with it.
        logs.bind(request_id=scope["request_id"])
        path = scope["path"]
        if path[-1:] == "/" and path[-2:-1] not in {"", "/"}:
            scope["path"] = path[:-1]
        try:
            if self._answers_preflights and cors.is_preflight(scope["method"], scope["headers"]):
                await responses.reply(scope, send, 204, b"", cors.PREFLIGHT)
            else:
                await self._app(scope, receive, send)
        except PolluxError as error:
            _log_refusal(scope, error, self._log_throttle)
            await self._refuse_or_abort(scope, send, error)
        except Exception:
            logs.logger().exception("unexpected", method=scope["method"], path=scope["path"])
            if "is_answered" in scope:
                raise
            await self._send_refusal(scope, send, PolluxError("a fault of the API server"))

    async def _refuse_or_abort(self, scope: Scope, send: Send, error: PolluxError) -> None:
        """Refuse a request; once a response has begun, leave it incomplete instead.

        In the second case, raise the error, unless the log has all of it already.
        """
        if "is_answered" not in scope:
            await self._send_refusal(scope, send, error)
        elif not isinstance(error, WrongTypeError):
            raise error

    async def _send_refusal(self, scope: Scope, send: Send, error: PolluxError) -> None:
        message = errors.public_message(error)
        refusal = self._error_shapes.refusal(scope["path"], error, message, scope["request_id"])
        headers = refusal.headers
        if "allow" in scope:
            headers["allow"] = scope["allow"]
        is_left = "streams_body" in scope and "body_is_here" not in scope
        if is_left or error.code in {Code.PAYLOAD_TOO_LARGE, Code.REQUEST_TIMEOUT}:
            # The rest of the body will not be read.
            headers["connection"] = "close"
        await responses.reply(
            scope,
            send,
            refusal.status,
            refusal.content,
            headers,
            content_type=refusal.content_type,
        )


def _log_refusal(scope: Scope, error: PolluxError, throttled_log: ThrottledLog) -> None:
    """Log a refusal: a fault of ours with its reason, a wrong key type at most once a minute."""
    request = {"method": scope["method"], "path": scope["path"], "code": error.code.value}
    if error.blame == "caller":
        logs.logger().info("refused", **request)
    elif isinstance(error, UnavailableError):
        logs.logger().warning("unavailable", reason=error.message, **request)
    elif isinstance(error, WrongTypeError):
        if throttled_log.is_due(error.message):
            logs.logger().error("a key is of another type", fault=error.message, **request)
    else:
        logs.logger().exception("unexpected", **request)
