"""Complete answers with odd details, and answers in other wrappings: none is lost.

DETAILS    fields of another type, beside the text or after it
WRAPPINGS  another content type, or a whole answer where a stream was asked for
MONEY      token counts as each vendor reports them
"""

import json
from typing import Final

from tests.exchanges.exchange import (
    ANSWER,
    DONE,
    Exchange,
    Json,
    block,
    candidate,
    chunk,
    claude,
    completed,
    event,
    failed,
    gemini,
    head,
    metered,
    openai,
    prose,
    stream,
    text_delta,
    usage,
)

_CALL: Final = {"index": 0, "id": "x", "type": "function"}
_CREDITS_EACH: Final = 0.0001  # a token, at a dollar a million

DETAILS: Final = (
    Exchange("usage-in-words", openai(text_delta(), prompt_tokens="7", completion_tokens="3")),
    Exchange("usage-floats", openai(text_delta(), prompt_tokens=7.0, completion_tokens=3.5)),
    Exchange(
        "usage-a-list",
        stream(text_delta(), chunk({}, "stop"), {"choices": [], "usage": [7, 3]}, DONE),
    ),
    Exchange(
        "usage-details-words",
        openai(text_delta(), completion_tokens_details="none", prompt_tokens_details=[]),
    ),
    Exchange("done-with-blanks", stream(text_delta(), chunk({}, "stop"), usage(), " [DONE] ")),
    Exchange(
        "half-surrogate",
        stream(
            text_delta(), '{"choices": [], "note": "\\ud83d"}', chunk({}, "stop"), usage(), DONE
        ),
    ),
    Exchange(
        "no-json-after-the-end", stream(text_delta(), chunk({}, "stop"), usage(), "{not json", DONE)
    ),
    Exchange(
        "choices-null",
        stream(
            {"choices": None, "id": "c1"},
            text_delta(),
            chunk({}, "stop"),
            {"choices": None, "usage": None},
            DONE,
        ),
    ),
    Exchange(
        "ids-are-numbers", openai(text_delta() | {"id": 1, "created": "today", "model": None})
    ),
    Exchange(
        "content-in-parts",
        openai(
            chunk(
                {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}]}
            ),
            chunk({"content": [{"type": "text", "text": "one two "}]}),
            chunk({"content": "three"}),
        ),
        completed(reasoning="Hm."),
        fields={"deep_think": True},
    ),
    Exchange(
        "call-with-an-object",
        openai(
            text_delta(),
            chunk({"tool_calls": [{**_CALL, "function": {"name": "f", "arguments": {"a": 1}}}]}),
            finish="tool_calls",
        ),
        completed(finish_reason="tool_calls"),
    ),
    Exchange("delta-null", openai(text_delta(), {"choices": [{"index": 0, "delta": None}]})),
    Exchange("role-a-number", openai(chunk({"role": 7, "content": ANSWER}), text_delta(""))),
    Exchange(
        "claude-usage-floats", claude(*prose(), used={"output_tokens": 3.0}), dialect="anthropic"
    ),
    Exchange(
        "claude-usage-words", claude(*prose(), used={"output_tokens": "three"}), dialect="anthropic"
    ),
    Exchange(
        "claude-block-unknown",
        claude(*block(0, "novelty", {"type": "novelty_delta", "what": 1}), *prose(index=1)),
        dialect="anthropic",
    ),
    Exchange(
        "claude-index-words",
        claude(*({**each, "index": "0"} for each in prose())),
        dialect="anthropic",
    ),
    Exchange(
        "gemini-usage-words",
        gemini(metered(candidate({"text": ANSWER}, finish="STOP"), promptTokenCount="7")),
        dialect="gemini",
    ),
    Exchange(
        "gemini-citations-odd",
        gemini(
            metered(
                candidate(
                    {"text": ANSWER}, finish="STOP", groundingMetadata=["x"], citationMetadata=7
                )
            )
        ),
        dialect="gemini",
    ),
)

