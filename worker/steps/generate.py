"""Call the model and stream what it says.

Owns the conversation's fit into the context window, the retries before the first token, the way
along the route when a provider fails, and the time limits: first token, silence, and the whole
deadline. What has been shown to a caller, be it
reasoning or a tool's call, is never retried away; only text and media make an answer.
"""

import asyncio
import random
from contextlib import aclosing
from typing import Final, Literal

from shared.errors import EXPIRED, BarredError, Failure, ProviderError
from shared.routing import price
from shared.routing.choose import OUTPUT_TOKENS_MIN, pass_over
from shared.settings import ModelSettings
from shared.telemetry import logs
from shared.wire import event as events
from shared.wire.message import Citation, FinishReason, Media, Usage
from worker.gate import Call
from worker.providers.contract import (
    Aside,
    ChatRequest,
    Ended,
    EndReason,
    Produced,
    Reasoning,
    Text,
    Used,
)
from worker.providers.failures import UpstreamRefusalError
from worker.run import Failed, Outcome, Retry, Run
from worker.steps import patience
from worker.steps.choose import tokens_of_prompt
from worker.steps.fit import fit, tokens_of
from worker.steps.search import at_most

# What may follow the told end of an answer, its usage, follows soon or not at all.
_AFTERWORD_SECONDS: Final = 2.0
_TIMERS_PER_SILENCE: Final = 16
# From which share of its window on a conversation is long, and length a likely fault of it.
_LONG_SHARE: Final = 0.25
# Of pictures and sounds in one answer: each is a file, and stands in its record.
_MEDIA_MAX: Final = 64

_EMPTY: Final = Failure(
    message="The model gave an empty answer.",
    category="provider_error",
    code="EMPTY_ANSWER",
    retryable=True,
)
_TOO_MANY: Final = Failure(
    message="The model made more pictures and sounds than an answer may hold.",
    category="provider_error",
    code="RESPONSE_TOO_LARGE",
)
_FILTERED: Final = Failure(
    message="The provider's content policy forbids the answer.",
    category="content_policy",
    code="CONTENT_POLICY",
)


async def generate(run: Run) -> Outcome | None:
    """Stream the answer into `run.writer` and fill `run.usage`; None when the answer is whole.

    A model whose provider fails is asked again where that helps, and then the next one of the
    route, as long as nothing has been shown.
    """
    run.calls = run.claimed.calls
    run.writer.say(events.StageChanged("generating"), stage="generating")
    waiting: Retry | None = None
    while True:
        assert run.model is not None  # noqa: S101  `choose` went before
        outcome = await _ask(run, run.model)
        if isinstance(outcome, Retry) and outcome.is_waiting:
            waiting = waiting or outcome
        if not patience.may_pass_over(outcome, patience.standing(run, calls=0)):
            break
        _pass_over(run, run.model, patience.excluded_by(outcome))
    # A model that only has no room for now is worth the wait when all others have failed.
    has_calls = run.calls < patience.CALLS_PER_TURN_MAX
    is_worth_it = has_calls and not run.writer.has_shown() and patience.is_own_fault(outcome)
    return waiting if waiting is not None and is_worth_it else outcome


def _pass_over(run: Run, failed: ModelSettings, excluded_by: str) -> None:
    """Go on to the next model of the route."""
    assert run.routing is not None  # noqa: S101  `choose` went before
    run.model, *others = run.others
    run.others = tuple(others)
    run.routing = pass_over(run.routing, failed.identifier, run.model.identifier, excluded_by)
    run.writer.say(events.Routed(run.routing))
    logs.logger().info(
        "passed over", model=failed.identifier, why=excluded_by, chosen=run.model.identifier
    )


async def _ask(run: Run, model: ModelSettings) -> Outcome | None:
    """Have one model answer; Failed or Retry is what its provider's last failure comes to."""
    room, is_trimmed = model.context_window - _reserve(run, model), False
    calls_before, waited = run.calls, 0.0
    while run.seconds_left() > 0:
        is_retry = run.calls > calls_before or run.claimed.calls > 0
        try:
            return await _call(run, model, room, is_retry=is_retry)
        except ProviderError as error:
            failed = error
        at = patience.standing(run, run.calls - calls_before, waited)
        _log(failed, model, at.calls)
        if _is_trimmable(run, failed) and patience.may_call(at) and not is_trimmed:
            # The catalogue may promise too much: what counts is what was refused.
            room, is_trimmed = run.input_tokens // 2, True
            continue
        what = _after(run, model, failed, at)
        if not isinstance(what, patience.Wait):
            return what
        if isinstance(failed, BarredError):
            waited += what.seconds
        await run.tools.clock.sleep(what.seconds)
    return Failed(EXPIRED)


