"""One model turn: a request in, its parts into `run.writer`, with retries and failover.

Owns the retries before the first token, failover to the next model of the route, and what is sent
again when a provider pauses or finds the conversation too long. Once anything was shown to a
caller, reasoning and tool calls included, nothing is retried. Knows neither how a request is built
nor what becomes of the calls of tools in an answer.
"""

import random
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from shared.errors import EXPIRED, CallBlockedError, ProviderError
from shared.routing.choose import after_failure
from shared.settings import ModelSettings
from shared.telemetry import logs
from shared.wire import event as events
from shared.wire.conversation import CallPart
from shared.wire.message import Usage
from worker.outcome import Failed, Outcome, Retry
from worker.parking import resource_of
from worker.providers.contract import ChatRequest
from worker.providers.failures import UpstreamRefusalError
from worker.receive_answer import (
    NOTHING_USED,
    ReceivedAnswer,
    estimate_usage,
    no_answer_error,
    receive_answer,
    sum_usage,
    unfinished_error,
)
from worker.resilience import retry_policy
from worker.resilience.failure_causes import cause_of
from worker.run import Run

# From this share of the context window on, an unexplained refusal is likely to mean "too long".
_LONG_SHARE: Final = 0.25


class BuiltRequest(NamedTuple):
    """A request with its estimated input tokens; `is_trimmable`: a shorter one could be built."""

    request: ChatRequest
    input_tokens: int
    is_trimmable: bool = False


# Builds the request to a model: with as much input as fits, or with so many tokens at most.
BuildRequest = Callable[[ModelSettings, int | None], BuiltRequest]


async def call_model(run: Run, build_request: BuildRequest) -> Outcome | None:
    """Stream an answer into `run.writer` and fill `run.usage`; None when it is complete.

    As long as nothing was shown, a model whose provider fails is called again if that helps, and
    then the next model of the route.
    """
    retry: Retry | None = None
    parked: tuple[str, ...] = ()
    while True:
        assert run.model is not None  # noqa: S101  `choose_model` went before
        outcome = await _answer_with(run, run.model, build_request)
        if isinstance(outcome, Retry):
            parked += _resource_awaited(run.model, outcome)
            outcome = outcome._replace(parked=parked)
            if retry is None or outcome.delay_seconds < retry.delay_seconds:
                retry = outcome
        if not retry_policy.may_fail_over(outcome, run.retry_state(calls=0)):
            break
        fail_over(run, run.model, retry_policy.excluded_by(outcome))
    # A model that may answer later is worth the wait when all others have failed.
    has_calls = run.calls < retry_policy.CALLS_PER_TURN_MAX
    is_worth_it = has_calls and not run.writer.has_shown() and retry_policy.is_model_fault(outcome)
    if retry is not None and is_worth_it:
        return retry._replace(parked=parked)
    return outcome


def _resource_awaited(model: ModelSettings, outcome: Retry) -> tuple[str, ...]:
    """Return the resource that a turn waits for, if any, to park it there."""
    if outcome.why == "busy":
        return (resource_of(model),)
    is_circuit = outcome.why in {"cooling", "probing"}
    return (resource_of(model, is_circuit=True),) if is_circuit else ()


def fail_over(run: Run, failed: ModelSettings, excluded_by: str) -> None:
    """Go on to the next model of the route."""
    assert run.routing is not None  # noqa: S101  `choose_model` went before
    run.model, *fallbacks = run.fallbacks
    run.fallbacks = tuple(fallbacks)
    run.routing = after_failure(run.routing, failed.identifier, run.model.identifier, excluded_by)
    run.writer.append_event(events.Routed(run.routing))
    logs.logger().info(
        "passed over", model=failed.identifier, why=excluded_by, chosen=run.model.identifier
    )


