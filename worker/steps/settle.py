"""Ends a generation with its outcome, or returns it to the queue.

Owns the translation of an outcome into one atomic write. The write is repeated until Redis answers
or refuses the token, so that no finished answer is lost in a Redis outage.
"""

from collections.abc import Sequence

import msgspec

from shared.errors import CANCELLED, DEAD_CATEGORIES, Failure
from shared.lifecycle import Stage
from shared.redis import functions
from shared.routing import price
from shared.telemetry import logs
from shared.wire import event as events
from shared.wire.message import (
    AssistantMessage,
    CallCost,
    ModelSnapshot,
    Usage,
    encode_assistant,
    total_usage,
)
from shared.wire.routing import StoredRouting
from shared.wire.submission import AUTO
from worker.outcome import Cancelled, Failed, Finished, Lost, Outcome, Released, Retry, Suspended
from worker.parking import join_resources
from worker.providers.contract import ChatMessage
from worker.redis_retry import retry_until_answered
from worker.run import Run
from worker.steps.charge import costs_due
from worker.steps.own_parts import own_parts
from worker.steps.round_log import restore_rounds
from worker.steps.truncate_history import tokens_of


async def settle(run: Run, outcome: Outcome) -> None:
    """Write an outcome to Redis."""
    match outcome:
        case Finished():
            await _end(run, "completed", None)
        case Failed(failure):
            await _end(run, "failed", failure)
        case Cancelled():
            await _end(run, "cancelled", CANCELLED)
        case Retry(delay_seconds):
            delay_ms = max(1, int(delay_seconds * 1000))
            run.dependencies.image_cache.keep(run.claimed.account, run.claimed.id, run.images)
            await _release(run, delay_ms, outcome)
        case Suspended(until_ms):
            await _suspend(run, until_ms)
        case Released():
            await _release(run, 0, None)
        case Lost():
            await run.writer.close()


async def _end(run: Run, stage: Stage, failure: Failure | None) -> None:
    """Send the settlement, with the events not yet appended, until Redis answers."""
    if run.claimed.kept is not None and not run.rounds.finished:
        # The attempt was stopped before it could read what earlier ones kept.
        await retry_until_answered(
            run.dependencies.clock, "the rounds of an answer", lambda: restore_rounds(run)
        )
    unsent = await run.writer.close()
    costs = costs_due(run, stage, failure)
    usage = total_usage(costs)
    ask = functions.SettleAsk(
        account=run.claimed.account,
        id=run.claimed.id,
        attempt=run.claimed.attempt,
        seq=run.writer.next_seq(),
        stage=stage,
        event=events.encode(_event(run, usage, failure, stage)),
        cost=usage.cost,
        keep=functions.KeepTimes.of(run.dependencies.settings.retention),
        events=unsent.events if unsent is not None else [],
        through=unsent.stage if unsent is not None else None,
        meter=_meter(costs),
        failure=failure if stage == "failed" else None,
        chosen=run.model.identifier if run.model is not None else None,
        history=_history(run) if stage == "completed" else None,
    )
    record = encode_assistant(_message(run, stage, failure, costs, usage))
    settled = await retry_until_answered(
        run.dependencies.clock,
        "a settlement",
        lambda: functions.settle(run.dependencies.durable_redis, run.claimed.root, ask, record),
    )
    if settled and (settled.wants_feed or settled.wants_pack):
        run.dependencies.batch_work.note_settled(run.claimed, settled)
    if settled and settled.wants_delivery:
        run.dependencies.has_deliveries.set()
    if settled and failure is None and stage == "completed" and run.model is not None:
        run.dependencies.lengths.note(run.model.identifier, run.writer.length())
    logs.logger().info(
        "settled" if settled else "settlement refused",
        stage=stage,
        code=failure.code if failure else None,
        captured=settled.captured if settled else None,
    )
    if settled and failure is not None and failure.category in DEAD_CATEGORIES:
        logs.logger().warning("dead letter", code=failure.code)


def _message(
    run: Run, stage: Stage, failure: Failure | None, costs: tuple[CallCost, ...], usage: Usage
) -> AssistantMessage:
    """Return the answer as it is stored."""
    return AssistantMessage(
        status="completed"
        if failure is None
        else "cancelled"
        if stage == "cancelled"
        else "failed",
        content=run.writer.text(),
        created=run.now_ms(),
        model=_snapshot(run),
        routing=StoredRouting.of(run.routing) if run.routing else None,
        usage=usage,
        failure=failure,
        reasoning=run.writer.reasoning(),
        media=tuple(run.media),
        citations=tuple(run.citations),
        enhancement=run.enhancement,
        finish_reason=run.finish_reason,
        rounds=run.rounds.messages() if run.rounds.finished else (),
        # What a provider wants back is needed only beside calls: plain text is sent again alone.
        parts=own_parts(run) if run.rounds.finished or (run.parts and run.call_ids) else (),
        costs=costs if len(costs) > 1 else (),
    )


