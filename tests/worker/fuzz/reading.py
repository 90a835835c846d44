"""A plain reading of event streams and of JSON, by the letter of their standards.

Owns what is common to all dialects: which events there are, what their data says, and which fault
ends the reading. Written for plainness, not for speed, and without anything of the adapters.
"""

import base64
import io
import json
import math
import re
import unicodedata
import wave
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

from shared.wire.event import ToolCall
from shared.wire.message import Citation
from worker.providers.contract import SEARCHES_MAX, TOKENS_MAX, Ended, Part, Produced, Used

Fault = Literal["cut", "malformed", "told"]
Check = Callable[[object], Any]


class Outcome(NamedTuple):
    """What comes of an input: the parts, and which kind of fault ended it, if one did."""

    parts: list[Part]
    fault: Fault | None


class Reading(Protocol):
    """The plain reading of one answer in a dialect."""

    def parts(self, text: str) -> list[Part] | None:
        """Return the parts of an event, or None for the last word. Raises FaultError."""


class FaultError(Exception):
    """An event that ends the reading: what we cannot read, or what the upstream failed in."""

    def __init__(self, *, is_ours: bool = False) -> None:
        super().__init__()
        self.kind: Fault = "malformed" if is_ours else "told"


class Pairs(list[tuple[str, Any]]):
    """An object of JSON, with whatever it says twice."""


def read(data: bytes, reading: Reading) -> Outcome:
    """Read a whole stream; the fault is that of its content."""
    parts: list[Part] = []
    for text in events(data):
        try:
            found = reading.parts(text)
        except FaultError as fault:
            return Outcome(parts, fault.kind)
        if found is None:
            break
        parts += found
    has_ended = any(isinstance(part, Ended) for part in parts)
    return Outcome(parts, None if has_ended else "cut")


def events(data: bytes) -> list[str]:
    """Return the data of every event that is dispatched, as the standard of event streams says."""
    lines = re.split("\r\n|\r|\n", data.decode("utf-8-sig", errors="replace"))
    found: list[str] = []
    gathered: list[str] = []
    # What follows the last line end is no line yet.
    for line in lines[:-1]:
        if line:
            name, _, value = line.partition(":")
            if name == "data":
                gathered.append(value.removeprefix(" "))
        elif any(gathered) or len(gathered) > 1:
            found.append("\n".join(gathered))
            gathered = []
        else:
            gathered = []
    return found


def from_json(text: str) -> object:
    """Return what a text says in JSON, each object as its pairs. Raises FaultError."""

    def refused(_: str) -> None:
        raise ValueError

    try:
        found = json.loads(text, object_pairs_hook=Pairs, parse_constant=refused)
        # No half of a surrogate pair may stand alone.
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise FaultError(is_ours=True) from None
    else:
        return found


def one(kind: type) -> Check:
    """Return a check for a value of exactly this type."""

    def check(value: object) -> Any:  # noqa: ANN401  what it is, it stays
        if type(value) is not kind:
            raise FaultError(is_ours=True)
        return value

    return check


def maybe(check: Check) -> Check:
    """Return a check for a value that may be null."""
    return lambda value: None if value is None else check(value)


def several(check: Check) -> Check:
    """Return a check for an array, each item of which is checked."""
    return lambda value: [check(item) for item in one(list)(value)]


def fields(**checks: Check) -> Check:
    """Return a check for an object: every field of a known name; of two, the last counts."""

    def check(value: object) -> dict[str, Any]:
        found: dict[str, Any] = dict.fromkeys(checks)
        for name, item in one(Pairs)(value):
            if name in checks:
                found[name] = checks[name](item)
        return found

    return check


def anything(value: object) -> Any:  # noqa: ANN401  whatever it is
    """Return a value as Python has it; a number that none can hold is a fault."""
    if isinstance(value, Pairs):
        return {name: anything(item) for name, item in value}
    if isinstance(value, list):
        return [anything(item) for item in value]
    if isinstance(value, float) and math.isinf(value):
        raise FaultError(is_ours=True)
    return value


def mapping(value: object) -> dict[str, Any]:
    """Return an object as Python has it. Raises FaultError."""
    return dict(anything(one(Pairs)(value)))


def called(call_id: str | None, tool: str | None, arguments: str) -> ToolCall:
    """Return a call; one without an id has none here. Raises FaultError."""
    if not tool:
        raise FaultError(is_ours=True)
    said = arguments.strip(" \t\n\r\f\v")
    found = {} if said in {"", "null"} else mapping(from_json(said))
    return ToolCall(call_id or "", tool, found)


def decoded(text: str) -> bytes:
    """Return what base64 says. Raises FaultError."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise FaultError(is_ours=True) from None


def sound(samples: bytes, rate: int) -> list[Part]:
    """Return the one sound that pieces make: as it is if it is a WAV, else in one of its own."""
    if not samples:
        return []
    if samples[:4] == b"RIFF" and samples[8:12] == b"WAVE":
        return [Produced("audio", "audio/wav", samples)]
    made = io.BytesIO()
    with wave.open(made, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        # The library counts whole samples only, and its own head is what an odd byte follows.
        file.writeframesraw(samples)
    content = bytearray(made.getvalue())
    content[4:8] = (36 + len(samples)).to_bytes(4, "little")
    content[40:44] = len(samples).to_bytes(4, "little")
    return [Produced("audio", "audio/wav", bytes(content))]


def cited(told: list[str], url: object, title: object) -> list[Part]:
    """Return the citation of a page that is not among those told, and note it there."""
    if not isinstance(url, str) or not url.isprintable() or len(url) > 2048:
        return []
    if url in told or len(told) == 64 or not re.fullmatch("(?i)https?://[^ ]+", url):
        return []
    told.append(url)
    words = "".join(
        " " if unicodedata.category(letter).startswith("C") else letter
        for letter in (title if isinstance(title, str) else "")
    ).split()
    return [Citation(url, " ".join(words))]


def used(
    asked: int | None, answered: int | None, reasoning: int | None, searches: int | None = None
) -> list[Part]:
    """Return what was used, if it is told and can be believed."""
    if asked is None or answered is None:
        return []
    counts = (asked, answered, reasoning or 0, searches or 0)
    if counts[3] > SEARCHES_MAX:
        return []
    return [Used(*counts)] if all(0 <= count <= TOKENS_MAX for count in counts) else []
