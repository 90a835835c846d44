"""Names of settings: those that are not ours, and those that are nearly so."""

from pathlib import Path

import pytest

from shared.errors import ConfigurationError
from shared.settings import Settings


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
def test_what_a_cluster_sets_for_a_service_of_that_name_is_left_alone(
    tmp_path: Path, name: str
) -> None:
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
def test_an_unknown_variable_is_told_with_the_nearest_known(
    tmp_path: Path, name: str, nearest: str
) -> None:
    [fault] = _faults(tmp_path, {name: "1"})
    assert fault.startswith(f"{name}: unknown setting")
    assert fault.endswith(f"did you mean {nearest}?")


def test_an_unknown_name_in_a_file_is_told_with_the_nearest_known(tmp_path: Path) -> None:
    assert _faults(tmp_path, {}, "[worker]\nconcurency = 3") == [
        "worker.concurency: unknown setting; did you mean concurrency?"
    ]
