"""Makes texts of others safe for a log line, in both formats.

Owns three rules. Characters that move a terminal's cursor, change the direction of text or end a
line are escaped. An API key is masked wherever it appears. A request's path is cut, and whatever
looks like a key's secret is masked in it even where its prefix is disguised.
"""

import re
from typing import Final

from structlog.typing import EventDict

from shared.ids import KEY_DIGITS, KEY_PREFIX

PATH_CHARACTERS_MAX: Final = 200
_MASK: Final = "***"

# Control characters, direction marks, and separators that some readers take for a line end.
_UNSAFE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_KEPT: Final = frozenset("\n\t")
_PREFIX: Final = KEY_PREFIX.encode()
_KEY: Final = re.compile(_PREFIX + rb"[0-9A-Za-z]+")
_LONG_RUN: Final = re.compile(rf"[0-9A-Za-z]{{{KEY_DIGITS},}}")


def cut_path(line: EventDict) -> EventDict:
    """Return a line whose path, if any, is bounded and holds nothing that looks like a key."""
    path = line.get("path")
    if isinstance(path, str) and len(path) >= KEY_DIGITS:
        path = _LONG_RUN.sub(_mask_secret, path)
        if len(path) > PATH_CHARACTERS_MAX:
            path = path[: PATH_CHARACTERS_MAX - 1] + "…"
        line["path"] = path
    return line


def json_line(line: bytes) -> bytes:
    """Return a line of JSON without keys and unsafe characters; it decodes to the same."""
    if not line.isascii() or b"\x7f" in line:
        line = _UNSAFE.sub(_as_json_escape, line.decode()).encode()
    return without_keys(line)


def text(found: str) -> str:
    """Return a text with unsafe characters escaped as Python escapes them."""
    return found if found.isprintable() else _UNSAFE.sub(_as_python_escape, found)


def is_safe(found: str) -> bool:
    """Tell whether a text is one line without unsafe characters."""
    return _UNSAFE.search(found) is None


def values(line: EventDict) -> EventDict:
    """Return a line whose texts are safe to print; other values are printed by their `repr`."""
    for name, value in line.items():
        if isinstance(value, str):
            line[name] = text(value)
    return line


def without_keys(line: bytes) -> bytes:
    """Return a rendered line with every API key masked."""
    return _KEY.sub(_PREFIX + _MASK.encode(), line) if _PREFIX in line else line


def _mask_secret(found: re.Match[str]) -> str:
    """Mask a run as long as a secret with letters of both cases, which no id or digest has."""
    run = found[0]
    return run if run in (run.lower(), run.upper()) else _MASK


def _as_json_escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def _as_python_escape(found: re.Match[str]) -> str:
    return found[0] if found[0] in _KEPT else found[0].encode("unicode_escape").decode()
