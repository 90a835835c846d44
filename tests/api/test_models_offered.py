"""Which models are offered: those whose API key a live worker has, or the last worker had."""

import msgspec

from shared.redis import keys
from shared.settings import ProviderSettings
from tests.api.kombify_client import CHAT, chat, refused as kombify_refused
from tests.support import waiting
from tests.support.api_client import ApiClient, body, refused
from tests.support.system import System
from tests.worker.running_workers import running_worker

_KEY = {"NO_SUCH_KEY": "k"}


async def _listed(system: System, api: ApiClient) -> dict[str, bool]:
    # A server reads the fleet once a second.
    system.clock.advance(1.1)
    models = body(await api.get("/api/v1/models"))["models"]
    return {model["identifier"]: model["available"] for model in models}


async def test_a_model_is_listed_while_a_worker_has_its_key(api: ApiClient, system: System) -> None:
    async with running_worker(system):
        assert await _listed(system, api) == {"alpha": True, "beta": True}
        async with running_worker(system, _KEY):

            async def is_there() -> bool:
                return (await _listed(system, api)).get("gamma", False)

            await waiting.until(is_there)
            asked = await api.submit_and_wait("hello", model="gamma")
            assert asked["routing"]["chosen"] == "gamma"


async def test_what_the_last_worker_had_stays_while_none_lives(
    api: ApiClient, system: System
) -> None:
    async with running_worker(system, _KEY) as worker:
        await waiting.until(lambda: worker._is_reported)
        await waiting.until(lambda: worker.ctx["dependencies"].configured)
    assert await _listed(system, api) == {"alpha": False, "beta": False, "gamma": False}
    await api.submit("waits for a worker", model="gamma")


async def test_a_key_that_is_gone_for_a_minute_takes_its_models_along(
    api: ApiClient, system: System
) -> None:
    async with running_worker(system) as worker:
        async with running_worker(system, _KEY):
            await waiting.until(lambda: "gamma" in worker.ctx["dependencies"].configured)
        served = keys.SERVED_MODELS(keys.system_root(system.settings.redis))
        await system.redis.call("ZINCRBY", served, -61_000, "gamma")
        await waiting.until(lambda: worker.ctx["dependencies"].configured == {"alpha", "beta"})
        assert await _listed(system, api) == {"alpha": True, "beta": True}
        asked = {"message": "hello", "model": "gamma"}
        refused(await api.post("/api/v1/chat", json=asked), 400, "MODEL_NOT_FOUND")


async def test_auto_never_asks_for_what_nobody_has_the_key_of(system: System) -> None:
    keyed = tuple(
        ProviderSettings(name=each.name, base_url=each.base_url, api_key_env="NO_SUCH_KEY")
        for each in system.settings.providers
    )
    system.settings = msgspec.structs.replace(system.settings, providers=keyed)
    await system.front()
    api = await system.customer()
    async with running_worker(system) as worker:
        await waiting.until(lambda: worker._fleet_size and worker._is_reported)

        async def is_refused() -> bool:
            system.clock.advance(1.1)
            answer = await api.post("/api/v1/chat", json={"message": "hello"})
            if answer.status_code == 200:
                return False
            refused(answer, 400, "NO_SUITABLE_MODEL")
            return True

        await waiting.until(is_refused)
    assert await _listed(system, api) == {}


async def test_what_only_models_without_a_key_can_do_is_no_feature_of_the_deployment(
    system: System,
) -> None:
    """As on `pollux up`, whose catalogue has many models and whose workers serve one."""
    alpha, beta, gamma = system.settings.models
    gamma = msgspec.structs.replace(gamma, capabilities=("web_search", "reasoning", "vision"))
    system.settings = msgspec.structs.replace(system.settings, models=(alpha, beta, gamma))
    await system.front()
    api = await system.customer()
    async with running_worker(system) as worker:
        await waiting.until(lambda: worker._is_reported)
        system.clock.advance(1.1)
        for fields in (
            {"web_search": True},
            {"deep_think": True},
            {"media_urls": ["https://example.org/bear.png"]},
            {"deep_think": True, "model": "alpha"},
        ):
            answer = await api.post("/api/v1/chat", json={"message": "hello", **fields})
            refusal = refused(answer, 400, "FEATURE_UNAVAILABLE")
            assert f"`{next(iter(fields))}`" in refusal["error"]
            answer = await api.post(CHAT, json={"message": "hello", **fields})
            kombify_refused(answer, 400, "FEATURE_UNAVAILABLE")


async def test_an_alias_stands_in_for_a_model_that_nobody_has_the_key_of(system: System) -> None:
    *others, gamma = system.settings.models
    named = msgspec.structs.replace(gamma, identifier="gpt-4o")
    system.settings = msgspec.structs.replace(system.settings, models=(*others, named))
    await system.front()
    api = await system.customer()
    async with running_worker(system):
        assert (await chat(api, "hello", model="gpt-4o"))["message"]["model"] == "alpha"
        async with running_worker(system, _KEY):

            async def is_itself() -> bool:
                system.clock.advance(1.1)
                said = await chat(api, "hello", model="gpt-4o")
                return bool(said["message"]["model"] == "gpt-4o")

            await waiting.until(is_itself)
        answer = await api.post(CHAT, json={"message": "hello", "model": "gpt-5"})
        kombify_refused(answer, 400, "MODEL_NOT_FOUND")
