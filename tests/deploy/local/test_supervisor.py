"""The supervisor: it restarts its children, and however it ends, it leaves nothing behind."""

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
    output = io.StringIO()
    supervisor = Supervisor(
        folder, Progress(output), SystemClock(), cleanup_command=cleanup_command
    )
    return supervisor, output


def _pids(supervisor: Supervisor, name: str) -> list[int]:
    return [
        found.pid
        for found in process_tree.members(os.getpid())
        if found.group == supervisor.group and found.command.endswith(name)
    ]


async def _start(supervisor: Supervisor, logs: Path, *children: Child) -> None:
    """Start children, wait until they are ready, and stop them."""
    async with supervisor:
        supervisor.launch(logs, *children)
        await supervisor.wait_until_ready()


async def _no() -> bool:
    return False


def test_an_orderly_stop_leaves_nothing(supervisor_process: SupervisorProcess) -> None:
    assert supervisor_process.process.stdin is not None
    supervisor_process.process.stdin.close()
    assert supervisor_process.process.wait(timeout=10) == 0
    assert not supervisor_process.alive_children()
    assert not supervisor_process.folders()


def test_killing_the_supervisor_leaves_nothing(supervisor_process: SupervisorProcess) -> None:
    supervisor_process.process.kill()
    supervisor_process.process.wait()
    supervisor_process.wait_until_gone()


def test_a_killed_janitor_is_replaced(supervisor_process: SupervisorProcess) -> None:
    first = supervisor_process.janitor
    os.kill(first, signal.SIGKILL)
    waiting.until_now(
        lambda: any(
            "deploy.local.janitor" in found.command and found.pid != first
            for found in process_tree.members(supervisor_process.process.pid)
        ),
        what="another janitor",
    )
    assert process_tree.is_alive(supervisor_process.children["api"])
    supervisor_process.children["second janitor"] = supervisor_process.janitor
    waiting.until_now(
        lambda: _group(supervisor_process.janitor) == _group(supervisor_process.children["api"]),
        what="its group",
    )
    supervisor_process.process.kill()
    supervisor_process.wait_until_gone()


def _group(pid: int) -> int:
    return os.getpgid(pid)


def test_the_supervisors_own_group_is_not_touched(supervisor_process: SupervisorProcess) -> None:
    assert _group(supervisor_process.children["api"]) == _group(
        supervisor_process.children["store"]
    )
    assert _group(supervisor_process.children["api"]) != _group(supervisor_process.process.pid)


async def test_a_killed_child_is_restarted(short_folder: Path) -> None:
    supervisor, output = _supervisor(short_folder)
    async with supervisor:
        supervisor.launch(short_folder / "logs", idle("api"))
        await supervisor.wait_until_ready()
        [first] = await waiting.until(lambda: _pids(supervisor, "api"))
        os.kill(first, signal.SIGKILL)
        [second] = await waiting.until(
            lambda: [pid for pid in _pids(supervisor, "api") if pid != first]
        )
    assert "api was killed by signal 9; it is restarted" in output.getvalue()
    assert not process_tree.is_alive(second)


async def test_a_child_that_cannot_start_is_reported_with_the_end_of_its_log(
    short_folder: Path,
) -> None:
    supervisor, _ = _supervisor(short_folder)
    program = "import sys; print('first', flush=True); sys.exit('the reason')"
    child = Child(
        name="api", command=(sys.executable, "-S", "-c", program), environment={}, is_ready=_no
    )
    with pytest.raises(
        StartError, match="api exited with code 1 while starting: the reason"
    ) as raised:
        await _start(supervisor, short_folder / "logs", child)
    assert raised.value.last_lines[-2:] == ["first", "the reason"]
    assert raised.value.log == short_folder / "logs" / "api.log"
    assert not folders_in(short_folder)


async def test_a_child_that_never_becomes_ready_is_reported(short_folder: Path) -> None:
    supervisor, _ = _supervisor(short_folder)
    command = idle("api").command
    child = Child(name="api", command=command, environment={}, is_ready=_no, ready_seconds=0.2)
    with pytest.raises(StartError, match="api did not become ready"):
        await _start(supervisor, short_folder / "logs", child)


async def test_the_cleanup_command_runs_once_no_child_is_left(short_folder: Path) -> None:
    program = "import pathlib, sys; pathlib.Path(sys.argv[1]).touch()"
    supervisor, _ = _supervisor(
        short_folder, sys.executable, "-S", "-c", program, str(short_folder / "ran")
    )
    async with supervisor:
        supervisor.launch(short_folder / "logs", idle("api"))
        await supervisor.wait_until_ready()
        assert not (short_folder / "ran").exists()
    assert (short_folder / "ran").exists()


async def test_a_cancelled_stop_still_leaves_nothing(short_folder: Path) -> None:
    supervisor, _ = _supervisor(short_folder)
    running = asyncio.Event()

    async def work() -> None:
        async with supervisor:
            supervisor.launch(short_folder / "logs", idle("stubborn", stubborn=True))
            await supervisor.wait_until_ready()
            await waiting.until(lambda: _pids(supervisor, "stubborn"))
            running.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(work())
    await running.wait()
    [stubborn] = _pids(supervisor, "stubborn")
    task.cancel()
    await asyncio.sleep(0)  # noqa: TID251  one turn of the loop, so that the stop has begun
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not process_tree.is_alive(stubborn)
    assert not folders_in(short_folder)


async def test_the_folder_is_private_and_our_own(short_folder: Path) -> None:
    supervisor, _ = _supervisor(short_folder)
    async with supervisor:
        found = supervisor.folder.lstat()
        assert stat.S_IMODE(found.st_mode) == 0o700
        assert found.st_uid == os.geteuid()
        assert supervisor.folder.parent == short_folder


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_janitor_refuses_a_folder_that_other_users_can_reach(
    short_folder: Path, mode: int
) -> None:
    open_folder = short_folder / "pollux-open_folder"
    open_folder.mkdir()
    open_folder.chmod(mode)
    result = subprocess.run(
        [sys.executable, "-m", "deploy.local.janitor", "--folder", open_folder],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert result.returncode != 0
    assert b"not a private folder" in result.stderr
    assert open_folder.exists()


def test_a_janitor_refuses_a_symbolic_link(short_folder: Path) -> None:
    (short_folder / "theirs").mkdir(mode=0o700)
    (short_folder / "pollux-link").symlink_to(short_folder / "theirs")
    result = subprocess.run(
        [sys.executable, "-m", "deploy.local.janitor", "--folder", short_folder / "pollux-link"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert result.returncode != 0
