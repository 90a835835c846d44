"""Every file is imported or started, and Redis keys are built in one place."""

import ast
import re
from typing import Final

from shared.redis import keys
from tests.tidy import source

_LAZY: Final = re.compile(r"^((?:api|worker|shared|deploy)(?:\.\w+)+)(?::\w+)?$")


def _imported(tree: ast.Module) -> set[str]:
    """Return every module that a file imports, by a statement or by its name in a text."""
    found: set[str] = set()
    for node in source.nodes(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found | {match[1] for text in source.strings(tree) if (match := _LAZY.match(text))}


def _is_entry(path: str, tree: ast.Module) -> bool:
    name = path.rsplit("/", 1)[-1]
    if name in {"__init__.py", "__main__.py", "conftest.py"} or name.startswith("test_"):
        return True
    # A program guards its start by `if __name__ == "__main__"`.
    return any(
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Compare)
        and isinstance(node.test.left, ast.Name)
        and node.test.left.id == "__name__"
        for node in tree.body
    )


def test_every_file_is_imported_or_started() -> None:
    for packages in (source.PRODUCT, source.PACKAGES):
        trees = source.modules(*packages)
        used = set().union(*(_imported(tree) for tree in trees.values()))
        unused = [
            path
            for path, tree in trees.items()
            if not _is_entry(path, tree) and source.dotted(path) not in used
        ]
        assert not unused


def test_keys_are_built_in_one_place() -> None:
    prefixes = {key.pattern.split("<")[0] for key in keys.FAMILIES.values() if "<" in key.pattern}
    tags = re.compile(r"\{sys\}|\{p\d\d\}")
    strays = [
        f"{path}: {text!r}"
        for path, tree in source.modules(*source.PRODUCT).items()
        if path != "shared/redis/keys.py"
        for text in source.strings(tree)
        if tags.search(text) or any(re.match(rf"{prefix}(\S|$)", text) for prefix in prefixes)
    ]
    assert not strays


def test_lua_builds_no_key_of_its_own() -> None:
    strays = [
        path
        for path, text in source.texts().items()
        if path.endswith(".lua") and re.search(r"\broot\s*\.\.", text)
    ]
    assert not strays
