"""The start of the API: its warning where API keys have no secret, and its threads."""

import sys
from unittest.mock import Mock

import pytest
from structlog.testing import capture_logs

from api import __main__ as main
from api.__main__ import _warn_without_pepper
from shared.settings import AuthSettings, Settings


@pytest.mark.parametrize(("pepper", "count"), [(None, 1), ("", 1), (" \n", 1), ("a secret", 0)])
def test_an_api_without_a_pepper_says_so_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, pepper: str | None, count: int
) -> None:
    monkeypatch.delenv("OWN_PEPPER", raising=False)
    monkeypatch.setenv("POLLUX_PEPPER", "of another name")
    if pepper is not None:
        monkeypatch.setenv("OWN_PEPPER", pepper)
    with capture_logs() as lines:
        _warn_without_pepper(Settings(auth=AuthSettings(pepper_env="OWN_PEPPER")))
    assert len(lines) == count
    for line in lines:
        assert line["log_level"] == "warning"
        assert line["event"].startswith("no pepper is set")
        assert "OWN_PEPPER" in line["remedy"]


def test_the_event_loop_does_not_wait_long_for_another_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What holds for the whole process is set by a process of its own only, so it is noted here."""
    seconds: list[float] = []
    monkeypatch.setattr(sys, "setswitchinterval", seconds.append)
    for name in ("logs", "garbage_collection", "build"):
        monkeypatch.setattr(main, name, Mock())
    main.app()
    assert len(seconds) == 1
    assert 0 < seconds[0] <= 0.001
