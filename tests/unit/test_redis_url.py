"""What `redis.url` may contain beyond its pattern."""

from pathlib import Path

import pytest

from tests.unit.test_settings import faults_of, settings_of


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
def test_ignored_parts_of_the_url_are_a_fault(tmp_path: Path, url: str) -> None:
    faults = faults_of(tmp_path, REDIS_URL=url)
    assert "redis.url: only `db` may follow `?`, and `#` is not allowed" in faults[-1]
    assert "word" not in "".join(faults).replace("password", "")


def test_an_escaped_password_is_accepted(tmp_path: Path) -> None:
    url = "redis://:p%23%3Fw@h:6379/0"
    assert settings_of(tmp_path, REDIS_URL=url).redis.url == url
