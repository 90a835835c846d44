"""A TypeScript client of the served document, checked by the compiler, and a chat through it.

    python -m tests.generated.typescript

Needs node and npm; without them, or without the registry, it prints so and exits with 0. Packages
are those that programs/package-lock.json pins; they are installed into a temporary folder. The gate
runs it as a separate check and shows its output, because a test would have to be skipped there.
"""

import asyncio
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.generated import conversation
from tests.generated.conversation import Program

_PROGRAMS: Final = Path(__file__).parent / "programs"
_FILES: Final = ("chat.ts", "package.json", "package-lock.json", "tsconfig.json")
_INSTALL_SECONDS: Final = 60.0
# Cached packages need no registry; one that does not answer is given up soon.
_INSTALL: Final = (
    *"npm ci --no-audit --no-fund --ignore-scripts --prefer-offline".split(),
    *"--fetch-retries=1 --fetch-retry-mintimeout=1000 --fetch-timeout=15000".split(),
)


def _install_packages(folder: Path) -> bool:
    """Copy the program to a folder and install its packages; return whether that worked."""
    for name in _FILES:
        shutil.copy(_PROGRAMS / name, folder)
    try:
        done = subprocess.run(
            _INSTALL,
            check=False,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_INSTALL_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return False
    if done.returncode:
        sys.stderr.write(done.stderr)
    return not done.returncode


async def _converse(folder: Path) -> None:
    binaries = folder / "node_modules" / ".bin"
    generator = binaries / "openapi-typescript"
    async with conversation.running_deployment(folder) as system:
        (folder / "openapi.json").write_bytes(await conversation.document(system))
        await conversation.run([generator, "openapi.json", "-o", "pollux.d.ts"], folder=folder)
        await conversation.run([binaries / "tsc"], folder=folder)
        program = Program(["node", folder / "built" / "chat.js"])
        outcome = await conversation.run_conversation(system, program)
    assert outcome == conversation.EXPECTED, outcome


def main() -> None:
    """Generate a client and chat through it."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        sys.stdout.write("node or npm is not installed: the TypeScript client was not tried\n")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not _install_packages(folder):
            sys.stdout.write(
                "the npm registry is not reachable: the TypeScript client was not tried\n"
            )
            return
        asyncio.run(_converse(folder))
    sys.stdout.write("the TypeScript client compiles and chats\n")


if __name__ == "__main__":
    main()
