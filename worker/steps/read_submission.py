"""Decodes the submission and the user's message as the front stored them."""

import msgspec

from shared.errors import Failure
from shared.telemetry import logs
from shared.wire import message, submission
from worker.outcome import Failed
from worker.run import Run

_UNREADABLE = Failure(
    message="What was asked can no longer be read.",
    category="internal",
    code="UNREADABLE_RECORD",
    severity="fatal",
)


async def read_submission(run: Run) -> Failed | None:
    """Fill `run.submission` and `run.user`; a record that cannot be decoded ends the generation."""
    try:
        run.submission = submission.decode(run.claimed.submission)
        run.user = message.decode_user(run.claimed.user_message)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        logs.logger().error("unreadable record", fault=type(error).__name__)
        return Failed(_UNREADABLE)
    logs.bind(request_id=run.submission.request_id)
    return None
