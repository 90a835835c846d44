"""The API, the workers and the local model as children: command, environment, readiness check.

Each child receives the secrets that it needs and no others: the API hashes keys with the pepper,
workers call providers, the model checks its own key. All other variables are passed on.
"""

from collections.abc import Mapping, Set as AbstractSet
from typing import Final

import httpx

from deploy.local import model as local_model, network
from deploy.local.supervisor import Child, python
from shared.errors import PolluxError
from shared.redis.client import Redis
from shared.settings import Settings
from shared.stores import fleet

_MODEL_SECONDS: Final = 120.0
_DRAIN_SECONDS: Final = 10.0


def api(
    environment: Mapping[str, str],
    settings: Settings,
    http: httpx.AsyncClient,
    host: str,
    port: int,
) -> Child:
    """Return the API: ready once `/readyz` answers 200."""
    return Child(
        name="api",
        command=python("api", "--host", host, "--port", str(port), "--workers", "1"),
        environment=without(environment, upstream_secrets(settings)),
        is_ready=lambda: _answers(http, f"{network.url(host, port)}/readyz"),
        stop_seconds=_DRAIN_SECONDS,
        reloads_on_sighup=True,
    )


def worker(environment: Mapping[str, str], number: int, redis: Redis, settings: Settings) -> Child:
    """Return worker `number`: ready once the fleet has that many workers reporting."""

    async def is_ready() -> bool:
        try:
            return (await fleet.load(redis, settings.redis)).workers >= number
        except PolluxError:
            return False

    return Child(
        name=f"worker-{number}",
        command=python("worker", "--concurrency", str(settings.worker.concurrency)),
        environment=without(environment, {settings.auth.pepper_env}),
        is_ready=is_ready,
        stop_seconds=settings.worker.grace_seconds + _DRAIN_SECONDS,
        reloads_on_sighup=True,
    )


def model(
    environment: Mapping[str, str], settings: Settings, http: httpx.AsyncClient, port: int
) -> Child:
    """Return the local model: its server answers at once, but 200 only once the model is loaded."""
    return Child(
        name="model",
        command=python("deploy.local.model", "--port", str(port)),
        environment=without(environment, _hidden_from_model(settings)),
        is_ready=lambda: _answers(http, f"http://127.0.0.1:{port}/health"),
        ready_seconds=_MODEL_SECONDS,
    )


def without(environment: Mapping[str, str], names: AbstractSet[str]) -> dict[str, str]:
    """Return the environment without these variables."""
    return {name: value for name, value in environment.items() if name not in names}


def upstream_secrets(settings: Settings) -> set[str]:
    """Return the names of the variables that hold provider keys and the search service's key."""
    names = (settings.search.api_key_env, *(each.api_key_env for each in settings.providers))
    return {name for name in names if name is not None}


def _hidden_from_model(settings: Settings) -> set[str]:
    """Return the variables that the local model must not see: every secret but its own key."""
    secrets = upstream_secrets(settings) - {local_model.KEY_VARIABLE}
    return secrets | {settings.auth.pepper_env, "REDIS_URL", "POLLUX_REDIS__URL"}


async def _answers(http: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await http.get(url)).is_success
    except httpx.HTTPError:
        return False
