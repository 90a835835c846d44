"""The processes of the product and the local model, as children: command and readiness of each."""

from collections.abc import Mapping
from typing import Final

import httpx

from deploy.local import network
from deploy.local.supervisor import Child, python
from shared.errors import PolluxError
from shared.redis.client import Redis
from shared.settings import Settings
from shared.stores import fleet

_MODEL_SECONDS: Final = 120.0
_DRAIN_SECONDS: Final = 10.0


def api(environment: Mapping[str, str], http: httpx.AsyncClient, host: str, port: int) -> Child:
    """Return the API: ready when it says so itself."""
    return Child(
        name="api",
        command=python("api", "--host", host, "--port", str(port), "--workers", "1"),
        environment=environment,
        is_ready=lambda: _answers(http, f"{network.url(host, port)}/readyz"),
        stop_seconds=_DRAIN_SECONDS,
        heeds_hangup=True,
    )


def worker(environment: Mapping[str, str], number: int, redis: Redis, settings: Settings) -> Child:
    """Return a worker: ready when that many report to the fleet."""

    async def is_ready() -> bool:
        try:
            return (await fleet.view(redis, settings.redis)).workers >= number
        except PolluxError:
            return False

    return Child(
        name=f"worker-{number}",
        command=python("worker", "--concurrency", str(settings.worker.concurrency)),
        environment=environment,
        is_ready=is_ready,
        stop_seconds=settings.worker.grace_seconds + _DRAIN_SECONDS,
        heeds_hangup=True,
    )


def model(environment: Mapping[str, str], http: httpx.AsyncClient, port: int) -> Child:
    """Return the local model: its server answers at once, with 200 when the model is loaded."""
    return Child(
        name="model",
        command=python("deploy.local.model", "--port", str(port)),
        environment=environment,
        is_ready=lambda: _answers(http, f"http://127.0.0.1:{port}/health"),
        ready_seconds=_MODEL_SECONDS,
    )


async def _answers(http: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await http.get(url)).is_success
    except httpx.HTTPError:
        return False
