"""`pollux models`: the catalogue as a table and as JSON."""

import json

from deploy.local.catalogue import SHIPPED
from shared.catalogue import Catalogue
from shared.settings import Settings
from tests.deploy.conftest import Pollux


async def test_models_are_printed_as_a_table(
    pollux: Pollux, catalogue_environment: dict[str, str]
) -> None:
    assert "FAR_KEY is not set" in pollux("models", **catalogue_environment).out
    shown = pollux("models", FAR_KEY="sk-hush", **catalogue_environment)
    assert shown.code == 0, shown.err
    head, small, big = shown.out.splitlines()
    assert head.split()[:4] == ["identifier", "name", "provider", "window"]
    assert small.split() == "small small near 4,096 0 0 - - none needed".split()
    assert big.split() == "big Big One far 200,000 1.25 10 2026-11-22 tools json set".split()
    assert "hush" not in shown.out


async def test_models_are_printed_as_json(
    pollux: Pollux, catalogue_environment: dict[str, str]
) -> None:
    small, big = json.loads(pollux("models", "--json", **catalogue_environment).out)
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


def test_the_shipped_models_are_listed_if_the_settings_name_none(pollux: Pollux) -> None:
    shipped = Catalogue.of(Settings.read({"POLLUX_CONFIG": str(SHIPPED)}))
    rows = json.loads(pollux("models", "--json").out)
    assert [row["identifier"] for row in rows] == list(shipped.by_identifier)
