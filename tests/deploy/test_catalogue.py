"""`pollux models` and `pollux config`: what there is, what is wrong with it, and who answers."""

import json
from pathlib import Path

import pytest

from deploy.local.catalogue import SHIPPED
from shared.catalogue import Catalogue
from shared.settings import Settings
from tests.deploy.conftest import Pollux
from tests.deploy.scripted_api import ScriptedApi, ScriptedReply
from tests.support import command

_SETTINGS = """
[catalogue]
path = "catalog.toml"

[[providers]]
name = "near"
base_url = "{url}/near"

[[models]]
identifier = "small"
provider = "near"
upstream = "small-1"
context_window = 4096
"""
_MORE = """
[[providers]]
name = "far"
base_url = "{url}/far/"
dialect = "anthropic"
api_key_env = "FAR_KEY"

[[providers]]
name = "wide"
base_url = "{url}/wide"
dialect = "gemini"
api_key_env = "WIDE_KEY"

[[models]]
identifier = "big"
provider = "far"
upstream = "big-1"
name = "Big One"
context_window = 200_000
input_rate = 1.25
output_rate = 10.0
rates_date = 2026-11-22
capabilities = ["tools", "json"]
"""


@pytest.fixture(name="reach")
def _write_settings(tmp_path: Path, scripted_api: ScriptedApi) -> dict[str, str]:
    """Return what leads the command to a settings file and a catalogue beside it."""
    (tmp_path / "pollux.toml").write_text(_SETTINGS.replace("{url}", scripted_api.url))
    (tmp_path / "catalog.toml").write_text(_MORE.replace("{url}", scripted_api.url))
    return {"POLLUX_CONFIG": str(tmp_path / "pollux.toml")}


def _list(*names: str) -> ScriptedReply:
    entries = {"data": [{"id": name} for name in names]}
    return ScriptedReply((json.dumps(entries).encode(),), kind="application/json")


async def test_models_are_a_table(pollux: Pollux, reach: dict[str, str]) -> None:
    assert "FAR_KEY is not set" in pollux("models", **reach).out
    shown = pollux("models", FAR_KEY="sk-hush", **reach)
    assert shown.code == 0, shown.err
    head, small, big = shown.out.splitlines()
    assert head.split()[:4] == ["identifier", "name", "provider", "window"]
    assert small.split() == "small small near 4,096 0 0 - - none needed".split()
    assert big.split() == "big Big One far 200,000 1.25 10 2026-11-22 tools json set".split()
    assert "hush" not in shown.out


async def test_models_are_json(pollux: Pollux, reach: dict[str, str]) -> None:
    small, big = json.loads(pollux("models", "--json", **reach).out)
    assert (small["identifier"], small["has_key"], small["rates_date"]) == ("small", True, None)
    assert big == {
        "identifier": "big",
        "name": "Big One",
        "provider": "far",
        "upstream": "big-1",
        "aliases": [],
        "context_window": 200_000,
        "max_output_tokens": 2048,
        "input_rate": 1.25,
        "output_rate": 10.0,
        "rates_date": "2026-11-22",
        "capabilities": ["tools", "json"],
        "api_key_env": "FAR_KEY",
        "has_key": False,
    }


def test_models_that_ship_are_listed_where_none_is_named(pollux: Pollux) -> None:
    shipped = Catalogue.of(Settings.read({"POLLUX_CONFIG": str(SHIPPED)}))
    rows = json.loads(pollux("models", "--json").out)
    assert [row["identifier"] for row in rows] == list(shipped.by_identifier)
    assert pollux("config", "shipped").out == f"{SHIPPED}\n"


async def test_a_check_tells_what_was_read(
    pollux: Pollux, reach: dict[str, str], tmp_path: Path, scripted_api: ScriptedApi
) -> None:
    shown = pollux("config", "check", FAR_KEY="sk-hush", **reach)
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.splitlines() == [
        f"read {tmp_path / 'pollux.toml'}",
        f"read {tmp_path / 'catalog.toml'}",
        "3 providers, 2 models, 4 companions",
        "  near: needs no key",
        "  far: FAR_KEY is set",
        "  wide: WIDE_KEY is not set: its models are not available here",
    ]
    assert scripted_api.asked == []


