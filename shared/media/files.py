"""The files that hold what models made: named by their content, one folder for each session.

Owns `<folder>/<account>/<session>/<sha256>.<suffix>` and the path of its URL, `/media/` and the
same. A file is there whole or not at all; equal content is one file. Refuses names that it did not
make. Every call waits for a disk: call it in a thread.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from shared import ids
from shared.media import formats
from shared.media.formats import Format

ROOT: Final = "/media/"
# A file that is still partial after so long was left by a writer that died.
_WRITING_SECONDS_MAX: Final = 3_600
_NAME: Final = re.compile(r"([0-9a-f]{64})\.([a-z0-9]{1,5})")
_PARTIAL_SUFFIX: Final = ".new"


class MediaFiles:
    """The files below one folder, which API processes and workers share."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder).absolute()

    def check(self) -> None:
        """Test whether files can be written here. Raises OSError."""
        _make_private(self.folder)
        _write(self.folder / f"{ids.new_id()}{_PARTIAL_SUFFIX}", b"").unlink()

    def save(self, account: str, session: str, content: bytes, media_format: Format) -> str:
        """Write content and return the path of its URL. Raises OSError."""
        name = f"{hashlib.sha256(content).hexdigest()}.{media_format.suffix}"
        folder = self.folder / account / session
        try:
            _put(folder, name, content)
        except FileNotFoundError:
            # A sweep may have removed the empty folder just now.
            _put(folder, name, content)
        return f"{ROOT}{account}/{session}/{name}"

    def find(self, path: str) -> tuple[Path, Format] | None:
        """Return the file of a URL's path and its format; None for a path that is not ours."""
        account, _, rest = path.removeprefix(ROOT).partition("/")
        session, _, name = rest.partition("/")
        found = _NAME.fullmatch(name)
        if not (path.startswith(ROOT) and ids.is_id(account) and ids.is_id(session) and found):
            return None
        media_format = formats.BY_SUFFIX.get(found[2])
        return (
            None if media_format is None else (self.folder / account / session / name, media_format)
        )

    def delete_session(self, account: str, session: str) -> None:
        """Delete all files of a session. Raises OSError for one that cannot be deleted."""
        if ids.is_id(account) and ids.is_id(session):
            with suppress(FileNotFoundError):
                shutil.rmtree(self.folder / account / session)
            # The account's folder goes with its last session.
            with suppress(OSError):
                (self.folder / account).rmdir()

    def sweep(self, now_seconds: float, files_seconds: int) -> int:
        """Delete older files and those that dead writers left; return how many."""
        count = 0
        for path in self._all():
            is_partial = path.name.endswith(_PARTIAL_SUFFIX)
            age_max = min(files_seconds, _WRITING_SECONDS_MAX) if is_partial else files_seconds
            with suppress(FileNotFoundError):
                if now_seconds - path.stat().st_mtime > age_max:
                    path.unlink()
                    count += 1
        for folder in (*self.folder.glob("*/*"), *self.folder.glob("*")):
            # `rmdir` leaves every folder that is not empty.
            with suppress(OSError):
                folder.rmdir()
        return count

    def _all(self) -> Iterator[Path]:
        """Yield every file that was made here, and no other."""
        yield from self.folder.glob(f"*{_PARTIAL_SUFFIX}")
        for path in self.folder.glob("*/*/*"):
            if _NAME.fullmatch(path.name) or path.name.endswith(_PARTIAL_SUFFIX):
                yield path


def _put(folder: Path, name: str, content: bytes) -> None:
    _make_private(folder)
    if (folder / name).exists():
        # Its age counts from now.
        os.utime(folder / name)
        return
    _write(folder / f"{ids.new_id()}{_PARTIAL_SUFFIX}", content).rename(folder / name)
    _sync(folder)


def _make_private(folder: Path) -> None:
    """Make a folder and its parents, each for this user alone; `parents=True` would not."""
    for each in (*reversed(folder.parents), folder):
        if not each.exists():
            each.mkdir(mode=0o700, exist_ok=True)


def _write(path: Path, content: bytes) -> Path:
    """Write a new file that only its owner can read, and sync it."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return path


def _sync(folder: Path) -> None:
    """Sync a folder, so that a new name in it survives a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
