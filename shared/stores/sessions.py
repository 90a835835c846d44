"""Sessions, and their turns by page and as history.

Owns how turns are stored (in chunks, two fields each), paged, and read as history. Adds and ends no
turn: `accept` and `settle` do.
"""

import asyncio
from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec

from shared.lifecycle import State
from shared.redis import functions, keys
from shared.redis.client import Connection
from shared.redis.keys import TURNS_PER_CHUNK
from shared.wire.message import AssistantMessage, UserMessage, decode_assistant, decode_user

_FIELDS: Final = ("name", "created", "active", "companion", "metadata", "turns")
# Bytes of messages read at once, since Redis serves nobody else meanwhile.
READ_BYTES_MAX: Final = 262_144
# Chunks read in one round trip, and so the most that is read beyond what is needed.
_CHUNKS_AT_ONCE: Final = 2
# Bytes of records for each byte of content: they also hold reasoning, and turns that did not
# complete.
_READ_BYTES_PER_CONTENT_BYTE: Final = 4
_READ_BYTES_MIN: Final = 1_000_000
_decode_metadata = msgspec.msgpack.Decoder(dict[str, str]).decode


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A session; times in ms. `companion` is the one that it was begun with."""

    id: str
    name: str
    created: int
    active: int
    turns: int = 0
    companion: str | None = None
    metadata: dict[str, str] = {}


class TurnRange(NamedTuple):
    """Turns of a session, from 1: those from `first` or else `count_max` of them, up to `last`."""

    last: int
    first: int | None = None
    count_max: int = 0


class TurnsFound(NamedTuple):
    """A session and the range of turns found; those up to `fitting` may be read at once.

    `first` is beyond `last` where there are none.
    """

    session: Session
    first: int
    last: int
    fitting: int


class History(list["Turn"]):
    """Completed turns, oldest first; `is_whole` unless earlier ones were not read."""

    is_whole: bool = True


class Turn(NamedTuple):
    """One turn. `assistant` is None while the answer is being made; `state` is the answer's."""

    number: int
    user: UserMessage
    assistant: AssistantMessage | None
    state: State


async def find(redis: Connection, root: str, account: str, session: str) -> Session | None:
    """Return an account's session; None where it has none of that id."""
    where = keys.SESSION(root, account, session)
    return _session(session, await redis.call("HMGET", where, *_FIELDS))


async def page(
    redis: Connection, root: str, account: str, *, offset: int, limit: int
) -> tuple[list[Session], int]:
    """Return a page of an account's sessions, last active first, and their number."""
    where = keys.SESSIONS(root, account)
    total, listed = await asyncio.gather(
        redis.call("ZCARD", where), redis.call("ZRANGE", where, offset, offset + limit - 1, "REV")
    )
    names = [name.decode() for name in listed]
    found = await asyncio.gather(*(find(redis, root, account, name) for name in names))
    return [session for session in found if session is not None], total


async def rename(redis: Connection, root: str, account: str, session: str, name: str) -> bool:
    """Rename a session; return whether there was one."""
    ask = functions.RenameSessionAsk(account=account, id=session, name=name)
    return await functions.rename_session(redis, root, ask)


async def find_turns(
    redis: Connection, root: str, account: str, session: str, wanted: TurnRange
) -> TurnsFound | None:
    """Return an account's session and which of the wanted turns exist, or None.

    `fitting` limits what is read at once to `READ_BYTES_MAX`, or to one turn.
    """
    ask = functions.FindTurnsAsk(
        account=account,
        id=session,
        first=wanted.first,
        last=wanted.last,
        count=wanted.count_max,
        bytes_max=READ_BYTES_MAX,
    )
    found = await functions.find_turns(redis, root, ask)
    known = _session(session, found.session) if found is not None else None
    if found is None or known is None:
        return None
    return TurnsFound(known, found.first, found.last, found.fitting)


