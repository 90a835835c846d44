"""Finish reasons of all upstreams: one table for every dialect.

Owns which reasons are a normal end, which say that the answer failed, and which mean "not ended".
Servers of one dialect use the reasons of others, so the table does not depend on the dialect.
"""

from typing import Final, Literal

from shared.wire.message import FinishReason

_STOP: Final = (
    *("stop", "end_turn", "stop_sequence", "eos", "eos_token", "end", "done"),
    *("complete", "completed", "finish", "finished", "stop_token", "finish_reason_stop"),
)
_LENGTH: Final = (
    *("length", "max_tokens", "max_length", "model_length", "max_output_tokens", "token_limit"),
    *("max_completion_tokens", "max_new_tokens", "model_context_window_exceeded"),
    *("context_length", "context_window_exceeded", "finish_reason_max_tokens"),
)
_TOOL_CALLS: Final = ("tool_calls", "tool_call", "tool_use", "function_call", "function_calls")
_CONTENT_FILTER: Final = (
    *("content_filter", "content_filtered", "refusal", "safety", "recitation", "blocklist"),
    *("prohibited_content", "spii", "model_armor", "language", "image_safety"),
    *("image_prohibited_content", "image_recitation", "sensitive", "guardrail_intervened"),
    *("content_policy", "policy_violation", "blocked", "moderation", "jailbreak"),
)
_REASONS: Final[dict[str, FinishReason]] = {
    **dict.fromkeys(_STOP, "stop"),
    **dict.fromkeys(_LENGTH, "length"),
    **dict.fromkeys(_TOOL_CALLS, "tool_calls"),
    **dict.fromkeys(_CONTENT_FILTER, "content_filter"),
}
# Values that mean "not ended yet".
_NONE: Final = frozenset(
    {"", "null", "none", "nil", "undefined", "unspecified", "finish_reason_unspecified"}
)
# Failures of Gemini and DeepSeek whose names do not say so.
_FAILED: Final = frozenset(
    {
        *("other", "image_other", "no_image", "unexpected_tool_call", "too_many_tool_calls"),
        *("missing_thought_signature", "insufficient_system_resource"),
    }
)
# A reason that is in no table but contains one of these says that the answer failed.
_FAILED_STEMS: Final = (
    *("error", "abort", "fail", "cancel", "malformed", "exception", "insufficient", "timeout"),
    *("timed_out", "unavailable", "overload", "interrupt", "disconnect", "killed", "crash"),
    *("preempt", "evict", "incomplete", "invalid", "exhausted", "shutdown", "rate_limit"),
)


class AnswerFailedError(Exception):
    """An upstream ended its answer because it failed: the answer is incomplete."""


def read_finish_reason(reason: object) -> FinishReason | Literal["unknown"] | None:
    """Return how an answer ended; None if it has not ended. Raises AnswerFailedError.

    "unknown" is an end only if nothing follows it.
    """
    word = _word(reason)
    if word in _NONE:
        return None
    if word in _REASONS:
        return _REASONS[word]
    if word in _FAILED or any(stem in word for stem in _FAILED_STEMS):
        raise AnswerFailedError(word)
    return "unknown"


def _word(reason: object) -> str:
    """Return a reason as one word in lower case; of an object, its `type` or `reason`."""
    if isinstance(reason, dict):
        reason = reason.get("type") or reason.get("reason") or bool(reason)
    if isinstance(reason, list):
        reason = reason[0] if reason else None
    if not isinstance(reason, str):
        return "unknown" if reason else ""
    return reason.strip().lower().replace("-", "_").replace(" ", "_")
