"""The row of Anthropic's messages: its events, its errors, and the content of its requests."""

import json
from collections.abc import Sequence
from typing import Any, Final

from tests.worker.providers.dialect_row import SCHEMA, Dialect, Reason, Usage, event
from worker.providers.anthropic import Anthropic

_REASONS: Final[dict[Reason, str]] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "content_filter": "refusal",
    "tool_calls": "tool_use",
    "other": "a reason of their own",
}
_ERRORS: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
    529: "overloaded_error",
}


def said(kind: str, **fields: object) -> bytes:
    """Return an event under its name, which is also in it."""
    return event({"type": kind, **fields}, kind)


def grown(kind: str, index: int = 0, **fields: object) -> bytes:
    """Return a step of a block."""
    return said("content_block_delta", index=index, delta={"type": kind, **fields})


def begun(index: int = 0, **block: object) -> bytes:
    """Return the beginning of a block."""
    return said("content_block_start", index=index, content_block=block)


def closed(index: int = 0) -> bytes:
    """Return the end of a block."""
    return said("content_block_stop", index=index)


def _call(call_id: str, tool: str, pieces: Sequence[str], index: int) -> bytes:
    steps = [grown("input_json_delta", index, partial_json=piece) for piece in ("", *pieces)]
    first = begun(index, type="tool_use", id=call_id, name=tool, input={})
    return b"".join((first, *steps, closed(index)))


def cited(url: object, title: object) -> bytes:
    """Return a step that tells a page."""
    page = {"type": "web_search_result_location", "url": url, "title": title, "cited_text": "x"}
    return grown("citations_delta", citation=page)


def searching(index: int) -> bytes:
    """Return a search that the upstream makes by itself, and its results."""
    call = {"type": "server_tool_use", "id": f"srvtoolu_{index}", "name": "web_search"}
    page = {"type": "web_search_result", "url": "https://example.org/unread", "title": "Unread"}
    results = {"type": "web_search_tool_result", "tool_use_id": f"srvtoolu_{index}"}
    return b"".join(
        (
            begun(index, **call, input={}),
            grown("input_json_delta", index, partial_json='{"query":'),
            grown("input_json_delta", index, partial_json='"bears"}'),
            closed(index),
            begun(index + 1, **results, content=[page | {"encrypted_content": "x" * 10_000}]),
            closed(index + 1),
        )
    )


def _searched(content: bytes, count: int) -> bytes:
    usage = {"output_tokens": 2, "server_tool_use": {"web_search_requests": count}}
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    searches = [searching(index * 2 + 1) for index in range(count)]
    return b"".join(
        (
            started(input_tokens=3, output_tokens=1),
            *searches,
            begun(type="text", text="", citations=[]),
            content,
            closed(),
            said("message_delta", delta=delta, usage=usage),
            DONE,
        )
    )


def ended(reason: Reason, **usage: int) -> bytes:
    """Return the end of the message, with its usage if that is reported."""
    fields = {"usage": usage} if usage else {}
    delta = {"stop_reason": _REASONS[reason], "stop_sequence": None}
    return said("message_delta", delta=delta, **fields)


def started(**usage: int) -> bytes:
    """Return the first event of an answer."""
    message = {"id": "msg_1", "type": "message", "role": "assistant", "content": []}
    return said("message_start", message={**message, "stop_reason": None, "usage": usage})


DONE: Final = said("message_stop")


def _framed(content: bytes, reason: Reason, usage: Usage) -> bytes:
    asked, answered = usage
    first = started(input_tokens=asked, output_tokens=1) + begun(type="text", text="")
    return b"".join(
        (first, said("ping"), content, closed(), ended(reason, output_tokens=answered), DONE)
    )


def _error(status: int, words: str) -> bytes:
    kind = _ERRORS.get(status, "a kind of their own")
    return said("error", error={"type": kind, "message": words})


def _refusal(code: str, words: str) -> bytes:
    return json.dumps({"type": "error", "error": {"type": code, "message": words}}).encode()


def _user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _called(call_id: str, city: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": "weather", "input": {"city": city}}


def _result(call_id: str, content: object) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content}


def _said(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


_TOOL: Final = {"name": "weather", "description": "Tells the weather.", "input_schema": SCHEMA}
_SEARCH: Final = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
_PICTURE: Final = {"type": "base64", "media_type": "image/png", "data": "iVBORw=="}
_CALLED: Final = (_user(_text("How many bears?")), _said(_called("c1", "Bern")))
ROW: Final = Dialect(
    name="anthropic",
    words=Anthropic(),
    path="/v1/messages",
    key_header="x-api-key: sk-wholly-secret",
    text=lambda text: grown("text_delta", text=text),
    reasoning=lambda text: grown("thinking_delta", thinking=text),
    call=_call,
    cited=cited,
    searched=_searched,
    ended=ended,
    framed=_framed,
    error_event=_error,
    refusal=_refusal,
    done=DONE,
    sent={
        "system prompt": {"system": "Be brief.", "messages": [_user(_text("How many bears?"))]},
        "image": {
            "messages": [_user({"type": "image", "source": _PICTURE}, _text("What is it?"))],
        },
        "tools": {"tools": [_TOOL]},
        "web search": {"tools": [_SEARCH], "tool_choice": None},
        "web search beside tools": {"tools": [_TOOL, _SEARCH]},
        "deep think": {
            "max_tokens": 4096,
            "thinking": {"type": "enabled", "budget_tokens": 2048},
        },
        "sampling": {"temperature": 0.0, "top_p": 0.5, "stop_sequences": ["END", "."]},
        # No model of this dialect is chosen for it.
        "json object": {"output_config": None},
        "json schema": {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        "json schema while thinking": {
            "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
            "thinking": {"type": "enabled", "budget_tokens": 2048},
        },
        "history of calls": {
            "messages": [
                _user(_text("Is it warm?")),
                {"role": "assistant", "content": [_called("c1", "Bärn"), _called("c2", "Basel")]},
                _user(_result("c1", "sunny"), _result("c2", "rain")),
                {"role": "assistant", "content": [_text("In Bärn.")]},
                _user(_text("And now?")),
            ]
        },
        "texts and images in order": {
            "messages": [
                _user(
                    _text("This:"),
                    {"type": "image", "source": _PICTURE},
                    _text("or this:"),
                    {"type": "image", "source": _PICTURE},
                )
            ]
        },
        "failed result": {
            "messages": [
                *_CALLED,
                _user(_result("c1", "no such city") | {"is_error": True}),
            ]
        },
        "images of a result": {
            "messages": [
                *_CALLED,
                _user(
                    _result("c1", [_text("see"), {"type": "image", "source": _PICTURE}]),
                    _text("So?"),
                ),
            ]
        },
        "instructions in the middle": {
            "system": "Be brief.\n\nCount the small ones, too.",
            "messages": [_user(_text("How many bears?"), _text("Well?"))],
        },
        "arguments that are no object": {
            "messages": [
                _user(_text("How many bears?")),
                _said(_called("c1", "") | {"input": {"INVALID_JSON": '{"city":'}}),
                _user(_result("c1", "no JSON")),
            ]
        },
        "strict tool without parameters": {
            "tools": [
                {
                    "name": "now",
                    "input_schema": {"type": "object", "properties": {}},
                    "strict": True,
                }
            ],
            "tool_choice": None,
        },
        "no call": {"tools": [_TOOL], "tool_choice": {"type": "none"}},
        "some call": {"tools": [_TOOL], "tool_choice": {"type": "any"}},
        "call of one tool": {
            "tools": [_TOOL],
            "tool_choice": {"type": "tool", "name": "weather"},
        },
    },
)
