"""The row of Gemini's generateContent: its chunks, its errors, and the content of its requests."""

import json
from collections.abc import Sequence
from typing import Any, Final

from tests.worker.providers.dialect_row import SCHEMA, Dialect, Reason, Usage, event
from worker.providers.gemini import Gemini

_REASONS: Final[dict[Reason, str]] = {
    "stop": "STOP",
    "length": "MAX_TOKENS",
    "content_filter": "SAFETY",
    "tool_calls": "STOP",
    "other": "A_REASON_OF_THEIR_OWN",
}


def chunk(*parts: dict[str, Any], reason: str | None = None, **fields: object) -> bytes:
    """Return a chunk of an answer."""
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
    if reason is not None:
        candidate["finishReason"] = reason
    return event({"candidates": [candidate], "modelVersion": "gemini-m", **fields})


def used(asked: int, answered: int, **more: int) -> dict[str, int]:
    """Return what an upstream says that it used."""
    counts = {"promptTokenCount": asked, "candidatesTokenCount": answered}
    return {**counts, "totalTokenCount": asked + answered, **more}


def _call(call_id: str, tool: str, pieces: Sequence[str], _index: int) -> bytes:
    # What is no JSON comes through as it is.
    called = chunk({"functionCall": {"id": call_id, "name": tool, "args": "ARGUMENTS"}})
    return called.replace(b'"ARGUMENTS"', "".join(pieces).encode() or b"{}")


def _ending(reason: Reason, **fields: object) -> bytes:
    called = [{"functionCall": {"name": "weather"}}] if reason == "tool_calls" else []
    return chunk(*called, reason=_REASONS[reason], **fields)


def _framed(said: bytes, reason: Reason, usage: Usage) -> bytes:
    asked, answered = usage
    final = _ending(reason, usageMetadata=used(asked, answered))
    if b"functionCall" in said:
        final = chunk({"text": ""}, reason="STOP", usageMetadata=used(asked, answered))
    return said + final


def _error(status: int, words: str) -> bytes:
    return event({"error": {"code": status, "message": words, "status": "UNKNOWN"}})


def _refusal(code: str, words: str) -> bytes:
    return json.dumps([{"error": {"code": 400, "message": words, "status": code}}]).encode()


def _user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "parts": list(parts)}


def cited(url: object, title: object) -> bytes:
    """Return a chunk that tells a page, beside what is none."""
    return grounded([{"retrievedContext": {"uri": "x"}}, {"web": {"uri": url, "title": title}}])


def grounded(chunks: list[Any], queries: int = 0) -> bytes:
    grounding = {"groundingChunks": chunks, "webSearchQueries": ["bears"] * queries}
    candidate = {"content": {"parts": [], "role": "model"}, "groundingMetadata": grounding}
    return event({"candidates": [candidate]})


def _searched(said: bytes, count: int) -> bytes:
    return _framed(grounded([], count) + said, "stop", (3, 2))


def _called(call_id: str, city: str) -> dict[str, Any]:
    return {"functionCall": {"id": call_id, "name": "weather", "args": {"city": city}}}


def _result(call_id: str, text: str) -> dict[str, Any]:
    result = {"id": call_id, "name": "weather", "response": {"result": text}}
    return {"functionResponse": result}


