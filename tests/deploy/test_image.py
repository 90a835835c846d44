"""The image, the compose file and the pinning of images, as far as tests need no Docker."""

import fnmatch
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from deploy.local import valkey
from shared.errors import UnavailableError
from shared.redis import server_check
from shared.redis.client import Redis
from shared.settings import RedisSettings, Settings
from tests.deploy.compose_file import DEPLOY, MissingError, composition
from tests.support import processes, waiting
from tests.support.processes import Process

TOP: Final = DEPLOY.parent
SECRETS: Final = {"POLLUX_PEPPER": "pepper0", "VALKEY_PASSWORD": "secret0"}
DIGEST: Final = "sha256:" + "0123456789abcdef" * 4


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    return composition(SECRETS)


# The compose file


@pytest.mark.parametrize("missing", sorted(SECRETS))
def test_nothing_starts_without_its_secrets(missing: str) -> None:
    with pytest.raises(MissingError, match=missing):
        composition({name: value for name, value in SECRETS.items() if name != missing})


@pytest.mark.parametrize("name", ["valkey", "api", "worker"])
def test_every_service_has_limits(composed: dict[str, Any], name: str) -> None:
    service = composed["services"][name]
    assert service["pids_limit"] <= 1_000
    assert _bytes(service["mem_limit"]) <= 4 * 1024**3
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    log = service["logging"]
    assert log["driver"] == "json-file"
    assert _bytes(log["options"]["max-size"]) * int(log["options"]["max-file"]) <= 200 * 1024**2
    assert service["healthcheck"]["test"] if name != "worker" else True


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+)([kmg])b?", text)
    assert found is not None, text
    return int(found[1]) << 10 * (1 + "kmg".index(found[2]))


def test_the_api_listens_on_this_machine_only_by_default(
    composed: dict[str, Any],
) -> None:
    assert composed["services"]["api"]["ports"] == ["127.0.0.1:8000:8000"]
    changed = composition(SECRETS | {"LISTEN_ADDRESS": "0.0.0.0", "POLLUX_PORT": "80"})
    assert changed["services"]["api"]["ports"] == ["0.0.0.0:80:8000"]
    others = [service for name, service in composed["services"].items() if name != "api"]
    assert all("ports" not in service for service in others)


def test_the_store_is_reached_by_the_services_only(composed: dict[str, Any]) -> None:
    assert composed["services"]["valkey"]["networks"] == ["store"]
    assert composed["networks"]["store"] == {"internal": True}
    for name in ("api", "worker"):
        assert "store" in composed["services"][name]["networks"]


def test_each_service_receives_only_the_secrets_that_it_needs(composed: dict[str, Any]) -> None:
    services = composed["services"]
    assert services["api"]["environment"]["POLLUX_PEPPER"] == SECRETS["POLLUX_PEPPER"]
    for name in ("valkey", "worker"):
        assert SECRETS["POLLUX_PEPPER"] not in str(services[name])
    # A command line is visible in the list of processes.
    assert all(SECRETS["VALKEY_PASSWORD"] not in str(each["command"]) for each in services.values())


@pytest.mark.parametrize("name", ["api", "worker"])
def test_the_settings_of_a_service_are_settings(
    composed: dict[str, Any], name: str, tmp_path: Path
) -> None:
    environment = composed["services"][name]["environment"] | {"POLLUX_CONFIG": ""}
    del environment["POLLUX_CONFIG"]
    settings = Settings.read(environment, folder=tmp_path)
    assert settings.redis.url == f"redis://:{SECRETS['VALKEY_PASSWORD']}@valkey:6379/0"
    assert settings.redis.durability == "fsync"


async def test_valkey_starts_with_its_configuration_and_requires_its_password(
    composed: dict[str, Any], tmp_path: Path
) -> None:
    config, port = tmp_path / "valkey.conf", processes.free_port()
    config.write_text(composed["configs"]["valkey"]["content"])
    service = composed["services"]["valkey"]
    assert service["command"] == ["valkey-server", "/etc/valkey/valkey.conf"]
    words = [str(config), "--port", str(port), "--dir", str(tmp_path)]
    settings = RedisSettings(
        url=f"redis://:{SECRETS['VALKEY_PASSWORD']}@127.0.0.1:{port}/0", durability="fsync"
    )
    redis, unauthenticated = (
        Redis(settings),
        Redis(RedisSettings(url=f"redis://127.0.0.1:{port}/0")),
    )
    with Process(words, {}, tmp_path / "log", program=(str(valkey.binary()),)):
        await waiting.until(lambda: _is_up(redis), what="the server")
        with pytest.raises(UnavailableError, match="NOAUTH"):
            await unauthenticated.connect()
        # Its durability is what the settings of the services say.
        assert await server_check.check(redis, settings) == server_check.GUARANTEES["fsync"]
        server_config = await redis.call("CONFIG", "GET", "maxmemory*")
        assert server_config[b"maxmemory-policy"] == b"noeviction"
        memory_max = int(server_config[b"maxmemory"])
        assert 0 < memory_max * 3 // 2 <= _bytes(service["mem_limit"])
        await redis.close()
        await unauthenticated.close()


async def _is_up(redis: Redis) -> bool:
    try:
        return bool(await redis.call("PING"))
    except UnavailableError:
        return False


# The image


def _instructions() -> Iterator[tuple[str, str]]:
    for line in (DEPLOY / "Dockerfile").read_text().splitlines():
        if line and not line.startswith("#"):
            word, _, rest = line.partition(" ")
            yield word, rest


