"""The Kombify dialect as its customers use it: paths, replies, refusals."""

import re
from typing import Final

import httpx

from shared.wire.account import Scope
from tests.support.api_client import ApiClient, Json

AI: Final = "/v1/ai"
CHAT: Final = f"{AI}/chat"
SESSIONS: Final = f"{AI}/sessions"
KEYS: Final = f"{AI}/keys"
# The scopes of a key that creates others.
MANAGING: Final[tuple[Scope, ...]] = ("chat", "read", "keys")
TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def payload(answer: httpx.Response, status: int = 200) -> Json:
    """Return the decoded body of a response that must be a success of this status."""
    assert answer.status_code == status, (answer.status_code, answer.text)
    decoded: Json = answer.json()
    return decoded


def refused(answer: httpx.Response, status: int, code: str) -> Json:
    """Return `error` of a response that must be this refusal, in the dialect's own shape."""
    assert answer.status_code == status, (answer.status_code, answer.text)
    assert answer.headers["content-type"] == "application/json"
    decoded: Json = answer.json()
    assert decoded.keys() == {"status", "code", "message", "error", "meta"}
    assert (decoded["status"], decoded["code"]) == ("error", code), decoded
    error: Json = decoded["error"]
    assert error.keys() == {"code", "message", "details"}
    assert (error["code"], error["message"]) == (code, decoded["message"])
    assert error["message"].endswith(".")
    assert decoded["meta"].keys() == {"request_id", "timestamp"}
    assert decoded["meta"]["request_id"] == answer.headers["x-request-id"]
    assert TIME.fullmatch(decoded["meta"]["timestamp"])
    return error


async def chat(api: ApiClient, message: str, **fields: object) -> Json:
    """Send a message and return its answer."""
    return payload(await api.post(CHAT, json={"message": message, **fields}))


async def session(api: ApiClient, **fields: object) -> Json:
    """Create a session and return it."""
    return payload(await api.post(SESSIONS, json=fields), 201)


async def make_key(caller: ApiClient, **fields: object) -> Json:
    """Create an API key and return it."""
    return payload(await caller.post(KEYS, json=fields), 201)


async def key_ids(caller: ApiClient) -> list[str]:
    """Return the ids of the account's API keys, newest first."""
    return [each["id"] for each in payload(await caller.get(KEYS))["items"]]
