"""Mutated streams, read by an adapter and by a plain reading of the standards: both must agree.

`python -m tests.worker.fuzz --inputs 1000000 --seed 7` for long; pytest takes a short walk.

Owns the mutations and the plain reading of chat completions as events. An input agrees when the
adapter raised nothing but a ProviderError, heard the same parts in the same order, and took for an
end only what the bytes say is one: an answer that was cut is never a whole one.
"""

import argparse
import asyncio
import json
import random
import re
import resource
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Literal, NamedTuple

from tests.worker.providers.calls import connect, listen
from tests.worker.providers.dialects import DIALECTS, event
from tests.worker.providers.memory import Memory
from worker.providers.contract import TOKENS_MAX, Ended, Part, Reasoning, Text, Used

_WORDS: Final = ("Two", " bears", "Bär", "🐻‍❄️", "\u2028", "", "a\nb", "data: x", "[DONE]", "\x7f")
_REASONS: Final = ("stop", "length", "content_filter", "tool_calls", "eos", "", None)
_PIECES: Final = (
    *(b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\n\r", b":", b": ping\n\n", b"data:", b"data: "),
    *(b"data: [DONE]\n\n", b"event: error\n", b"id: 1\n", b"retry: 5\n", b"\xef\xbb\xbf", b"\xff"),
    *(b"\xe2\x80", b"\x00", b"null", b"{}", b"[]", b"{", b"}", b"]", b'"', b"\\", b"\\ud83d"),
    *(b"1e999", b"-1", b"0.5", b"true", b"NaN", b'"error":{"code":429},', b'"usage":null,'),
    *(b'"finish_reason":"stop"', b'"delta":{"content":"x"}', b'"choices":[],', b"9" * 30),
    *(b'"reasoning":"x",', b'"reasoning_content":"y",', b'"reasoning":{},', b'"reasoning":null,'),
)
_ENDS: Final = (b"\n", b"\r\n", b"\r")
_KNOWN_REASONS: Final = frozenset({"stop", "length", "content_filter", "tool_calls"})
_DIALECT: Final = DIALECTS[0]


Fault = Literal["cut", "malformed", "told"]


class Input(NamedTuple):
    """What an upstream sends: the reads it comes in, and whether the line is then cut."""

    reads: list[bytes]
    is_cut: bool


class Outcome(NamedTuple):
    """What comes of an input: the parts, and which kind of fault ended it, if one did."""

    parts: list[Part]
    fault: Fault | None


class _Pairs(list[tuple[str, Any]]):
    """An object of JSON, with whatever it says twice."""


# Making inputs


def make(chance: random.Random) -> Input:
    """Return an input: an answer, perhaps mutated, in reads of any length, perhaps cut."""
    data = bytearray(_answer(chance))
    for _ in range(chance.choice((0, 0, 0, 1, 1, 2, 4, 16))):
        _mutate(chance, data)
    if chance.random() < 0.3:
        del data[chance.randrange(len(data) + 1) :]
    return Input(_reads(chance, bytes(data)), is_cut=chance.random() < 0.3)


def _answer(chance: random.Random) -> bytes:
    """Return the bytes of an answer of some server of this kind."""
    events = [event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})]
    for _ in range(chance.randrange(6)):
        name = chance.choice(("content", "content", "content", "reasoning", "reasoning_content"))
        delta = {name: chance.choice(_WORDS)}
        events.append(event({"id": "c", "choices": [{"delta": delta, "finish_reason": None}]}))
    if chance.random() < 0.05:
        events.append(_DIALECT.error_event(chance.choice((400, 429, 500)), "no"))
    if chance.random() < 0.9:
        reason = chance.choice(_REASONS)
        events.append(event({"choices": [{"delta": {}, "finish_reason": reason}]}))
    if chance.random() < 0.5:
        tokens = {"prompt_tokens": chance.randrange(9), "completion_tokens": chance.randrange(9)}
        events.append(event({"choices": [], "usage": tokens}))
    if chance.random() < 0.8:
        events.append(b"data: [DONE]\n\n")
    return b"".join(events).replace(b"\n", chance.choice(_ENDS))


def _mutate(chance: random.Random, data: bytearray) -> None:
    """Change some bytes in one of a few ways."""
    at = chance.randrange(len(data) + 1)
    until = min(len(data), at + chance.randrange(1, 40))
    match chance.randrange(6):
        case 0:
            data[at:at] = chance.choice(_PIECES)
        case 1:
            data[at:until] = chance.choice(_PIECES)
        case 2:
            del data[at:until]
        case 3:
            data[at:at] = data[at:until]
        case 4 if at < len(data):
            data[at] = chance.randrange(256)
        case _:
            data[at:at] = chance.randbytes(chance.randrange(1, 5))


def _reads(chance: random.Random, data: bytes) -> list[bytes]:
    (mean,) = chance.choices((1, 3, 30, 1000), (1, 2, 5, 5))
    reads = []
    at = 0
    while at < len(data):
        length = chance.randrange(1, 2 * mean)
        reads.append(data[at : at + length])
        at += length
    return reads


# The plain reading


def read(data: bytes) -> Outcome:
    """Read a whole stream by the letter of the standards; the fault is that of its content."""
    parts: list[Part] = []
    for text in _events(data):
        if text == "[DONE]":
            break
        try:
            parts += _parts(text)
        except _FaultError as fault:
            return Outcome(parts, fault.kind)
    has_ended = any(isinstance(part, Ended) for part in parts)
    return Outcome(parts, None if has_ended else "cut")


