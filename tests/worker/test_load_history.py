"""What later turns of a session are sent of earlier ones: also the calls of tools in them."""

from typing import Any, Final

import msgspec
import pytest

from shared.redis import keys
from shared.wire.conversation import CallPart, ImagePart, Message, OpaquePart, TextPart
from shared.wire.message import AssistantMessage, decode_assistant, encode_assistant
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.system import System
from tests.worker.front import Front, Ticket
from tests.worker.single_attempts import Attempts

_CALLED: Final = Message(
    role="assistant",
    parts=(
        OpaquePart("anthropic", {"type": "thinking", "thinking": "Hm."}),
        TextPart("I look."),
        CallPart("c1", "clock", '{"zone": "UTC"}'),
        CallPart("c2", "clock", "{}"),
    ),
)
_RESULTS: Final = (
    Message(role="tool", parts=(TextPart("noon"),), call_id="c1"),
    Message(role="tool", parts=(ImagePart("https://e.org/a"),), call_id="c2", is_error=True),
)
_OWN: Final = (TextPart("It is "), OpaquePart("gemini", {"signs": "text"}), TextPart("noon."))
_WHOLE: Final = AssistantMessage(
    status="completed",
    content="I look.\n\nIt is noon.",
    created=1,
    rounds=(_CALLED, *_RESULTS),
    parts=_OWN,
)


async def _history(
    attempts: Attempts,
    front: Front,
    system: System,
    provider: ScriptedProvider,
    record: AssistantMessage | dict[str, Any],
) -> list[dict[str, Any]]:
    """Return the messages that a second turn sends after a first one with this record."""
    attempts.change_models(context_window=100_000)
    provider.script.append(ScriptedAnswer(text="unused"))
    ticket = await front.submit("What time is it?")
    await attempts.run(ticket)
    await _replace(system, ticket, record)
    provider.requests.clear()
    following = await front.submit("Thanks.", session=ticket.session)
    await attempts.run(following)
    (request,) = provider.requests
    first, *history, last = request.messages
    assert (first["content"], last["content"]) == ("What time is it?", "Thanks.")
    return history


async def _replace(
    system: System, ticket: Ticket, record: AssistantMessage | dict[str, Any]
) -> None:
    """Store an answer in the place of the first turn's."""
    packed = (
        encode_assistant(record)
        if isinstance(record, AssistantMessage)
        else msgspec.msgpack.encode(record)
    )
    root, account = ticket.root, ticket.account
    where = keys.TURNS(root, account, ticket.session, 0)
    more = len(packed) - await system.redis.call("HSTRLEN", where, "1:a")
    assert await system.redis.call("HSET", where, "1:a", packed) == 0
    await system.redis.call("HINCRBY", keys.SESSION(root, account, ticket.session), "bytes", more)
    await system.redis.call("HINCRBY", keys.ACCOUNT_TOTALS(root, account), "stored_0", more)


async def test_calls_of_an_earlier_turn_are_sent_with_their_results(
    attempts: Attempts, front: Front, system: System, provider: ScriptedProvider
) -> None:
    called, first, second, answered = await _history(attempts, front, system, provider, _WHOLE)
    assert called["content"] == "I look."
    assert [call["id"] for call in called["tool_calls"]] == ["c1", "c2"]
    assert (first["content"], first["tool_call_id"]) == ("noon", "c1")
    assert (second["content"], second["tool_call_id"]) == ("Error: ", "c2")
    assert answered == {"role": "assistant", "content": "It is noon."}


async def test_record_of_an_older_version_is_two_messages(
    attempts: Attempts, front: Front, system: System, provider: ScriptedProvider
) -> None:
    record = {"status": "completed", "content": "Noon.", "created": 1}
    assert decode_assistant(msgspec.msgpack.encode(record)).rounds == ()
    sent = await _history(attempts, front, system, provider, record)
    assert sent == [{"role": "assistant", "content": "Noon."}]


@pytest.mark.parametrize(
    "record",
    [
        msgspec.structs.replace(_WHOLE, rounds=(_CALLED, _RESULTS[0])),
        msgspec.structs.replace(_WHOLE, rounds=_RESULTS),
        msgspec.structs.replace(_WHOLE, rounds=(), parts=(*_OWN, CallPart("c3", "clock", "{}"))),
    ],
    ids=["without a result", "without a call", "calls of the caller's tools"],
)
async def test_calls_that_are_not_whole_are_not_sent(
    attempts: Attempts,
    front: Front,
    system: System,
    provider: ScriptedProvider,
    record: AssistantMessage,
) -> None:
    sent = await _history(attempts, front, system, provider, record)
    assert sent == [{"role": "assistant", "content": _WHOLE.content}]


async def test_turn_with_calls_that_does_not_fit_goes_as_a_whole(
    attempts: Attempts, front: Front, system: System, provider: ScriptedProvider
) -> None:
    attempts.change_models(context_window=600, max_output_tokens=64)
    ticket = await front.submit("What time is it?")
    await attempts.run(ticket)
    long = msgspec.structs.replace(_RESULTS[0], parts=(TextPart("noon " * 400),))
    await _replace(
        system, ticket, msgspec.structs.replace(_WHOLE, rounds=(_CALLED, long, _RESULTS[1]))
    )
    provider.requests.clear()
    await attempts.run(await front.submit("Thanks.", session=ticket.session))
    assert provider.requests[0].messages == [{"role": "user", "content": "Thanks."}]
