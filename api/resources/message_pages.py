"""Reads a page of a session's messages, and sends a large one in pieces.

Owns how a page with more bytes than Redis should send at once is sent nevertheless, with all of its
messages: it is read and sent piece by piece, so that only one piece, or one turn, is in memory.
Each further piece counts as a read; if the account has none left, the page waits until it has.
Knows nothing of a dialect's fields.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Final, NamedTuple

from api.endpoints.endpoint import RequestContext
from api.resources import sessions
from api.server import disconnect
from api.server.responses import ChunkedResponse, Response, encode
from shared.stores.sessions import READ_BYTES_MAX, Session, Turn, TurnRange, TurnsFound

# The field in an encoded reply without messages. Quotes inside texts are escaped, so this occurs
# only as the field itself.
_NO_MESSAGES: Final = b'"messages":[]'
# A page that waits for reads notices a disconnect within this time.
_DISCONNECT_CHECK_SECONDS: Final = 1.0


class PageShape(NamedTuple):
    """A dialect's form of a page: the messages of a turn, and the reply with a list of them."""

    messages: Callable[[Turn], Sequence[object]]
    reply: Callable[[Session, list[Any]], object]


async def respond(
    context: RequestContext, session: str, wanted: TurnRange, shape: PageShape
) -> Response | ChunkedResponse:
    """Return the messages of the wanted turns, whole or in pieces.

    Raises:
        RequestError: SESSION_NOT_FOUND.
        RefusedError: RATE_LIMITED, UNAVAILABLE when too many pages are sent in pieces already.

    """
    found = await sessions.find_turns(context, session, wanted)
    if found.fitting < found.last:
        return await ChunkedResponse.begin(_pieces(context, found, shape))
    turns = await sessions.turns(context, found)
    return Response(shape.reply(found.session, _messages(turns, shape)))


async def _pieces(
    context: RequestContext, found: TurnsFound, shape: PageShape
) -> AsyncGenerator[bytes, None]:
    """Yield the encoded reply. Raises RequestError when the session or the key has gone."""
    state, account = context.state, context.caller.account
    # Revocations arrive on this connection.
    await state.subscriber.connect()
    has_disconnected = asyncio.Event()
    disconnect.listen(
        context.request.scope, on_disconnect=has_disconnected.set, on_shutdown=lambda: None
    )
    with (
        state.large_pages.hold(account.id),
        state.revocations.watch(context.caller.key, lambda: None) as key_use,
    ):
        begin, end = encode(shape.reply(found.session, [])).split(_NO_MESSAGES)
        piece = begin + _NO_MESSAGES[:-1] + await _encoded(context, found, shape)
        has_messages = not piece.endswith(b"[")
        while True:
            key_use.check()
            yield piece
            if found.fitting >= found.last:
                break
            await _take_reads(context, len(piece), has_disconnected)
            if has_disconnected.is_set():
                return
            rest = TurnRange(first=found.fitting + 1, last=found.last)
            found = await sessions.find_turns(context, found.session.id, rest)
            piece = await _encoded(context, found, shape)
            if piece and has_messages:
                piece = b"," + piece
            has_messages = has_messages or bool(piece)
        yield b"]" + end


async def _encoded(context: RequestContext, found: TurnsFound, shape: PageShape) -> bytes:
    """Return the messages of the turns that are read at once, without the list's brackets."""
    async with context.state.large_pages.turn:
        turns = await sessions.turns(context, found)
        return b",".join(map(encode, _messages(turns, shape)))


def _messages(turns: list[Turn], shape: PageShape) -> list[object]:
    return [message for turn in turns for message in shape.messages(turn)]


async def _take_reads(context: RequestContext, size: int, has_disconnected: asyncio.Event) -> None:
    """Take a read for every `READ_BYTES_MAX` sent, waiting until the account has it."""
    for _ in range(-(-size // READ_BYTES_MAX)):
        while not has_disconnected.is_set() and (wait := _further_read(context)):
            await context.state.clock.sleep(min(wait, _DISCONNECT_CHECK_SECONDS))


def _further_read(context: RequestContext) -> float:
    return context.state.rate_limits.take_further_read(context.caller.account)
