"""A third dialect, as small as one can be: POST a text, get the answer's lines as plain text.

Owns `/lines`: its error shape, its small bodies, and an encoder that folds words into lines, which
it numbers from 1. A client that was cut counts the whole lines that it has (those without `#`) and
continues after them. Each line of an answer begins with `> `; `~` withdraws all lines before it;
`! ` and a sentence tell of a failure.
"""

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from typing_extensions import override

from api.accept.options import Options, intent
from api.endpoints import parameters
from api.endpoints.dialect import Dialect
from api.endpoints.endpoint import Endpoint, Query, RequestContext
from api.errors import ErrorReport, ErrorShape
from api.follow.encoders import Fold, FoldingEncoder, Frame, FrameNumber
from api.follow.event_ids import EventNumber
from api.follow.stream import StartedGeneration
from api.guards.body import BodyRules
from api.guards.body_kinds import TextBody
from api.server.responses import EventStream, Response
from shared.errors import Code

PREFIX: Final = "/lines"
BODY_BYTES_MAX: Final = 2_000

Question = Annotated[str, Meta(title="Question", description="The message, as it is.")]
Lines = Annotated[str, Meta(title="Lines", description="The answer, line by line.")]
ErrorLine = Annotated[str, Meta(title="ErrorLine", description="A code and a sentence.")]


class LineFold:
    """The text that is no whole line yet, and how many lines were sent."""

    def __init__(self) -> None:
        self._text = ""
        self._sent = 0
        self._unsent_from = 0

    def add(self, _number: EventNumber, event: bytes) -> Sequence[Frame]:
        """Return the lines that are whole with an event."""
        fields = msgspec.json.decode(event)
        match fields["type"]:
            case "delta":
                self._text += fields["text"]
                return self._whole_lines()
            case "reset":
                return self._replaced(self._text[: fields["keep"]])
            case "snapshot":
                return self._replaced(fields["text"])
            case "completed":
                return [*self._whole_lines(), *self._rest()]
            case "failed":
                return [*self._rest(), self._line(f"! {fields['failure']['message']}")]
            case "cancelled":
                return [*self._rest(), self._line("! cancelled")]
            case _:
                return []

    def _replaced(self, text: str) -> list[Frame]:
        """Keep the lines that were sent if the text begins with them; else withdraw them."""
        is_longer = text.startswith(self._text[: self._unsent_from])
        self._text = text
        if is_longer:
            return self._whole_lines()
        self._unsent_from = 0
        return [self._line("~"), *self._whole_lines()]

    def _whole_lines(self) -> list[Frame]:
        *lines, _ = self._text[self._unsent_from :].split("\n")
        self._unsent_from += sum(len(line) + 1 for line in lines)
        return [self._line(f"> {line}") for line in lines]

    def _rest(self) -> list[Frame]:
        rest = self._text[self._unsent_from :]
        return [self._line(f"> {rest}")] if rest else []

    def _line(self, text: str) -> Frame:
        self._sent += 1
        return Frame((self._sent,), f"{text}\n".encode())


class LineEncoder(FoldingEncoder):
    """Plain text: a head with the generation's id, numbered lines, and a tail."""

    content_type = "text/plain; charset=utf-8"
    tail = b"# end\n"

    @override
    def head(self, generation: str, _session: str | None, after: FrameNumber) -> bytes:
        return b"" if after else f"# {generation}\n".encode()

    @override
    def fold(self, _generation: str) -> Fold:
        return LineFold()


def _error(report: ErrorReport) -> bytes:
    return f"{report.code.value}: {report.message} ({report.request_id})\n".encode()


def _headers(_code: Code, headers: dict[str, str]) -> dict[str, str]:
    wait = headers.pop("retry-after", None)
    return headers if wait is None else headers | {"x-wait-seconds": wait}


async def ask(context: RequestContext) -> EventStream | Response:
    """POST /lines/ask: accept a message and stream its answer."""
    state = context.state
    asked = intent(Options(message=context.body), state.settings.limits, model="auto")
    receipt = await state.submissions.accept(context.caller, asked, None, context.request_id)
    started = StartedGeneration(receipt.session, receipt.deadline_seconds or 0.0)
    return await state.streams.follow(
        context.caller, context.request, receipt.generation, ENCODER, (), started=started
    )


async def follow(context: RequestContext) -> EventStream | Response:
    """GET /lines/{generation_id}: stream an answer, after some lines of it."""
    have = parameters.whole_number(context, "after", 0, at_least=0)
    generation, after = parameters.generation_id(context), (have,) if have else ()
    return await context.state.streams.follow(
        context.caller, context.request, generation, ENCODER, after
    )


ENCODER: Final = LineEncoder()
LINES: Final = Dialect(
    name="lines",
    about="Questions and answers as plain text.",
    prefixes=(PREFIX,),
    endpoints=(
        Endpoint(operation="ask_for_lines", method="POST", path="/ask", scope="chat", handler=ask,
                 summary="Ask", body=TextBody(Question), replies=None, stream=Lines),
        Endpoint(operation="follow_lines", method="GET", path="/{generation_id}", scope="read",
                 handler=follow, summary="Follow an answer", replies=None, stream=Lines,
                 query=(Query("after", "integer", "How many lines the client has."),)),
    ),
    errors=ErrorShape(reply=ErrorLine, body=_error, content_type="text/plain", headers=_headers,
                      statuses={Code.RATE_LIMITED: 420, Code.NOT_FOUND: 410}),
    bodies=BodyRules(bytes_max=BODY_BYTES_MAX),
    encoder=ENCODER,
)  # fmt: skip
