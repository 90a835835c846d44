"""The refusals of operators' routes and of paths below no dialect; a dialect may have them too."""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from api.errors import ErrorReport, ErrorShape, ErrorShapes
from api.wire import fields

_encode = msgspec.json.Encoder().encode


class ErrorReply(fields.Details, frozen=True, kw_only=True):
    """Every refusal of this dialect."""

    success: Annotated[Literal[False], Meta(description="Always false.")] = False
    error: Annotated[str, Meta(description="What is wrong, in a sentence for a person.")]
    code: fields.ErrorCode
    request_id: fields.RefusedRequestId


def _body(report: ErrorReport) -> bytes:
    """Return a body; the details follow its fixed fields."""
    fixed: dict[str, object] = {
        "success": False,
        "error": report.message,
        "code": report.code.value,
        "request_id": report.request_id,
    }
    return _encode(fixed | report.details | fixed)


ERRORS: Final = ErrorShape(reply=ErrorReply, body=_body)
WITHOUT_DIALECTS: Final = ErrorShapes(ERRORS, {})
