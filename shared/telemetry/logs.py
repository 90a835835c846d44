"""Logs: structlog to standard error, JSON for machines or a console form for people.

Owns the format and the context: `bound` puts the request's and the generation's id on every line
below it, also across awaits. Refuses texts of users: no prompt, answer or key is ever handed to a
log call; what callers may put into a line all the same, as a path, goes through `clean`. A log call
never raises and never waits: lines go to `sink`, and one that cannot be encoded is replaced by one
that says so.
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
    """Send all that this program writes to standard error, and its warnings, through the sink.

    For the first line of a program; `configure` follows once its settings are read.
    """
    replace_stderr()
    logging.captureWarnings(capture=True)


def configure(settings: LogSettings, *, process: str) -> None:
    """Set up logging for this process; the standard library's loggers end in the same stream."""
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    stamp = _add_time_and_process(process)
    shared: list[structlog.typing.Processor] = [
        merge,
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
    """Wait, within a limit, until what was logged is written."""
    STDERR.flush()


def dropped() -> int:
    """Return how many lines of this process the sink had no room for."""
    return STDERR.dropped


Render = Callable[[object, str, EventDict], bytes]


class _SinkLogger:
    """What structlog hands a rendered line to; every method of a level does the same."""

    def __init__(self, *_: object) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = self.msg

    def msg(self, line: bytes) -> None:
        STDERR.write(line + b"\n")


class _StandardLibraryLines(logging.Handler):
    """The lines of the standard library's loggers: uvicorn's, arq's, asyncio's, warnings."""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except (TypeError, ValueError):
            # Its arguments do not fit its words.
            line = f"{record.name}: {record.msg!r}"
        STDERR.write(f"{line}\n".encode(errors="backslashreplace"))


def _as_json(_logger: object, _method: str, line: EventDict) -> bytes:
    line = sanitize.cut_path(line)
    try:
        return sanitize.json_line(msgspec.json.encode(line, enc_hook=repr))
    except (TypeError, ValueError, RecursionError):
        # Half of a surrogate pair, as in a file's name, or a number beyond 64 bits.
        text = json.dumps({name: repr(value) for name, value in line.items()})
        return sanitize.json_line(text.encode())


class _Console:
    """The form for people."""

    def __init__(self, *, has_colors: bool) -> None:
        self._render = structlog.dev.ConsoleRenderer(colors=has_colors)

    def __call__(self, logger: object, method: str, line: EventDict) -> bytes:
        safe = sanitize.values(sanitize.cut_path(line))
        rendered = self._render(logger, method, safe)
        return sanitize.without_keys(rendered.encode(errors="backslashreplace"))


def _notice(processors: list[structlog.typing.Processor], render: Render) -> Callable[[int], bytes]:
    """Return what makes the line that stands where others found no room."""

    def notice(missing: int) -> bytes:
        line: EventDict = {"event": "log lines were dropped", "count": missing}
        for processor in processors:
            line = cast("EventDict", processor(None, "warning", line))
        return render(None, "warning", line) + b"\n"

    return notice


def _add_time_and_process(process: str) -> structlog.typing.Processor:
    """Return what adds the time and the process' name; a line's time is most of what it costs."""
    clock = SystemClock()
    # Most lines fall into the second of the line before, whose text is used again.
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
    """Return the logger, bound once; `configure` makes it anew."""
    bound_logger: FilteringBoundLogger = structlog.get_logger().bind()
    return bound_logger


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
