"""What every dialect's requests say: each topic in the upstream's own words, and nobody refused."""

import json
from collections.abc import Callable
from typing import Any, get_args

import pytest

from shared.settings import ProviderSettings
from shared.wire.conversation import CallPart
from tests.worker.providers.calls import REQUEST, Call, listen
from tests.worker.providers.dialect_row import MODEL, REQUESTS, Dialect, Topic
from tests.worker.providers.messages import calling, result
from tests.worker.providers.upstream import Upstream, whole
from worker.providers import http_provider as provider
from worker.providers.contract import ChatRequest, text_message


async def _sent(call: Call, request: ChatRequest) -> dict[str, Any]:
    """Return the body of a request as it was sent."""
    received = await call(whole(call.dialect.answer("Two")), request)
    assert received.error is None
    head, _, body = call.upstream.line.request.partition(b"\r\n\r\n")
    assert b"\r\ncontent-type: application/json\r\n" in head.lower() + b"\r\n"
    sent: dict[str, Any] = json.loads(body)
    return sent


@pytest.mark.parametrize("topic", get_args(Topic))
async def test_request_says_in_its_dialect(
    call: Call, topic: Topic, record_property: Callable[[str, object], None]
) -> None:
    record_property("topic", topic)
    sent = await _sent(call, REQUESTS[topic])
    expected = call.dialect.sent[topic]
    assert {name: sent.get(name) for name in expected} == expected


async def test_what_is_not_asked_for_is_not_said(call: Call) -> None:
    sent = json.dumps(await _sent(call, REQUEST)).lower()
    assert not any(
        word in sent for word in ("tool", "system", "reason", "think", "image", "search", "plugin")
    )


async def test_request_without_a_key_has_no_credentials(
    dialect: Dialect, upstream: Upstream
) -> None:
    upstream.script = whole(dialect.answer("Two"))
    settings = ProviderSettings(name="up", base_url=upstream.url + "/")
    asked = provider.HttpProvider(dialect.words, settings, None)
    received = await listen(asked)
    await asked.close()
    assert received.error is None
    assert upstream.line.request.startswith(f"POST {dialect.path} HTTP/1.1\r\n".encode())
    name = dialect.key_header.partition(":")[0].encode()
    assert name not in upstream.line.request.lower()


@pytest.mark.parametrize("text", ['Say "no".\n', "Bär\u2028\x00🐻", "\\", " so "])
async def test_words_are_sent_verbatim(call: Call, text: str) -> None:
    messages = [text_message("system", text), text_message("user", text)]
    sent = await _sent(call, ChatRequest(model=MODEL, messages=messages, max_tokens=5))
    assert json.dumps(sent).count(json.dumps(text)) == 2


async def test_arguments_of_a_call_are_sent_as_they_came(call: Call) -> None:
    arguments = {"n": 2**60, "f": 0.1, "t": "Bär 🐻", "l": [None, True, {"": []}]}
    messages = [
        text_message("user", "Go on."),
        calling(CallPart("c1", "t", json.dumps(arguments))),
        result("c1", "done"),
    ]
    sent = await _sent(call, ChatRequest(model=MODEL, messages=messages, max_tokens=5))
    assert arguments in _objects_in(sent)


def _objects_in(value: object) -> list[object]:
    """Return all the objects in a value, also those that a text holds as JSON."""
    if isinstance(value, str) and value.startswith("{"):
        return _objects_in(json.loads(value))
    if isinstance(value, list):
        return [found for item in value for found in _objects_in(item)]
    if isinstance(value, dict):
        return [value, *_objects_in(list(value.values()))]
    return []
