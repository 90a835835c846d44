"""The catalogue is reloaded at SIGHUP, by one process and by several."""

from pathlib import Path

import msgspec

from tests.support import processes, waiting
from tests.support.api_client import ApiClient, body, refused
from tests.support.processes import Process
from tests.support.system import System


def _rename(system: System, folder: Path, name: str) -> None:
    """Rename the first model in the catalogue's file."""
    first, *others = system.settings.models
    changed = msgspec.structs.replace(first, name=name, identifier=name.lower())
    settings = msgspec.structs.replace(system.settings, models=(changed, *others))
    processes.environment(settings, folder)


async def _names(api: ApiClient) -> list[str]:
    return [model["name"] for model in body(await api.get("/api/v1/models"))["models"]]


def _count(front: Process, event: str) -> int:
    return sum(line["event"] == event for line in front.lines())


async def test_sighup_reloads_the_catalogue(system: System, tmp_path: Path) -> None:
    front = await system.spawn_front()
    api = await system.customer()
    assert await _names(api) == ["Alpha", "beta"]
    await api.submit("hello", model="alpha")
    _rename(system, tmp_path, "Omega")
    front.hang_up()
    await front.wait_for_line("catalogue reloaded")
    assert await _names(api) == ["Omega", "beta"]
    await api.submit("hello", model="omega")
    asked = {"message": "hello", "model": "alpha"}
    refused(await api.post("/api/v1/chat", json=asked), 400, "MODEL_NOT_FOUND")


async def test_a_faulty_catalogue_leaves_the_old_one(system: System, tmp_path: Path) -> None:
    front = await system.spawn_front()
    api = await system.customer()
    where = tmp_path / "catalogue.toml"
    where.write_text(where.read_text().replace('"upstream-beta"', "3"))
    front.hang_up()
    await front.wait_for_line("the catalogue stays as it was")
    [line] = [line for line in front.lines() if "faults" in line]
    assert line["level"] == "error"
    assert line["faults"] == ["models[1].upstream: expected `str`, got `int`"]
    assert await _names(api) == ["Alpha", "beta"]


async def test_several_processes_all_read_it_and_none_is_replaced(
    system: System, tmp_path: Path
) -> None:
    front = await system.spawn_front("--workers", "2")
    api = await system.customer()
    await waiting.until(lambda: _count(front, "front ready") == 2)
    _rename(system, tmp_path, "Omega")
    front.hang_up()
    await waiting.until(lambda: _count(front, "catalogue reloaded") == 2)
    assert await _names(api) == ["Omega", "beta"]
    assert _count(front, "front ready") == 2
    front.terminate()
    assert await front.wait_until_ended() == 0
