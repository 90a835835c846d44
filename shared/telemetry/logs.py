"""Logs: structlog to standard error, JSON for machines or a console form for people.

Owns the format and the context: `bound` puts the request's and the generation's id on every line
below it, also across awaits. Refuses texts of users: no prompt, answer or key is ever handed to a
log call.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import msgspec
import structlog
from structlog.typing import EventDict, FilteringBoundLogger

from shared.clock import SystemClock, iso
from shared.sections import LogSettings


def configure(settings: LogSettings, *, process: str) -> None:
    """Set up logging for this process; the standard library's loggers end in the same stream."""
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    shared: list[structlog.typing.Processor] = [
        merge,
        structlog.processors.add_log_level,
        _stamp(process),
        structlog.processors.format_exc_info,
    ]
    is_json = settings.format == "json"
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(serializer=_json)
        if is_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer)
        if is_json
        else structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logger.cache_clear()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer() if is_json else renderer,
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)


def _json(line: object, **_: object) -> bytes:
    return msgspec.json.encode(line, enc_hook=repr)


def _stamp(process: str) -> structlog.typing.Processor:
    """Return what adds the time and the process' name; a line's time is most of what it costs."""
    clock = SystemClock()

    def stamp(_logger: object, _method: str, line: EventDict) -> EventDict:
        now = clock.now_ms()
        line["process"] = process
        line["timestamp"] = f"{iso(now)[:-1]}.{now % 1000:03d}Z"
        return line

    return stamp


@cache
def logger() -> FilteringBoundLogger:
    """Return the logger, bound once; `configure` makes it anew."""
    fresh: FilteringBoundLogger = structlog.get_logger().bind()
    return fresh


def bind(**context: object) -> None:
    """Put these words on every line that this task logs from here on."""
    _context.set(_context.get() | context)


@contextmanager
def bound(**context: object) -> Iterator[None]:
    """Put these words on every line logged inside."""
    token = _context.set(_context.get() | context)
    try:
        yield
    finally:
        _context.reset(token)


def merge(_logger: object, _method: str, line: EventDict) -> EventDict:
    """Add to a line what was bound; one variable for all of it costs a tenth of one for each."""
    return {**_context.get(), **line}


_context: ContextVar[dict[str, object]] = ContextVar("pollux_log_context", default={})  # noqa: B039  never changed in place
