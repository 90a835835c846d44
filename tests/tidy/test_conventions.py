"""Conventions that no linter checks: lengths, names, docstrings, catch-alls, unfinished work.

Every list of exceptions fails when one of its entries is no longer needed, so that it can only
shrink.
"""

import ast
import re
from pathlib import Path
from typing import Final

from tests.tidy import source

_FILE_LINES_MAX: Final = 400
_FUNCTION_LINES_MAX: Final = 60
_ANCESTORS_MAX: Final = 2

# Longer files of the product, and why each is one file: a file is cut by purpose, not by length.
LONG_FILES: Final = {
    "api/server/protocol.py": "the states of one connection, which share all of their attributes",
    "shared/redis/client.py": "one connection: how it opens, pipelines and repeats commands",
    "shared/redis/keys.py": "every key, each with what it holds and when it ends",
    "shared/redis/functions/__init__.py": "the name of every stub",
    "shared/redis/functions/claim.lua": "a claim: suspects, parked turns, lanes, and their wakeups",
    "shared/settings.py": "every table of the settings, and what must hold between them",
    "worker/consumer/arq_worker.py": "the loops of the process, how they begin and how they end",
}
# Packages that import their modules' names, so that callers need one name.
FACADES: Final = {"shared/redis/functions/__init__.py"}
# Where any error must end one piece of work and not the process, and how often.
CATCH_ALLS: Final = {
    "api/app.py": 1,
    "deploy/local/valkey.py": 1,
    "shared/redis/client.py": 1,
    "worker/batches/work.py": 1,
    "worker/partition_guard.py": 1,
    "worker/consumer/arq_worker.py": 3,
    "worker/consumer/heartbeat.py": 1,
    "worker/pipeline.py": 1,
    "worker/steps/call_tools.py": 1,
}
_BANNED: Final = re.compile(
    "(utils?|helpers?|common|misc|managers?|services?|handlers?|processors?|impl|info|data|base"
    "|abstract|core)"
)
_UNFINISHED: Final = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")) + r")\b")
_SKIPPED: Final = re.compile(r"pytest\.(mark\.)?(" + "|".join(("sk" + "ip", "xf" + "ail")) + ")")
_SUPPRESSED: Final = re.compile(r"#\s*(type: ignore\[[\w,-]+\]|noqa: [A-Z0-9, ]+?)(?=\s|$)(.*)")
_INDEX_HOSTS: Final = ("pypi" + ".org", "python" + "hosted", "npm" + "js.org")


def test_long_files_have_a_reason() -> None:
    long = {
        path
        for path, text in source.texts().items()
        if path.endswith((".py", ".lua"))
        and not path.startswith("tests/")
        and text.count("\n") > _FILE_LINES_MAX
    }
    assert long == set(LONG_FILES)


def test_functions_are_short() -> None:
    long = []
    for path, tree in source.modules().items():
        for function in source.functions(tree):
            body = function.body[1:] if ast.get_docstring(function) else function.body
            lines = (function.end_lineno or 0) - (body[0].lineno if body else function.lineno) + 1
            if lines > _FUNCTION_LINES_MAX:
                long.append(f"{path}:{function.lineno} {function.name}: {lines} lines")
    assert not long


def test_names_are_not_vague() -> None:
    vague = []
    for path, tree in source.modules().items():
        names = [Path(path).stem, *path.split("/")[:-1]]
        for node in source.nodes(tree):
            if isinstance(node, ast.ClassDef):
                names += re.findall("[A-Z][a-z]*", node.name)
        words = [word.lower() for name in names for word in name.split("_")]
        vague += [f"{path}: {word}" for word in words if _BANNED.fullmatch(word)]
    assert not vague


def test_every_file_has_a_docstring() -> None:
    missing = [path for path, tree in source.modules().items() if not ast.get_docstring(tree)]
    assert not missing


def test_package_files_hold_a_docstring_only() -> None:
    full = [
        path
        for path, tree in source.modules().items()
        if path.endswith("__init__.py") and len(tree.body) != 1 and path not in FACADES
    ]
    assert not full


def test_catch_alls_are_listed() -> None:
    found = {
        path: count
        for path, tree in source.modules(*source.PRODUCT).items()
        if (count := sum(_catches_all(node) for node in source.nodes(tree)))
    }
    assert found == CATCH_ALLS


def _catches_all(node: ast.AST) -> bool:
    """Return whether a clause swallows every error; one that cleans up and re-raises does not."""
    if not isinstance(node, ast.ExceptHandler):
        return False
    kind = node.type.id if isinstance(node.type, ast.Name) else None
    is_wide = node.type is None or kind in {"Exception", "BaseException"}
    last = node.body[-1]
    return is_wide and not (isinstance(last, ast.Raise) and last.exc is None)


def test_inheritance_is_shallow() -> None:
    parents = {
        node.name: [base.id for base in node.bases if isinstance(base, ast.Name)]
        for tree in source.modules(*source.PRODUCT).values()
        for node in source.nodes(tree)
        if isinstance(node, ast.ClassDef)
    }

    def ancestors(name: str) -> int:
        own = [parent for parent in parents.get(name, []) if parent in parents]
        return max((1 + ancestors(parent) for parent in own), default=0)

    assert not [name for name in parents if ancestors(name) > _ANCESTORS_MAX]


def test_nothing_is_left_unfinished_or_skipped() -> None:
    marks = [
        f"{path}: {found[0]}"
        for path, text in source.texts().items()
        for found in (_UNFINISHED.search(text), _SKIPPED.search(text))
        if found
    ]
    assert not marks


def test_every_suppressed_check_has_a_reason() -> None:
    bare = [
        f"{path}: {found[0]}"
        for path, text in source.texts().items()
        if path.endswith(".py")
        for found in _SUPPRESSED.finditer(text)
        if not re.search("[a-z]{2}", found[2])
    ]
    assert not bare


def test_no_file_names_this_machine_or_a_package_index() -> None:
    machine = (f"{source.ROOT.parent}/", f"{Path.home()}/")
    named = [
        f"{path}: {word}"
        for path, text in source.texts().items()
        for word in (*machine, *_INDEX_HOSTS)
        if word in text
    ]
    assert not named
