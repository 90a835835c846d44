"""Logs: structlog to standard error, JSON for machines or a console format for people.

Owns the format and the context: `bound` adds the ids of the request and the generation to every
line logged inside, also across awaits. Refuses user texts: no prompt, answer or key is passed to a
log call, and what callers can put into a line (a path) goes through `sanitize`. A log call never
raises and never blocks: lines go to `sink`, and a line that cannot be encoded is replaced by a
description of it.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import cast

import msgspec
import structlog
from structlog.typing import EventDict, FilteringBoundLogger
from typing_extensions import override

from shared.clock import SystemClock, iso
from shared.settings import LogSettings
from shared.telemetry import sanitize
from shared.telemetry.sink import STDERR, replace_stderr


def begin() -> None:
    """Send standard error and Python's warnings through the sink, from the first line of a program.

    `configure` follows once the settings are read.
    """
    replace_stderr()
    logging.captureWarnings(capture=True)


def configure(settings: LogSettings, *, process: str) -> None:
    """Set up logging for this process, for structlog and the standard library's loggers."""
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    stamp = _add_time_and_process(process)
    shared: list[structlog.typing.Processor] = [
        add_context,
        structlog.processors.add_log_level,
        stamp,
        structlog.processors.format_exc_info,
    ]
    render = (
        _as_json if settings.format == "json" else _Console(has_colors=os.isatty(STDERR.descriptor))
    )
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_SinkLogger,
        cache_logger_on_first_use=False,
    )
    logger.cache_clear()
    STDERR.notice = _notice(shared, render)
    standard_library = _StandardLibraryLines()
    standard_library.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                lambda *line: render(*line).decode(errors="replace"),
            ],
        )
    )
    logging.basicConfig(handlers=[standard_library], level=max(level, logging.WARNING), force=True)


def flush() -> None:
    """Wait, within a limit, until the logged lines are written."""
    STDERR.flush()


def dropped() -> int:
    """Return how many lines of this process the sink dropped."""
    return STDERR.dropped


Render = Callable[[object, str, EventDict], bytes]


class _SinkLogger:
    """The logger that structlog passes a rendered line to; all levels are the same method."""

    def __init__(self, *_: object) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = self.msg

    def msg(self, line: bytes) -> None:
        STDERR.write(line + b"\n")


class _StandardLibraryLines(logging.Handler):
    """Writes the lines of the standard library's loggers: uvicorn's, arq's, asyncio's, warnings."""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except (TypeError, ValueError):
            # The arguments do not fit the format string.
            line = f"{record.name}: {record.msg!r}"
        STDERR.write(f"{line}\n".encode(errors="backslashreplace"))


def _as_json(_logger: object, _method: str, line: EventDict) -> bytes:
    line = sanitize.cut_path(line)
    try:
        return sanitize.json_line(msgspec.json.encode(line, enc_hook=repr))
    except (TypeError, ValueError, RecursionError):
        # A lone surrogate, as in a file's name, or a number beyond 64 bits.
        text = json.dumps({name: repr(value) for name, value in line.items()})
        return sanitize.json_line(text.encode())


class _Console:
    """Renders a line for people."""

    def __init__(self, *, has_colors: bool) -> None:
        self._render = structlog.dev.ConsoleRenderer(colors=has_colors)

    def __call__(self, logger: object, method: str, line: EventDict) -> bytes:
        safe = sanitize.values(sanitize.cut_path(line))
        rendered = self._render(logger, method, safe)
        return sanitize.without_keys(rendered.encode(errors="backslashreplace"))


def _notice(processors: list[structlog.typing.Processor], render: Render) -> Callable[[int], bytes]:
    """Return the function that renders the line about dropped lines."""

    def notice(missing: int) -> bytes:
        line: EventDict = {"event": "log lines were dropped", "count": missing}
        for processor in processors:
            line = cast("EventDict", processor(None, "warning", line))
        return render(None, "warning", line) + b"\n"

    return notice


def _add_time_and_process(process: str) -> structlog.typing.Processor:
    """Return a processor that adds the time and the process' name."""
    clock = SystemClock()
    # Formatting the time is most of a line's cost; lines within one second share its text.
    second, second_text = -1, ""

    def stamp(_logger: object, _method: str, line: EventDict) -> EventDict:
        nonlocal second, second_text
        now = clock.now_ms()
        if now // 1000 != second:
            second, second_text = now // 1000, iso(now)[:-1]
        line["process"] = process
        line["timestamp"] = f"{second_text}.{now % 1000:03d}Z"
        return line

    return stamp


@cache
def logger() -> FilteringBoundLogger:
    """Return the logger, bound once; `configure` makes a new one."""
    bound_logger: FilteringBoundLogger = structlog.get_logger().bind()
    return bound_logger


def bind(**context: object) -> None:
    """Add this context to every line that this task logs from now on."""
    _context.set(_context.get() | context)


@contextmanager
def bound(**context: object) -> Iterator[None]:
    """Add this context to every line logged inside."""
    token = _context.set(_context.get() | context)
    try:
        yield
    finally:
        _context.reset(token)


def add_context(_logger: object, _method: str, line: EventDict) -> EventDict:
    """Add the bound context to a line; one variable for all costs a tenth of one for each."""
    return {**_context.get(), **line}


_context: ContextVar[dict[str, object]] = ContextVar("pollux_log_context", default={})  # noqa: B039  never changed in place
