"""The attacks can fail: what they look at is seen, and what exceeds an aim is said to."""

import subprocess
import sys
from pathlib import Path

from tests.attacks import tenant
from tests.attacks.folders import Stranger
from tests.support import waiting


def test_a_slow_or_refused_tenant_misses_the_aim() -> None:
    quick = [(0.01, "200")] * 99
    assert tenant.seen([*quick, (0.02, "200")]).figure().is_met
    assert not tenant.seen([*quick, (0.02, "503")]).figure().is_met
    assert not tenant.seen([*quick, (0.3, "200")]).figure().is_met


def test_a_stranger_makes_a_folder_that_a_command_line_names(tmp_path: Path) -> None:
    named = tmp_path / "pollux-1"
    words = [sys.executable, "-c", "import sys; sys.stdin.read()", str(named)]
    shell = ["sh", "-c", '"$@"; true', "sh", *words]
    parent = subprocess.Popen(shell, stdin=subprocess.PIPE)
    stranger = Stranger(parent.pid, tmp_path)
    stranger.start()
    try:
        waiting.until_now(named.exists)
    finally:
        stranger.done.set()
        stranger.join()
        parent.communicate()
    assert stranger.made == [named]
