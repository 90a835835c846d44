"""Which fields of a generation's record the Lua functions write, read from their text.

Knows how they are written: a key that is bound to `generation_key(...)`, or a parameter `key` of
the functions named here; and tables of fields that are unpacked into one call.
"""

import re
from collections.abc import Iterator
from typing import Final

from tests.tidy import source

_FOLDER: Final = "shared/redis/functions/"
_COMMENT: Final = re.compile(r"--.*")
_BODY: Final = re.compile(
    r"^(?:local )?(?:function ([\w.]+)|(\w+) = function) ?\([^)]*\).*?^end",
    re.DOTALL | re.MULTILINE,
)
_LOCAL: Final = re.compile(r"^ *local ([\w, ]+) = (.+)$", re.MULTILINE)
_WRITE: Final = re.compile(r"redis\.p?call\('(?:HSET|HINCRBY)', ")
_WORD: Final = re.compile(r"'([a-z_]+)'")
# Functions whose parameter `key` is the record's, or whose parameter `fields` is written into it.
_GIVEN_THE_KEY: Final = frozenset({"stages.enter", "append_produced"})
_ADDS_FIELDS: Final = "store_rounds"


def written() -> set[str]:
    """Return the names of all fields that some function writes."""
    return {
        field
        for path, text in source.texts().items()
        if path.startswith(_FOLDER) and path.endswith(".lua")
        for name, body in _bodies(_COMMENT.sub("", text))
        for field in _fields_in(name, body)
    }


def _bodies(text: str) -> Iterator[tuple[str, str]]:
    for found in _BODY.finditer(text):
        yield found[1] or found[2], found[0]


def _fields_in(name: str, body: str) -> Iterator[str]:
    bound = {"key"} if name in _GIVEN_THE_KEY else set()
    for names, values in _LOCAL.findall(body):
        pairs = zip(names.split(", "), _arguments(values + ")"), strict=False)
        bound |= {each for each, value in pairs if value.startswith("generation_key(")}
    for call in _WRITE.finditer(body):
        where, *fields = _arguments(body[call.end() :])
        if where in bound or where.startswith("generation_key("):
            for each in fields[::2]:
                yield from _WORD.findall(each)
            for table in re.findall(r"unpack\((\w+)\)", " ".join(fields)):
                yield from re.findall(rf"local {table} = {{'(\w+)'", body)
                yield from re.findall(rf"{table}\[[^=]*= '(\w+)'", body)
    if name == _ADDS_FIELDS:
        yield from re.findall(r"^ +'(\w+)', ", body, re.MULTILINE)


def _arguments(text: str) -> list[str]:
    """Split a call's arguments at its own commas, up to the parenthesis that closes it."""
    found, depth = [""], 0
    for character in text:
        if character == ")" and depth == 0:
            break
        depth += (character in "({") - (character in ")}")
        if character == "," and depth == 0:
            found.append("")
        else:
            found[-1] += character
    return [each.strip() for each in found]
