"""What every dialect reports of the same answers: cached tokens, finish reasons, words.

Owns the cases and what each must come to; runs them against a scripted server, on a real socket.
`python -m tests.worker.providers.reports` prints the table. `not reported`: the dialect has no
field for it.
"""

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from shared.routing import price
from shared.wire.message import Usage
from tests.worker.providers import anthropic, gemini, openai
from tests.worker.providers.calls import Call, Received
from tests.worker.providers.dialect_row import MODEL, Dialect
from tests.worker.providers.dialects import DIALECTS
from tests.worker.providers.upstream import Script, Upstream, whole
from worker.providers.contract import ReportedUsage

_NOT_REPORTED: Final = "not reported"
_PRICED: Final = msgspec.structs.replace(
    MODEL, input_rate=2.0, cached_input_rate=0.2, cache_write_rate=2.5, output_rate=10.0
)
_FAULT: Final = "Invalid value for `temperature`: must be at most 2."
_TOO_LONG: Final = "prompt is too long: 99 tokens > 9 maximum"


class Report(NamedTuple):
    """A case in one dialect: what the server sends, how it is read, what that comes to."""

    case: str
    dialect: Dialect
    script: Script
    read: Callable[[Received], str]
    expected: str


def _openai(new: int, read: int, written: int) -> bytes:
    details = {"cached_tokens": read, "cache_write_tokens": written}
    asked = new + read + written
    usage = {
        "prompt_tokens": asked,
        "completion_tokens": 6,
        "total_tokens": asked + 6,
        "prompt_tokens_details": details,
    }
    text, end = openai.ROW.text("Two."), openai.ROW.ended("stop")
    return text + end + openai.chunk(usage=usage) + openai.DONE


def _anthropic(new: int, read: int, written: int) -> bytes:
    first = anthropic.started(
        input_tokens=new, cache_read_input_tokens=read, cache_creation_input_tokens=written
    )
    text, end = anthropic.ROW.text("Two."), anthropic.ended("stop", output_tokens=6)
    return first + text + end + anthropic.DONE


def _gemini(new: int, read: int, written: int) -> bytes:
    counts = gemini.used(new + read + written, 6, cachedContentTokenCount=read)
    return gemini.chunk({"text": "Two."}, reason="STOP", usageMetadata=counts)


_COUNTED: Final[Mapping[str, Callable[[int, int, int], bytes]]] = {
    "openai": _openai,
    "anthropic": _anthropic,
    "gemini": _gemini,
}
# Tokens that are new, read from a cache and written to one; then how they are read and priced.
_CACHES: Final[Sequence[tuple[str, tuple[int, int, int], str]]] = (
    ("nothing cached", (100_000, 0, 0), "100000 in, 0 read, 0 written: 20006000"),
    ("cached read", (1_000, 99_000, 0), "100000 in, 99000 read, 0 written: 2186000"),
    ("cached write", (10, 0, 1_000), "1010 in, 0 read, 1000 written: 258000"),
    ("cached read and write", (10, 900, 90), "1000 in, 900 read, 90 written: 48500"),
)
_REASONS: Final = ("stop", "length", "tool_calls", "content_filter")
_WORDS: Final[Sequence[tuple[str, int, str, str, str]]] = (
    (
        *("words of a bad request", 400, "invalid_request_error"),
        *(_FAULT, f'up refused the request: "{_FAULT}".'),
    ),
    (
        *("words of one too long", 400, "invalid_request_error"),
        *(_TOO_LONG, f'The conversation is too long for the model: "{_TOO_LONG}".'),
    ),
    (
        *("words of a content policy", 400, "content_filter", "Not this."),
        'up\'s content policy forbids the answer: "Not this.".',
    ),
    (
        *("words beside a secret", 400, "x", f"{_FAULT} Ask ann@acme.com of org-9 with sk-Rk29sP."),
        f'up refused the request: "{_FAULT}".',
    ),
    (
        *("words about our key", 401, "authentication_error", "Bad key sk-Rk29sP."),
        "The provider refused the deployment's credentials.",
    ),
)


def _usage(received: Received) -> str:
    [used] = (part for part in received.parts if isinstance(part, ReportedUsage))
    counts = Usage(
        input_tokens=used.input_tokens,
        output_tokens=used.output_tokens,
        cached_input_tokens=used.cached_input_tokens,
        cache_write_tokens=used.cache_write_tokens,
    )
    return (
        f"{used.input_tokens} in, {used.cached_input_tokens} read, "
        f"{used.cache_write_tokens} written: {price.usage_cost(_PRICED, counts)}"
    )


def _reason(received: Received) -> str:
    return " ".join(received.reasons)


def _sentence(received: Received) -> str:
    assert received.error is not None
    return received.error.failure.message


def _caches(dialect: Dialect) -> list[Report]:
    return [
        Report(case, dialect, whole(_COUNTED[dialect.name](*counts)), _usage, expected)
        for case, counts, expected in _CACHES
        # Gemini writes nothing to a cache unasked, and has no count of it.
        if dialect.name != "gemini" or not counts[2]
    ]


def _ends(dialect: Dialect) -> list[Report]:
    called = dialect.calling(dialect.call("c1", "clock", ["{}"], 0))
    return [
        Report(
            f"finish reason {reason}",
            dialect,
            whole(called if reason == "tool_calls" else dialect.answer("Two.", reason=reason)),
            _reason,
            reason,
        )
        for reason in _REASONS
    ]


def _refusals(dialect: Dialect) -> list[Report]:
    return [
        Report(
            case, dialect, whole(dialect.refusal(code, said), status=status), _sentence, expected
        )
        for case, status, code, said, expected in _WORDS
    ]


REPORTS: Final = tuple(
    report
    for dialect in DIALECTS
    for report in (*_caches(dialect), *_ends(dialect), *_refusals(dialect))
)


async def result(report: Report, upstream: Upstream) -> str:
    """Return what an adapter of the dialect reads."""
    call = Call(report.dialect, upstream)
    received = await call(report.script)
    await call.provider.close()
    return report.read(received)


async def table() -> str:
    """Run all cases, and return a table of what each came to; a wrong one says so."""
    found: dict[str, dict[str, str]] = {}
    async with Upstream() as upstream:
        for report in REPORTS:
            read = await result(report, upstream)
            verdict = read if read == report.expected else f"WRONG {read}"
            found.setdefault(report.case, {})[report.dialect.name] = verdict
    lines = []
    for case, by_dialect in found.items():
        lines.append(case)
        lines += (
            f"  {dialect.name:<10} {by_dialect.get(dialect.name, _NOT_REPORTED)}"
            for dialect in DIALECTS
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(asyncio.run(table()))
