"""How answers end: by an error, by a limit, by a filter, or without text.

ERRORS     an end that reports an upstream failure is a failure, whatever text came before
PAUSES     an answer that the upstream pauses is continued
REASONS    the reason of the end is kept with the answer
EMPTY      no text: refused, all spent on reasoning, text in another field, or really nothing
"""

from typing import Final

from tests.exchanges.exchange import (
    ANSWER,
    DONE,
    Exchange,
    block,
    candidate,
    chunk,
    claude,
    completed,
    failed,
    gemini,
    metered,
    openai,
    prose,
    stream,
    text_delta,
    usage,
    waiting,
)

_HALF: Final = "The answer is that the"
_BROKEN: Final = failed("provider_error/PROVIDER_FAILED", content=_HALF)
# No text was shown: the call is repeated, at once and then later.
_AGAIN: Final = waiting(calls=2)


def _half(finish: str, **choice: object) -> Exchange:
    reply = openai(text_delta(_HALF), chunk({}, finish, **choice), finish=None)
    return Exchange(f"finish-{finish.replace('_', '-')}", reply, _BROKEN)


ERRORS: Final = (
    _half("error"),
    _half("abort"),
    _half("aborted"),
    _half("network_error"),
    _half("insufficient_system_resource"),
    Exchange(
        "choice-error",
        openai(
            text_delta(_HALF),
            chunk({}, "stop", error={"code": 502, "message": "Upstream error"}),
            finish=None,
        ),
        _BROKEN,
    ),
    Exchange(
        "choice-error-without-a-reason",
        openai(
            text_delta(_HALF), chunk({}, error={"message": "Provider returned error"}), finish=None
        ),
        _BROKEN,
    ),
    Exchange("finish-error-at-once", openai(chunk({"content": ""}, "error"), finish=None), _AGAIN),
    Exchange(
        "gemini-malformed-call",
        gemini(candidate({"text": _HALF}), metered(candidate(finish="MALFORMED_FUNCTION_CALL"))),
        _BROKEN,
        "gemini",
    ),
    Exchange(
        "gemini-other",
        gemini(metered(candidate({"text": _HALF}, finish="OTHER"))),
        _AGAIN,
        "gemini",
    ),
    Exchange(
        "null-in-words",
        stream(
            *(chunk({"content": f"{word} "}, "null") for word in "one two".split()),
            chunk({"content": "three"}, "null"),
            chunk({}, "stop"),
            usage(),
            DONE,
        ),
    ),
    Exchange(
        "reason-empty-until-the-end",
        stream(
            chunk({"content": "one two "}, ""),
            chunk({"content": "three"}, ""),
            chunk({}, "stop"),
            usage(),
            DONE,
        ),
    ),
    Exchange(
        "null-in-words-with-pauses",
        stream(
            chunk({"content": "one "}, "null"),
            0.3,
            chunk({"content": "two "}, "null"),
            0.3,
            chunk({"content": "three"}, "stop"),
            DONE,
        ),
    ),
)

_SEARCHES: Final = block(
    0,
    "server_tool_use",
    {"type": "input_json_delta", "partial_json": '{"query": "bears"}'},
    id="srvtoolu_1",
    name="web_search",
    input={},
)
PAUSES: Final = (
    # It searches the web by itself, pauses, and continues from what is sent back to it.
    Exchange(
        "claude-pauses-while-it-searches",
        claude(*_SEARCHES, *prose("So far: ", index=1), stop="pause_turn"),
        completed("So far: one two three", calls=2),
        "anthropic",
        fields={"web_search": True},
        model={"capabilities": ("web_search",)},
        until="srvtoolu_1",
    ),
    Exchange(
        "claude-pauses-for-ever",
        claude(*_SEARCHES, *prose("On ", index=1), stop="pause_turn"),
        failed(
            "provider_error/PROVIDER_FAILED",
            content="On On On On On On ",
            calls=6,
            credits_used=None,
        ),
        "anthropic",
        fields={"web_search": True},
        model={"capabilities": ("web_search",)},
    ),
)

