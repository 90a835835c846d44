"""The Redis functions and their stubs agree, and each Lua file has its header."""

import ast
import re
from typing import Final, get_type_hints

import pytest

from shared.redis import functions, library
from tests.tidy import source

_FOLDER: Final = "shared/redis/functions"
_SENT: Final = re.compile(r"redis\.p?call\('([A-Z]+)'")
# Not tried at the start: PUBLISH is tried on channels; without PUBSUB leases expire by time, and
# without TYPE and ZINTERCARD a key of another type is found only when it is used.
_TRIED_OTHERWISE: Final = {"publish", "pubsub", "type", "zintercard"}
_COMMENT: Final = re.compile(r"--[^\n]*")
_LINE_LENGTH_MAX: Final = 120


def _stubs() -> dict[str, tuple[str, bool]]:
    """Return each stub by the function it invokes, and whether it sends a blob."""
    found = {}
    # Only the stubs are parsed: this runs while tests are collected, in every process.
    stubs = (ast.parse(path.read_text("utf-8")) for path in (source.ROOT / _FOLDER).glob("*.py"))
    for function in (each for tree in stubs for each in source.functions(tree)):
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"invoke", "send_call"}:
                name = ast.literal_eval(node.args[1])
                has_blob = any(keyword.arg == "blob" for keyword in node.keywords)
                found[name] = (function.name, has_blob)
    return found


STUBS: Final = _stubs()


def test_every_function_has_its_stub_and_every_stub_its_function() -> None:
    assert set(library.sources()) == set(STUBS)
    assert all(name == stub for name, (stub, _) in STUBS.items())


@pytest.mark.parametrize("name", sorted(STUBS))
def test_both_sides_name_the_same_arguments(name: str) -> None:
    text = library.sources()[name]
    stub, has_blob = STUBS[name]
    shape = get_type_hints(getattr(functions, stub))["ask"]
    fields = set(shape.__struct_fields__) | ({"blob"} if has_blob else set())
    used = set(re.findall(r"\bask\.([a-z_]+)", _COMMENT.sub("", text)))
    if "enter_queue(root, ask," in text:
        used |= set(re.findall(r"\bentry\.([a-z_]+)", _shared("queue_entry")))
    if "append_produced(root, ask," in text:
        used |= set(re.findall(r"\bask\.([a-z_]+)", _shared("rounds")))
    assert used == fields


def _shared(name: str) -> str:
    return _COMMENT.sub("", source.texts()[f"{_FOLDER}/{name}.lua"])


@pytest.mark.parametrize("name", sorted(STUBS))
def test_every_function_has_a_header(name: str) -> None:
    text = library.sources()[name]
    assert text.startswith(f"-- {name}: ")
    header = text.split("\nlocal ")[0]
    for word in ("ASK", "RETURNS", "ATOMIC"):
        assert f"\n-- {word}" in header
    arguments = header.split("\n-- ASK")[1].split("\n-- RETURNS")[0]
    stub, _ = STUBS[name]
    shape = get_type_hints(getattr(functions, stub))["ask"]
    assert [
        field for field in shape.__struct_fields__ if not re.search(rf"\b{field}\b", arguments)
    ] == []


@pytest.mark.parametrize("name", [*sorted(STUBS), *library.SHARED])
def test_functions_are_short_and_made_of_known_commands(name: str) -> None:
    text = source.texts()[f"{_FOLDER}/{name}.lua"]
    bodies = re.findall(r"^(?:local )?function .*?^end", text, re.DOTALL | re.MULTILINE)
    assert not [body.split("\n")[0] for body in bodies if body.count("\n") > 60]
    assert not [line for line in text.split("\n") if len(line) > _LINE_LENGTH_MAX]
    # A function blocks the server while it runs: it may not wait, walk all keys, or depend on the
    # server's random numbers.
    for command in re.findall(r"redis\.call\('([A-Z]+)'", text):
        assert command not in {"KEYS", "SCAN", "RANDOMKEY", "BLPOP", "SRANDMEMBER", "EVAL"}


def test_every_command_that_a_function_sends_is_tried_at_the_start() -> None:
    texts = library.sources()
    tried = set(re.findall(r"\{'([a-z]+)'", texts["list_missing_commands"])) | {
        "time",
        "info",
        "set",
    }
    sent = {
        name.lower() for text in source.texts().values() for name in _SENT.findall(text)
    } - _TRIED_OTHERWISE
    assert sent <= tried


_LOCAL: Final = re.compile(r"^local (?:function )?([\w, ]+?)(?: =|\(|$)", re.MULTILINE)
_EXPORTED: Final = re.compile(r"^local ([\w, ]+)\n(?=do$)", re.MULTILINE)


def test_each_scope_has_room_for_50_more_of_the_200_local_names_that_lua_allows() -> None:
    exported = sum(names.count(",") + 1 for names in _EXPORTED.findall(library.TEXT))
    head, *scopes = (
        sum(names.count(",") + 1 for names in _LOCAL.findall(part))
        for part in _EXPORTED.sub("", library.TEXT).split("\ndo\n")
    )
    assert len(scopes) == len(library.SHARED) + len(STUBS)
    assert exported + head + max(scopes) <= 150
