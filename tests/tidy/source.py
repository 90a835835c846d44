"""The files of the project, each read and parsed once for all tidy tests."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PRODUCT: Final = ("api", "deploy", "shared", "worker")
PACKAGES: Final = (*PRODUCT, "tests")
_TEXTS: Final = {".py", ".lua", ".sh", ".md", ".toml", ".txt", ".yaml", ".yml", ""}


@cache
def texts() -> dict[str, str]:
    """Return every text file of the project by its path, without files of tools."""
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*")]
    files += [path for path in ROOT.iterdir() if path.name not in {"uv.lock", ".git"}]
    files += (ROOT / ".ci").rglob("*")
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(files)
        if path.is_file() and path.suffix in _TEXTS and "__pycache__" not in path.parts
    }


def documents() -> dict[str, str]:
    """Return every Markdown file of the project by its path."""
    return {path: text for path, text in texts().items() if path.endswith(".md")}


@cache
def modules(*packages: str) -> dict[str, ast.Module]:
    """Return the syntax tree of every Python file of some packages by its path."""
    return {
        path: _parsed(path)
        for path in texts()
        if path.endswith(".py") and path.split("/")[0] in (packages or PACKAGES)
    }


@cache
def _parsed(path: str) -> ast.Module:
    return ast.parse(texts()[path], path)


@cache
def nodes(tree: ast.Module) -> tuple[ast.AST, ...]:
    """Return every node of a file's tree, cached because walking one is slow."""
    return tuple(ast.walk(tree))


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function and method."""
    for node in nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def dotted(path: str) -> str:
    """Return the name under which a file is imported."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def strings(tree: ast.Module) -> Iterator[str]:
    """Yield every string constant except docstrings, including the fixed parts of f-strings."""
    documents = {
        id(node.body[0].value)
        for node in nodes(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in nodes(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in documents
        ):
            yield node.value
