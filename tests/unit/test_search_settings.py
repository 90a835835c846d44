"""The settings table `[search]`: which fields each search service requires."""

from pathlib import Path

import pytest

from tests.unit.test_settings import faults_of, settings_of


def test_a_search_service_is_configured_with_its_fields(tmp_path: Path) -> None:
    assert settings_of(tmp_path).search.service is None
    search = settings_of(
        tmp_path,
        '[search]\nservice = "brave"\napi_key_env = "POLLUX_BRAVE_KEY"\nrate = 5\n',
        POLLUX_BRAVE_KEY="k",
        POLLUX_SEARCH__RESULTS_MAX="3",
    ).search
    assert (search.service, search.rate, search.results_max) == ("brave", 5.0, 3)
    at_home = settings_of(
        tmp_path, POLLUX_SEARCH__SERVICE="searxng", POLLUX_SEARCH__BASE_URL="http://x:8080"
    )
    assert at_home.search.base_url == "http://x:8080"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('service = "searxng"', "search.base_url: is required by searxng"),
        ('service = "brave"\nbase_url = "http://x"', "search.api_key_env: is required by brave"),
        ('service = "tavily"\napi_key_env = ""', "search.api_key_env: is required by tavily"),
        ('service = "altavista"', "search.service: "),
        ("service = [1]", "search.service: "),
        ("results_max = 21", "search.results_max: "),
        ("seconds = 0", "search.seconds: "),
        ("rate = -1", "search.rate: "),
        ('key = "x"', "search.key: unknown setting"),
    ],
)
def test_an_unusable_search_service_is_a_fault(tmp_path: Path, text: str, fault: str) -> None:
    (found,) = faults_of(tmp_path, f"[search]\n{text}\n")
    assert found.startswith(fault)