def _events(data: bytes) -> list[str]:
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


class _FaultError(Exception):
    """An event that ends the reading: what we cannot read, or what the upstream failed in."""

    def __init__(self, *, is_ours: bool = False) -> None:
        super().__init__()
        self.kind: Fault = "malformed" if is_ours else "told"


def _parts(text: str) -> list[Part]:
    chunk = _chunk(_json(text))
    if chunk["error"] is not None:
        raise _FaultError
    parts: list[Part] = []
    for choice in (chunk["choices"] or [])[:1]:
        delta, reason = choice["delta"] or {}, choice["finish_reason"]
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        parts += [Reasoning(thought)] if thought and isinstance(thought, str) else []
        parts += [Text(delta["content"])] if delta.get("content") else []
        parts += [Ended(reason if reason in _KNOWN_REASONS else "other")] if reason else []
    return parts + _used(chunk["usage"] or {})


def _used(usage: dict[str, Any]) -> list[Part]:
    details = usage.get("completion_tokens_details") or {}
    asked, answered = usage.get("prompt_tokens"), usage.get("completion_tokens")
    reasoning = details.get("reasoning_tokens") or 0
    if asked is None or answered is None:
        return []
    counts = (asked, answered, reasoning)
    return [Used(*counts)] if all(0 <= count <= TOKENS_MAX for count in counts) else []


def _json(text: str) -> object:
    def refused(_: str) -> None:
        raise ValueError

    try:
        found = json.loads(text, object_pairs_hook=_Pairs, parse_constant=refused)
        # No half of a surrogate pair may stand alone.
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise _FaultError(is_ours=True) from None
    else:
        return found


Check = Callable[[object], Any]


def _one(kind: type) -> Check:
    """Return a check for a value of exactly this type."""

    def check(value: object) -> Any:  # noqa: ANN401  what it is, it stays
        if type(value) is not kind:
            raise _FaultError(is_ours=True)
        return value

    return check


def _maybe(check: Check) -> Check:
    """Return a check for a value that may be null."""
    return lambda value: None if value is None else check(value)


def _list(check: Check) -> Check:
    return lambda value: [check(item) for item in _one(list)(value)]


def _fields(**checks: Check) -> Check:
    """Return a check for an object: every field of a known name; of two, the last counts."""

    def check(value: object) -> dict[str, Any]:
        found: dict[str, Any] = dict.fromkeys(checks)
        for name, item in _one(_Pairs)(value):
            if name in checks:
                found[name] = checks[name](item)
        return found

    return check


_chunk: Final = _fields(
    choices=_maybe(
        _list(
            _fields(
                delta=_maybe(
                    _fields(
                        content=_maybe(_one(str)),
                        reasoning_content=lambda value: value,
                        reasoning=lambda value: value,
                    )
                ),
                finish_reason=_maybe(_one(str)),
            )
        )
    ),
    usage=_maybe(
        _fields(
            prompt_tokens=_maybe(_one(int)),
            completion_tokens=_maybe(_one(int)),
            completion_tokens_details=_maybe(_fields(reasoning_tokens=_maybe(_one(int)))),
        )
    ),
    error=lambda value: value,
)


# Comparing


async def differences(seed: int, inputs: int) -> AsyncIterator[str]:
    """Yield a sentence for every input on which the adapter and the plain reading differ."""
    memory = Memory()
    provider = connect(_DIALECT, "http://127.0.0.1:9/v1", lines=memory)
    for number in range(inputs):
        tried = make(random.Random(f"{seed}:{number}"))
        memory.reads, memory.is_cut = tried
        # Nothing here waits, and the loop must come to finish what generators leave to it.
        await asyncio.sleep(0)  # noqa: TID251  a turn of the loop, no time
        try:
            heard = await listen(provider)
        except Exception as fault:  # noqa: BLE001  whatever it is, it is found
            yield f"{seed}:{number} raised {fault!r} on {tried}"
            continue
        code = heard.error.failure.code if heard.error is not None else None
        data = b"".join(tried.reads)
        expected = read(data)
        if heard.parts != expected.parts or not _is_fault(code, expected.fault):
            yield f"{seed}:{number} heard {heard.parts} {code}, not {expected}, of {tried}"
    await provider.close()


def _is_fault(code: str | None, fault: Fault | None) -> bool:
    """Tell whether the adapter's code says what the plain reading found."""
    match fault:
        case None:
            return code is None
        case "cut":
            return code == "STREAM_CUT"
        case "malformed":
            return code == "MALFORMED_STREAM"
        case "told":
            return code not in {None, "STREAM_CUT", "MALFORMED_STREAM"}


async def _main(seed: int, inputs: int) -> int:
    began, found = time.monotonic(), 0
    async for difference in differences(seed, inputs):
        found += 1
        sys.stdout.write(difference + "\n")
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    seconds = time.monotonic() - began
    sys.stdout.write(
        f"{inputs} inputs of seed {seed}: {found} differ; {seconds:.0f} s, {peak_mib} MiB\n"
    )
    return 1 if found else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Fuzz the reading of providers' streams.")
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    sys.exit(asyncio.run(_main(arguments.seed, arguments.inputs)))