_TOOL: Final = {
    "name": "weather",
    "description": "Tells the weather.",
    "parametersJsonSchema": SCHEMA,
}
_SIGNED: Final = {"thoughtSignature": "skip_thought_signature_validator"}
_IMAGE: Final = {"inlineData": {"mimeType": "image/png", "data": "iVBORw=="}}
_ASKED_AND_CALLED: Final = (
    _user({"text": "How many bears?"}),
    {"role": "model", "parts": [_called("c1", "Bern") | _SIGNED]},
)
ROW: Final = Dialect(
    name="gemini",
    words=Gemini(),
    path="/v1/models/upstream-m:streamGenerateContent?alt=sse",
    key_header="x-goog-api-key: sk-wholly-secret",
    text=lambda text: chunk({"text": text}),
    reasoning=lambda text: chunk({"text": text, "thought": True}),
    call=_call,
    cited=cited,
    searched=_searched,
    ended=_ending,
    framed=_framed,
    error_event=_error,
    refusal=_refusal,
    has_pieces=False,
    sent={
        "system prompt": {
            "systemInstruction": {"parts": [{"text": "Be brief."}]},
            "contents": [_user({"text": "How many bears?"})],
        },
        "image": {
            "contents": [
                _user(
                    {"inlineData": {"mimeType": "image/png", "data": "iVBORw=="}},
                    {"text": "What is it?"},
                )
            ]
        },
        "tools": {"tools": [{"functionDeclarations": [_TOOL]}]},
        "web search": {"tools": [{"googleSearch": {}}]},
        "web search beside tools": {
            "tools": [{"functionDeclarations": [_TOOL]}, {"googleSearch": {}}]
        },
        "deep think": {
            "generationConfig": {
                "maxOutputTokens": 4096,
                "thinkingConfig": {"includeThoughts": True, "thinkingLevel": "high"},
            }
        },
        "sampling": {
            "generationConfig": {
                "maxOutputTokens": 4096,
                "temperature": 0.0,
                "topP": 0.5,
                "stopSequences": ["END", "."],
            }
        },
        "json object": {
            "generationConfig": {
                "maxOutputTokens": 4096,
                "responseMimeType": "application/json",
            }
        },
        "json schema": {
            "generationConfig": {
                "maxOutputTokens": 4096,
                "responseMimeType": "application/json",
                "responseJsonSchema": SCHEMA,
            }
        },
        "json schema while thinking": {
            "generationConfig": {
                "maxOutputTokens": 4096,
                "thinkingConfig": {"includeThoughts": True, "thinkingLevel": "high"},
                "responseMimeType": "application/json",
                "responseJsonSchema": SCHEMA,
            }
        },
        "history of calls": {
            "contents": [
                _user({"text": "Is it warm?"}),
                {
                    "role": "model",
                    "parts": [_called("c1", "Bärn") | _SIGNED, _called("c2", "Basel")],
                },
                _user(_result("c1", "sunny"), _result("c2", "rain")),
                {"role": "model", "parts": [{"text": "In Bärn."}]},
                _user({"text": "And now?"}),
            ]
        },
        "texts and images in order": {
            "contents": [_user({"text": "This:"}, _IMAGE, {"text": "or this:"}, _IMAGE)]
        },
        "failed result": {
            "contents": [
                *_ASKED_AND_CALLED,
                _user(
                    {
                        "functionResponse": {
                            "id": "c1",
                            "name": "weather",
                            "response": {"error": "no such city"},
                        }
                    }
                ),
            ]
        },
        "images of a result": {
            "contents": [
                *_ASKED_AND_CALLED,
                _user(
                    {
                        "functionResponse": {
                            "id": "c1",
                            "name": "weather",
                            "response": {"result": "see"},
                            "parts": [_IMAGE],
                        }
                    }
                ),
                _user({"text": "So?"}),
            ]
        },
        "instructions in the middle": {
            "systemInstruction": {"parts": [{"text": "Be brief.\n\nCount the small ones, too."}]},
            "contents": [_user({"text": "How many bears?"}, {"text": "Well?"})],
        },
        "arguments that are no object": {
            "contents": [
                _user({"text": "How many bears?"}),
                {
                    "role": "model",
                    "parts": [
                        {
                            "functionCall": {
                                "id": "c1",
                                "name": "weather",
                                "args": {"INVALID_JSON": '{"city":'},
                            },
                            **_SIGNED,
                        }
                    ],
                },
                _user(_result("c1", "no JSON")),
            ]
        },
        # It asks for a description, and holds the calls of all tools to their schemas.
        "strict tool without parameters": {
            "tools": [{"functionDeclarations": [{"name": "now", "description": "now"}]}],
            "toolConfig": {"functionCallingConfig": {"mode": "VALIDATED"}},
        },
        "no call": {"toolConfig": {"functionCallingConfig": {"mode": "NONE"}}},
        "some call": {"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}},
        "call of one tool": {
            "toolConfig": {
                "functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["weather"]}
            }
        },
    },
)
