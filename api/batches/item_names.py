"""Which names the items of one upload have, so that no two have the same.

They are kept in an SQLite database without a name, which is gone when it is closed: 16 bytes of
hash a name, of which SQLite keeps at most 2 MiB in memory. A line without a name of its own has its
number, kept apart, where it costs less.

Of two items with one name the first has it. Example: line 2 has no name, and line 5 is named "2":
line 5 is wrong. Line 2 is named "5", and line 5 has no name: line 5 is wrong.
"""

import hashlib
import re
import sqlite3
from typing import Final

_TABLES: Final = (
    "PRAGMA journal_mode = OFF",
    "PRAGMA temp_store = FILE",
    "PRAGMA cache_size = -2048",
    "CREATE TABLE names (hash BLOB PRIMARY KEY) WITHOUT ROWID",
    "CREATE TABLE numbers (line INTEGER PRIMARY KEY)",
    "BEGIN",
)
_HASH_BYTES: Final = 16
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,17}")


class ItemNames:
    """The names of one upload."""

    def __init__(self) -> None:
        # A long line is made into an item in another thread, while nothing else uses it.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for statement in _TABLES:
            self._database.execute(statement)
        self._execute = self._database.cursor().execute
        self._has_numeric_names = False

    def close(self) -> None:
        """Drop the names."""
        self._database.close()

    def take(self, name: str | None, line: int) -> bool:
        """Take a name, or a line's number where it has none; False where another item has it."""
        if name is None:
            return self._take_number(line)
        if _NUMBER.fullmatch(name):
            self._has_numeric_names = True
            if self._execute("SELECT 1 FROM numbers WHERE line = ?", (int(name),)).fetchone():
                return False
        taken = self._execute("INSERT OR IGNORE INTO names VALUES (?)", (_hash(name),))
        return taken.rowcount == 1

    def _take_number(self, line: int) -> bool:
        if self._has_numeric_names:
            taken = self._execute("SELECT 1 FROM names WHERE hash = ?", (_hash(str(line)),))
            if taken.fetchone():
                return False
        self._execute("INSERT INTO numbers VALUES (?)", (line,))
        return True


def _hash(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=_HASH_BYTES).digest()
