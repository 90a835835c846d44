"""Upstreams that refuse or fail for a while, and then answer: the message waits and completes.

Each fails at least as often as one attempt calls it, or says how long to wait, so most of these
messages go back to the queue before they are answered.
"""

from collections.abc import Mapping
from typing import Final

from shared.settings import Dialect
from tests.exchanges.exchange import (
    DONE,
    Exchange,
    Piece,
    completed,
    head,
    refusal,
    stream,
)

_LIMITED: Final = {"error": {"message": "Slow down.", "code": "rate_limit_exceeded"}}
_BUSY: Final = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
_EXHAUSTED: Final = {
    "error": {
        "code": 429,
        "message": "Resource has been exhausted.",
        "status": "RESOURCE_EXHAUSTED",
        "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.2s"}],
    }
}


def _until(
    name: str, times: int, reply: tuple[Piece, ...], dialect: Dialect = "openai"
) -> Exchange:
    """Return an exchange that is answered once so many calls have got the reply."""
    return Exchange(name, reply, completed(calls=times + 1), dialect, times=times)


def _limited(name: str, times: int, headers: Mapping[str, str] = {}) -> Exchange:
    return _until(name, times, refusal(429, _LIMITED, headers))


RECOVERIES: Final = (
    _limited("limited-twice", 2, {"retry-after-ms": "100"}),
    _limited("limited-without-a-wait", 2),
    _limited("limited-by-a-second", 2, {"retry-after": "1"}),
    _until("unavailable-twice", 2, refusal(503, "Service Unavailable")),
    _until("claude-overloaded-twice", 2, refusal(529, _BUSY), "anthropic"),
    _until("gemini-exhausted-twice", 2, refusal(429, _EXHAUSTED), "gemini"),
    _until("failed-once", 1, refusal(500, {"error": {"message": "Internal error"}})),
    _until("hung-up-without-a-word", 1, (b"",)),
    _until("cut-before-the-first-word", 1, (head(200, {"content-type": "text/event-stream"}),)),
    _until("in-band-busy-once", 1, stream({"error": {"code": 503, "message": "Busy"}}, DONE)),
)