REASONS: Final = (
    Exchange(
        "cut-by-length", openai(text_delta(), finish="length"), completed(finish_reason="length")
    ),
    Exchange(
        "cut-by-model-length",
        openai(text_delta(), finish="model_length"),
        completed(finish_reason="length"),
    ),
    Exchange(
        "cut-by-max-tokens",
        openai(text_delta(), finish="max_tokens"),
        completed(finish_reason="length"),
    ),
    Exchange(
        "cut-by-filter",
        openai(text_delta(), finish="content_filter"),
        completed(finish_reason="content_filter"),
    ),
    Exchange(
        "claude-max-tokens",
        claude(*prose(), stop="max_tokens"),
        completed(finish_reason="length"),
        "anthropic",
    ),
    Exchange(
        "claude-window-exceeded",
        claude(*prose(), stop="model_context_window_exceeded"),
        completed(finish_reason="length"),
        "anthropic",
    ),
    Exchange(
        "claude-stop-sequence", claude(*prose(), stop="stop_sequence"), completed(), "anthropic"
    ),
    Exchange(
        "claude-refusal-after-words",
        claude(*prose(), stop="refusal"),
        completed(finish_reason="content_filter"),
        "anthropic",
    ),
    Exchange(
        "gemini-max-tokens",
        gemini(metered(candidate({"text": ANSWER}, finish="MAX_TOKENS"))),
        completed(finish_reason="length"),
        "gemini",
    ),
    Exchange(
        "gemini-safety-after-words",
        gemini(candidate({"text": ANSWER}), metered(candidate(finish="SAFETY"))),
        completed(finish_reason="content_filter"),
        "gemini",
    ),
    Exchange("reason-unknown", openai(text_delta(), finish="eos"), completed()),
)

EMPTY: Final = (
    Exchange(
        "refusal-only",
        openai(chunk({"refusal": "I cannot "}), chunk({"refusal": "help with that."})),
        failed("content_policy/CONTENT_POLICY"),
    ),
    Exchange(
        "claude-refusal-only",
        claude(stop="refusal"),
        failed("content_policy/CONTENT_POLICY"),
        "anthropic",
    ),
    Exchange(
        "gemini-blocked-prompt",
        gemini({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {}}),
        failed("content_policy/CONTENT_POLICY"),
        "gemini",
    ),
    Exchange(
        "spent-on-thinking",
        openai(
            chunk({"reasoning_content": "Let me think about"}),
            finish="length",
            completion_tokens=256,
        ),
        failed("invalid_request/ANSWER_SPENT_ON_THINKING", retryable=False, credits_used=None),
    ),
    Exchange(
        "claude-spent-on-thinking",
        claude(
            *block(
                0, "thinking", {"type": "thinking_delta", "thinking": "Let me see"}, thinking=""
            ),
            stop="max_tokens",
        ),
        failed("invalid_request/ANSWER_SPENT_ON_THINKING", retryable=False, credits_used=None),
        "anthropic",
    ),
    Exchange(
        "gemini-spent-on-thinking",
        gemini(
            metered(candidate(finish="MAX_TOKENS"), thoughtsTokenCount=64, candidatesTokenCount=0)
        ),
        failed("invalid_request/ANSWER_SPENT_ON_THINKING", retryable=False, credits_used=None),
        "gemini",
    ),
    Exchange(
        "message-in-the-last-chunk",
        openai(
            chunk({"content": ""}, "stop", message={"role": "assistant", "content": ANSWER}),
            finish=None,
        ),
    ),
    Exchange(
        "empty-stop",
        openai(chunk({"role": "assistant", "content": ""})),
        failed("provider_error/EMPTY_ANSWER", calls=2, retryable=True),
    ),
    Exchange(
        "claude-empty-stop", claude(), failed("provider_error/EMPTY_ANSWER", calls=2), "anthropic"
    ),
)
