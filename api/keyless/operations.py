"""What operators and tools ask without a key: name and version, health, readiness, the document.

Health: the process runs, and how durable is what it accepts. Readiness: Redis is reachable now; and
where they occur, deliveries to receivers, settings of that server that became unfit since the
start, lost log lines, providers' models that workers pause for a while, damaged records that were
set aside, and keys of another type than they should have.
"""

import asyncio
from collections.abc import Mapping, Sequence

import msgspec
from starlette.requests import Request

from api.endpoints.endpoint import KeylessEndpoint
from api.server.responses import Response, encode
from api.state import State
from shared.catalogue import NO_MODELS, NO_MODELS_REMEDY
from shared.errors import UnavailableError, WrongTypeError
from shared.redis import keys
from shared.stores import webhooks
from shared.stores.fleet import Fleet
from shared.telemetry import logs

_READY_SECONDS = 2.0


async def health(_request: Request, state: State) -> Response:
    """GET /healthz: the process runs; what Redis keeps of what it accepts."""
    return Response(_health(state))


async def ready(_request: Request, state: State) -> Response:
    """GET /readyz: Redis is reachable; what is wrong in the deployment."""
    await _check_redis(state)
    problems = _worker_problems(await state.live_fleet.current()) | _dropped_lines()
    problems |= await _damaged(state) | await _deliveries(state)
    if state.server_watch.wrong_keys:
        problems["damaged_keys"] = len(state.server_watch.wrong_keys)
    if state.server_watch.faults:
        problems["unfit"] = list(state.server_watch.faults)
    warnings = list(state.server_watch.warnings)
    if not state.catalogue.models:
        warnings.append(f"{NO_MODELS}: {NO_MODELS_REMEDY}")
    if warnings:
        problems["warnings"] = warnings
    return Response(_health(state) | problems)


def _health(state: State) -> dict[str, object]:
    return {
        "status": "ok",
        "durability": state.settings.redis.durability,
        "holds": state.server_watch.holds,
    }


async def _check_redis(state: State) -> None:
    try:
        async with asyncio.timeout(_READY_SECONDS):
            await state.redis.call("PING")
    except TimeoutError:
        raise UnavailableError("Redis does not answer.") from None


def _worker_problems(fleet: Fleet) -> dict[str, object]:
    """Return the providers' models that cool down, and how many workers have lost their listener.

    The credential under which a model cools is not published.
    """
    found: dict[str, object] = {}
    if fleet.cooling:
        found["cooling"] = sorted({circuit.rpartition("/")[0] for circuit in fleet.cooling})
    if fleet.without_listener:
        found["workers_without_listener"] = fleet.without_listener
    return found


async def _damaged(state: State) -> dict[str, object]:
    """Return how many generations were set aside recently because their records were damaged."""
    counts = await asyncio.gather(*(_count(state, keys.DAMAGED(root)) for root in _roots(state)))
    return {"damaged": sum(counts)} if any(counts) else {}


async def _deliveries(state: State) -> dict[str, object]:
    """Return what deliveries came to and how late they are, if there were any."""
    found = await webhooks.load(state.redis, _roots(state))
    return {"deliveries": found._asdict()} if any(found) else {}


def _roots(state: State) -> list[str]:
    settings = state.settings.redis
    return [keys.partition_root(settings, number) for number in range(settings.partitions)]


async def _count(state: State, key_name: str) -> int:
    try:
        return int(await state.redis.call("ZCARD", key_name))
    except WrongTypeError:
        # `damaged_keys` counts this key.
        return 0


def _dropped_lines() -> dict[str, object]:
    """Return how many log lines of this process were lost, if any."""
    dropped = logs.dropped()
    return {"log_lines_dropped": dropped} if dropped else {}


def about(info: Mapping[str, str], mounts: Sequence[str]) -> dict[str, object]:
    """Return the name of the service, and where everything else is described."""
    return {
        "name": info["title"],
        "version": info["version"],
        "description": info["summary"],
        "openapi": "/openapi.json",
        "apis": mounts,
        "health": "/healthz",
        "ready": "/readyz",
    }


def endpoints(openapi: object, about: object) -> tuple[KeylessEndpoint, ...]:
    """Return the rows; the two documents are encoded once."""
    return (
        document_endpoint("/", about),
        KeylessEndpoint(path="/healthz", handler=health),
        KeylessEndpoint(path="/readyz", handler=ready),
        document_endpoint("/openapi.json", openapi),
    )


def document_endpoint(path: str, document: object) -> KeylessEndpoint:
    """Return the row of a document that never changes."""
    response = Response(msgspec.Raw(encode(document)))

    async def read(_request: Request, _state: State) -> Response:
        return response

    return KeylessEndpoint(path=path, handler=read)