_WHOLE: Final = json.dumps(
    {
        "id": "c1",
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": ANSWER},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }
).encode()
_CLAUDE_WHOLE: Final = json.dumps(
    {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "content": [{"type": "text", "text": ANSWER}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 7, "output_tokens": 3},
    }
).encode()
_GEMINI_WHOLE: Final = metered(candidate({"text": ANSWER}, finish="STOP"))
_EVENTS: Final = (text_delta(), chunk({}, "stop"), usage(), DONE)

WRAPPINGS: Final = (
    Exchange("no-content-type", stream(*_EVENTS, headers={"content-type": ""})),
    Exchange("text-plain", stream(*_EVENTS, headers={"content-type": "text/plain"})),
    Exchange("json-type-but-events", stream(*_EVENTS, headers={})),
    Exchange("whole-json", (head(200, length=len(_WHOLE)) + _WHOLE,)),
    Exchange(
        "whole-json-as-events-type", (head(200, {"content-type": "text/event-stream"}) + _WHOLE,)
    ),
    Exchange(
        "claude-whole-json",
        (head(200, length=len(_CLAUDE_WHOLE)) + _CLAUDE_WHOLE,),
        dialect="anthropic",
    ),
    Exchange(
        "gemini-array",
        (
            head(200),
            json.dumps(
                [
                    candidate({"text": "one two "}),
                    metered(candidate({"text": "three"}, finish="STOP")),
                ]
            ).encode(),
        ),
        dialect="gemini",
    ),
    Exchange(
        "gemini-whole-json", (head(200), json.dumps(_GEMINI_WHOLE).encode()), dialect="gemini"
    ),
    Exchange(
        "a-page",
        (head(200, {"content-type": "text/html"}), b"<html><body>Sign in</body></html>"),
        failed("provider_error/NOT_AN_ANSWER"),
    ),
    Exchange(
        "crlf-and-comments",
        (
            head(200, {"content-type": "text/event-stream"}),
            b": hi\r\n\r\n",
            *(event(each).replace(b"\n", b"\r\n") for each in _EVENTS),
        ),
    ),
)


def _billed(tokens: int) -> float:
    return round(tokens * _CREDITS_EACH, 6)


def _thought(total: int, completion: int, reasoning: int) -> tuple[bytes | float, ...]:
    details: Json = {"reasoning_tokens": reasoning}
    return openai(
        text_delta(),
        prompt_tokens=total - completion - reasoning,
        completion_tokens=completion,
        total_tokens=total,
        completion_tokens_details=details,
    )


MONEY: Final = (
    Exchange("thoughts-beside", _thought(345, 3, 331), completed(credits_used=_billed(345))),
    Exchange(
        "thoughts-within",
        openai(
            text_delta(),
            prompt_tokens=11,
            completion_tokens=334,
            total_tokens=345,
            completion_tokens_details={"reasoning_tokens": 331},
        ),
        completed(credits_used=_billed(345)),
    ),
    Exchange(
        "gemini-thoughts",
        gemini(
            metered(
                candidate({"text": ANSWER}, finish="STOP"),
                thoughtsTokenCount=100,
                totalTokenCount=110,
            )
        ),
        completed(credits_used=_billed(110)),
        "gemini",
    ),
    Exchange(
        "gemini-tool-use",
        gemini(
            metered(
                candidate({"text": ANSWER}, finish="STOP"),
                toolUsePromptTokenCount=500,
                totalTokenCount=510,
            )
        ),
        completed(credits_used=_billed(510)),
        "gemini",
    ),
    Exchange(
        "claude-thinks",
        claude(*prose(), used={"output_tokens": 50}),
        completed(credits_used=_billed(57)),
        "anthropic",
    ),
    # A count of zero for an answer with text is not believed: tokens are estimated.
    Exchange(
        "usage-of-nothing",
        openai(text_delta(), prompt_tokens=0, completion_tokens=0, total_tokens=0),
    ),
)
