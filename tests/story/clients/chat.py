"""A customer's program in Python: one conversation, turn by turn, polls for each answer."""

import json
import sys
import threading

import requests

POLL_SECONDS = 0.05


def take_turn(base: str, key: str, message: str, session: str | None) -> str:
    """Post a message, poll until it ends, print the outcome, and return the session."""
    headers = {"X-API-Key": key}
    asked = {"message": message} if session is None else {"message": message, "session_id": session}
    receipt = requests.post(base + "/v1/chat", json=asked, headers=headers, timeout=30).json()
    if not receipt["success"]:
        sys.exit(receipt["error"])
    polled = base + receipt["poll_url"]
    pause = threading.Event()
    while True:
        pause.wait(POLL_SECONDS)
        status = requests.get(polled, headers=headers, timeout=30).json()
        if status["state"] != "processing":
            break
    payload = {
        "state": status["state"],
        "content": status["result"]["content"],
        "session": receipt["session_id"],
        "polled": polled,
    }
    sys.stdout.write(json.dumps(payload) + "\n")
    return str(receipt["session_id"])


def main() -> None:
    """Talk."""
    base, key, *messages = sys.argv[1:]
    session = None
    for message in messages:
        session = take_turn(base, key, message, session)


if __name__ == "__main__":
    main()
