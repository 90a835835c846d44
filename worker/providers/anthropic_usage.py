"""Reads the usage in the events of Anthropic's messages API. Pure."""

from collections.abc import Sequence

import msgspec

from worker.providers.contract import ReportedUsage, plausible_usage


class _Details(msgspec.Struct):
    thinking_tokens: int | None = None


class _Written(msgspec.Struct):
    """Tokens written to the cache, by how long they are kept."""

    ephemeral_5m_input_tokens: int | None = None
    ephemeral_1h_input_tokens: int | None = None


class _Searches(msgspec.Struct):
    web_search_requests: int | None = None


class UsageSoFar(msgspec.Struct):
    """Tokens so far; `input_tokens` excludes those read from a cache and written to it."""

    input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation: _Written | None = None
    cache_read_input_tokens: int | None = None
    output_tokens: int | None = None
    output_tokens_details: _Details | None = None
    server_tool_use: _Searches | None = None


def read_usage(usage: UsageSoFar, begun_with: UsageSoFar) -> Sequence[ReportedUsage]:
    """Return the usage, if it is plausible.

    Counts are for the whole answer so far. Some servers report the input only in the first event;
    the output count of that event is ignored.
    """
    new, written, cached = (
        now if now is not None else before
        for now, before in zip(_inputs(usage), _inputs(begun_with), strict=True)
    )
    if new is None or usage.output_tokens is None:
        return ()
    details = usage.output_tokens_details
    thought = (details.thinking_tokens if details is not None else None) or 0
    tools = usage.server_tool_use or begun_with.server_tool_use
    searches = (tools.web_search_requests if tools is not None else None) or 0
    written, cached = written or 0, cached or 0
    asked = new + written + cached
    used = plausible_usage(
        asked, usage.output_tokens, thought, searches, cached=cached, written=written
    )
    return (used,) if used is not None else ()


def _inputs(usage: UsageSoFar) -> tuple[int | None, int | None, int | None]:
    """Return the input's tokens: neither cached before nor now, written to the cache, read from it.

    Some servers report what was written only by how long it is kept.
    """
    written, split = usage.cache_creation_input_tokens, usage.cache_creation
    if written is None and split is not None:
        written = (split.ephemeral_5m_input_tokens or 0) + (split.ephemeral_1h_input_tokens or 0)
    return usage.input_tokens, written, usage.cache_read_input_tokens
