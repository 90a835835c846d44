"""Reads what Redis stores of each accepted generation and each account, after a run.

Owns the reading and the decoding. Does not judge: a record that is missing is an empty one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

import msgspec

from shared.lifecycle import ENDS
from shared.redis import keys
from shared.redis.client import Argument, Reply
from shared.settings import RedisSettings
from shared.wire import event as events
from shared.wire.message import AssistantMessage, UserMessage, decode_assistant, decode_user
from tests.chaos.evidence import AcceptedMessage
from tests.support.redis_server import RawClient

T = TypeVar("T")

_BATCH_SIZE: Final = 500


class Entry(NamedTuple):
    """One entry of a generation's stream."""

    epoch: int
    seq: int
    event: events.Event


class Piece(NamedTuple):
    """A part of the text that a client has in the end, and the epoch of its events."""

    epoch: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is stored of one accepted generation."""

    accepted_message: AcceptedMessage
    record: Mapping[str, str]
    entries: Sequence[Entry]
    user: UserMessage | None
    assistant: AssistantMessage | None

    @property
    def has_ended(self) -> bool:
        """Whether its record has a final stage."""
        return self.record.get("stage") in ENDS

    @property
    def attempt(self) -> int:
        """The number of the last claim; 0 if it was never claimed."""
        return int(self.record.get("attempt", 0))

    def visible(self) -> list[Piece]:
        """Return what a client has of the answer: deltas, and resets that drop them."""
        pieces: list[Piece] = []
        for epoch, _, event in self.entries:
            if isinstance(event, events.Delta):
                pieces.append(Piece(epoch, event.text))
            elif isinstance(event, events.Reset):
                pieces = _cut(pieces, event.keep)
        return pieces


def _cut(pieces: list[Piece], keep: int) -> list[Piece]:
    kept: list[Piece] = []
    for epoch, text in pieces:
        if keep > 0:
            kept.append(Piece(epoch, text[:keep]))
        keep -= len(text)
    return kept


def roots(settings: RedisSettings) -> list[str]:
    """Return the roots of all partitions."""
    return [keys.partition_root(settings, index) for index in range(settings.partitions)]


def cases(
    raw_client: RawClient, settings: RedisSettings, accepted_messages: Sequence[AcceptedMessage]
) -> Iterator[Case]:
    """Yield every accepted generation as it is stored."""
    root_of = dict(_roots_of_accounts(raw_client, settings, accepted_messages))
    for start in range(0, len(accepted_messages), _BATCH_SIZE):
        some = accepted_messages[start : start + _BATCH_SIZE]
        yield from _read(raw_client, [(root_of[one.account], one) for one in some])


def credit_totals(raw_client: RawClient, settings: RedisSettings, account: str) -> dict[str, int]:
    """Return the credit totals of an account from its partition; empty if it has none."""
    found: dict[str, int] = {}
    for root in roots(settings):
        stored = raw_client.fields(keys.ACCOUNT_TOTALS(root, account))
        found |= {name: int(value) for name, value in stored.items() if "_" not in name}
    return found


def _roots_of_accounts(
    raw_client: RawClient, settings: RedisSettings, accepted_messages: Sequence[AcceptedMessage]
) -> Iterator[tuple[str, str]]:
    """Yield each account with the root of the partition that has its totals."""
    first, *_ = every = roots(settings)
    for account in {accepted_message.account for accepted_message in accepted_messages}:
        found_roots = [
            root for root in every if raw_client("EXISTS", keys.ACCOUNT_TOTALS(root, account))
        ]
        yield account, (found_roots or [first])[0]


def _read(raw_client: RawClient, some: Sequence[tuple[str, AcceptedMessage]]) -> Iterator[Case]:
    read = raw_client.all(
        [
            command
            for root, accepted_message in some
            for command in _record_commands(root, accepted_message)
        ]
    )
    replies = list(zip(read[::2], read[1::2], strict=True))
    records = [_decode_hash(record) for record, _ in replies]
    messages = raw_client.all(
        [
            _turn_command(root, one, record)
            for (root, one), record in zip(some, records, strict=True)
        ]
    )
    for (_, accepted_message), (_, stream), record, (user, assistant) in zip(
        some, replies, records, messages, strict=True
    ):
        yield Case(
            accepted_message=accepted_message,
            record=record,
            entries=[_entry(at, fields) for at, fields in stream],
            user=_decoded(decode_user, user),
            assistant=_decoded(decode_assistant, assistant),
        )


def _decoded(decode: Callable[[bytes], T], record: bytes | None) -> T | None:
    """Return a decoded record; None if it is missing or not decodable."""
    try:
        return decode(record) if record else None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _record_commands(
    root: str, accepted_message: AcceptedMessage
) -> tuple[tuple[Argument, ...], ...]:
    _, _, id_, _ = accepted_message
    return (
        ("HGETALL", keys.GENERATION(root, accepted_message.account, id_)),
        ("XRANGE", keys.EVENTS(root, accepted_message.account, id_), "-", "+"),
    )


def _turn_command(
    root: str, accepted_message: AcceptedMessage, record: Mapping[str, str]
) -> tuple[Argument, ...]:
    turn = int(record.get("turn", 0))
    chunk = turn // keys.TURNS_PER_CHUNK
    where = keys.TURNS(root, accepted_message.account, accepted_message.session, chunk)
    return ("HMGET", where, f"{turn}:u", f"{turn}:a")


def _entry(at: bytes, fields: dict[bytes, bytes]) -> Entry:
    epoch, _, seq = at.decode().partition("-")
    return Entry(int(epoch), int(seq), events.decode(fields[b"e"]))


def _decode_hash(fields: Reply) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in fields.items()}
