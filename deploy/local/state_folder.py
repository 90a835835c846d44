"""The state folder of a local system: everything that outlives a restart.

Owns `.pollux`, or the folder that `--folder` names: a lock, so that two systems never share it; the
secrets, readable by their owner only; the children's logs, the embedded server's data, and the
media files that models make. Refuses to hold what lives only as long as the processes do, except
`running.json`, from which other commands read how to reach the running system.
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
    """The secrets of this folder: the pepper that keys are hashed with, and the key of `dev`."""

    pepper: str
    api_key: str | None = None


class StateFolder:
    """A state folder that this process has locked; `locked` opens it."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        # A child that inherits this descriptor keeps the folder locked as long as it lives.
        self.lock = lock
        self.logs = path / "logs"
        self.valkey = path / "valkey"
        self.media = path / "media"
        self.secrets = self._load_secrets()

    def save_secrets(self, changed: Secrets) -> None:
        """Write the secrets to the folder."""
        write_private(self.path / "secrets.json", msgspec.json.encode(changed))
        self.secrets = changed

    def write_running_file(self, environment: Mapping[str, str]) -> None:
        """Write the variables with which commands on this machine reach the running system."""
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
    """Create the folder if needed, and keep it locked as long as the context lasts.

    Raises:
        ConfigurationError: another Pollux uses it, or other users can reach it.

    """
    path = path.absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_private(path)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        lock = os.open(path / "lock", flags, 0o600)
    except OSError as error:
        raise ConfigurationError(
            [f"{path}: cannot be used as the state folder: {error.strerror}"]
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
    """Return the variables that reach the system that runs in this folder; empty if none runs."""
    try:
        return msgspec.json.decode(_running_file(path).read_bytes(), type=dict[str, str])
    except (OSError, msgspec.DecodeError):
        return {}


def _check_private(path: Path) -> None:
    """Refuse a folder that other users can reach: they could read its secrets or add files.

    Raises:
        ConfigurationError: it belongs to another user, or its mode lets other users in.
        OSError: its owner and mode cannot be read.

    """
    found = path.stat()
    if found.st_uid != os.geteuid():
        raise ConfigurationError([f"{path}: the state folder belongs to another user"])
    if found.st_mode & 0o077:
        raise ConfigurationError(
            [f"{path}: other users can reach the state folder; run `chmod 700 {path}`"]
        )


async def _lock(path: Path, lock: int, clock: Clock) -> None:
    """Take the lock. Children of a system that was just killed may still hold it: wait for them."""
    deadline = clock.monotonic() + _OTHER_ENDS_SECONDS_MAX
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(lock, 32, 0).decode(errors="replace").strip()
            if clock.monotonic() > deadline or _is_alive(owner):
                raise ConfigurationError(
                    [
                        f"{path}: another Pollux (process {owner or 'unknown'}) uses this state "
                        "folder; stop it, or choose another folder with --folder"
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
    """Write a file that only its owner can read, atomically. Raises OSError."""
    new = where.with_suffix(".new")
    new.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(new, flags, 0o600), "wb") as file:
        file.write(content)
    new.replace(where)
