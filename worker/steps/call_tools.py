"""Runs the tools that the model has called, and keeps each result before the model reads any.

Owns the bounds: how many calls run at once, how long each takes, how many bytes a result has.
Whatever goes wrong with one call (an unknown tool, arguments that are no JSON object, an exception)
is a result that the model reads, and no failure of the generation.
"""

import asyncio
from collections.abc import Mapping, Set as AbstractSet
from typing import Final

from shared.errors import EXPIRED
from shared.telemetry import logs
from shared.wire import event as events
from shared.wire.conversation import CallPart, Message, TextPart
from shared.wire.round import RoundEntry
from worker.outcome import Failed, Suspended
from worker.run import Run
from worker.steps.round_log import keep
from worker.tools.contract import Suspend, Tool, ToolContext, ToolOutput

# Calls of one answer that run at once; the others wait.
_AT_ONCE: Final = 8
# A result beyond this is cut.
RESULT_BYTES_MAX: Final = 64 * 1024
_SUMMARY_CHARACTERS_MAX: Final = 500
_UNKNOWN_EFFECT: Final = "The worker that ran the call is lost: its effect is unknown."
_CUT: Final = "\n[The result is cut here: it has {count} bytes more.]"


async def call_tools(run: Run, tools: Mapping[str, Tool]) -> Failed | Suspended | None:
    """Run the last round's calls that have no result; None once all results are stored."""
    calls = run.rounds.open_calls
    uncertain = [call for call in calls if run.rounds.is_uncertain(call)]
    to_run = [call for call in calls if call not in uncertain]
    run.writer.append_event(events.StageChanged("calling_tool"), stage="calling_tool")
    once = [call.call_id for call in to_run if not _is_repeatable(tools.get(call.tool))]
    first = {call.call_id for call in to_run[:_AT_ONCE]}
    if started := tuple(call_id for call_id in once if call_id in first):
        keep(run, RoundEntry(attempt=run.claimed.attempt, started=started))
    later = frozenset(once) - first
    for call in uncertain:
        _keep_result(run, call, _failed(_UNKNOWN_EFFECT))
    # A tool may run once its call is in the log.
    await run.writer.flush()
    limit = asyncio.Semaphore(_AT_ONCE)
    try:
        async with asyncio.timeout(run.seconds_left()), asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_call(run, call, tools.get(call.tool), limit, later))
                for call in to_run
            ]
    except TimeoutError:
        return Failed(EXPIRED)
    waits = [wait for task in tasks if (wait := task.result()) is not None]
    if not waits:
        await run.writer.flush()
        return None
    _keep_waits(run, waits)
    return Suspended(min(wait.until_ms for _, wait in waits))


def _is_repeatable(tool: Tool | None) -> bool:
    return tool is None or tool.is_repeatable


def _keep_waits(run: Run, waits: list[tuple[CallPart, Suspend]]) -> None:
    ids = tuple(call.call_id for call, _ in waits)
    keep(run, RoundEntry(attempt=run.claimed.attempt, suspended=ids))
    for _, wait in waits:
        run.writer.append_event(wait.event)


async def _call(
    run: Run, call: CallPart, tool: Tool | None, limit: asyncio.Semaphore, later: AbstractSet[str]
) -> tuple[CallPart, Suspend] | None:
    """Run one call and keep its result; return it with its wait, if it waits.

    Calls that must not run twice and begin `later` are noted as they begin.
    """
    async with limit:
        if call.call_id in later:
            keep(run, RoundEntry(attempt=run.claimed.attempt, started=(call.call_id,)))
            # An entry is stored with an event.
            run.writer.append_event(events.StageChanged("calling_tool"), stage="calling_tool")
            await run.writer.flush()
        result = await _result(run, call, tool)
    if isinstance(result, Suspend):
        return call, result
    _keep_result(run, call, result)
    return None


async def _result(run: Run, call: CallPart, tool: Tool | None) -> ToolOutput | Suspend:
    arguments = call.object
    if tool is None:
        return _failed(f"There is no tool {call.tool}.")
    if arguments is None:
        return _failed("The arguments are not a JSON object.")
    context = ToolContext(
        account=run.claimed.account,
        generation=run.claimed.id,
        session=run.submission.session,
        attempt=run.claimed.attempt,
        call_id=call.call_id,
        seconds_left=run.seconds_left(),
    )
    try:
        async with asyncio.timeout(tool.timeout_seconds):
            result: object = await tool.run(arguments, context)
    except TimeoutError:
        return _failed(f"The tool did not end within {tool.timeout_seconds:g} seconds.")
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        return _failed("The tool was interrupted.")
    except Exception:
        logs.logger().exception("a tool failed", tool=call.tool)
        return _failed("The tool failed.")
    if isinstance(result, ToolOutput | Suspend):
        return result
    logs.logger().error("a tool returned something else", tool=call.tool)
    return _failed("The tool failed.")


def _failed(sentence: str) -> ToolOutput:
    return ToolOutput(parts=(TextPart(sentence),), summary=sentence, is_error=True)


def _keep_result(run: Run, call: CallPart, output: ToolOutput) -> None:
    summary = output.summary[:_SUMMARY_CHARACTERS_MAX].encode(errors="replace").decode()
    message = Message(
        role="tool",
        parts=(TextPart(_bounded("".join(part.text for part in output.parts))),),
        call_id=call.call_id,
        is_error=output.is_error,
    )
    keep(run, RoundEntry(attempt=run.claimed.attempt, message=message, summary=summary))
    run.writer.append_event(events.ToolResult(call.call_id, not output.is_error, summary))


def _bounded(text: str) -> str:
    """Return a result's text within the bound, cut between two characters."""
    content = text.encode(errors="replace")
    if len(content) <= RESULT_BYTES_MAX:
        return content.decode()
    cut = content[:RESULT_BYTES_MAX].decode(errors="ignore")
    return cut + _CUT.format(count=len(content) - len(cut.encode()))
