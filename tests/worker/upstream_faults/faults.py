"""The faults: what the first model's upstream does to every request, as bytes on a real socket.

Owns the scripts, and what is expected of the pipeline for each. The second model is always well.
"""

import zlib
from typing import Final, NamedTuple

from shared.clock import SystemClock
from tests.worker.providers.openai import ROW
from tests.worker.providers.upstream import Line, Script, endless, held, whole

# Many messages at once are a storm.
STORM: Final = 20
_DEADLINE_SECONDS: Final = 1.5
_PATIENCE_SECONDS: Final = 0.4
_DRIP_SECONDS: Final = 0.05
_TEXT: Final = ROW.text("word ")
_REFUSAL: Final = ROW.refusal("rate_limited", "Too many requests.")


class Expected(NamedTuple):
    """What becomes of a message: with a second model on the route, and without one.

    `code` is why a message for the model alone failed; `calls` are those of the faulty model, where
    they can be told beforehand: in a storm, at most so many.
    """

    auto: str
    auto_calls: int
    named: str
    code: str
    named_calls: int


class Fault(NamedTuple):
    """One row; without a script nobody listens where the model should be.

    `patience_seconds` is how long the faulty model may be silent, before its first token and
    after. `is_slow`: a message for the model alone waits for seconds in the queue.
    """

    name: str
    script: Script | None
    expected: Expected
    messages: int = 1
    deadline_seconds: float = 14.0
    wait_seconds: float = 5.0
    is_slow: bool = False


async def _silence(line: Line) -> None:
    await line.gone.wait()


def _dripping(piece: bytes) -> Script:
    """Return a script that never ends, and is never silent for long."""

    async def script(line: Line) -> None:
        await line.head()
        while True:
            await line.send(piece)
            await SystemClock().sleep(_DRIP_SECONDS)

    return script


async def _long_line(line: Line) -> None:
    await line.head()
    await line.send(b"data: ")
    for _ in range(100):
        await line.send(b"x" * 1_000_000)


def _bomb() -> Script:
    """Return a script that sends very much in very little."""
    packing = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = packing.compress(b"\0" * 50_000_000) + packing.flush()
    return whole(packed, content_encoding="gzip")


def _passed_over(calls: int, code: str) -> Expected:
    """Another model answers in its place; alone it fails after as many calls."""
    return Expected("completed", calls, "failed", code, calls)


def _tried_again(code: str) -> Expected:
    """It is called twice, then another model answers; alone it is called six times in all."""
    return Expected("completed", 2, "failed", code, 6)


def _not_taken_on(code: str) -> Expected:
    """Another model answers after one call; alone the message waits until its deadline."""
    return Expected("completed", 1, "failed", code, 2)


def _shown(code: str) -> Expected:
    """What was shown is not taken back: it is the end, with another model or without."""
    return Expected("failed", 1, "failed", code, 1)


FAULTS: Final = (
    Fault("none", whole(ROW.answer("Two bears")), Expected("completed", 1, "completed", "", 1)),
    Fault(
        "429",
        whole(_REFUSAL, status=429),
        _not_taken_on("PROVIDER_RATE_LIMITED"),
        deadline_seconds=2.0,
    ),
    Fault(
        "429, Retry-After: 3",
        whole(_REFUSAL, status=429, retry_after="3"),
        Expected("completed", 1, "failed", "PROVIDER_RATE_LIMITED", 4),
        is_slow=True,
    ),
    Fault(
        "429, storm of 20",
        whole(_REFUSAL, status=429),
        # As many as had begun when it opened, and its probes.
        Expected("completed", 30, "failed", "PROVIDER_COOLING", 34),
        messages=STORM,
        is_slow=True,
    ),
    Fault(
        "429, Retry-After: 3, storm of 20",
        whole(_REFUSAL, status=429, retry_after="3"),
        Expected("completed", 20, "failed", "PROVIDER_COOLING", 24),
        messages=STORM,
        is_slow=True,
    ),
    Fault("500", whole(b"{}", status=500), _tried_again("PROVIDER_FAILED"), deadline_seconds=2.5),
    Fault(
        "503", whole(b"{}", status=503), _not_taken_on("DEADLINE_EXCEEDED"), deadline_seconds=2.0
    ),
    Fault("401", whole(b"{}", status=401), _passed_over(1, "BAD_CREDENTIALS")),
    Fault("refused connection", None, _not_taken_on("DEADLINE_EXCEEDED"), deadline_seconds=2.0),
    Fault("cut before the first token", whole(), _tried_again("STREAM_CUT"), deadline_seconds=2.5),
    Fault("cut after 5 tokens", whole(*[_TEXT] * 5), _shown("STREAM_CUT")),
    Fault(
        "error inside a 200",
        whole(ROW.error_event(500, "Something broke.")),
        _tried_again("PROVIDER_FAILED"),
        deadline_seconds=2.5,
    ),
    Fault(
        "malformed SSE",
        whole(b'data: {"choices": [{"delta": {"content": "\n\n'),
        _tried_again("MALFORMED_STREAM"),
        deadline_seconds=2.5,
    ),
    Fault("100 MB line", _long_line, _passed_over(1, "RESPONSE_TOO_LARGE")),
    Fault(
        "endless drip of comments",
        _dripping(b": .\n\n"),
        _tried_again("FIRST_TOKEN_TIMEOUT"),
        wait_seconds=_PATIENCE_SECONDS,
        is_slow=True,
    ),
    Fault(
        "endless drip of tokens",
        _dripping(_TEXT),
        _shown("DEADLINE_EXCEEDED"),
        deadline_seconds=_DEADLINE_SECONDS,
    ),
    Fault(
        "endless flood of comments",
        endless(b": " + b"." * 60_000 + b"\n\n"),
        _passed_over(1, "RESPONSE_TOO_LARGE"),
    ),
    Fault("gzip bomb", _bomb(), _passed_over(1, "COMPRESSED_RESPONSE")),
    Fault(
        "redirect",
        whole(status=307, location="http://127.0.0.1:9/v1/chat/completions"),
        _passed_over(1, "UNEXPECTED_REDIRECT"),
    ),
    Fault(
        "silence before the head",
        _silence,
        _tried_again("FIRST_TOKEN_TIMEOUT"),
        wait_seconds=_PATIENCE_SECONDS,
        is_slow=True,
    ),
    Fault(
        "silence after the head",
        held(),
        _tried_again("FIRST_TOKEN_TIMEOUT"),
        wait_seconds=_PATIENCE_SECONDS,
        is_slow=True,
    ),
    Fault(
        "silence after 5 tokens",
        held(*[_TEXT] * 5),
        _shown("PROVIDER_SILENT"),
        wait_seconds=_PATIENCE_SECONDS,
    ),
)
