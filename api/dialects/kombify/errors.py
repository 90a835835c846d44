"""The error bodies of the Kombify dialect."""

from typing import Final

import msgspec

from api.dialects.kombify.wire import ErrorEnvelope
from api.errors import ErrorReport, ErrorShape
from shared.clock import SystemClock, iso

_CLOCK: Final = SystemClock()
_encode = msgspec.json.Encoder().encode


def _body(report: ErrorReport) -> bytes:
    code, message = report.code.value, report.message
    return _encode(
        {
            "status": "error",
            "code": code,
            "message": message,
            "error": {"code": code, "message": message, "details": report.details},
            "meta": {"request_id": report.request_id, "timestamp": iso(_CLOCK.now_ms())},
        }
    )


ERRORS: Final = ErrorShape(reply=ErrorEnvelope, body=_body)
