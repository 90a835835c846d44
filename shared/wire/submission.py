"""What a caller asks for, independent of any dialect: written by the API, read by the worker."""

import zlib
from typing import Final, Literal, get_args

import msgspec

from shared.wire.conversation import AnswerOptions, Message

AUTO: Final = "auto"
# The newest form of a submission that this version can carry out; a worker leaves newer ones in the
# queue.
WIRE: Final = 6
PLAIN_WIRE: Final = 1
COMPANION_WIRE: Final = 2
FEATURES_WIRE: Final = 3
# A generation without a session, or with an explicit conversation, tools, sampling or a form.
TURN_WIRE: Final = 4
# An item of a batch, whose end is counted in it.
BATCH_WIRE: Final = 5
# An item of a batch that may have copies, which are counted at its end.
COPIES_WIRE: Final = 6
# A generation whose request says where its end is reported: older versions write no event of it.
WEBHOOK_WIRE: Final = 5
# A turn of a newer wire than this has a wakeup list of its own, named by this word and the wire, so
# that workers which cannot read it are not woken. Workers of version 0.6 know only the lanes'
# lists, and wire 3.
LANE_WAKEUP_WIRE: Final = 3
WIRE_WAKEUP: Final = "wire|"

OnConflict = Literal["enqueue", "reject", "interrupt"]
Lane = Literal["interactive", "batch"]
LANES: Final[tuple[Lane, ...]] = get_args(Lane)


class Features(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a turn asks for beyond a text answer; not every model can do it.

    `media_urls` are pictures for the model to look at.
    """

    deep_think: bool = False
    web_search: bool = False
    media_urls: tuple[str, ...] = ()


PLAIN: Final = Features()


class Submission(AnswerOptions, frozen=True, kw_only=True, omit_defaults=True):
    """The options of one generation; its message is stored beside it.

    `session` is None for a generation without one, which has no history. `model` is a catalogue
    identifier or `auto`; `max_output_tokens` is what the hold pays for; `companion` is this turn's
    own, if it names one. `holds_history`: the hold covers the session's history, which older API
    processes did not hold for. `conversation` is set for an explicit one, which is sent as it
    stands, without a session.
    """

    session: str | None
    model: str = AUTO
    enhance_prompt: bool = True
    max_output_tokens: int = 2048
    request_id: str = ""
    companion: str | None = None
    features: Features = PLAIN
    holds_history: bool = False
    conversation: tuple[Message, ...] | None = None


# A longer submission is compressed. Plain chat never is: its message is stored elsewhere.
_COMPRESSED_FROM_BYTES: Final = 4_096
# No MessagePack begins with this byte, so that older submissions are recognized.
_COMPRESSED: Final = b"\xc1"
# Of a submission when it is not compressed: more than any that is accepted.
_BYTES_MAX: Final = 16 * 1024 * 1024
# Conversations shrink to a third at the fastest level already.
_LEVEL: Final = 1
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Submission).decode


def encode(submission: Submission) -> bytes:
    """Return a submission as it is stored: compressed, if it is long."""
    packed = _encode(submission)
    if len(packed) < _COMPRESSED_FROM_BYTES:
        return packed
    return _COMPRESSED + zlib.compress(packed, _LEVEL)


def decode(stored: bytes) -> Submission:
    """Return a stored submission.

    Raises:
        msgspec.MsgspecError: it cannot be decoded, or is longer than any submission.

    """
    if not stored.startswith(_COMPRESSED):
        return _decode(stored)
    inflater = zlib.decompressobj()
    try:
        packed = inflater.decompress(memoryview(stored)[1:], _BYTES_MAX)
    except zlib.error as error:
        raise msgspec.DecodeError(str(error)) from None
    if not inflater.eof:
        raise msgspec.DecodeError("a compressed submission is cut, or too long")
    return _decode(packed)