async def turns(
    redis: Connection, root: str, account: str, session: str, *, first: int, last: int
) -> list[Turn]:
    """Return the turns `first` to `last` (from 1, both included) that exist."""
    chunks: dict[int, list[str]] = {}
    for number in range(first, last + 1):
        chunks.setdefault(number // TURNS_PER_CHUNK, []).extend((f"{number}:u", f"{number}:a"))
    read = await asyncio.gather(
        *(
            redis.call("HMGET", keys.TURNS(root, account, session, chunk), *fields)
            for chunk, fields in chunks.items()
        )
    )
    records = [record for chunk in read for record in chunk]
    found = [
        (number, decode_user(user), decode_assistant(assistant) if assistant else None)
        for number, user, assistant in zip(
            range(first, last + 1), records[::2], records[1::2], strict=True
        )
        if user is not None
    ]
    unanswered = [user.generation for _, user, assistant in found if assistant is None]
    running = await _running(redis, root, account, unanswered)
    return [
        Turn(number, user, assistant, assistant.status if assistant else running[user.generation])
        for number, user, assistant in found
    ]


async def history(
    redis: Connection, root: str, account: str, session: str, before: int, *, bytes_max: int
) -> History:
    """Return the last completed turns before a turn, oldest first.

    Reads as many as fill `bytes_max` of content, and few more: a session may be long, and no model
    reads all of it. Records of turns that did not complete are read and dropped, so the bytes read
    are limited, too.
    """
    complete = History()
    last, bytes_left = (before - 1) // TURNS_PER_CHUNK, bytes_max
    unread_bytes = _READ_BYTES_MIN + _READ_BYTES_PER_CONTENT_BYTE * bytes_max
    while last >= 0 and before > 1 and bytes_left > 0 and unread_bytes > 0:
        first = max(0, last - _CHUNKS_AT_ONCE + 1)
        chunks = range(first, last + 1)
        read = [
            redis.call("HGETALL", keys.TURNS(root, account, session, chunk)) for chunk in chunks
        ]
        stored = await asyncio.gather(*read)
        numbers = range(max(1, first * TURNS_PER_CHUNK), min(before, (last + 1) * TURNS_PER_CHUNK))
        found = list(
            _completed_turns({n: each for chunk in stored for n, each in chunk.items()}, numbers)
        )
        bytes_left -= sum(map(_content_bytes, found))
        unread_bytes -= sum(len(record) for chunk in stored for record in chunk.values())
        complete[:0] = found
        last = first - 1
    complete.is_whole = last < 0 or before <= 1
    return complete


def _completed_turns(fields: dict[bytes, bytes], numbers: range) -> Iterator[Turn]:
    for number in numbers:
        user, assistant = fields.get(b"%d:u" % number), fields.get(b"%d:a" % number)
        if user is not None and assistant is not None:
            answer = decode_assistant(assistant)
            if answer.status == "completed":
                yield Turn(number, decode_user(user), answer, "completed")


def _content_bytes(turn: Turn) -> int:
    answer = turn.assistant.content if turn.assistant is not None else ""
    return len(turn.user.content.encode()) + len(answer.encode())


async def _running(
    redis: Connection, root: str, account: str, generations: list[str]
) -> dict[str, State]:
    """Return the states of generations without a stored answer; those whose record is gone failed.

    One that ended since its answer was looked for shows as running until the next read.
    """
    found = await asyncio.gather(
        *(redis.call("EXISTS", keys.GENERATION(root, account, each)) for each in generations)
    )
    return {
        each: "processing" if is_there else "failed"
        for each, is_there in zip(generations, found, strict=True)
    }


def _session(session: str, fields: list[bytes | None]) -> Session | None:
    name, created, active, companion, metadata, turn_count = fields
    if name is None or created is None or active is None:
        return None
    return Session(
        id=session,
        name=name.decode(),
        created=int(created),
        active=int(active),
        turns=int(turn_count or 0),
        companion=companion.decode() if companion is not None else None,
        metadata=_decode_metadata(metadata) if metadata is not None else {},
    )
