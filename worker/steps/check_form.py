"""Checks the answer against the form that was asked for, and has it made once more if it differs.

Owns when that is worth it, and the failure otherwise. Calls of the caller's tools are an answer of
another kind, and are not checked, nor is what a content filter has cut. An answer of another form
fails, and is paid for as it was shown: otherwise any answer could be had for nothing.
"""

from typing import Final

from shared import json_schema
from shared.errors import Failure
from shared.telemetry import logs
from shared.wire.conversation import FREE_TEXT
from worker.outcome import Failed
from worker.resilience.retry_policy import CALLS_PER_TURN_MAX
from worker.run import Run

WRONG_FORM: Final = "ANSWER_FORM"
_NO_OBJECT = "it is no JSON object"
_CUT_OFF = "it was cut off at its longest length"


def find_flaw(run: Run) -> str | None:
    """Return why the answer has not the form that was asked for; None if it has."""
    form, text = run.submission.form, run.writer.text()[run.text_start :]
    has_called = bool(run.call_ids and run.submission.tools)
    if form == FREE_TEXT or has_called or run.finish_reason == "content_filter":
        return None
    if form.kind == "json_schema":
        flaw = json_schema.find_flaw(form.schema, text)
    else:
        flaw = None if json_schema.is_object(text) else _NO_OBJECT
    return _CUT_OFF if flaw is not None and run.finish_reason == "length" else flaw


def may_ask_again(run: Run) -> bool:
    """Tell whether another answer may have the form, with the calls and the time that are left."""
    is_ended_by_itself = run.finish_reason == "stop"
    return is_ended_by_itself and run.calls < CALLS_PER_TURN_MAX and run.seconds_left() > 0


def wrong_form(run: Run, flaw: str) -> Failed:
    """Return the end of an answer that has another form; it is paid for, since it was shown."""
    logs.logger().info("the answer has another form", kind=run.submission.form.kind)
    return Failed(
        Failure(
            message=f"The answer has not the form that `response_format` asks for: {flaw}.",
            category="invalid_request",
            code=WRONG_FORM,
            retryable=flaw != _CUT_OFF,
            provider=run.model.provider if run.model is not None else None,
        )
    )
