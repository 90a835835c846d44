"""Settings of what lies outside: Redis, who searches the web, and where URLs may lead."""

from pathlib import Path

import pytest

from tests.unit.test_settings import faults_of, settings_of


def test_search_service_is_named_with_what_it_needs(tmp_path: Path) -> None:
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
def test_search_service_that_cannot_be_used_is_a_fault(
    tmp_path: Path, text: str, fault: str
) -> None:
    (found,) = faults_of(tmp_path, f"[search]\n{text}\n")
    assert found.startswith(fault)


@pytest.mark.parametrize("entry", ["", "http://a", "a b", "10.0.0.0/8/8", "a/b", "*.a", "a..b"])
def test_what_is_neither_a_network_nor_a_host_is_allowed_by_nobody(
    tmp_path: Path, entry: str
) -> None:
    faults = faults_of(tmp_path, f"[egress]\nallow = ['10.0.0.0/8', '{entry}']\n")
    assert len(faults) == 1
    assert faults[0].startswith("egress.allow: ")


@pytest.mark.parametrize("entry", ["10.0.0.0/99", "300.1.1.1", "fd00::/200", "0x7f.1", "1.2.3"])
def test_what_looks_like_a_network_and_is_none_is_a_fault(tmp_path: Path, entry: str) -> None:
    faults = faults_of(tmp_path, f"[egress]\nallow = ['10.0.0.0/8', '{entry}', 'files.local']\n")
    assert faults == [f"egress.allow: {entry} is neither a network nor a host name"]


def test_networks_and_hosts_may_be_allowed(tmp_path: Path) -> None:
    read = settings_of(
        tmp_path, "[egress]\nallow = ['10.0.0.1/8', 'fd00::/8', '::1', 'Files.local']\n"
    )
    assert read.egress.allow == ("10.0.0.1/8", "fd00::/8", "::1", "Files.local")
    assert read.egress.ports == (80, 443, 8080, 8443)


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http://:80",
        "https:///v1",
        "http://?a",
        "http://[",
        "http://h:abc",
        "http://u:p@h",
    ],
)
def test_an_address_without_a_host_or_with_a_secret_is_a_fault(tmp_path: Path, url: str) -> None:
    provider = f"[[providers]]\nname = 'p'\nbase_url = '{url}'\n"
    faults = faults_of(tmp_path, f"{provider}[search]\nservice = 'searxng'\nbase_url = '{url}'\n")
    named = [fault.partition(": ")[0] for fault in faults]
    assert named == ["providers[0].base_url", "search.base_url"]


@pytest.mark.parametrize(
    "url", ["http://h", "https://[::1]:8443/v1", "http://h:80?a", "http://h_1/v1"]
)
def test_an_address_names_a_host(tmp_path: Path, url: str) -> None:
    read = settings_of(tmp_path, f"[[providers]]\nname = 'p'\nbase_url = '{url}'\n")
    assert read.providers[0].base_url == url


@pytest.mark.parametrize(
    "url",
    [
        "rediss://h?ssl_cert_reqs=none",
        "redis://h/0?db=1&timeout=3",
        "unix:///s?ssl_ca_certs=",
        # Read as it stands, it leads to a host named `word` with the password `pass`.
        "redis://:pass@word#1@h/0",
        "redis://:pass#word@h/0",
    ],
)
def test_what_nobody_would_heed_in_the_url_of_redis_is_a_fault(tmp_path: Path, url: str) -> None:
    faults = faults_of(tmp_path, REDIS_URL=url)
    assert "redis.url: only `db` may follow `?`, and `#` is not allowed" in faults[-1]
    assert "word" not in "".join(faults).replace("password", "")


def test_quoted_marks_in_the_password_of_redis_are_no_fault(tmp_path: Path) -> None:
    url = "redis://:p%23%3Fw@h:6379/0"
    assert settings_of(tmp_path, REDIS_URL=url).redis.url == url


def test_a_replica_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, POLLUX_REDIS__REPLICA_SECONDS="0.0004")
    assert fault.startswith("redis.replica_seconds: ")


@pytest.mark.parametrize("text", ['path = "a\\u0000b"', f"path = {'[' * 3000}{']' * 3000}"])
def test_file_that_cannot_even_be_looked_for_is_a_fault(tmp_path: Path, text: str) -> None:
    (fault,) = faults_of(tmp_path, f"[catalogue]\n{text}\n")
    assert "not valid TOML" in fault
