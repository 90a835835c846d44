"""Each process of a local system receives the secrets that it needs, and no others."""

from pathlib import Path

import httpx

from deploy.local import catalogue, child_processes, model
from deploy.local.supervisor import Child
from shared.redis.client import Redis
from shared.settings import Settings

_SECRETS = {"POLLUX_PEPPER", "FAR_KEY", "SEARCH_KEY", model.KEY_VARIABLE}


async def _children(folder: Path) -> dict[str, Child]:
    far = '[[providers]]\nname = "far"\nbase_url = "http://127.0.0.1:9/v1"\napi_key_env = "FAR_KEY"'
    search = '[search]\nservice = "brave"\napi_key_env = "SEARCH_KEY"'
    settings_file = folder / "pollux.toml"
    settings_file.write_text(f"{search}\n{far}\n{catalogue.render(9)}")
    environment = dict.fromkeys(_SECRETS, "a secret") | {
        "POLLUX_CONFIG": str(settings_file),
        "REDIS_URL": "redis://:password@127.0.0.1:6379/0",
        "LANG": "C.UTF-8",
    }
    settings = Settings.read(environment)
    async with httpx.AsyncClient(trust_env=False) as http:
        children = (
            child_processes.api(environment, settings, http, "127.0.0.1", 9),
            child_processes.worker(environment, 1, Redis(settings.redis), settings),
            child_processes.model(environment, settings, http, 9),
        )
    return {child.name: child for child in children}


async def test_each_process_receives_only_its_own_secrets(tmp_path: Path) -> None:
    children = await _children(tmp_path)
    received = {name: _SECRETS & child.environment.keys() for name, child in children.items()}
    assert received == {
        "api": {"POLLUX_PEPPER"},
        "worker-1": {"FAR_KEY", "SEARCH_KEY", model.KEY_VARIABLE},
        "model": {model.KEY_VARIABLE},
    }
    assert all("LANG" in child.environment for child in children.values())
    reach_redis = {name for name, child in children.items() if "REDIS_URL" in child.environment}
    assert reach_redis == {"api", "worker-1"}