async def _suspend(run: Run, until_ms: int) -> None:
    """Let the generation wait, with what is not appended yet: among it, what it waits for."""
    unsent = await run.writer.close() or functions.AppendAsk(
        account=run.claimed.account,
        id=run.claimed.id,
        attempt=run.claimed.attempt,
        seq=run.writer.next_seq(),
        events=[],
    )
    ask = functions.SuspendAsk(
        **msgspec.structs.asdict(unsent),
        until_ms=until_ms,
        keep=functions.KeepTimes.of(run.dependencies.settings.retention),
    )
    answer = await retry_until_answered(
        run.dependencies.clock,
        "a suspension",
        lambda: functions.suspend(run.dependencies.durable_redis, run.claimed.root, ask),
    )
    logs.logger().info("suspended", until_ms=until_ms, answer=answer)


async def _store_rounds(run: Run) -> None:
    """Store what is not stored yet of finished rounds: no tool that has a result runs twice."""
    unsent = await run.writer.close()
    if unsent is not None and unsent.rounds is not None:
        await retry_until_answered(
            run.dependencies.clock,
            "an append",
            lambda: functions.append(run.dependencies.redis, run.claimed.root, unsent),
        )


async def _release(run: Run, delay_ms: int, outcome: Retry | None) -> None:
    await _store_rounds(run)
    parked = join_resources(outcome.parked) if outcome is not None else None
    ask = functions.ReleaseAsk(
        account=run.claimed.account,
        id=run.claimed.id,
        attempt=run.claimed.attempt,
        delay_ms=delay_ms,
        calls=run.calls,
        is_waiting=outcome is not None and outcome.is_waiting,
        why=outcome.code if outcome is not None else None,
        parked=parked,
        is_elsewhere=parked is not None and outcome is not None and outcome.why == "elsewhere",
        keep=functions.KeepTimes.of(run.dependencies.settings.retention),
    )
    answer = await retry_until_answered(
        run.dependencies.clock,
        "a release",
        lambda: functions.release(run.dependencies.redis, run.claimed.root, ask),
    )
    logs.logger().info("released", delay_ms=delay_ms, answer=answer)


def _history(run: Run) -> tuple[int, int, bool]:
    """Return the tokens that this turn adds, those of the history before it, and if it is whole."""
    text = run.writer.text()
    added = 0
    if text:
        added = price.tokens_in(run.user.content) + price.tokens_in(text[run.text_start :])
    if text and run.rounds.finished:
        added += tokens_of(ChatMessage.of(message, {}) for message in run.rounds.messages())
    return added, run.history_tokens, run.is_history_whole


def _meter(costs: Sequence[CallCost]) -> functions.Meter | None:
    """Return what to add to the account's usage; what is not charged is not counted.

    An answer counts for the model that made it; the calls that other ones made before have their
    own tokens and costs.
    """
    if not costs:
        return None
    last = costs[-1].model
    names = dict.fromkeys(each.model for each in costs if each.model != last)
    others = tuple(
        msgspec.structs.replace(_meter_of(name, costs), cost=_usage_of(name, costs).cost)
        for name in names
    )
    meter = _meter_of(last, costs)
    return msgspec.structs.replace(meter, others=others) if others else meter


def _usage_of(model: str, costs: Sequence[CallCost]) -> Usage:
    return total_usage([each for each in costs if each.model == model])


def _meter_of(model: str, costs: Sequence[CallCost]) -> functions.Meter:
    usage = _usage_of(model, costs)
    return functions.Meter(
        model=model,
        input=usage.input_tokens,
        output=usage.output_tokens,
        reasoning=usage.reasoning_tokens,
        cached=usage.cached_input_tokens,
        written=usage.cache_write_tokens,
    )


def _snapshot(run: Run) -> ModelSnapshot | None:
    """Return the model's names of today, if the caller named it: the catalogue may change."""
    if run.submission.model == AUTO or run.model is None:
        return None
    provider = run.dependencies.catalogue.provider_of(run.model)
    return ModelSnapshot(
        identifier=run.model.identifier, name=run.model.title, provider=provider.title
    )


def _event(run: Run, usage: Usage, failure: Failure | None, stage: Stage) -> events.Event:
    if failure is None:
        return events.Completed(message=run.claimed.id, usage=usage, routing=run.routing)
    return events.Cancelled() if stage == "cancelled" else events.Failed(failure)
