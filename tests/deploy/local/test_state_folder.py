"""The state folder: one system at a time, and secrets that outlive it."""

import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from typing_extensions import override

from deploy.local import state_folder
from shared.clock import SystemClock
from shared.errors import ConfigurationError

_HOLD = """
import fcntl, os, sys
lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX)
os.write(lock, sys.argv[2].encode())
print("held", flush=True)
sys.stdin.read()
"""


def _holder(path: Path, owner: str) -> "subprocess.Popen[str]":
    """Return a process that holds the folder's lock; the lock file names `owner` as its process."""
    path.mkdir(mode=0o700)
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", _HOLD, str(path / "lock"), owner],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


async def test_secrets_are_private_and_kept(short_folder: Path) -> None:
    async with state_folder.locked(short_folder / "a", SystemClock()) as first:
        first.save_secrets(msgspec.structs.replace(first.secrets, api_key="k"))
    async with state_folder.locked(short_folder / "a", SystemClock()) as second:
        assert second.secrets == first.secrets
    mode = (short_folder / "a" / "secrets.json").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


async def test_two_folders_have_two_peppers(short_folder: Path) -> None:
    async with (
        state_folder.locked(short_folder / "a", SystemClock()) as one,
        state_folder.locked(short_folder / "b", SystemClock()) as other,
    ):
        assert one.secrets.pepper != other.secrets.pepper


async def test_a_folder_in_use_is_refused_at_once(short_folder: Path) -> None:
    with _holder(short_folder / "a", str(os.getpid())) as holder:
        with pytest.raises(ConfigurationError, match=f"process {os.getpid()}"):
            async with state_folder.locked(short_folder / "a", SystemClock()):
                pass
        holder.kill()


async def test_the_lock_of_a_killed_system_is_waited_for(short_folder: Path) -> None:
    with _holder(short_folder / "a", "999999999") as holder:
        assert holder.stdin is not None

        class KillingClock(SystemClock):
            """A clock in whose first sleep the holder of the lock is killed."""

            @override
            async def sleep(self, seconds: float) -> None:
                holder.kill()
                holder.wait()
                await super().sleep(seconds)

        async with state_folder.locked(short_folder / "a", KillingClock()) as locked:
            assert locked.path == short_folder / "a"


async def test_an_inherited_lock_keeps_the_folder_locked(short_folder: Path) -> None:
    async with state_folder.locked(short_folder / "a", SystemClock()) as locked:
        inherited = os.dup(locked.lock)
    with (short_folder / "a" / "lock").open() as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(inherited)


async def test_the_running_file_exists_only_while_the_system_runs(short_folder: Path) -> None:
    async with state_folder.locked(short_folder / "a", SystemClock()) as locked:
        locked.write_running_file({"REDIS_URL": "unix:///s"})
        assert state_folder.running_environment_of(short_folder / "a") == {"REDIS_URL": "unix:///s"}
    assert state_folder.running_environment_of(short_folder / "a") == {}


async def test_a_folder_that_cannot_be_created_is_reported(short_folder: Path) -> None:
    (short_folder / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be used as the state folder"):
        async with state_folder.locked(short_folder / "file" / "a", SystemClock()):
            pass


async def test_damaged_secrets_are_reported_and_not_replaced(short_folder: Path) -> None:
    (short_folder / "a").mkdir(mode=0o700)
    (short_folder / "a" / "secrets.json").write_text("not json")
    with pytest.raises(ConfigurationError, match="secrets"):
        async with state_folder.locked(short_folder / "a", SystemClock()):
            pass
    assert (short_folder / "a" / "secrets.json").read_text() == "not json"


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o711])
async def test_a_folder_that_other_users_can_reach_is_refused(
    short_folder: Path, mode: int
) -> None:
    (short_folder / "a").mkdir()
    (short_folder / "a").chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod 700"):
        async with state_folder.locked(short_folder / "a", SystemClock()):
            pass


async def test_a_lock_file_that_is_a_symbolic_link_is_refused(short_folder: Path) -> None:
    (short_folder / "a").mkdir(mode=0o700)
    (short_folder / "victim").write_text("theirs")
    (short_folder / "a" / "lock").symlink_to(short_folder / "victim")
    with pytest.raises(ConfigurationError, match="cannot be used"):
        async with state_folder.locked(short_folder / "a", SystemClock()):
            pass
    assert (short_folder / "victim").read_text() == "theirs"
