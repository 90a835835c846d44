"""The reload of a worker's catalogue: running attempts, later ones, connections that are closed."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from shared.redis import keys
from shared.settings import ModelSettings, ProviderSettings, Settings
from shared.stores import fleet
from tests.support import processes
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.system import System
from tests.support.waiting import until
from tests.worker.front import Front
from tests.worker.running_workers import running_worker
from worker.consumer.arq_worker import PolluxWorker
from worker.providers.aiohttp_transport import AiohttpTransport
from worker.providers.http_provider import HttpProvider

_FAULTY = "the catalogue stays as it was"


@pytest.fixture
def environment(system: System, tmp_path: Path) -> Mapping[str, str]:
    """Return what leads a worker to the catalogue, which a test then rewrites."""
    return processes.environment(system.settings, tmp_path)


def _others(system: System) -> Settings:
    """Return settings in which the first provider is another, with one model, `delta`."""
    other = ProviderSettings(name="other", base_url=system.provider.url)
    delta = ModelSettings(identifier="delta", provider="other", upstream="upstream-delta")
    return msgspec.structs.replace(
        system.settings,
        providers=(other, *system.settings.providers[1:]),
        models=(delta, *system.settings.models[2:]),
    )


def _rewrite(environment: Mapping[str, str], old: str, new: str) -> None:
    where = Path(environment["POLLUX_CONFIG"])
    where.write_text(where.read_text().replace(old, new, 1))


async def _is_forgotten(front: Front, worker: PolluxWorker, model: str) -> bool:
    """As if a minute had passed since anybody served the model."""
    served = keys.SERVED_MODELS(keys.system_root(front.settings.redis))
    await front.redis.call("ZREM", served, model)
    return model not in worker.ctx["dependencies"].configured


def _connection(worker: PolluxWorker, provider: ProviderSettings) -> HttpProvider:
    found = worker.ctx["dependencies"].registry.connection(provider)
    assert isinstance(found, HttpProvider)
    return found


def _is_closed(connection: HttpProvider) -> bool:
    lines = connection._transport
    assert isinstance(lines, AiohttpTransport)
    return lines._client_session is not None and lines._client_session.closed


async def test_what_runs_ends_with_what_it_began_with(
    system: System,
    front: Front,
    provider: ScriptedProvider,
    environment: Mapping[str, str],
    tmp_path: Path,
) -> None:
    gate = asyncio.Event()
    provider.script.append(ScriptedAnswer(text="old words", gate=gate, gate_after=1))
    async with running_worker(system, environment) as worker:
        running = await front.submit(model="alpha")
        await front.seen(running, lambda found: found.text)
        before = _connection(worker, system.settings.providers[0])
        processes.environment(_others(system), tmp_path)
        worker._catalogue_reload.reload()
        next_ = await front.end(await front.submit(model="delta"))
        assert next_.stage == "completed"
        assert provider.requests[-1].body["model"] == "upstream-delta"
        await until(lambda: _is_forgotten(front, worker, "alpha"))
        gone = await front.end(await front.submit(model="alpha"))
        assert gone.assistant is not None
        assert gone.assistant.failure is not None
        assert gone.assistant.failure.code == "MODEL_NOT_FOUND"
        assert not _is_closed(before)
        gate.set()
        ended = await front.end(running)
        assert (ended.stage, ended.text) == ("completed", "old words")
        await until(lambda: _is_closed(before))


async def test_fleet_hears_of_it_with_the_next_report(
    system: System, front: Front, environment: Mapping[str, str], tmp_path: Path
) -> None:
    async def served() -> frozenset[str]:
        return (await fleet.load(front.redis, system.settings.redis)).models

    async with running_worker(system, environment) as worker:
        await until(lambda: worker._is_reported)
        processes.environment(_others(system), tmp_path)
        worker._catalogue_reload.reload()

        async def is_received() -> bool:
            return await served() == {"delta"}

        await until(is_received)


async def test_providers_that_stay_keep_their_connections(
    system: System, front: Front, environment: Mapping[str, str], tmp_path: Path
) -> None:
    async with running_worker(system, environment) as worker:
        await front.end(await front.submit())
        before = _connection(worker, system.settings.providers[0])
        dearer = tuple(
            msgspec.structs.replace(model, input_rate=5.0) for model in system.settings.models
        )
        processes.environment(msgspec.structs.replace(system.settings, models=dearer), tmp_path)
        worker._catalogue_reload.reload()
        await until(lambda: not worker._catalogue_reload._closing)
        assert _connection(worker, system.settings.providers[0]) is before
        assert not _is_closed(before)
        ended = await front.end(await front.submit())
        assert ended.assistant is not None
        assert ended.assistant.usage is not None
        used = ended.assistant.usage
        assert used.cost == (used.input_tokens * 5 + used.output_tokens * 2) * 100
        assert system.provider.connections == 1


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('"upstream-beta"', "3", "models[1].upstream: "),
        ('provider = "keyless"', 'provider = "nobody"', "models[2].provider: "),
        ("[[models]]", "[[models", "not valid TOML"),
    ],
)
async def test_a_faulty_one_changes_nothing_and_is_reported(
    system: System,
    front: Front,
    environment: Mapping[str, str],
    old: str,
    new: str,
    fault: str,
) -> None:
    system.expected.add(_FAULTY)
    async with running_worker(system, environment) as worker:
        dependencies = worker.ctx["dependencies"]
        _rewrite(environment, old, new)
        worker._catalogue_reload.reload()
        assert worker.ctx["dependencies"].registry is dependencies.registry
        [line] = [line for line in system.lines if line["event"] == _FAULTY]
        assert any(fault in each for each in line["faults"])
        assert (await front.end(await front.submit())).stage == "completed"


async def test_a_key_that_cannot_be_sent_changes_nothing(
    system: System, environment: Mapping[str, str]
) -> None:
    system.expected.add(_FAULTY)
    secrets = {**environment, "LATER_KEY": "sk-\x00"}
    async with running_worker(system, secrets) as worker:
        _rewrite(environment, "NO_SUCH_KEY", "LATER_KEY")
        worker._catalogue_reload.reload()
        [line] = [line for line in system.lines if line["event"] == _FAULTY]
        assert line["faults"] == ["LATER_KEY: holds what cannot be sent as a key"]


async def test_a_sighup_makes_a_process_read_its_catalogue_again(
    system: System, front: Front, provider: ScriptedProvider, tmp_path: Path
) -> None:
    spawned = await system.spawn_worker()
    processes.environment(_others(system), tmp_path)
    spawned.hang_up()
    await spawned.wait_for_line("catalogue reloaded")
    assert (await front.end(await front.submit(model="delta"))).stage == "completed"
    assert provider.requests[-1].body["model"] == "upstream-delta"
    spawned.terminate()
    assert await spawned.wait_until_ended() == 0
