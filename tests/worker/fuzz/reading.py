"""A plain reading of event streams and of JSON, by the letter of their standards.

Owns what all dialects share: which events there are, their data, and which fault ends the reading.
Written for plainness, not for speed, and without any code of the adapters.
"""

import base64
import io
import json
import re
import unicodedata
import wave
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from shared.wire.conversation import CallPart
from shared.wire.message import Citation
from worker.providers.contract import (
    SEARCHES_MAX,
    TOKENS_MAX,
    Ended,
    GeneratedMedia,
    Part,
    ReportedUsage,
)

_BLANKS = " \t\n\r\f\v"
Fault = Literal["cut", "malformed", "told"]
Check = Callable[[object], Any]


class Outcome(NamedTuple):
    """The result of an input: its parts, and the kind of fault that ended it, if any."""

    parts: list[Part]
    fault: Fault | None


class Reading(Protocol):
    """The plain reading of one answer in a dialect."""

    def parts(self, text: str) -> list[Part] | None:
        """Return the parts of an event, or None for the last event. Raises FaultError."""

    def finish(self) -> list[Part]:
        """Return the parts that only the end of the body shows."""


class FaultError(Exception):
    """An event that ends the reading: it is unreadable, or reports a failure."""

    def __init__(self, *, is_ours: bool = False) -> None:
        super().__init__()
        self.kind: Fault = "malformed" if is_ours else "told"


class JsonObject(list[tuple[str, Any]]):
    """An object of JSON, with whatever it says twice."""


def read(data: bytes, reading: Reading, *, is_cut: bool = False) -> Outcome:
    """Read a whole stream; a fault counts only before the end of the answer."""
    parts: list[Part] = []
    try:
        for text in events(data, is_cut=is_cut):
            found = reading.parts(text)
            if found is None:
                is_cut = False
                break
            parts += found
        parts += reading.finish() if not is_cut else []
    except FaultError as fault:
        return Outcome(parts, None if _has_ended(parts) else fault.kind)
    return Outcome(parts, None if _has_ended(parts) else "cut")


def _has_ended(parts: list[Part]) -> bool:
    return any(isinstance(part, Ended) for part in parts)


def events(data: bytes, *, is_cut: bool = False) -> list[str]:
    """Return the data of every event, as the standard of event streams says, and as we add to it.

    What the standard drops, an event without a blank line after it, counts if it is whole. Errors
    may come as events of that name, and in a field of it. JSON alone is its own event.
    """
    text = data.decode("utf-8-sig", errors="replace")
    if text.lstrip()[:1] in {"{", "["}:
        plain = text.replace("\r\n", "\n").replace("\r", "\n")
        return _documents(plain) if not is_cut else []
    if text.lstrip()[:1] == "<":
        raise FaultError
    lines = re.split("\r\n|\r|\n", text)
    found: list[str] = []
    gathered: list[tuple[str, str]] = []
    # What follows the last line end is one more line, if it is anything.
    for line in lines if lines[-1] else lines[:-1]:
        name, _, value = line.partition(":")
        if line:
            gathered.append((name, value.removeprefix(" ")))
        else:
            found += _event(gathered)
            gathered = []
    last = _event(gathered) if not is_cut else []
    return found + [event for event in last if _says(event)]


def _event(fields_: list[tuple[str, str]]) -> list[str]:
    """Return the data of an event, if it has any."""
    is_error = False
    told = []
    for name, value in fields_:
        if name == "error":
            return [_error(value)]
        if name == "data":
            told.append(value)
        if name == "event":
            is_error = value.strip(_BLANKS).lower() == "error"
    data = "\n".join(told)
    return [_error(data) if is_error and data.strip(_BLANKS) else data] if data else []


def _error(told: str) -> str:
    return f'{{"error":{told if _says(told) else json.dumps(told)}}}'


def _documents(text: str) -> list[str]:
    """Return the JSON documents of a text: the items of an array, the whole, or its lines."""
    if text.lstrip().startswith("[") and _is_plain(text):
        decoder, found, at = json.JSONDecoder(), [], text.index("[") + 1
        while text[at:].lstrip(_BLANKS)[:1] != "]":
            at += len(text[at:]) - len(text[at:].lstrip(_BLANKS + ","))
            _, end = decoder.raw_decode(text, at)
            found.append(text[at:end])
            at = end
        return found
    return [each for each in ([text] if _says(text) else text.split("\n")) if _says(each)]