@pytest.mark.parametrize(
    ("key", "told"), [("sk-hush", "set"), (" ", "not set: it is not available here")]
)
def test_a_check_tells_who_searches(pollux: Pollux, key: str, told: str) -> None:
    named = {"POLLUX_SEARCH__SERVICE": "brave", "POLLUX_SEARCH__API_KEY_ENV": "FIND_KEY"}
    shown = pollux("config", "check", FIND_KEY=key, **named)
    assert (shown.code, "sk-hush" in shown.out + shown.err) == (0, False)
    assert shown.out.splitlines()[-1] == f"  search by brave: FIND_KEY is {told}"


def test_settings_are_shown_as_they_hold(pollux: Pollux, tmp_path: Path) -> None:
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
def test_secrets_inside_of_urls_are_not_shown(
    pollux: Pollux, path: str, value: str, shown: str
) -> None:
    name = f"POLLUX_{path.upper().replace('.', '__')}"
    told = pollux("config", "show", **{name: value})
    assert (told.code, "hush" in told.out) == (0, False)
    assert f'{path} = "{shown}"' in told.out.splitlines()
    assert json.loads(pollux("config", "show", "--json", **{name: value}).out)[path] == shown


def test_a_check_of_nothing_says_so(pollux: Pollux) -> None:
    shown = pollux("config", "check")
    assert shown.code == 0
    assert shown.out.startswith("no settings file: ")


async def test_a_check_names_every_fault_with_its_path(
    pollux: Pollux, reach: dict[str, str], tmp_path: Path
) -> None:
    catalogue = tmp_path / "catalog.toml"
    catalogue.write_text(catalogue.read_text() + "colour = 3\n")
    shown = pollux("config", "check", POLLUX_REDIS__PARTITIONS="0", **reach)
    assert (shown.code, shown.out) == (1, "")
    assert shown.err.splitlines() == [
        "redis.partitions: expected `int` >= 1",
        f"{catalogue}: models[0].colour: unknown setting",
    ]


async def test_a_check_names_every_key_that_cannot_be_sent(
    pollux: Pollux, reach: dict[str, str]
) -> None:
    shown = pollux("config", "check", FAR_KEY="sk-\x01", WIDE_KEY="ä", **reach)
    assert shown.code == 1
    assert [line.split(":")[0] for line in shown.err.splitlines()] == ["FAR_KEY", "WIDE_KEY"]
    assert "sk-" not in shown.err
    named = {"POLLUX_SEARCH__SERVICE": "brave", "POLLUX_SEARCH__API_KEY_ENV": "FIND_KEY"}
    shown = pollux("config", "check", FIND_KEY="sk-\x01", **named)
    assert (shown.code, shown.err.split(":")[0]) == (1, "FIND_KEY")


async def test_those_whose_key_is_there_are_tried(
    short_folder: Path, reach: dict[str, str], scripted_api: ScriptedApi
) -> None:
    scripted_api.lines.extend([_list("small-1", "big-1")] * 2)
    words = ("config", "check", "--try")
    environment = {**reach, "FAR_KEY": "sk-hush\n"}
    async with command.running(*words, cwd=short_folder, environment=environment) as check:
        assert await check.wait_until_ended() == 0, check.text
        assert check.text.splitlines()[-2:] == ["  near: ok", "  far: ok"]
        assert "hush" not in check.text
    asked = {each.path: each.headers for each in scripted_api.asked}
    assert asked.keys() == {"/near/models", "/far/models?limit=1000"}
    assert "authorization" not in asked["/near/models"]
    assert asked["/far/models?limit=1000"]["x-api-key"] == "sk-hush"


async def test_a_try_that_fails_is_told_and_is_the_exit_code(
    short_folder: Path, reach: dict[str, str], scripted_api: ScriptedApi
) -> None:
    scripted_api.lines.extend([ScriptedReply((b"sk-hush is wrong",), status=401)] * 2)
    words = ("config", "check", "--try")
    async with command.running(
        *words, cwd=short_folder, environment={**reach, "FAR_KEY": "sk-hush"}
    ) as check:
        assert await check.wait_until_ended() == 1
        assert "  far: refuses the key (status 401)\n" in check.text
        assert "hush" not in check.text
