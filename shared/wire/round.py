"""The log of a running answer: what its finished rounds are made of, entry by entry.

A round is a call of a model that ended with calls of tools, and their results. Each entry is
written under the attempt's token, before anything follows from it, so that a later attempt starts
where the log ends.
"""

from typing import Final

import msgspec

from shared.wire.conversation import Message
from shared.wire.message import CallCost, Citation, Media

# Between the texts of two rounds, as callers see them.
TEXT_SEPARATOR: Final = "\n\n"


class RoundEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry: a model's call, the result of one tool, or what becomes of calls without result.

    A model's call has its `message`, its `cost`, and what it showed beside text; a result has its
    `message` and a `summary` for people. `started` are calls of tools that must not run twice, and
    which run after this entry. `suspended` are calls that wait and have had no effect.
    """

    attempt: int
    message: Message | None = None
    cost: CallCost | None = None
    summary: str = ""
    started: tuple[str, ...] = ()
    suspended: tuple[str, ...] = ()
    reasoning: str = ""
    media: tuple[Media, ...] = ()
    citations: tuple[Citation, ...] = ()


_encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(RoundEntry).decode


def encode(entry: RoundEntry) -> str:
    """Return an entry as it is stored."""
    return _encode(entry).decode()