def _is_plain(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True


def _says(text: str) -> bool:
    """Tell whether a text is JSON of any kind."""
    try:
        _loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _loads(text: str) -> Any:  # noqa: ANN401  a value of any kind
    return json.loads(text, object_pairs_hook=JsonObject, strict=False, parse_int=_number)


def _number(digits: str) -> int | float:
    return int(digits) if len(digits) < 30 else float(digits)


def from_json(text: str) -> object:
    """Return what a text says in JSON, each object as its pairs; None for what is no loss.

    Raises FaultError.
    """
    try:
        return _loads(text)
    except (ValueError, RecursionError):
        if not text.lstrip(_BLANKS).startswith("{"):
            return None
        if any(f'"{word}"' in text for word in ("content", "text", "delta", "parts")):
            raise FaultError(is_ours=True) from None
        if '"error"' in text:
            raise FaultError from None
        return None


def one(kind: type) -> Check:
    """Return a check for a value that is of a type or can be read as one; else it is None."""

    def check(value: object) -> Any:  # noqa: ANN401  what it is, it stays
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if type(value) is kind:
            return anything(value)
        if kind is str and is_number:
            return str(value) if abs(float(str(value))) < 1e30 else None
        if kind is int and (is_number or isinstance(value, str)):
            return _count(str(value))
        if kind is bool and isinstance(value, int | str):
            return str(value).lower() in {"true", "1"}
        return None

    return check


def _count(told: str) -> int | None:
    try:
        return int(float(told)) if float(told).is_integer() else None
    except (ValueError, OverflowError):
        return None


def maybe(check: Check) -> Check:
    """Return a check for a value that may be null."""
    return lambda value: None if value is None else check(value)


def several(check: Check) -> Check:
    """Return a check for an array, each item of which is checked; one thing is the array of it."""

    def check_all(value: object) -> Any:  # noqa: ANN401  a value of any kind
        if isinstance(value, JsonObject):
            return [check(value)]
        items = [check(item) for item in value] if isinstance(value, list) else None
        return [item for item in items if item is not None] if items is not None else None

    return check_all


def either(*checks: Check) -> Check:
    """Return a check for what any of some checks takes."""
    return lambda value: next(
        (found for check in checks if (found := check(value)) is not None), None
    )


def fields(**checks: Check) -> Check:
    """Return a check for an object: every field of a known name; of two, the last counts."""

    def check(value: object) -> Any:  # noqa: ANN401  a value of any kind
        if not isinstance(value, JsonObject):
            return None
        said = dict(value)
        return {name: each(said.get(name)) for name, each in checks.items()}

    return check


def anything(value: object) -> Any:  # noqa: ANN401  whatever it is
    """Return a value as Python has it."""
    if isinstance(value, JsonObject):
        return {name: anything(item) for name, item in value}
    if isinstance(value, list):
        return [anything(item) for item in value]
    return value


def mapping(value: object) -> Any:  # noqa: ANN401  a value of any kind
    """Return an object as Python has it; anything else is None."""
    return anything(value) if isinstance(value, JsonObject) else None


def is_error(value: object) -> bool:
    """Tell whether the value of an `error` field is an error."""
    return value is not None and value not in (False, "")


def called(call_id: str | None, tool: str | None, arguments: str) -> CallPart:
    """Return a call; one without an id has none here. Raises FaultError."""
    if not tool:
        raise FaultError(is_ours=True)
    is_empty = arguments.strip(_BLANKS) in {"", "null"}
    return CallPart(call_id or "", tool, "{}" if is_empty else arguments)


def decoded(text: str) -> bytes | None:
    """Return decoded base64; None if it is invalid and not needed."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return None


def sound(samples: bytes, rate: int) -> list[Part]:
    """Return the one sound that pieces make: unchanged if it is a WAV, else as a WAV."""
    if not samples:
        return []
    if samples[:4] == b"RIFF" and samples[8:12] == b"WAVE":
        return [GeneratedMedia("audio", "audio/wav", samples)]
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
    return [GeneratedMedia("audio", "audio/wav", bytes(content))]


def cited(told: list[str], url: object, title: object) -> list[Part]:
    """Return the citation of a page that was not cited before, and note it."""
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
    asked: int | None,
    answered: int | None,
    reasoning: int | None,
    searches: int | None = None,
    cached: int | None = None,
    written: int | None = None,
) -> list[Part]:
    """Return the usage, if it is reported and plausible; cached and written tokens are input."""
    if asked is None or answered is None:
        return []
    counts = (asked, answered, reasoning or 0, searches or 0)
    if counts[3] > SEARCHES_MAX:
        return []
    cached = cached if cached and 0 < cached <= asked else 0
    written = written if written and 0 < written <= asked - cached else 0
    is_lawful = all(0 <= count <= TOKENS_MAX for count in counts)
    return [ReportedUsage(*counts, cached, written)] if is_lawful else []