def test_what_the_image_installs_is_pinned_by_hash() -> None:
    installs = [
        command
        for word, rest in _instructions()
        if word == "RUN"
        for command in rest.split(" && ")
        if "pip " in command
    ]
    assert len(installs) == 4
    for command in installs:
        # Either our own package, without an index, or a file with hashes.
        is_own = {"--no-index", "--no-deps"} <= set(command.split())
        assert is_own or "--require-hashes" in command, command
    wheels = [command for command in installs if "pip wheel" in command]
    assert ["--no-build-isolation" in command for command in wheels] == [True]


def test_the_wheels_build_tools_are_pinned() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())
    needed = project["build-system"]["requires"]
    assert needed == project["dependency-groups"]["build"]
    pinned = (DEPLOY / "requirements" / "build.txt").read_text()
    for requirement in needed:
        name, version = requirement.split(" ==")
        assert f"{name}=={version} \\\n    --hash=sha256:" in pinned
    assert "build.txt" in (TOP / ".ci" / "run").read_text()


def _is_ignored(path: str) -> bool:
    """Return whether .dockerignore leaves a file out: the last matching pattern decides."""
    is_ignored = False
    for line in (TOP / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        parts = path.split("/")
        places = ["/".join(parts[: end + 1]) for end in range(len(parts))]
        bare = pattern.removeprefix("!")
        if any(_matches(place, bare) for place in places):
            is_ignored = not pattern.startswith("!")
    return is_ignored


def _matches(path: str, pattern: str) -> bool:
    if pattern.startswith("**/"):
        return fnmatch.fnmatchcase(path.rsplit("/", 1)[-1], pattern[3:])
    return "/" not in path and fnmatch.fnmatchcase(path, pattern)


def test_the_image_copies_all_of_the_product_and_nothing_else() -> None:
    copied = [
        source
        for word, rest in _instructions()
        if word == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    ]
    assert copied
    for source in copied:
        assert (TOP / source).exists(), source
        assert not _is_ignored(source), source
    tracked = subprocess.run(
        ["git", "ls-files", "api", "deploy", "shared", "worker"],
        cwd=TOP,
        check=True,
        capture_output=True,
        text=True,
    )
    assert not [path for path in tracked.stdout.split() if _is_ignored(path)]
    for path in (
        ".git/config",
        ".venv/bin/python",
        ".pollux/data/appendonly.aof",
        "deploy/.env",
        "deploy/.pollux/key",
        "providers.env",
        "pollux.toml",
        "tests/conftest.py",
        "api/__pycache__/app.cpython-311.pyc",
    ):
        assert _is_ignored(path), path


def test_the_image_runs_as_an_unprivileged_user() -> None:
    last = [rest for word, rest in _instructions() if word == "USER"]
    assert last == ["pollux"]


# Pinning


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Return a folder with pin.sh, compose.yaml and a fake docker that knows every image."""
    for name in ("pin.sh", "compose.yaml"):
        (tmp_path / name).write_bytes((DEPLOY / name).read_bytes())
    (tmp_path / "pin.sh").chmod(0o700)
    _fake_docker(tmp_path, f"Digest:    {DIGEST}")
    return tmp_path


def _fake_docker(folder: Path, output: str) -> None:
    program = folder / "docker"
    program.write_text(f'#!/bin/sh\necho "$@" >>"{folder}/asked"\necho "{output}"\n')
    program.chmod(0o700)


def _pin(folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [folder / "pin.sh"],
        env={"PATH": f"{folder}:/usr/bin:/bin"},
        check=False,
        capture_output=True,
        text=True,
    )


def test_pinning_writes_digests_and_keeps_the_rest(copied: Path) -> None:
    kept = copied / ".env"
    kept.write_text("POLLUX_PEPPER=mine\nVALKEY_IMAGE=valkey/valkey:8-alpine@old\n")
    done = _pin(copied)
    assert done.returncode == 0, done.stderr
    lines = kept.read_text().splitlines()
    assert lines[0] == "POLLUX_PEPPER=mine"
    pinned = dict(line.split("=", 1) for line in lines[1:])
    assert pinned == {
        "PYTHON_IMAGE": f"python:3.11-slim@{DIGEST}",
        "VALKEY_IMAGE": f"valkey/valkey:8-alpine@{DIGEST}",
    }
    assert kept.stat().st_mode & 0o077 == 0
    services = composition(SECRETS | pinned)["services"]
    assert services["valkey"]["image"] == pinned["VALKEY_IMAGE"]
    for name in ("api", "worker"):
        assert services[name]["build"]["args"] == {"PYTHON_IMAGE": pinned["PYTHON_IMAGE"]}
    assert sorted(path.name for path in copied.glob(".env*")) == [".env"]


@pytest.mark.parametrize("output", ["", "Digest: sha256:short", "ERROR: not found"])
def test_pinning_without_a_digest_changes_nothing(copied: Path, output: str) -> None:
    kept = copied / ".env"
    kept.write_text("POLLUX_PEPPER=mine\n")
    _fake_docker(copied, output)
    done = _pin(copied)
    assert done.returncode == 1
    assert "no digest was found" in done.stderr
    assert kept.read_text() == "POLLUX_PEPPER=mine\n"
    assert sorted(path.name for path in copied.glob(".env*")) == [".env"]


def test_the_image_is_built_on_the_pinned_image(composed: dict[str, Any]) -> None:
    arguments = [rest for word, rest in _instructions() if word == "ARG"]
    built = composed["services"]["api"]["build"]["args"]
    assert arguments == [f"PYTHON_IMAGE={built['PYTHON_IMAGE']}"]
    bases = [rest.split()[0] for word, rest in _instructions() if word == "FROM"]
    assert bases == ["${PYTHON_IMAGE}"] * 2
