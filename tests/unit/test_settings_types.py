"""Field types of the settings: URLs, networks and host names, and times that must not be zero."""

from pathlib import Path

import pytest

from tests.unit.test_settings import faults_of, settings_of


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
def test_a_base_url_without_a_host_or_with_credentials_is_a_fault(tmp_path: Path, url: str) -> None:
    provider = f"[[providers]]\nname = 'p'\nbase_url = '{url}'\n"
    faults = faults_of(tmp_path, f"{provider}[search]\nservice = 'searxng'\nbase_url = '{url}'\n")
    named = [fault.partition(": ")[0] for fault in faults]
    assert named == ["providers[0].base_url", "search.base_url"]


@pytest.mark.parametrize(
    "url", ["http://h", "https://[::1]:8443/v1", "http://h:80?a", "http://h_1/v1"]
)
def test_a_base_url_with_a_host_is_accepted(tmp_path: Path, url: str) -> None:
    read = settings_of(tmp_path, f"[[providers]]\nname = 'p'\nbase_url = '{url}'\n")
    assert read.providers[0].base_url == url


@pytest.mark.parametrize("entry", ["", "http://a", "a b", "10.0.0.0/8/8", "a/b", "*.a", "a..b"])
def test_an_entry_that_is_no_network_and_no_host_name_is_a_fault(
    tmp_path: Path, entry: str
) -> None:
    faults = faults_of(tmp_path, f"[egress]\nallow = ['10.0.0.0/8', '{entry}']\n")
    assert len(faults) == 1
    assert faults[0].startswith("egress.allow: ")


@pytest.mark.parametrize("entry", ["10.0.0.0/99", "300.1.1.1", "fd00::/200", "0x7f.1", "1.2.3"])
def test_an_invalid_network_is_a_fault(tmp_path: Path, entry: str) -> None:
    faults = faults_of(tmp_path, f"[egress]\nallow = ['10.0.0.0/8', '{entry}', 'files.local']\n")
    assert faults == [f"egress.allow: {entry} is neither a network nor a host name"]


def test_networks_and_hosts_may_be_allowed(tmp_path: Path) -> None:
    read = settings_of(
        tmp_path, "[egress]\nallow = ['10.0.0.1/8', 'fd00::/8', '::1', 'Files.local']\n"
    )
    assert read.egress.allow == ("10.0.0.1/8", "fd00::/8", "::1", "Files.local")
    assert read.egress.ports == (80, 443, 8080, 8443)


def test_the_wait_for_a_replica_is_never_zero_milliseconds(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, POLLUX_REDIS__REPLICA_SECONDS="0.0004")
    assert fault.startswith("redis.replica_seconds: ")
