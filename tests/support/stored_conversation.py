"""Writes long conversations into Redis as `accept` and `settle` leave them.

A scripted model does not write that much, and no model's context window takes such a message.
"""

from shared.redis import keys
from shared.wire.message import AssistantMessage, UserMessage, encode_assistant
from tests.support.api_client import ApiClient
from tests.support.system import System


async def conversation(
    system: System, api: ApiClient, texts: list[str], *, account: str = "one"
) -> str:
    """Start a conversation with a cancelled "hi", and add a turn for each text.

    The text is both the user's message and the answer. Return the session's id.
    """
    receipt = await api.submit("hi")
    await api.post(receipt["cancel_url"])
    session: str = receipt["session_id"]
    root = system.accounts.root_of(await system.accounts.load(account))
    size = 0
    for number, text in enumerate(texts, 2):
        user = UserMessage(id=f"u{number}", generation=f"g{number}", content=text, created=number)
        records = (
            encode_assistant(user),
            encode_assistant(AssistantMessage(status="completed", content=text, created=number)),
        )
        chunk = keys.TURNS(root, account, session, number // keys.TURNS_PER_CHUNK)
        fields = (f"{number}:u", records[0], f"{number}:a", records[1])
        await system.redis.call("HSET", chunk, *fields)
        size += sum(map(len, records))
    where = keys.SESSION(root, account, session)
    await system.redis.call("HSET", where, "turns", len(texts) + 1)
    await system.redis.call("HINCRBY", where, "bytes", size)
    await system.redis.call("HINCRBY", keys.ACCOUNT_TOTALS(root, account), "stored_0", size)
    return session