def _after(
    run: Run, model: ModelSettings, error: ProviderError, at: patience.Standing
) -> Failed | Retry | patience.Wait:
    """Decide what follows a failure; a second try needs what is left of the provider's budget."""
    what = patience.after(error, at, random.random())  # noqa: S311  jitter, not a secret
    is_over = isinstance(what, Failed) or patience.may_pass_over(what, at)
    if is_over or isinstance(error, BarredError) or run.tools.gate.may_retry(model):
        return what
    logs.logger().info("no retry is left", provider=model.provider)
    return Failed(error.failure)


def _log(error: ProviderError, model: ModelSettings, call: int) -> None:
    what = "the provider was spared" if isinstance(error, BarredError) else "the provider failed"
    logs.logger().info(what, provider=model.provider, code=error.failure.code, call=call)


def _is_trimmable(run: Run, error: ProviderError) -> bool:
    is_too_long = error.failure.code == "CONTEXT_TOO_LONG" or _may_be_too_long(run, error)
    return is_too_long and bool(run.history) and not run.writer.has_shown()


def _may_be_too_long(run: Run, error: ProviderError) -> bool:
    """Tell whether a refusal without a reason may be one of a conversation's length."""
    assert run.model is not None  # noqa: S101  it was called
    is_long = run.input_tokens >= run.model.context_window * _LONG_SHARE
    return isinstance(error, UpstreamRefusalError) and error.is_unexplained and is_long


async def _call(run: Run, model: ModelSettings, room: int, *, is_retry: bool) -> Outcome | None:
    """Make one upstream call with as much of the history as has room. Raises ProviderError."""
    request = _request(run, model, room)
    run.input_tokens = tokens_of(request.messages)
    run.usage = None
    if run.search != "service":
        # What an earlier call found is not what this answer rests on.
        run.citations, run.searches = [], 0
    tokens = run.input_tokens + request.max_tokens
    lane = run.claimed.lane
    async with run.tools.gate.call(model, lane=lane, tokens=tokens, is_retry=is_retry) as call:
        run.calls += 1
        reason = await _hear(run, model, request, call)
        run.finish_reason = _finish_reason(reason)
        if run.usage is None:
            run.usage = estimate(run, model)
        call.used_tokens = run.usage.input_tokens + run.usage.output_tokens
    if run.writer.text() or run.media or (reason == "tool_calls" and run.writer.has_called()):
        return None
    return Failed(_FILTERED if reason == "content_filter" else _EMPTY)


def _finish_reason(reason: EndReason | Literal[""]) -> FinishReason:
    """Return how callers are told why the model ended: what is not known is a normal end."""
    match reason:
        case "" | "other":
            return "stop"
        case _:
            return reason


