"""What a caller asked for, in the words of no dialect: made by the front, read by the worker."""

from typing import Final, Literal, get_args

import msgspec

AUTO: Final = "auto"
# What a worker of this text can carry out; one that carries out less leaves it in the line.
WIRE: Final = 3
PLAIN_WIRE: Final = 1
COMPANION_WIRE: Final = 2
FEATURES_WIRE: Final = 3
# A turn of a newer wire than this rings a bell of its own, this word and the wire: workers that
# cannot read it do not wait there. Workers of version 0.6 know the lanes' bells only, and wire 3.
LANE_WAKEUP_WIRE: Final = 3
WIRE_WAKEUP: Final = "wire|"

OnConflict = Literal["enqueue", "reject", "interrupt"]
Lane = Literal["interactive", "batch"]
LANES: Final[tuple[Lane, ...]] = get_args(Lane)


class Features(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a turn asks for beyond an answer to its text; not every model can.

    `media_urls` are pictures to look at, where they are.
    """

    deep_think: bool = False
    web_search: bool = False
    media_urls: tuple[str, ...] = ()


PLAIN: Final = Features()


class Submission(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The options of one generation; its message rests in the session.

    `model` is a catalogue identifier or `auto`; `max_output_tokens` is what the hold pays for;
    `companion` is this turn's, where it names one. What was held covers the session's history where
    `holds_history` says so; older fronts did not hold for it.
    """

    session: str
    model: str = AUTO
    enhance_prompt: bool = True
    max_output_tokens: int = 2048
    request_id: str = ""
    companion: str | None = None
    features: Features = PLAIN
    holds_history: bool = False


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Submission).decode
