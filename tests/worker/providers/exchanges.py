"""Refusals as vendors send them, and the failure that each becomes: one line of `exchanges.jsonl`.

Figures, names and ids in them are invented; the wording is the vendors'. A body that is a text is
sent unchanged, any other as JSON; those `in band` are an `error` in the body of a 200.
"""

import json
from pathlib import Path
from typing import Final, NamedTuple


class Exchange(NamedTuple):
    """A refusal: its topic, vendor, status and body, and the failure that it becomes."""

    of: str
    who: str
    status: int
    fault: str
    said: object

    @property
    def body(self) -> bytes:
        """What is sent."""
        return (self.said if isinstance(self.said, str) else json.dumps(self.said)).encode()


def _read() -> tuple[Exchange, ...]:
    lines = Path(__file__).with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return tuple(
        Exchange(*(row[key] for key in ("of", "who", "status", "fault", "body"))) for row in rows
    )


_ROWS: Final = _read()
IN_BAND: Final = tuple(row for row in _ROWS if row.of == "in band")
REFUSALS: Final = tuple(row for row in _ROWS if row.of != "in band")


def named(rows: tuple[Exchange, ...]) -> list[str]:
    """Return a unique name for each row."""
    return [f"{number} {row.of}: {row.who} {row.status}" for number, row in enumerate(rows)]
