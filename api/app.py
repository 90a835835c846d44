"""The application: mounts, routers, the lifespan, and the middleware around every request.

    middleware (request id, catch-all) -> router -> endpoint: identify -> limits -> body -> handler

Everything that a request may reach is made once by `wiring.connected_state`.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Final

from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from api import errors, wiring
from api.admin import routes as admin
from api.dialects.kolbo import routes as kolbo
from api.dialects.kolbo.wire import ErrorReply
from api.dialects.kombify import routes as kombify
from api.dialects.kombify.wire import ErrorEnvelope
from api.endpoints import endpoint
from api.keyless import media, operations
from api.openapi import generator
from api.openapi.generator import Mount
from api.server import cors, error_responses, responses
from api.state import State
from shared.clock import Clock
from shared.errors import Code, PolluxError, RequestError, UnavailableError, WrongTypeError
from shared.settings import Settings
from shared.sighup import Sighup
from shared.telemetry import logs
from shared.telemetry.throttled_log import ThrottledLog

# The published sample clients join a base URL that ends in /api to a poll_url that begins with it.
DIALECTS: Final = {
    "/api/v1": Mount("kolbo", kolbo.ABOUT, kolbo.ENDPOINTS, ErrorReply),
    "/v1/ai": Mount("kombify", kombify.ABOUT, kombify.ENDPOINTS, ErrorEnvelope),
}
MOUNTS: Final = {prefix: dialect.endpoints for prefix, dialect in DIALECTS.items()}
DOUBLED_MOUNTS: Final = {"/api/api/v1": kolbo.ENDPOINTS}

# On a port of its own, for operators.
OPERATORS: Final = {"/admin/v1": Mount("operators", admin.ABOUT, admin.ENDPOINTS, ErrorReply)}
ADMIN_MOUNTS: Final = {"/admin/v1": admin.ENDPOINTS}


def build(
    settings: Settings,
    environment: Mapping[str, str],
    clock: Clock,
    admin_port: int | None = None,
) -> ASGIApp:
    """Return the ASGI application; a connection to `admin_port` reaches the operators' API only."""
    document = generator.document(DIALECTS, version=version("pollux"))
    about = operations.about(document["info"], tuple(DIALECTS))
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

    rows = [
        route
        for prefix, endpoints in (MOUNTS | DOUBLED_MOUNTS).items()
        for route in endpoint.routes(prefix, endpoints)
    ]
    public = Router(
        [*rows, *endpoint.routes("", keyless)],
        redirect_slashes=False,
        default=_not_found,
        lifespan=lifespan,
    )
    application = public if admin_port is None else PortRouter(public, _operators(), admin_port)
    return RequestMiddleware(application, answers_preflights=bool(settings.api.cors_origins))


def _operators() -> ASGIApp:
    """Return the operators' API."""
    document = generator.document(OPERATORS, version=version("pollux"), about=admin.ABOUT)
    rows = [
        route
        for prefix, endpoints in ADMIN_MOUNTS.items()
        for route in endpoint.routes(prefix, endpoints)
    ]
    rows += endpoint.routes("", [operations.document_endpoint(admin.DOCUMENT, document)])
    return Router(rows, redirect_slashes=False, default=_not_found)


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
        """Pass one request to its application; lifespan events go to the public one."""
        is_operators = scope["type"] == "http" and scope["server"][1] == self._admin_port
        await (self._operators if is_operators else self._public)(scope, receive, send)


class RequestMiddleware:
    """Around every request: its id, CORS preflights, and the single catch-all of the API server.

    A trailing slash of a path is ignored. Preflights are answered for any path, so that a page can
    also read the 404 of a path that does not exist.
    """

    def __init__(self, app: ASGIApp, *, answers_preflights: bool) -> None:
        self._app = app
        self._answers_preflights = answers_preflights
        self._log_throttle = ThrottledLog()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever fails inside."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
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
            await _refuse_or_abort(scope, send, error)
        except Exception:
            logs.logger().exception("unexpected", method=scope["method"], path=scope["path"])
            if "is_answered" in scope:
                raise
            await _send_refusal(scope, send, PolluxError("a fault of the API server"))


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


async def _refuse_or_abort(scope: Scope, send: Send, error: PolluxError) -> None:
    """Refuse a request; once a response has begun, leave it incomplete instead.

    In the second case, raise the error, unless the log has all of it already.
    """
    if "is_answered" not in scope:
        await _send_refusal(scope, send, error)
    elif not isinstance(error, WrongTypeError):
        raise error


async def _send_refusal(scope: Scope, send: Send, error: PolluxError) -> None:
    status, headers, details = errors.describe(error)
    if "allow" in scope:
        headers["allow"] = scope["allow"]
    if error.code in {Code.PAYLOAD_TOO_LARGE, Code.REQUEST_TIMEOUT}:
        # The rest of the body will not be read.
        headers["connection"] = "close"
    message = errors.public_message(error)
    content = errors.error_body(scope["path"], error.code, message, scope["request_id"], details)
    await responses.reply(scope, send, status, content, headers)
