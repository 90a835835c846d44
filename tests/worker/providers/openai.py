"""The row of chat completions: its events, its errors, and the content of its requests."""

import json
from collections.abc import Sequence
from typing import Any, Final

from tests.worker.providers.dialect_row import SCHEMA, Dialect, Reason, Usage, event
from worker.providers.openai import OpenAI

DONE: Final = b"data: [DONE]\n\n"


def chunk(*choices: dict[str, Any], **fields: object) -> bytes:
    """Return a chunk of an answer."""
    return event({"id": "c", "object": "chat.completion.chunk", "choices": choices, **fields})


def _delta(**delta: object) -> bytes:
    return chunk({"index": 0, "delta": delta, "finish_reason": None})


def _call(call_id: str, tool: str, pieces: Sequence[str], index: int) -> bytes:
    first = {"index": index, "id": call_id, "type": "function"}
    head = _delta(tool_calls=[{**first, "function": {"name": tool, "arguments": ""}}])
    return head + b"".join(
        _delta(tool_calls=[{"index": index, "function": {"arguments": piece}}]) for piece in pieces
    )


def ended(reason: Reason) -> bytes:
    """Return the chunk that says why the answer ended."""
    word = "a reason of their own" if reason == "other" else reason
    return chunk({"index": 0, "delta": {}, "finish_reason": word})


def _framed(said: bytes, reason: Reason, usage: Usage) -> bytes:
    asked, answered = usage
    used = chunk(usage={"prompt_tokens": asked, "completion_tokens": answered})
    return said + ended(reason) + used + DONE


def cited(url: object, title: object) -> bytes:
    """Return a step that tells a page, beside an annotation of another kind."""
    page = {"url": url, "title": title, "start_index": 0, "end_index": 3}
    return _delta(annotations=[{"type": "file"}, {"type": "url_citation", "url_citation": page}])


_FORM: Final = {
    "type": "json_schema",
    "json_schema": {"name": "place", "schema": SCHEMA, "strict": True},
}


def _called(call_id: str, arguments: str) -> dict[str, Any]:
    function = {"name": "weather", "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


_TOOL: Final = {"name": "weather", "description": "Tells the weather.", "parameters": SCHEMA}


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


_IMAGE: Final = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}}
_ASKED_AND_CALLED: Final = (
    {"role": "user", "content": "How many bears?"},
    {"role": "assistant", "content": None, "tool_calls": [_called("c1", '{"city":"Bern"}')]},
)
ROW: Final = Dialect(
    name="openai",
    words=OpenAI(),
    path="/v1/chat/completions",
    key_header="authorization: Bearer sk-wholly-secret",
    text=lambda text: _delta(content=text),
    reasoning=lambda text: _delta(reasoning_content=text),
    call=_call,
    cited=cited,
    # It reports no count of searches.
    searched=lambda said, _: _framed(said, "stop", (3, 2)),
    ended=ended,
    framed=_framed,
    error_event=lambda status, words: event({"error": {"message": words, "code": status}}),
    refusal=lambda code, words: json.dumps(
        {"error": {"message": words, "type": "x", "code": code}}
    ).encode(),
    done=DONE,
    counts_searches=False,
    sent={
        "system prompt": {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "How many bears?"},
            ]
        },
        "image": {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "image_url",
                            "image_url": {"url": "data:image/png;base64,iVBORw=="},
                        },
                        {"type": "text", "text": "What is it?"},
                    ],
                }
            ]
        },
        "tools": {"tools": [{"type": "function", "function": _TOOL}]},
        "web search": {"web_search_options": {}, "tools": None, "plugins": None},
        "web search beside tools": {
            "web_search_options": {},
            "tools": [{"type": "function", "function": _TOOL}],
        },
        "deep think": {"reasoning_effort": "high", "max_tokens": 4096},
        "sampling": {"temperature": 0.0, "top_p": 0.5, "stop": ["END", "."]},
        "json object": {
            "response_format": {"type": "json_object"},
            "messages": [
                {"role": "system", "content": "Answer with one JSON object."},
                {"role": "user", "content": "How many bears?"},
            ],
        },
        "json schema": {"response_format": _FORM, "reasoning_effort": None},
        "json schema while thinking": {"response_format": _FORM, "reasoning_effort": "high"},
        "history of calls": {
            "messages": [
                {"role": "user", "content": "Is it warm?"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        _called("c1", '{"city":"Bärn"}'),
                        _called("c2", '{"city":"Basel"}'),
                    ],
                },
                {"role": "tool", "content": "sunny", "tool_call_id": "c1"},
                {"role": "tool", "content": "rain", "tool_call_id": "c2"},
                {"role": "assistant", "content": "In Bärn."},
                {"role": "user", "content": "And now?"},
            ]
        },
        "texts and images in order": {
            "messages": [
                {"role": "user", "content": [_text("This:"), _IMAGE, _text("or this:"), _IMAGE]}
            ]
        },
        # It knows no failures of tools, and no images in their results.
        "failed result": {
            "messages": [
                *_ASKED_AND_CALLED,
                {"role": "tool", "content": "Error: no such city", "tool_call_id": "c1"},
            ]
        },
        "images of a result": {
            "messages": [
                *_ASKED_AND_CALLED,
                {"role": "tool", "content": "see", "tool_call_id": "c1"},
                {
                    "role": "user",
                    "content": [_text("The images of the tool result `c1`:"), _IMAGE],
                },
                {"role": "user", "content": "So?"},
            ]
        },
        "instructions in the middle": {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "How many bears?"},
                {"role": "system", "content": "Count the small ones, too."},
                {"role": "user", "content": "Well?"},
            ]
        },
        "arguments that are no object": {
            "messages": [
                {"role": "user", "content": "How many bears?"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [_called("c1", '{"INVALID_JSON":"{\\"city\\":"}')],
                },
                {"role": "tool", "content": "no JSON", "tool_call_id": "c1"},
            ]
        },
        "strict tool without parameters": {
            "tools": [{"type": "function", "function": {"name": "now", "strict": True}}],
            "tool_choice": None,
        },
        "no call": {"tool_choice": "none"},
        "some call": {"tool_choice": "required"},
        "call of one tool": {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
    },
)
