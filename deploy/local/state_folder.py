"""The data folder of a local system: what outlives a restart.

Owns `.pollux` or whatever the caller names: a lock, so that two systems never share it; the
secrets, readable by their owner only; where the children write their logs, the embedded server its
data, and the workers what models make. Refuses to hold anything that lives only as long as the
processes do, except `running.json`, which says how to reach them.
"""

import contextlib
import fcntl
import os
import secrets
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from shared.clock import Clock
from shared.errors import ConfigurationError

_OTHER_ENDS_SECONDS_MAX: Final = 10.0
_POLL_SECONDS: Final = 0.05
_PEPPER_BYTES: Final = 32


class Secrets(msgspec.Struct, frozen=True, kw_only=True):
    """What only this folder knows: the pepper of its keys, and the key that `up` prints."""

    pepper: str
    api_key: str | None = None


class StateFolder:
    """A folder that this process holds; made by `held`."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        # Whoever inherits this descriptor keeps the folder locked as long as it lives.
        self.lock = lock
        self.logs = path / "logs"
        self.valkey = path / "valkey"
        self.media = path / "media"
        self.secrets = self._load_secrets()

    def save_secrets(self, changed: Secrets) -> None:
        """Store the secrets."""
        write_private(self.path / "secrets.json", msgspec.json.encode(changed))
        self.secrets = changed

    def write_running_file(self, environment: Mapping[str, str]) -> None:
        """Note how commands of the same machine reach the running system."""
        write_private(_running_file(self.path), msgspec.json.encode(dict(environment)))

    def _load_secrets(self) -> Secrets:
        where = self.path / "secrets.json"
        try:
            return msgspec.json.decode(where.read_bytes(), type=Secrets)
        except FileNotFoundError:
            new = Secrets(pepper=secrets.token_hex(_PEPPER_BYTES))
            self.save_secrets(new)
            return new
        except msgspec.DecodeError:
            raise ConfigurationError(
                [f"{where}: cannot be read as the secrets of a Pollux folder"]
            ) from None


@contextlib.asynccontextmanager
async def locked(path: Path, clock: Clock) -> AsyncIterator[StateFolder]:
    """Make the folder if needed and hold it.

    Raises:
        ConfigurationError: another Pollux holds it, or others than this user can reach it.

    """
    path = path.absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_private(path)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        lock = os.open(path / "lock", flags, 0o600)
    except OSError as error:
        raise ConfigurationError(
            [f"{path}: cannot be used as the data folder: {error.strerror}"]
        ) from None
    try:
        await _lock(path, lock, clock)
        try:
            yield StateFolder(path, lock)
        finally:
            _running_file(path).unlink(missing_ok=True)
    finally:
        os.close(lock)


def running_environment_of(path: Path) -> dict[str, str]:
    """Return how to reach the system that runs in this folder; empty when none does."""
    try:
        return msgspec.json.decode(_running_file(path).read_bytes(), type=dict[str, str])
    except (OSError, msgspec.DecodeError):
        return {}


def _check_private(path: Path) -> None:
    """Refuse a folder that others can reach: they could read its secrets, or put files there.

    Raises:
        ConfigurationError: it is another user's, or its mode lets others in.
        OSError: it cannot be looked at.

    """
    found = path.stat()
    if found.st_uid != os.geteuid():
        raise ConfigurationError([f"{path}: the data folder belongs to another user"])
    if found.st_mode & 0o077:
        raise ConfigurationError(
            [f"{path}: others can reach the data folder; run `chmod 700 {path}`"]
        )


async def _lock(path: Path, lock: int, clock: Clock) -> None:
    """Take the lock. A system that was killed a moment ago may still be ending: wait for it."""
    deadline = clock.monotonic() + _OTHER_ENDS_SECONDS_MAX
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(lock, 32, 0).decode(errors="replace").strip()
            if clock.monotonic() > deadline or _is_alive(owner):
                raise ConfigurationError(
                    [
                        f"{path}: another Pollux (process {owner or 'unknown'}) uses the data "
                        "folder; end it, or choose another with --folder"
                    ]
                ) from None
            await clock.sleep(_POLL_SECONDS)
        else:
            os.truncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
            return


def _is_alive(owner: str) -> bool:
    try:
        os.kill(int(owner), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def _running_file(path: Path) -> Path:
    return path / "running.json"


def write_private(where: Path, content: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all. Raises OSError."""
    new = where.with_suffix(".new")
    new.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(new, flags, 0o600), "wb") as file:
        file.write(content)
    new.replace(where)
