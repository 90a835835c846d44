"""A supervisor keeps its children running, and however it ends, nothing stays behind."""

import asyncio
import io
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.progress import Progress
from deploy.local.supervisor import Child, StartError, Supervisor
from shared.clock import SystemClock
from tests.deploy.conftest import SupervisorProcess, folders_in
from tests.deploy.supervisor_program import idle
from tests.support import process_tree, waiting


def _supervisor(folder: Path, *cleanup_command: str) -> tuple[Supervisor, io.StringIO]:
    told = io.StringIO()
    supervisor = Supervisor(folder, Progress(told), SystemClock(), cleanup_command=cleanup_command)
    return supervisor, told


def _running(supervisor: Supervisor, name: str) -> list[int]:
    return [
        found.pid
        for found in process_tree.members(os.getpid())
        if found.group == supervisor.group and found.command.endswith(name)
    ]


async def _start(supervisor: Supervisor, logs: Path, *children: Child) -> None:
    """Start children, wait until they are ready, and end them."""
    async with supervisor:
        supervisor.launch(logs, *children)
        await supervisor.wait_until_ready()


async def _no() -> bool:
    return False


def test_ending_in_order_leaves_nothing(supervisor_process: SupervisorProcess) -> None:
    assert supervisor_process.process.stdin is not None
    supervisor_process.process.stdin.close()
    assert supervisor_process.process.wait(timeout=10) == 0
    assert not supervisor_process.left()
    assert not supervisor_process.folders()


def test_killing_the_supervisor_leaves_nothing(supervisor_process: SupervisorProcess) -> None:
    supervisor_process.process.kill()
    supervisor_process.process.wait()
    supervisor_process.wait_until_gone()


def test_killing_the_janitor_brings_another(supervisor_process: SupervisorProcess) -> None:
    first = supervisor_process.janitor
    os.kill(first, signal.SIGKILL)
    waiting.until_now(
        lambda: any(
            "deploy.local.janitor" in found.command and found.pid != first
            for found in process_tree.members(supervisor_process.process.pid)
        ),
        what="another janitor",
    )
    assert process_tree.is_alive(supervisor_process.children["front"])
    supervisor_process.children["second janitor"] = supervisor_process.janitor
    waiting.until_now(
        lambda: _group(supervisor_process.janitor) == _group(supervisor_process.children["front"]),
        what="its group",
    )
    supervisor_process.process.kill()
    supervisor_process.wait_until_gone()


def _group(pid: int) -> int:
    return os.getpgid(pid)


def test_the_supervisors_own_group_is_not_touched(supervisor_process: SupervisorProcess) -> None:
    assert _group(supervisor_process.children["front"]) == _group(
        supervisor_process.children["store"]
    )
    assert _group(supervisor_process.children["front"]) != _group(supervisor_process.process.pid)


async def test_a_killed_child_is_started_again(short_folder: Path) -> None:
    supervisor, told = _supervisor(short_folder)
    async with supervisor:
        supervisor.launch(short_folder / "logs", idle("front"))
        await supervisor.wait_until_ready()
        [first] = await waiting.until(lambda: _running(supervisor, "front"))
        os.kill(first, signal.SIGKILL)
        [second] = await waiting.until(
            lambda: [pid for pid in _running(supervisor, "front") if pid != first]
        )
    assert "front was killed by signal 9; it is restarted" in told.getvalue()
    assert not process_tree.is_alive(second)


async def test_a_child_that_cannot_start_is_told_with_its_last_words(short_folder: Path) -> None:
    supervisor, _ = _supervisor(short_folder)
    words = "import sys; print('first', flush=True); sys.exit('the reason')"
    child = Child(
        name="front", command=(sys.executable, "-S", "-c", words), environment={}, is_ready=_no
    )
    with pytest.raises(
        StartError, match="front exited with code 1 while starting: the reason"
    ) as raised:
        await _start(supervisor, short_folder / "logs", child)
    assert raised.value.last_lines[-2:] == ["first", "the reason"]
    assert raised.value.log == short_folder / "logs" / "front.log"
    assert not folders_in(short_folder)


async def test_a_child_that_never_becomes_ready_is_told(short_folder: Path) -> None:
    supervisor, _ = _supervisor(short_folder)
    command = idle("front").command
    child = Child(name="front", command=command, environment={}, is_ready=_no, ready_seconds=0.2)
    with pytest.raises(StartError, match="front did not become ready"):
        await _start(supervisor, short_folder / "logs", child)


async def test_the_last_command_runs_when_no_child_is_left(short_folder: Path) -> None:
    words = "import pathlib, sys; pathlib.Path(sys.argv[1]).touch()"
    supervisor, _ = _supervisor(
        short_folder, sys.executable, "-S", "-c", words, str(short_folder / "ran")
    )
    async with supervisor:
        supervisor.launch(short_folder / "logs", idle("front"))
        await supervisor.wait_until_ready()
        assert not (short_folder / "ran").exists()
    assert (short_folder / "ran").exists()


async def test_an_ending_that_is_cancelled_still_leaves_nothing(short_folder: Path) -> None:
    supervisor, _ = _supervisor(short_folder)
    running = asyncio.Event()

    async def work() -> None:
        async with supervisor:
            supervisor.launch(short_folder / "logs", idle("mule", stubborn=True))
            await supervisor.wait_until_ready()
            await waiting.until(lambda: _running(supervisor, "mule"))
            running.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(work())
    await running.wait()
    [mule] = _running(supervisor, "mule")
    task.cancel()
    await asyncio.sleep(0)  # noqa: TID251  a turn of the loop, so that the ending has begun
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not process_tree.is_alive(mule)
    assert not folders_in(short_folder)


async def test_the_folder_is_private_and_nobody_elses(short_folder: Path) -> None:
    supervisor, _ = _supervisor(short_folder)
    async with supervisor:
        found = supervisor.folder.lstat()
        assert stat.S_IMODE(found.st_mode) == 0o700
        assert found.st_uid == os.geteuid()
        assert supervisor.folder.parent == short_folder


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_janitor_takes_over_no_folder_that_others_can_reach(
    short_folder: Path, mode: int
) -> None:
    strange = short_folder / "pollux-strange"
    strange.mkdir()
    strange.chmod(mode)
    ended = subprocess.run(
        [sys.executable, "-m", "deploy.local.janitor", "--folder", strange],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert ended.returncode != 0
    assert b"not a private folder" in ended.stderr
    assert strange.exists()


def test_a_janitor_takes_over_no_link(short_folder: Path) -> None:
    (short_folder / "theirs").mkdir(mode=0o700)
    (short_folder / "pollux-link").symlink_to(short_folder / "theirs")
    ended = subprocess.run(
        [sys.executable, "-m", "deploy.local.janitor", "--folder", short_folder / "pollux-link"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert ended.returncode != 0
