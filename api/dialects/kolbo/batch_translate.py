"""From a batch to what this dialect says of it, and from an item that has ended to a line.

Pure: no Redis, no clock. A batch has up to a million lines, so that each must cost little.
"""

import msgspec

from api.dialects.kolbo import batch_wire, links, wire
from api.follow import stream_events
from api.polling.batch_pace import Pace
from api.wire import fields
from shared.clock import iso
from shared.stores import batches
from shared.wire.account import MICROCREDITS_PER_CREDIT
from shared.wire.batch import Batch, ItemResult
from shared.wire.conversation import CallPart
from shared.wire.event import ToolCall
from shared.wire.message import AssistantMessage, decode_assistant
from shared.wire.submission import AUTO

_encode = msgspec.json.Encoder().encode


def batch(found: Batch, pace: Pace) -> batch_wire.Batch:
    """Return a batch as it is listed."""
    eta, rate = pace.eta, pace.items_per_second
    counts = found.counts_with_copies()
    return batch_wire.Batch(
        batch_id=found.id,
        state=found.state,
        reason=found.reason,
        cancelling=found.stop is not None,
        total=found.total + found.copies,
        invalid=found.invalid,
        copies=found.copies,
        counts=batch_wire.ItemCounts(**counts._asdict()),
        progress=pace.progress,
        items_per_second=None if rate is None else round(rate, 3),
        eta_seconds=wire.EtaSeconds(round(eta.p50, 1), round(eta.p90, 1)) if eta else None,
        credits=batch_wire.BatchCredits(
            used=found.used / MICROCREDITS_PER_CREDIT,
            held=found.held / MICROCREDITS_PER_CREDIT,
            forecast=_credits(pace.forecast),
            max=_credits(found.max_credits),
        ),
        metadata=found.metadata or {},
        created_at=iso(found.created),
        started_at=_time(found.started),
        finished_at=_time(found.finished),
        deadline_at=_time(found.deadline),
        deleted_at=_time(found.delete_at) if found.finished is not None else None,
        poll_interval_hint=pace.hint,
        poll_url=links.batch_url(found.id),
        results_url=links.batch_url(found.id, "results"),
        cancel_url=links.batch_url(found.id, "cancel"),
    )


def batch_reply(found: Batch, pace: Pace) -> batch_wire.BatchReply:
    """Return a batch as it is shown alone."""
    return batch_wire.BatchReply(**msgspec.structs.asdict(batch(found, pace)))


def _time(ms: int | None) -> str | None:
    return None if ms is None else iso(ms)


def _credits(microcredits: int | None) -> float | None:
    return None if microcredits is None else microcredits / MICROCREDITS_PER_CREDIT


def line(item: ItemResult, seq: int | None, copy_of: str | None, sign: stream_events.Sign) -> bytes:
    """Return an item that has ended as a line; a copy costs nothing."""
    answer = decode_assistant(item.answer) if item.answer else None
    shown = batch_wire.ResultLine(
        custom_id=item.custom_id,
        line=item.line,
        state=item.state,
        result=_answer(answer, sign) if answer is not None else None,
        failure=_failure(item, answer),
        usage=_usage(answer) if copy_of is None else None,
        credits=item.captured / MICROCREDITS_PER_CREDIT,
        model=_answered_by(answer),
        seq=msgspec.UNSET if seq is None else seq,
        copy_of=msgspec.UNSET if copy_of is None else copy_of,
    )
    return _encode(shown) + b"\n"


def _answer(answer: AssistantMessage, sign: stream_events.Sign) -> batch_wire.ItemAnswer | None:
    """Return what was shown of an answer; None where nothing was."""
    if answer.status != "completed" and not (answer.content or answer.reasoning or answer.media):
        return None
    media = stream_events.urls(answer, sign)
    return batch_wire.ItemAnswer(
        content=answer.content,
        reasoning_content=answer.reasoning or None,
        image_urls=media["image"],
        video_urls=media["video"],
        audio_urls=media["audio"],
        citations=list(answer.citations),
        finish_reason=answer.visible_finish_reason,
        model=AUTO if answer.model is None else answer.model.identifier,
        created_at=iso(answer.created),
        tool_calls=_tool_calls(answer),
    )


def _tool_calls(answer: AssistantMessage) -> list[ToolCall] | msgspec.UnsetType:
    calls = [ToolCall.of(part) for part in answer.parts if isinstance(part, CallPart)]
    return calls or msgspec.UNSET


def _failure(item: ItemResult, answer: AssistantMessage | None) -> fields.Failure | None:
    failure = batches.failure(item, answer)
    return None if failure is None else stream_events.failure(failure)


def _usage(answer: AssistantMessage | None) -> wire.TokenCounts | None:
    used = answer.usage if answer is not None else None
    if used is None:
        return None
    return wire.TokenCounts(
        input_tokens=used.input_tokens,
        cached_input_tokens=used.cached_input_tokens,
        cache_write_tokens=used.cache_write_tokens,
        output_tokens=used.output_tokens,
        reasoning_tokens=used.reasoning_tokens,
    )


def _answered_by(answer: AssistantMessage | None) -> str | None:
    if answer is None:
        return None
    routing = answer.routing
    if routing is not None and routing.chosen is not None:
        return routing.chosen
    return None if answer.model is None else answer.model.identifier
