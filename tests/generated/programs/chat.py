"""A user's program: a conversation through the client that was generated from the document."""

import json
import sys

import httpx
from pollux_client import AuthenticatedClient
from pollux_client.api.kolbo import follow_generation, get_generation, submit_message
from pollux_client.api.kombify import chat
from pollux_client.models import (
    ChatBody,
    ChatReply,
    ErrorReply,
    StatusReply,
    StatusReplyState,
    SubmitBody,
    SubmitReply,
)


def submit(client: AuthenticatedClient, body: SubmitBody, key: str) -> tuple[SubmitReply, bool]:
    """Send a message; return its receipt, and whether it had been sent before."""
    answer = submit_message.sync_detailed(client=client, body=body, idempotency_key=key)
    if not isinstance(answer.parsed, SubmitReply):
        sys.exit(f"refused: {answer.parsed}")
    return answer.parsed, answer.headers.get("Idempotent-Replayed") == "true"


def poll(client: AuthenticatedClient, generation: str) -> StatusReply:
    """Wait for the end of a generation."""
    while True:
        status = get_generation.sync(generation, client=client, wait=5)
        if not isinstance(status, StatusReply):
            sys.exit(f"refused: {status}")
        if status.state != StatusReplyState.PROCESSING:
            return status


def follow(client: AuthenticatedClient, generation: str) -> str:
    """Return the text that the events of a generation make."""
    events = follow_generation.sync(generation, client=client)
    if not isinstance(events, str):
        sys.exit(f"refused: {events}")
    text = ""
    for line in events.splitlines():
        if line.startswith("data: "):
            event = json.loads(line.removeprefix("data: "))
            if event["type"] == "snapshot":
                text = event["text"]
            elif event["type"] == "reset":
                text = text[: event["keep"]]
            elif event["type"] == "delta":
                text += event["text"]
    return text


def main() -> None:
    """Hold the conversation, and print the outcome."""
    base, key, *messages = sys.argv[1:]
    # The response to a wait takes longer than the default timeout of a client.
    wait_timeout = httpx.Timeout(60.0)
    client = AuthenticatedClient(
        base, key, prefix="", auth_header_name="X-API-Key", timeout=wait_timeout
    )
    session, is_replayed = None, False
    contents, followed = [], []
    for number, message in enumerate(messages):
        body = SubmitBody(message=message, session_id=session)
        receipt, _ = submit(client, body, f"turn-{number}")
        again, is_replayed = submit(client, body, f"turn-{number}")
        is_replayed = is_replayed and again.message_id == receipt.message_id
        contents.append(poll(client, receipt.message_id).result.content)
        followed.append(follow(client, receipt.message_id))
        session = receipt.session_id
    answer = chat.sync(client=client, body=ChatBody(message=messages[0]))
    refused = submit_message.sync(client=client, body=SubmitBody(message="hello", model="none"))
    outcome = {
        "contents": contents,
        "followed": followed,
        "isReplayed": is_replayed,
        "answer": answer.message.content if isinstance(answer, ChatReply) else None,
        "code": refused.code if isinstance(refused, ErrorReply) else None,
    }
    sys.stdout.write(json.dumps(outcome) + "\n")


if __name__ == "__main__":
    main()
