"""Keeps finished rounds in the log of the answer, and continues after those of earlier attempts.

Owns what an entry of a model's call holds, and what callers get again after a reset.
"""

import msgspec

from shared.errors import Failure
from shared.stores import round_log
from shared.telemetry import logs
from shared.wire import event as events
from shared.wire.conversation import Message
from shared.wire.message import CallCost, Citation, Media
from shared.wire.round import RoundEntry, encode
from worker.outcome import Failed
from worker.run import Run
from worker.steps.charge import encode_bill, present_cost

_UNREADABLE = Failure(
    message="What the answer had come to can no longer be read.",
    category="internal",
    code="UNREADABLE_RECORD",
    severity="fatal",
)


async def restore_rounds(run: Run) -> Failed | None:
    """Fill `run.rounds` with what earlier attempts kept; their text stands in the writer."""
    if run.claimed.kept is None or run.rounds.finished:
        return None
    try:
        entries = await round_log.read(
            run.dependencies.redis, run.claimed.root, run.claimed.account, run.claimed.id
        )
    except msgspec.MsgspecError as error:
        logs.logger().error("unreadable record", fault=type(error).__name__)
        return Failed(_UNREADABLE)
    for entry in entries:
        run.rounds.add(entry)
    run.media, run.citations = list(run.rounds.media), list(run.rounds.citations)
    run.writer.restore(run.rounds.text(), run.rounds.reasoning())
    run.text_start = len(run.writer.text())
    return None


async def show_again(run: Run) -> None:
    """Append what a reset drops of earlier attempts' rounds: reasoning, media, calls, results."""
    seconds = run.seconds_left() + run.dependencies.settings.retention.events_seconds
    for event in (event for each in run.rounds.finished for event in each.events()):
        if isinstance(event, events.Media):
            kept = Media(event.kind, event.url)
            shown = await run.dependencies.media_store.publish(kept, seconds_min=seconds)
            run.writer.append_event(events.Media(shown.kind, shown.url))
        else:
            run.writer.append_event(event)


def keep_call(run: Run, message: Message) -> None:
    """Keep a call of the model that ended with calls of tools, and begin the next round's costs."""
    assert run.model is not None  # noqa: S101  it was called
    keep(
        run,
        RoundEntry(
            attempt=run.claimed.attempt,
            message=message,
            cost=CallCost(run.model.identifier, present_cost(run, run.model)),
            reasoning=run.writer.reasoning()[len(run.rounds.reasoning()) :],
            media=tuple(run.media[len(run.rounds.media) :]),
            citations=_cited(run),
        ),
    )
    # The next model turn has its own calls, and this one's searches are paid for.
    run.calls = run.earlier_calls = run.searches = 0
    run.usage, run.parts = None, []
    run.text_start = len(run.writer.text())
    run.writer.end_round()


def _cited(run: Run) -> tuple[Citation, ...]:
    """Return the pages that the model's call cited; a service's results concern all rounds."""
    if run.searched_by == "service":
        return ()
    return tuple(run.citations[len(run.rounds.citations) :])


def keep(run: Run, entry: RoundEntry) -> None:
    """Keep an entry: it is stored with the next event."""
    run.rounds.add(entry)
    run.writer.keep(encode(entry), encode_bill(run, run.rounds.costs))
