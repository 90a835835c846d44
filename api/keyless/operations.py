"""What operators and tools ask without a key: what is it, is it alive, is it ready, what can it do.

health says that the process runs, and how durable what it accepts is; readiness that it reaches
Redis now, what makes that server unfit since the start, how many log lines were lost, which
providers' models the workers spare for a while, how many damaged records were set aside, and how
many keys hold another type than they should.
"""

import asyncio
from collections.abc import Mapping, Sequence

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from api.server.responses import encode, reply, reply_allowed_methods
from api.state import State
from shared.catalogue import NO_MODELS, NO_MODELS_REMEDY
from shared.errors import UnavailableError, WrongTypeError
from shared.redis import keys
from shared.stores.fleet import Fleet
from shared.telemetry import logs

_READY_SECONDS = 2.0


class KeylessGet:
    """One GET without a key, as an ASGI application."""

    def __init__(self, name: str, document: bytes = b"") -> None:
        self._name = name
        self._document = document

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; errors rise to the front's catch-all."""
        request = Request(scope, receive)
        if request.method not in {"GET", "HEAD"}:
            await reply_allowed_methods(scope, send, "GET, HEAD, OPTIONS")
            return
        state: State = scope["state"]["pollux"]
        if self._name == "document":
            await reply(scope, send, 200, self._document, {})
            return
        answer: dict[str, object] = {
            "status": "ok",
            "durability": state.settings.redis.durability,
            "holds": state.server_watch.holds,
        }
        if self._name == "ready":
            await _check_redis(state)
            answer |= _worker_problems(await state.live_fleet.current()) | _dropped_lines()
            answer |= await _damaged(state)
            if state.server_watch.wrong_keys:
                answer["damaged_keys"] = len(state.server_watch.wrong_keys)
            if state.server_watch.faults:
                answer["unfit"] = list(state.server_watch.faults)
            warnings = list(state.server_watch.warnings)
            if not state.catalogue.models:
                warnings.append(f"{NO_MODELS}: {NO_MODELS_REMEDY}")
            if warnings:
                answer["warnings"] = warnings
        await reply(scope, send, 200, encode(answer), {})


async def _check_redis(state: State) -> None:
    try:
        async with asyncio.timeout(_READY_SECONDS):
            await state.redis.call("PING")
    except TimeoutError:
        raise UnavailableError("Redis does not answer.") from None


def _worker_problems(fleet: Fleet) -> dict[str, object]:
    """Return the providers' models that cool, and how many workers have lost their listener.

    Under which credential a model cools is nobody's business here.
    """
    found: dict[str, object] = {}
    if fleet.cooling:
        found["cooling"] = sorted({circuit.rpartition("/")[0] for circuit in fleet.cooling})
    if fleet.without_listener:
        found["workers_without_listener"] = fleet.without_listener
    return found


async def _damaged(state: State) -> dict[str, object]:
    """Return how many generations were set aside lately because their records were damaged."""
    settings = state.settings.redis
    roots = [keys.partition_root(settings, number) for number in range(settings.partitions)]
    counts = await asyncio.gather(*(_count(state, keys.DAMAGED(root)) for root in roots))
    return {"damaged": sum(counts)} if any(counts) else {}


async def _count(state: State, key_name: str) -> int:
    try:
        return int(await state.redis.call("ZCARD", key_name))
    except WrongTypeError:
        # Told by the key's name.
        return 0


def _dropped_lines() -> dict[str, object]:
    """Return how many log lines of this process were lost, if any."""
    dropped = logs.dropped()
    return {"log_lines_dropped": dropped} if dropped else {}


def about(info: Mapping[str, str], mounts: Sequence[str]) -> bytes:
    """Return what the front says of itself: its name, and where all else is described."""
    described = {
        "name": info["title"],
        "version": info["version"],
        "description": info["summary"],
        "openapi": "/openapi.json",
        "apis": mounts,
        "health": "/healthz",
        "ready": "/readyz",
    }
    return encode(described)


def routes(openapi: bytes, about: bytes) -> list[Route]:
    """Return the routes of operations."""
    return [
        document_route("/", about),
        Route("/healthz", endpoint=KeylessGet("health")),
        Route("/readyz", endpoint=KeylessGet("ready")),
        document_route("/openapi.json", openapi),
    ]


def document_route(path: str, document: bytes) -> Route:
    """Return the route of a document, read as it stands."""
    return Route(path, endpoint=KeylessGet("document", document))
