"""Upstreams that are slow but alive, and silent ones: silence and a late first token differ.

The limits here are short: 1.5 s of silence, and 4 s until the first token. Signs of life come each
0.2 s for 2 s: a busy machine may stall in between.
"""

from collections.abc import Mapping
from typing import Any, Final

from shared.settings import Dialect
from tests.exchanges.exchange import (
    DONE,
    Exchange,
    Expected,
    Piece,
    block,
    candidate,
    chunk,
    claude,
    completed,
    failed,
    gemini,
    head,
    metered,
    prose,
    stream,
    text_delta,
    waiting,
)

_PAUSE_SECONDS: Final = 0.2
_PROVIDER: Final[Mapping[str, Any]] = {"idle_seconds": 1.5}
_MODEL: Final[Mapping[str, Any]] = {"first_token_seconds": 4.0}
_COMMENT: Final = b": keep-alive\n\n"
_PING: Final = {"type": "ping"}
_COMPLETED: Final = completed()
_END: Final = (chunk({}, "stop"), DONE)


def _slow(
    name: str,
    reply: tuple[Piece, ...],
    expected: Expected = _COMPLETED,
    dialect: Dialect = "openai",
) -> Exchange:
    return Exchange(name, reply, expected, dialect, provider=_PROVIDER, model=_MODEL)


def _paced(*events: object, times: int = 10) -> tuple[object, ...]:
    return tuple(each for _ in range(times) for event in events for each in (event, _PAUSE_SECONDS))


LIVENESS: Final = (
    _slow("comments-before-the-first-word", stream(*_paced(_COMMENT), text_delta(), *_END)),
    _slow(
        "comments-between-words",
        stream(text_delta("one two "), *_paced(_COMMENT), text_delta("three"), *_END),
    ),
    _slow(
        "empty-roles-first",
        stream(*_paced(chunk({"role": "assistant", "content": ""})), text_delta(), *_END),
    ),
    _slow("claude-pings-first", claude(*_paced(_PING), *prose()), dialect="anthropic"),
    _slow(
        "claude-pings-while-it-searches",
        claude(
            *block(0, "server_tool_use", id="s", name="web_search", input={}),
            *_paced(_PING),
            *prose(index=1),
        ),
        dialect="anthropic",
    ),
    _slow(
        "gemini-empty-parts-first",
        gemini(*_paced(candidate()), metered(candidate({"text": "one two three"}, finish="STOP"))),
        dialect="gemini",
    ),
    _slow(
        "silence-after-words",
        stream(text_delta("one two "), 3.0, text_delta("three"), *_END),
        failed("timeout/PROVIDER_SILENT", content="one two "),
    ),
    _slow(
        "comments-for-ever",
        (head(200, {"content-type": "text/event-stream"}), *(_COMMENT, 0.1) * 100),
        waiting(calls=2),
    )._replace(model={"first_token_seconds": 0.5}),
)
