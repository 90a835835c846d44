"""Reads the results of a batch as a client does, and checks each line of them.

Owns the HTTP of a download that goes on after the last line it has, and the rules: each item once,
in the order that was asked for, with the answer to its own prompt. Runs in a thread.
"""

import http.client
import threading
import time
from collections.abc import Callable
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec

from tests.bench.system_rig import Rig

_PIECE_BYTES: Final = 1 << 18
_PAUSE_SECONDS: Final = 0.2
_GIVE_UP_SECONDS: Final = 600.0
_FAULTS_KEPT: Final = 10
_MICROCREDITS: Final = 1_000_000


class _Answer(msgspec.Struct):
    content: str


class Line(msgspec.Struct):
    """What is checked of a line."""

    custom_id: str
    line: int
    state: str
    credits: float
    result: _Answer | None = None
    seq: int | None = None


Order = Literal["input", "finished"]
decode: Final = msgspec.json.Decoder(Line).decode


class ResultCheck:
    """What is known of the lines so far; `expected` is the text that answers a line's prompt."""

    def __init__(self, items: int, order: Order, expected: Callable[[int], str]) -> None:
        self._items = items
        self._order = order
        self._expected = expected
        self._seen = bytearray(items + 1)
        self.lines = self.fault_count = self.microcredits = 0
        self.faults: list[str] = []

    @property
    def missing(self) -> int:
        """How many items have not been delivered."""
        return self._items - sum(self._seen)

    def note(self, line: Line) -> None:
        """Check a line; both orders number them from 1 without a gap."""
        self.lines += 1
        self.microcredits += round(line.credits * _MICROCREDITS)
        is_known = 0 < line.line <= self._items
        number = line.line if self._order == "input" else line.seq
        is_right = (
            is_known
            and number == self.lines
            and not self._seen[line.line]
            and line.custom_id == f"prompt-{line.line}"
            and line.state == "completed"
            and line.result is not None
            and line.result.content == self._expected(line.line)
        )
        if is_known:
            self._seen[line.line] = 1
        if not is_right:
            self.fault_count += 1
            if len(self.faults) < _FAULTS_KEPT:
                self.faults.append(f"{self._order} {self.lines}: {line}")


class ResultReader:
    """Reads `items` results of a batch in the order of their check."""

    def __init__(
        self, system: Rig, batch: str, items: int, order: Order, expected: Callable[[int], str]
    ) -> None:
        self.check = ResultCheck(items, order, expected)
        self.size = 0
        self._items = items
        self._address = urlsplit(system.url).netloc
        self._headers = {"x-api-key": system.key, "accept-encoding": "identity"}
        after = "after_line" if order == "input" else "after_seq"
        self._path = f"/api/v1/batches/{batch}/results?order={order}&{after}="

    def follow(self, give_up: threading.Event) -> None:
        """Read until all items are delivered: again and again, while there are new ones."""
        connection = http.client.HTTPConnection(self._address, timeout=_GIVE_UP_SECONDS)
        last = time.monotonic()
        while self.check.lines < self._items and not give_up.is_set():
            if self._read(connection):
                last = time.monotonic()
            else:
                assert time.monotonic() - last < _GIVE_UP_SECONDS, "no results for too long"
                give_up.wait(_PAUSE_SECONDS)
        connection.close()

    def _read(self, connection: http.client.HTTPConnection) -> int:
        """Read what is there after the last line; return how many lines that were."""
        before, rest = self.check.lines, b""
        connection.request("GET", f"{self._path}{before}", headers=self._headers)
        response = connection.getresponse()
        assert response.status == http.client.OK, response.read()
        while piece := response.read1(_PIECE_BYTES):
            self.size += len(piece)
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                self.check.note(decode(line))
        assert not rest, "the last line is cut off"
        return self.check.lines - before
