"""Reading settings: unknown names, variables of others, and files that cannot be parsed."""

from pathlib import Path

import pytest

from shared.errors import ConfigurationError
from shared.settings import Settings
from tests.unit.test_settings import faults_of


def _faults(folder: Path, environment: dict[str, str], text: str = "") -> list[str]:
    (folder / "pollux.toml").write_text(text)
    with pytest.raises(ConfigurationError) as raised:
        Settings.read(environment, folder=folder)
    return raised.value.faults


@pytest.mark.parametrize(
    "name",
    [
        "POLLUX_PORT",
        "POLLUX_SERVICE_HOST",
        "POLLUX_SERVICE_PORT",
        "POLLUX_SERVICE_PORT_HTTP",
        "POLLUX_PORT_8000_TCP",
        "POLLUX_PORT_8000_TCP_ADDR",
        "POLLUX_PORT_8000_TCP_PORT",
        "POLLUX_PORT_8000_TCP_PROTO",
        "POLLUX_API_SERVICE_HOST",
        "POLLUX_API_PORT_8000_TCP",
        "POLLUX_REDIS_PORT_6379_TCP_PROTO",
    ],
)
def test_variables_of_a_cluster_s_service_links_are_ignored(tmp_path: Path, name: str) -> None:
    assert Settings.read({name: "tcp://10.0.0.1:8000"}, folder=tmp_path) == Settings()


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("POLLUX_WORKER__CONCURENCY", "POLLUX_WORKER__CONCURRENCY"),
        ("POLLUX_CONCURRENCY", "POLLUX_WORKER__CONCURRENCY"),
        ("POLLUX_WORKER_CONCURRENCY", "POLLUX_WORKER__CONCURRENCY"),
        ("POLLUX_REDIS__PARTITION", "POLLUX_REDIS__PARTITIONS"),
        ("POLLUX_LIMITS__FREE__WEIGTH", "POLLUX_LIMITS__FREE__WEIGHT"),
    ],
)
def test_an_unknown_variable_is_reported_with_the_most_similar_one(
    tmp_path: Path, name: str, nearest: str
) -> None:
    [fault] = _faults(tmp_path, {name: "1"})
    assert fault.startswith(f"{name}: unknown setting")
    assert fault.endswith(f"did you mean {nearest}?")


def test_an_unknown_name_in_a_file_is_reported_with_the_most_similar_one(tmp_path: Path) -> None:
    assert _faults(tmp_path, {}, "[worker]\nconcurency = 3") == [
        "worker.concurency: unknown setting; did you mean concurrency?"
    ]


@pytest.mark.parametrize("text", ['path = "a\\u0000b"', f"path = {'[' * 3000}{']' * 3000}"])
def test_toml_that_cannot_be_parsed_is_a_fault(tmp_path: Path, text: str) -> None:
    (fault,) = faults_of(tmp_path, f"[catalogue]\n{text}\n")
    assert "not valid TOML" in fault