async def _answer_with(
    run: Run, model: ModelSettings, build_request: BuildRequest
) -> Outcome | None:
    """Have one model answer; return the outcome of its last failure, or None on success."""
    built, is_trimmed = build_request(model, None), False
    tries, waited_seconds = 0, 0.0
    while run.seconds_left() > 0:
        calls_before = run.calls
        try:
            await _call_until_ended(run, built, is_retry=tries > 0 or run.earlier_calls > 0)
        except ProviderError as error:
            failed = error
        else:
            return None
        tries += run.calls - calls_before
        is_accepted = failed.has_begun or cause_of(failed.failure).is_accepted
        if run.calls > calls_before and not is_accepted:
            # The provider did not accept the call, so it does not count as one of the turn's.
            run.calls -= 1
        state = run.retry_state(tries, waited_seconds)
        _log(failed, model, state.calls)
        is_too_long = built.is_trimmable and _is_too_long(run, failed)
        if is_too_long and retry_policy.may_call_again(state) and not is_trimmed:
            # The catalogue's context window may be too large: send half of what was refused.
            built, is_trimmed = build_request(model, built.input_tokens // 2), True
            continue
        what = _next_action(run, model, failed, state)
        if not isinstance(what, retry_policy.WaitHere):
            return what
        if isinstance(failed, CallBlockedError):
            waited_seconds += what.seconds
            run.has_waited = True
        await run.dependencies.clock.sleep(what.seconds)
    return Failed(EXPIRED)


def _next_action(
    run: Run, model: ModelSettings, error: ProviderError, state: retry_policy.RetryState
) -> Failed | Retry | retry_policy.WaitHere:
    """Decide what follows a failure; a retry must also be within the provider's retry budget."""
    what = retry_policy.decide_next(error, state, random.random())  # noqa: S311  jitter, not a secret
    is_over = isinstance(what, Failed) or retry_policy.may_fail_over(what, state)
    if (
        is_over
        or isinstance(error, CallBlockedError)
        or run.dependencies.circuit_breaker.take_retry(model)
    ):
        return what
    logs.logger().info("no retry is left", provider=model.provider)
    jitter = random.random()  # noqa: S311  jitter
    waits = cause_of(error.failure).waits
    return retry_policy.retry_later(error, state, jitter) if waits else Failed(error.failure)


def _log(error: ProviderError, model: ModelSettings, call: int) -> None:
    what = (
        "the provider was not called"
        if isinstance(error, CallBlockedError)
        else "the provider failed"
    )
    logs.logger().info(what, provider=model.provider, code=error.failure.code, call=call)


def _is_too_long(run: Run, error: ProviderError) -> bool:
    is_too_long = error.failure.code == "CONTEXT_TOO_LONG" or _may_be_too_long(run, error)
    return is_too_long and not run.writer.has_shown()


def _may_be_too_long(run: Run, error: ProviderError) -> bool:
    """Tell whether an unexplained refusal may be about the conversation's length."""
    assert run.model is not None  # noqa: S101  it was called
    is_long = run.input_tokens >= run.model.context_window * _LONG_SHARE
    return isinstance(error, UpstreamRefusalError) and error.is_unexplained and is_long


async def _call_until_ended(run: Run, built: BuiltRequest, *, is_retry: bool) -> None:
    """Have a model answer. Raises ProviderError.

    This is one upstream call, and one more each time the upstream pauses.
    """
    request, model = built.request, built.request.model
    run.input_tokens = built.input_tokens
    run.usage, run.has_no_answer, run.parts = None, False, []
    if run.searched_by != "service":
        # Citations and searches of an earlier, failed call do not belong to this answer.
        run.citations, run.searches = list(run.rounds.citations), 0
    before = NOTHING_USED
    while True:
        received = await _call_once(run, request, before, is_retry=is_retry)
        if not received.so_far:
            break
        if run.calls >= retry_policy.CALLS_PER_TURN_MAX:
            run.has_no_answer = True
            raise unfinished_error(model)
        before = run.usage or before
        request = msgspec.structs.replace(request, so_far=received.so_far)
    run.finish_reason = received.reason or "stop"
    if run.writer.text() or run.media or _is_answered_by_calls(run, request):
        return
    run.has_no_answer = True
    raise no_answer_error(request, received.reason)


def _is_answered_by_calls(run: Run, request: ChatRequest) -> bool:
    """Tell whether calls of tools are the answer: of the caller's own, also if they are cut.

    Calls of the deployment's tools are answered by another round, and others by nobody.
    """
    if run.submission.tools:
        own = {tool.name for tool in run.submission.tools}
        return any(isinstance(part, CallPart) and part.tool in own for _, part in run.parts)
    return bool(request.tools and run.call_ids) and run.finish_reason == "tool_calls"


async def _call_once(
    run: Run, request: ChatRequest, before: Usage, *, is_retry: bool
) -> ReceivedAnswer:
    """Make one upstream call; `before` is the usage of the calls that it continues."""
    model, lane = request.model, run.claimed.lane
    tokens = run.input_tokens + request.max_tokens
    searches = run.searches
    async with run.dependencies.circuit_breaker.call(
        model, run.caller, lane=lane, tokens=tokens, is_retry=is_retry
    ) as call:
        run.calls += 1
        run.usage = None
        if request.so_far:
            run.searches = 0
        try:
            received = await receive_answer(run, request, call)
        except ProviderError as error:
            error.has_begun = call.is_accepted
            raise
        used = run.usage or estimate_usage(run, model)
        call.used_tokens = used.input_tokens + used.output_tokens
        run.usage = used if before is NOTHING_USED else sum_usage(model, before, used)
        run.searches += searches if request.so_far else 0
    return received
