"""Pages of a session's messages, in pieces of bounded size.

Owns how a page that has more bytes than Redis should send at once is answered all the same, with
every message that belongs to it: it is read and sent piece by piece, so that what is held of it
here is never more than one piece, or one turn. Each further piece counts as a read; where the
account has none left, the page goes on when there is one. Refuses to know a dialect's fields.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Final, NamedTuple

from api import farewell, sessions
from api.endpoint import Answer, Call, Pieces, encode
from shared.stores.sessions import PIECE_BYTES, Found, Session, Turn, Wanted

# As it stands in an encoded reply without messages. Quotes inside of texts are escaped, so this is
# the field itself.
_NO_MESSAGES: Final = b'"messages":[]'
# A page that waits for reads sees so soon that its reader has gone.
_LOOK_SECONDS: Final = 1.0


class Shape(NamedTuple):
    """How a dialect tells a page: the messages of a turn, and the reply with a list of them."""

    messages: Callable[[Turn], Sequence[object]]
    reply: Callable[[Session, list[Any]], object]


async def answer(call: Call, session: str, wanted: Wanted, shape: Shape) -> Answer | Pieces:
    """Return the messages of the wanted turns, whole or in pieces.

    Raises:
        RequestError: SESSION_NOT_FOUND.
        RefusedError: RATE_LIMITED, UNAVAILABLE when too many pages are sent in pieces already.

    """
    found = await sessions.find_turns(call, session, wanted)
    if found.fitting < found.last:
        return await Pieces.begin(_pieces(call, found, shape))
    turns = await sessions.turns(call, found)
    return Answer(shape.reply(found.session, _messages(turns, shape)))


async def _pieces(call: Call, found: Found, shape: Shape) -> AsyncGenerator[bytes, None]:
    """Yield the encoded reply. Raises RequestError when the session or the key has gone."""
    state, account = call.state, call.caller.account
    # Revocations are heard by it.
    await state.subscriber.connect()
    is_gone = asyncio.Event()
    farewell.listen(call.request.scope, on_gone=is_gone.set, on_leave=lambda: None)
    with (
        state.long_pages.hold(account.id),
        state.revocations.watched(call.caller.key, lambda: None) as use,
    ):
        begin, end = encode(shape.reply(found.session, [])).split(_NO_MESSAGES)
        piece = begin + _NO_MESSAGES[:-1] + await _encoded(call, found, shape)
        has_messages = not piece.endswith(b"[")
        while True:
            use.check()
            yield piece
            if found.fitting >= found.last:
                break
            await _take_reads(call, len(piece), is_gone)
            if is_gone.is_set():
                return
            rest = Wanted(first=found.fitting + 1, last=found.last)
            found = await sessions.find_turns(call, found.session.id, rest)
            piece = await _encoded(call, found, shape)
            if piece and has_messages:
                piece = b"," + piece
            has_messages = has_messages or bool(piece)
        yield b"]" + end


async def _encoded(call: Call, found: Found, shape: Shape) -> bytes:
    """Return the messages of the turns that are read at once, as the inside of a list."""
    async with call.state.long_pages.turn:
        turns = await sessions.turns(call, found)
        return b",".join(map(encode, _messages(turns, shape)))


def _messages(turns: list[Turn], shape: Shape) -> list[object]:
    return [message for turn in turns for message in shape.messages(turn)]


async def _take_reads(call: Call, size: int, is_gone: asyncio.Event) -> None:
    """Take a read for each `PIECE_BYTES` that were sent, as soon as the account has them."""
    for _ in range(-(-size // PIECE_BYTES)):
        while not is_gone.is_set() and (wait := _further_read(call)):
            await call.state.clock.sleep(min(wait, _LOOK_SECONDS))


def _further_read(call: Call) -> float:
    return call.state.limits.take_further_read(call.caller.account)