async def _hear(
    run: Run, model: ModelSettings, request: ChatRequest, call: Call
) -> EndReason | Literal[""]:
    """Take the parts of an answer as they come; return why it ended.

    The model may think before its first part, but not fall silent between two, and nothing lasts
    beyond the deadline.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + run.seconds_left()
    idle_seconds = run.tools.catalogue.provider_of(model).idle_seconds
    reason: EndReason | Literal[""] = ""
    is_heard, due = False, 0.0
    parts = run.tools.registry.provider_of(model).stream(request)
    patience = asyncio.timeout_at(min(deadline, loop.time() + model.first_token_seconds))
    try:
        async with patience, aclosing(parts):
            async for part in parts:
                call.heard()
                if isinstance(part, Text):
                    run.writer.add(part.text, progress=_progress(run, request))
                elif isinstance(part, Ended):
                    reason = part.reason
                else:
                    await _pass_on(run, model, request, part)
                seconds = _AFTERWORD_SECONDS if reason else idle_seconds
                # A timer is set anew for a sixteenth of its time, not for every token.
                if not is_heard or reason or loop.time() > due:
                    patience.reschedule(min(deadline, loop.time() + seconds))
                    due = loop.time() + seconds / _TIMERS_PER_SILENCE
                is_heard = True
    except TimeoutError:
        if not reason and patience.when() == deadline:
            raise ProviderError(EXPIRED) from None
        if not reason:
            raise _silent(model, is_heard=is_heard) from None
    return reason


async def _pass_on(run: Run, model: ModelSettings, request: ChatRequest, part: Aside) -> None:
    """Hand on what comes beside the text."""
    match part:
        case Reasoning(text):
            run.writer.think(text, progress=_progress(run, request))
        case Used():
            run.usage = _usage(model, part)
            run.searches = part.searches if run.search == "model" else run.searches
        case Citation():
            _cite(run, part)
        case Media():
            run.media.append(part)
            run.writer.say(events.Media(part.kind, part.url))
        case Produced():
            await _keep(run, part)
        case events.ToolCall() | events.ToolResult():
            run.writer.say(part)


def _cite(run: Run, page: Citation) -> None:
    """Note a page; where a service searched, pages are cited by the numbers that it gave them."""
    if run.search != "service":
        run.citations.append(page)


async def _keep(run: Run, part: Produced) -> None:
    """Put what the model made where callers find it, then tell of it.

    Its URL is good for as long as the stream may be read. Raises ProviderError.
    """
    if len(run.media) == _MEDIA_MAX:
        raise ProviderError(_TOO_MANY)
    claimed, retention = run.claimed, run.tools.settings.retention
    hung = await run.tools.gallery.hang(
        claimed.account,
        run.submission.session,
        part.content,
        seconds_min=run.seconds_left() + retention.events_seconds,
    )
    if hung is not None:
        run.media.append(hung.kept)
        run.writer.say(events.Media(hung.told.kind, hung.told.url))


def _silent(model: ModelSettings, *, is_heard: bool) -> ProviderError:
    failure = Failure(
        message="The provider fell silent." if is_heard else "The provider did not begin in time.",
        category="timeout",
        code="PROVIDER_SILENT" if is_heard else "FIRST_TOKEN_TIMEOUT",
        retryable=True,
        provider=model.provider,
    )
    return ProviderError(failure, retry="backoff")


def _reserve(run: Run, model: ModelSettings) -> int:
    """Return how many tokens are set aside for the answer, before anything else.

    Of a model that the hold was not made for, as many as it pays for.
    """
    asked = min(run.submission.max_output_tokens, model.max_output_tokens)
    tokens = tokens_of_prompt(run, run.prompt)
    paid = price.affordable_tokens(model, tokens, run.claimed.hold, at_most(run, model))
    return min(asked, paid) if paid >= OUTPUT_TOKENS_MIN else asked


def _request(run: Run, model: ModelSettings, room: int) -> ChatRequest:
    messages = fit(run.system_prompt, run.history, run.prompt, tokens_max=room, images=run.images)
    left = model.context_window - tokens_of(messages)
    max_tokens = max(1, min(_reserve(run, model), left))
    return ChatRequest(
        model=model,
        messages=messages,
        max_tokens=max_tokens,
        deep_think=run.submission.features.deep_think,
        web_search=run.search == "model",
    )


def estimate(run: Run, model: ModelSettings) -> Usage:
    """Return what an answer consumed when the provider did not say, flagged as our own estimate.

    As with the providers, what was thought is counted in with what was said; a picture or a sound
    counts as much as one that is looked at.
    """
    reasoning_tokens = run.writer.reasoning_tokens()
    output_tokens = reasoning_tokens + run.writer.text_tokens()
    output_tokens += price.IMAGE_TOKENS * len(run.media)
    return Usage(
        input_tokens=run.input_tokens,
        output_tokens=output_tokens,
        reasoning_tokens=reasoning_tokens,
        cost=price.cost(model, run.input_tokens, output_tokens),
        estimated=True,
    )


def _usage(model: ModelSettings, used: Used) -> Usage:
    return Usage(
        input_tokens=used.input_tokens,
        output_tokens=used.output_tokens,
        reasoning_tokens=used.reasoning_tokens,
        cost=price.cost(model, used.input_tokens, used.output_tokens),
    )


def _progress(run: Run, request: ChatRequest) -> int:
    """Tell how much of the longest possible answer is there; the end, 100, is settlement's."""
    return min(99, 1 + run.writer.parts() * 100 // request.max_tokens)
