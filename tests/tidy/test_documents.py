"""The documentation speaks of what is there: its links, paths and commands; the README is short."""

import re
from pathlib import PurePosixPath
from typing import Final

import pytest

from deploy.cli import app
from tests.tidy import source

_README_LINES_MAX: Final = 150
_MENTION: Final = re.compile(r"(?<![\w/.])(?:api|worker|shared|deploy|tests)/[\w./-]*[\w/]")
_LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
_HEADING: Final = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
_CODE: Final = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_STARTED: Final = re.compile(r"python -m (tests[\w.]*|deploy[\w.]*)")

every_document = pytest.mark.parametrize("path", source.documents())


def anchors(text: str) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = _HEADING.findall(_CODE.sub("", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def resolved(path: str, link: str) -> str:
    """Return the path below the root to which a relative link of a document leads."""
    parts: list[str] = []
    for part in (PurePosixPath(path).parent / link).parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)


@every_document
def test_links_lead_to_a_file_and_a_heading(path: str) -> None:
    broken = []
    for link in _LINK.findall(_CODE.sub("", source.texts()[path])):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        where = resolved(path, target) if target else path
        if not (source.ROOT / where).exists():
            broken.append(link)
        if anchor and anchor not in anchors(source.documents().get(where, "")):
            broken.append(link)
    assert not broken


@every_document
def test_paths_and_programs_are_there(path: str) -> None:
    text = source.texts()[path]
    paths = set(_MENTION.findall(text))
    paths |= {name.rstrip(".").replace(".", "/") for name in _STARTED.findall(text)}
    assert [
        each
        for each in sorted(paths)
        if not (source.ROOT / each).exists() and not (source.ROOT / f"{each}.py").exists()
    ] == []


def test_readme_is_short_and_names_every_package() -> None:
    readme = source.texts()["README.md"]
    assert readme.count("\n") <= _README_LINES_MAX
    assert [name for name in source.PACKAGES if f"{name}/" not in readme] == []


def test_every_document_is_linked() -> None:
    linked = {
        resolved(path, link.partition("#")[0])
        for path, text in source.documents().items()
        for link in _LINK.findall(_CODE.sub("", text))
        if "://" not in link
    }
    assert [path for path in source.documents() if path not in {*linked, "README.md"}] == []


def test_every_command_is_documented() -> None:
    text = "\n".join(source.documents().values())
    commands = [name for name in app if not name.startswith("-")]
    assert [name for name in commands if f"pollux {name}" not in text] == []


def test_log_lines_that_operators_watch_are_logged() -> None:
    section = source.texts()["deploy/docs/operate.md"].partition("## Logs")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    events = {event for row in rows for event in re.findall("`([^`]+)`", row.split("|")[1])}
    strings = {
        text for tree in source.modules(*source.PRODUCT).values() for text in source.strings(tree)
    }
    assert events
    assert events <= strings
