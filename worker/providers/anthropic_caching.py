"""Marks what Anthropic's messages API is to keep in its cache of prompts.

Owns which blocks of a request get a breakpoint (`cache_control`). The cache holds a request's
beginning up to a breakpoint, for five minutes after each use. To write it costs a quarter more than
the input, to read it a tenth of the input or less; so it pays as soon as one more request begins
alike. Pure.

Three places may get one, of the four that are allowed: the tools, the system prompt, and the
history. The history ends before the message that is to be answered, which the next turn will send
with an answer to it; within a loop of tools, the last results are marked, since the next round
follows at once. Nothing is marked that is shorter than the model's minimum, which its upstream
would ignore, and nothing that the next request will not repeat (`ChatRequest.repeated`). A first
short message has no breakpoint at all.
"""

from typing import Any, Final

import msgspec

from shared.settings import ModelSettings
from shared.wire.message import BYTES_PER_TOKEN
from worker.providers.contract import ChatRequest

_BREAKPOINT: Final = {"cache_control": {"type": "ephemeral"}}
# Blocks of other types, such as thinking, have no breakpoints.
_MARKABLE: Final = frozenset({"text", "image", "tool_use", "tool_result"})

_encode = msgspec.json.Encoder().encode


def add_breakpoints(payload: dict[str, Any], request: ChatRequest) -> None:
    """Add breakpoints to a request's body, in place, if its model knows them."""
    if not _knows_breakpoints(request.model):
        return
    # How many bytes are missing for the least that the cache keeps.
    missing = request.model.cache_tokens_min * BYTES_PER_TOKEN
    tools, system = payload.get("tools") or [], payload.get("system")
    missing -= _bytes_of(tools, missing)
    if tools and missing <= 0:
        _mark(tools, len(tools) - 1)
    if request.repeated == "tools":
        return
    if system:
        missing -= len(system.encode())
        if missing <= 0:
            payload["system"] = [{"type": "text", "text": system, **_BREAKPOINT}]
    if request.repeated == "history":
        _mark_history(payload["messages"], missing)


def _knows_breakpoints(model: ModelSettings) -> bool:
    """Other vendors behind this dialect may refuse the field; their catalogue entries say so."""
    by_name = "breakpoints" if "claude" in model.upstream else "none"
    return (model.cache_option or by_name) == "breakpoints"


def _mark_history(messages: list[dict[str, Any]], missing: int) -> None:
    """Mark the last block of the history, if there is one and it is long enough."""
    last = next((n for n in reversed(range(len(messages))) if messages[n]["role"] == "user"), 0)
    is_looping = any(block["type"] == "tool_result" for block in messages[last]["content"])
    history = messages[: last + is_looping]
    if not history or _bytes_of(history, missing) < missing:
        return
    blocks = history[-1]["content"]
    markable = [n for n, block in enumerate(blocks) if block["type"] in _MARKABLE]
    if markable:
        _mark(blocks, markable[-1])


def _mark(blocks: list[dict[str, Any]], index: int) -> None:
    """Replace a block by a marked copy: some are constants, or are sent again without a mark."""
    blocks[index] = blocks[index] | _BREAKPOINT


def _bytes_of(values: list[dict[str, Any]], enough: int) -> int:
    """Return how many bytes the values have; no more are counted than is enough."""
    counted = 0
    for value in values:
        if counted >= enough:
            break
        counted += len(_encode(value))
    return counted
