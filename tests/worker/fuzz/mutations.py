"""Makes an input from an answer: changes, chunk sizes, cuts.

Owns the random choices. Refuses to know any dialect: each passes whole answers, and pieces that are
likely to matter in them.
"""

import random
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

WORDS: Final = ("Two", " bears", "Bär", "🐻‍❄️", "\u2028", "", "a\nb", "data: x", "[DONE]", "\x7f")
# Forms of a call's arguments; the last ones are invalid.
ARGUMENTS: Final = ("{}", '{"n":1,"t":"Bär"}', '{"a":[{"b":null}]}', "", "[1]", '{"n":', "7")
# URLs of pages, and values that are none.
_PAGES: Final = ("https://a.example/x", "HTTP://b.example", "https://", "javascript:x", "", " ", 7)
_PIECES: Final = (
    *(b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\n\r", b":", b": ping\n\n", b"data:", b"data: "),
    *(b"event: error\n", b"id: 1\n", b"retry: 5\n", b"\xef\xbb\xbf", b"\xff"),
    *(b"\xe2\x80", b"\x00", b"null", b"{}", b"[]", b"{", b"}", b"]", b'"', b"\\", b"\\ud83d"),
    *(b"1e999", b"-1", b"0.5", b"true", b"NaN", b'"error":{"code":429},', b"9" * 30),
)
_ENDS: Final = (b"\n", b"\r\n", b"\r")

Answer = Callable[[random.Random], bytes]


class Input(NamedTuple):
    """What an upstream sends: the chunks, and whether the connection is then cut."""

    reads: list[bytes]
    is_cut: bool


def make(chance: random.Random, answer: Answer, pieces: Sequence[bytes]) -> Input:
    """Return an input: an answer, perhaps mutated, in chunks of any length, perhaps cut."""
    events = answer(chance).split(b"\n\n")
    for _ in range(chance.choice((0, 0, 0, 1, 2))):
        _rearrange(chance, events)
    data = bytearray(b"\n\n".join(events).replace(b"\n", chance.choice(_ENDS)))
    for _ in range(chance.choice((0, 0, 0, 1, 1, 2, 4, 16))):
        _mutate(chance, data, (*_PIECES, *pieces))
    if chance.random() < 0.3:
        del data[chance.randrange(len(data) + 1) :]
    return Input(_reads(chance, bytes(data)), is_cut=chance.random() < 0.3)


def split(chance: random.Random, text: str) -> list[str]:
    """Return a text in a few pieces."""
    at = sorted(chance.randrange(len(text) + 1) for _ in range(chance.randrange(3)))
    return [text[start:end] for start, end in zip([0, *at], [*at, len(text)], strict=True)]


def pages(chance: random.Random, cited: Callable[[object, object], bytes]) -> bytes:
    """Return the citations of a few pages."""
    count = chance.choice((0, 0, 0, 1, 3))
    return b"".join(cited(chance.choice(_PAGES), chance.choice(WORDS)) for _ in range(count))


def _rearrange(chance: random.Random, events: list[bytes]) -> None:
    """Leave an event out, repeat it, or move it."""
    at, to = (chance.randrange(len(events)) for _ in range(2))
    match chance.randrange(3):
        case 0:
            del events[at : at + 1 if len(events) > 1 else at]
        case 1:
            events.insert(to, events[at])
        case _:
            events.insert(to, events.pop(at))


def _mutate(chance: random.Random, data: bytearray, pieces: Sequence[bytes]) -> None:
    """Change some bytes in one of a few ways."""
    at = chance.randrange(len(data) + 1)
    until = min(len(data), at + chance.randrange(1, 40))
    match chance.randrange(6):
        case 0:
            data[at:at] = chance.choice(pieces)
        case 1:
            data[at:until] = chance.choice(pieces)
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
