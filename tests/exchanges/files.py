"""Exchanges in JSON files: read from a folder, with or without fields that say what is right.

A file has `dialect`, `request` (fields of a submission) and `upstream_reply_latin1` (pieces of a
reply, `{"pause_seconds": N}` between them); also `kind`, and `right`, a sentence, if present. The
outcome is compared only where a second file gives, by the name of the first, fields of `Expected`,
and fields of `Exchange` that the first file lacks. There, `shipped` names a model of the shipped
catalogue, and `kinds` renames the kinds of the built-in exchanges.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.exchanges.exchange import Exchange, Expected, Piece
from tests.exchanges.shipped_models import as_shipped

_MARKERS: Final = ("FLAGGED", "AGAIN")
_MODEL_SECONDS: Final = {"first_token_seconds": 100.0}


class ExchangeFile(NamedTuple):
    """An exchange of a file. `is_judged`: the expected outcome was given in fields."""

    kind: str
    exchange: Exchange
    sentence: str
    is_judged: bool


def read(folder: Path, verdicts: Mapping[str, Any], scale: float) -> list[ExchangeFile]:
    """Return the exchanges of a folder; their pauses are multiplied by `scale`."""
    paths = sorted(folder.glob("*.json"))
    return [_read(path, verdicts.get(path.stem), scale) for path in paths]


def _read(path: Path, verdict: Mapping[str, Any] | None, scale: float) -> ExchangeFile:
    decoded: dict[str, Any] = json.loads(path.read_text())
    pieces: list[Piece] = [
        float(each["pause_seconds"]) * scale if isinstance(each, dict) else each.encode("latin-1")
        for each in decoded["upstream_reply_latin1"]
    ]
    fields = dict(decoded["request"])
    message = fields.pop("message")
    marker = next((word for word in _MARKERS if word in message), "")
    exchange = Exchange(
        name=path.stem,
        reply=tuple(pieces),
        # A generation that waits for a retry ends the observation.
        expected=Expected(stage="retrying"),
        dialect=decoded["dialect"],
        message=message,
        fields=fields,
        model={"upstream": decoded.get("upstream_model", path.stem), **_MODEL_SECONDS},
        marker=marker,
        before=("some words first", "and some more") if marker == "AGAIN" else (),
    )
    if verdict is not None:
        exchange = _with_verdict(exchange, verdict)
    kind = decoded.get("kind", "")
    return ExchangeFile(kind, exchange, decoded.get("right", ""), is_judged=verdict is not None)


def _with_verdict(exchange: Exchange, verdict: Mapping[str, Any]) -> Exchange:
    """Return the exchange with the expected outcome, and the fields that its file lacks."""
    words = dict(verdict)
    expected = Expected(**{name: words.pop(name) for name in Expected._fields if name in words})
    model = {**exchange.model, **words.pop("model", {})}
    if "shipped" in words:
        model |= as_shipped(words.pop("shipped"))
    return exchange._replace(expected=expected, model=model, **words)
