"""The attacks can fail: a slowed tenant misses its bound, a created folder is noticed."""

import subprocess
import sys
from pathlib import Path

from tests.attacks import other_tenant
from tests.attacks.folders import FolderAttacker
from tests.support import waiting


def test_a_slow_or_refused_tenant_misses_the_bound() -> None:
    quick = [(0.01, "200")] * 99
    assert other_tenant.summarize([*quick, (0.02, "200")]).figure().is_met
    assert not other_tenant.summarize([*quick, (0.02, "503")]).figure().is_met
    assert not other_tenant.summarize([*quick, (0.3, "200")]).figure().is_met


def test_an_attacker_creates_a_folder_that_a_command_line_names(tmp_path: Path) -> None:
    named = tmp_path / "pollux-1"
    words = [sys.executable, "-c", "import sys; sys.stdin.read()", str(named)]
    shell = ["sh", "-c", '"$@"; true', "sh", *words]
    parent = subprocess.Popen(shell, stdin=subprocess.PIPE)
    attacker = FolderAttacker(parent.pid, tmp_path)
    attacker.start()
    try:
        waiting.until_now(named.exists)
    finally:
        attacker.done.set()
        attacker.join()
        parent.communicate()
    assert attacker.made == [named]
