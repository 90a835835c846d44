"""Exchanges are read from files, and judged only where fields say what is right."""

import json
from pathlib import Path

import pytest

from tests.exchanges import files
from tests.exchanges.exchange import Expected

_FILE = {
    "kind": "cut",
    "dialect": "openai",
    "request": {"message": "these are FLAGGED words", "deep_think": True},
    "upstream_reply_latin1": ["HTTP/1.1 400 X\r\n\r\n", {"pause_seconds": 2}, "caf\xe9"],
    "right": "It fails.",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cut-short.json").write_text(json.dumps(_FILE))
    return tmp_path


def test_a_file_is_an_exchange_with_its_bytes_and_pauses(folder: Path) -> None:
    [exchange_file] = files.read(folder, {}, 0.5)
    exchange = exchange_file.exchange
    assert (exchange_file.kind, exchange_file.sentence, exchange_file.is_judged) == (
        "cut",
        "It fails.",
        False,
    )
    assert exchange.reply == (b"HTTP/1.1 400 X\r\n\r\n", 1.0, b"caf\xe9")
    assert (exchange.message, exchange.marker) == ("these are FLAGGED words", "FLAGGED")
    assert exchange.fields == {"deep_think": True}


def test_what_is_right_and_what_the_file_lacks_come_from_another(folder: Path) -> None:
    verdict = {"content": "one", "calls": 2, "times": 1, "shipped": "grok-4.1-fast"}
    [exchange_file] = files.read(folder, {"cut-short": verdict}, 1.0)
    assert exchange_file.is_judged
    assert exchange_file.exchange.expected == Expected(content="one", calls=2)
    assert exchange_file.exchange.times == 1
    assert exchange_file.exchange.model["reasoning_option"] == "none"


def test_a_word_that_no_exchange_has_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="sometimes"):
        files.read(folder, {"cut-short": {"sometimes": 1}}, 1.0)
