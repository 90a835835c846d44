"""`pollux config`: faults, the effective values, and whether providers answer."""

import json
from pathlib import Path

import pytest

from deploy.local.catalogue import SHIPPED
from tests.deploy.conftest import Pollux
from tests.deploy.scripted_api import ScriptedApi, ScriptedReply
from tests.support import command


def _list(*names: str) -> ScriptedReply:
    entries = {"data": [{"id": name} for name in names]}
    return ScriptedReply((json.dumps(entries).encode(),), kind="application/json")


async def test_check_prints_a_summary(
    pollux: Pollux, catalogue_environment: dict[str, str], tmp_path: Path, scripted_api: ScriptedApi
) -> None:
    shown = pollux("config", "check", FAR_KEY="sk-hush", **catalogue_environment)
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.splitlines() == [
        f"read {tmp_path / 'pollux.toml'}",
        f"read {tmp_path / 'catalog.toml'}",
        "3 providers, 2 models, 4 companions",
        "  near: needs no key",
        "  far: FAR_KEY is set",
        "  wide: WIDE_KEY is not set: its models are not available here",
    ]
    assert scripted_api.requests == []


@pytest.mark.parametrize(
    ("key", "state"), [("sk-hush", "set"), (" ", "not set: it is not available here")]
)
def test_check_prints_the_search_service(pollux: Pollux, key: str, state: str) -> None:
    named = {"POLLUX_SEARCH__SERVICE": "brave", "POLLUX_SEARCH__API_KEY_ENV": "FIND_KEY"}
    shown = pollux("config", "check", FIND_KEY=key, **named)
    assert (shown.code, "sk-hush" in shown.out + shown.err) == (0, False)
    assert shown.out.splitlines()[-1] == f"  search by brave: FIND_KEY is {state}"


def test_show_prints_the_effective_values(pollux: Pollux, tmp_path: Path) -> None:
    file = tmp_path / "some.toml"
    file.write_text("[limits.free]\nrunning_max = 3\n")
    given = {
        "POLLUX_CONFIG": str(file),
        "POLLUX_WORKER__CONCURRENCY": "5",
        "REDIS_URL": "rediss://user:sk-hush@redis.internal:6380/1",
    }
    shown = pollux("config", "show", **given)
    assert (shown.code, shown.err, "sk-hush" in shown.out) == (0, "", False)
    lines = dict(line.split(" = ", 1) for line in shown.out.splitlines())
    assert lines["redis.url"] == '"rediss://user:***@redis.internal:6380/1"'
    assert lines["limits.free.running_max"] == "3"
    assert lines["limits.free.stored_bytes_max"] == "50000000"
    assert (lines["worker.concurrency"], lines["enhancement.model"]) == ("5", "null")
    assert json.loads(pollux("config", "show", "--json", **given).out)["egress.allow"] == []
    faulty = pollux("config", "show", POLLUX_REDIS__PARTITIONS="0")
    assert (faulty.code, faulty.out) == (1, "")


@pytest.mark.parametrize(
    ("path", "value", "shown"),
    [
        ("redis.url", "redis://svc@corp:sk-hush@there:1/0", "redis://svc@corp:***@there:1/0"),
        ("redis.url", "redis://svc@:sk-hush@there", "redis://svc@:***@there"),
        ("redis.url", "redis://:sk-@hu:sh@there/2", "redis://:***@there/2"),
        ("redis.url", "unix://us/er:sk-hush@/run/s?db=1", "unix://us/er:***@/run/s?db=1"),
        ("redis.url", "redis://user@[::1]:6379/0", "redis://user@[::1]:6379/0"),
        ("search.base_url", "https://find.internal/s?token=sk-hush", "https://find.internal/s?***"),
        ("search.base_url", "https://find.internal/#sk-hush", "https://find.internal/#***"),
        ("search.base_url", "http://find.internal:8080/s", "http://find.internal:8080/s"),
    ],
)
def test_show_masks_secrets_in_urls(pollux: Pollux, path: str, value: str, shown: str) -> None:
    name = f"POLLUX_{path.upper().replace('.', '__')}"
    printed = pollux("config", "show", **{name: value})
    assert (printed.code, "hush" in printed.out) == (0, False)
    assert f'{path} = "{shown}"' in printed.out.splitlines()
    assert json.loads(pollux("config", "show", "--json", **{name: value}).out)[path] == shown


def test_check_without_a_settings_file_says_so(pollux: Pollux) -> None:
    shown = pollux("config", "check")
    assert shown.code == 0
    assert shown.out.startswith("no settings file: ")


async def test_check_names_every_fault_with_its_path(
    pollux: Pollux, catalogue_environment: dict[str, str], tmp_path: Path
) -> None:
    catalogue = tmp_path / "catalog.toml"
    catalogue.write_text(catalogue.read_text() + "colour = 3\n")
    shown = pollux("config", "check", POLLUX_REDIS__PARTITIONS="0", **catalogue_environment)
    assert (shown.code, shown.out) == (1, "")
    assert shown.err.splitlines() == [
        "redis.partitions: expected `int` >= 1",
        f"{catalogue}: models[0].colour: unknown setting",
    ]


async def test_check_names_every_key_that_cannot_be_sent(
    pollux: Pollux, catalogue_environment: dict[str, str]
) -> None:
    shown = pollux("config", "check", FAR_KEY="sk-\x01", WIDE_KEY="ä", **catalogue_environment)
    assert shown.code == 1
    assert [line.split(":")[0] for line in shown.err.splitlines()] == ["FAR_KEY", "WIDE_KEY"]
    assert "sk-" not in shown.err
    named = {"POLLUX_SEARCH__SERVICE": "brave", "POLLUX_SEARCH__API_KEY_ENV": "FIND_KEY"}
    shown = pollux("config", "check", FIND_KEY="sk-\x01", **named)
    assert (shown.code, shown.err.split(":")[0]) == (1, "FIND_KEY")


async def test_try_asks_the_providers_whose_keys_are_set(
    short_folder: Path, catalogue_environment: dict[str, str], scripted_api: ScriptedApi
) -> None:
    scripted_api.replies.extend([_list("small-1", "big-1")] * 2)
    words = ("config", "check", "--try")
    environment = {**catalogue_environment, "FAR_KEY": "sk-hush\n"}
    async with command.running(*words, cwd=short_folder, environment=environment) as check:
        assert await check.wait_until_ended() == 0, check.text
        assert check.text.splitlines()[-2:] == ["  near: ok", "  far: ok"]
        assert "hush" not in check.text
    asked = {each.path: each.headers for each in scripted_api.requests}
    assert asked.keys() == {"/near/models", "/far/models?limit=1000"}
    assert "authorization" not in asked["/near/models"]
    assert asked["/far/models?limit=1000"]["x-api-key"] == "sk-hush"


async def test_a_failed_try_is_printed_and_sets_the_exit_code(
    short_folder: Path, catalogue_environment: dict[str, str], scripted_api: ScriptedApi
) -> None:
    scripted_api.replies.extend([ScriptedReply((b"sk-hush is wrong",), status=401)] * 2)
    words = ("config", "check", "--try")
    async with command.running(
        *words, cwd=short_folder, environment={**catalogue_environment, "FAR_KEY": "sk-hush"}
    ) as check:
        assert await check.wait_until_ended() == 1
        assert "  far: refuses the key (status 401)\n" in check.text
        assert "hush" not in check.text


def test_shipped_prints_the_path_of_the_shipped_catalogue(pollux: Pollux) -> None:
    assert pollux("config", "shipped").out == f"{SHIPPED}\n"
