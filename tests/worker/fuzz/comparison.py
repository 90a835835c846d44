"""Compares an adapter with the plain reading of its dialect."""

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, NamedTuple

from shared.ids import is_id
from shared.wire.conversation import CallPart
from tests.worker.fuzz import anthropic, gemini, mutations, openai
from tests.worker.fuzz.mutations import Answer, Input
from tests.worker.fuzz.reading import Fault, Outcome, Reading, read
from tests.worker.providers.calls import connect, listen
from tests.worker.providers.dialects import named
from tests.worker.providers.memory_upstream import MemoryTransport
from worker.providers.contract import Part

_HALF: Final = re.compile(rb"(?i)\\ud[89a-f]")


class FuzzDialect(NamedTuple):
    """What the fuzz of a dialect needs: its answers, pieces that matter, its plain reading."""

    answer: Answer
    pieces: Sequence[bytes]
    plain: Callable[[], Reading]


FUZZ_DIALECTS: Final[dict[str, FuzzDialect]] = {
    "openai": FuzzDialect(openai.answer, openai.PIECES, openai.PlainReader),
    "anthropic": FuzzDialect(anthropic.answer, anthropic.PIECES, anthropic.PlainReader),
    "gemini": FuzzDialect(gemini.answer, gemini.PIECES, gemini.PlainReader),
}


def make(name: str, chance: random.Random) -> Input:
    """Return an input of a dialect."""
    fuzz_dialect = FUZZ_DIALECTS[name]
    return mutations.make(chance, fuzz_dialect.answer, fuzz_dialect.pieces)


def expected(name: str, data: bytes, *, is_cut: bool = False) -> Outcome:
    """Return what the plain reading of a dialect makes of a stream."""
    return read(data, FUZZ_DIALECTS[name].plain(), is_cut=is_cut)


async def differences(name: str, seed: int, inputs: int) -> AsyncIterator[str]:
    """Yield a sentence for every input on which the adapter and the plain reading differ."""
    memory = MemoryTransport()
    provider = connect(named(name), "http://127.0.0.1:9/v1", lines=memory)
    for number in range(inputs):
        tried = make(name, random.Random(f"{seed}:{number}"))
        memory.reads, memory.is_cut = tried
        # Nothing here waits, and the loop must come to finish what generators leave to it.
        await asyncio.sleep(0)  # noqa: TID251  a turn of the loop, no time
        try:
            received = await listen(provider)
        except Exception as fault:  # noqa: BLE001  whatever it is, it is found
            yield f"{name} {seed}:{number} raised {fault!r} on {tried}"
            continue
        code = received.error.failure.code if received.error is not None else None
        data = b"".join(tried.reads)
        outcome = expected(name, data, is_cut=tried.is_cut)
        # Halves of characters are joined across events, which no plain reading does.
        has_halves = _HALF.search(data) is not None
        is_same = _are_same(received.parts, outcome.parts) and _is_fault(code, outcome.fault)
        if not (is_same or has_halves):
            yield f"{name} {seed}:{number} heard {received.parts} {code}, not {outcome}, of {tried}"
    await provider.close()


def _are_same(received: list[Part], read_plainly: list[Part]) -> bool:
    """Tell whether both have the same parts; where no id was given, any of ours will do."""
    if len(received) != len(read_plainly):
        return False
    return all(map(_is_same, received, read_plainly))


def _is_same(received: Part, plain: Part) -> bool:
    if not (isinstance(received, CallPart) and isinstance(plain, CallPart)):
        return received == plain
    is_same_id = received.call_id == plain.call_id or (
        not plain.call_id and is_id(received.call_id)
    )
    is_same_value = _value(received.arguments) == _value(plain.arguments)
    return is_same_id and received.tool == plain.tool and is_same_value


def _value(arguments: str) -> str:
    """Return arguments in one form, whatever their blanks; as they are if they are no JSON."""
    try:
        return json.dumps(json.loads(arguments))
    except (ValueError, RecursionError):
        return arguments


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
