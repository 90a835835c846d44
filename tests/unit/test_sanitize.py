"""What log lines show of texts that others wrote, in both formats."""

import json
import os
from typing import Final

import pytest
from structlog.typing import EventDict

from shared import ids
from shared.telemetry import logs, sanitize
from shared.telemetry.sink import Sink, Stderr

UNSAFE: Final = (
    *("\0", "\a", "\b", "\r", "\x1b", "\x7f", "\x85", "\x9b", "\u061c", "\u200e", "\u200f"),
    *("\u2028", "\u2029", "\u202a", "\u202e", "\u2066", "\u2069"),
)
SAFE: Final = "plain text, ümlauts, 漢字, 🐻, \u200b"


def _json(line: EventDict) -> str:
    return logs._as_json(None, "info", line).decode()


def _console(line: EventDict) -> str:
    return logs._Console(has_colors=False)(None, "info", line).decode()


def _colored(line: EventDict) -> str:
    return logs._Console(has_colors=True)(None, "info", line).decode()


@pytest.mark.parametrize("render", [_json, _console], ids=["json", "console"])
@pytest.mark.parametrize("found", UNSAFE, ids=[f"{ord(each):04x}" for each in UNSAFE])
def test_no_format_shows_an_unsafe_character(render: object, found: str) -> None:
    assert callable(render)
    for line in (
        {"event": f"a{found}b", "path": "/"},
        {"event": "refused", "path": f"/a{found}b"},
        {"event": "refused", "path": f"/a {found} b"},
        {"event": "refused", "reasons": [f"a{found}b"]},
        {"event": "unexpected", "exception": f"Traceback\n  ValueError: a{found}b"},
    ):
        said = render(dict(line))
        assert found not in said.replace("Traceback\n", "")
        assert len(said.splitlines()) == said.count("\n") + 1


@pytest.mark.parametrize("found", UNSAFE)
def test_in_colors_only_the_format_itself_writes_escapes(found: str) -> None:
    said = _colored({"event": f"a{found}b", "path": f"/a{found}b"})
    plain = _console({"event": f"a{found}b", "path": f"/a{found}b"})
    assert said.count("\x1b") == _colored({"event": "a", "path": "/a"}).count("\x1b")
    assert said != plain


def test_a_line_of_json_decodes_to_what_was_logged() -> None:
    line = {"event": "".join(UNSAFE) + SAFE, "path": "/" + "".join(UNSAFE)}
    assert json.loads(_json(dict(line))) == line
    assert SAFE in _json(dict(line))


def test_safe_text_is_unchanged() -> None:
    assert sanitize.text(SAFE + "\n\tmore") == SAFE + "\n\tmore"


@pytest.mark.parametrize("render", [_json, _console], ids=["json", "console"])
def test_a_path_is_cut_at_200_characters(render: object) -> None:
    assert callable(render)
    for length in (200, 201, 100_000):
        said = render({"event": "refused", "path": "/" + "ä" * (length - 1)})
        assert said.count("ä") == (199 if length == 200 else 198)
        assert ("…" in said) == (length > 200)


@pytest.mark.parametrize("render", [_json, _console], ids=["json", "console"])
def test_a_key_is_never_shown(render: object) -> None:
    assert callable(render)
    key = ids.new_key()
    secret = key.removeprefix(ids.KEY_PREFIX)
    for path in (
        *(f"/api/v1/{key}", f"/{key}/{key}", f"/{key}.html", f"/a={key}&b", key, f"/{secret}"),
        # Quoted twice, in other letters, and with its end beyond the cut.
        *(f"/%70ollux_live_{secret}", f"/pollux%5Flive%5F{secret}", f"/{key.swapcase()}"),
        *("/" + "a" * left + f"/{key}" for left in (150, 160, 170, 180, 190)),
    ):
        for line in (
            {"event": "refused", "path": path},
            {"event": f"refused {key}", "request_id": key, "reason": f"no {key}"},
            {"event": "unexpected", "exception": f"ValueError: {key}"},
        ):
            said = render(line)
            assert secret[:8] not in said
            assert secret.swapcase()[:8] not in said


def test_ids_and_names_of_files_are_shown_whole() -> None:
    path = f"/media/acme/{ids.new_id()}/{'0123456789abcdef' * 4}.png"
    assert json.loads(_json({"path": path}))["path"] == path


def test_what_python_itself_writes_is_sanitized_too() -> None:
    out, into = os.pipe()
    sink, key = Sink(into), ids.new_key()
    Stderr(sink).write(f"\tValueError: \x1b[2J{key}\u2028 ü\n")
    assert sink.flush(10)
    assert os.read(out, 4096).decode() == "\tValueError: \\x1b[2Jpollux_live_***\\u2028 ü\n"
    os.close(into)
    os.close(out)
