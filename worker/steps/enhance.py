"""Has an unclear message reworded by a model before it is answered, if that is allowed.

Owns when a model is asked and what happens to its reply. The user's message never changes: the
rewording is stored in `run.enhancement`, and the answering model is sent it in this attempt. If
anything fails, the message is sent as written. No answer waits longer than the setting allows, nor
more than a share of the time to its deadline.

DESIGN. The deployment pays for rewording: rewording is on unless the caller withholds permission,
so it is not billed. A later attempt rewords again, since an attempt stores its results only at its
end. The record omits reasons that follow from the message itself.
"""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from shared import clarity
from shared.errors import ProviderError
from shared.routing import price
from shared.routing.choose import OUTPUT_TOKENS_MIN
from shared.telemetry import logs
from shared.wire.enhancement import Reason
from shared.wire.event import StageChanged
from shared.wire.message import Enhancement
from worker.providers.contract import ChatRequest, Ended, KeepAlive, ReportedUsage, Text
from worker.run import Run
from worker.steps import rewording
from worker.steps.choose_model import first_choice, tokens_to_send
from worker.steps.truncate_history import tokens_of

_SHARE_OF_DEADLINE: Final = 0.25
# After a longer message, the hold must still pay for this share of the requested answer.
_SHARE_OF_ANSWER: Final = 0.9
# Room beside the rewording for blanks and quotation marks.
_MARGIN_CHARACTERS: Final = 16
_ENDS: Final[dict[str, Reason | None]] = {
    "stop": None,
    "length": "long",
    "content_filter": "refused",
}


@dataclass
class _Rewording:
    """The rewording received so far."""

    text: str = ""
    used: ReportedUsage | None = None


async def enhance(run: Run) -> None:
    """Fill `run.enhancement`, unless the message itself shows why it is not reworded."""
    is_explicit = run.submission.conversation is not None
    if is_explicit or run.dependencies.settings.enhancement.model is None:
        return
    if not run.submission.enhance_prompt:
        run.enhancement = Enhancement(applied=False, reason="withheld")
        return
    if clarity.reason_not_to_reword(run.user.content) or not first_choice(run, run.user.content):
        return
    request = _request(run, run.dependencies.settings.enhancement.model)
    if isinstance(request, ChatRequest):
        run.enhancement = await _reword(run, request)
    else:
        run.enhancement = Enhancement(applied=False, reason=request)


def _request(run: Run, name: str) -> ChatRequest | Reason:
    """Return the request to the rewording model, or why there is none."""
    if run.submission.features.media_urls:
        return "pictures"
    if run.claimed.turn > 1 and not run.history:
        return "alone"
    model = run.dependencies.catalogue.by_identifier.get(name)
    if model is None or name not in run.dependencies.registry.served:
        return "unserved"
    messages = rewording.build_messages(run.user.content, run.history, run.claimed.id)
    tokens_max = min(
        run.dependencies.settings.enhancement.output_tokens_max, model.max_output_tokens
    )
    if tokens_of(messages) + tokens_max > model.context_window:
        return "room"
    return ChatRequest(model=model, messages=messages, max_tokens=tokens_max)


async def _reword(run: Run, request: ChatRequest) -> Enhancement:
    """Call the rewording model, check its reply, and log the result with its usage."""
    run.writer.append_event(StageChanged("enhancing"), stage="enhancing")
    limit_seconds = run.dependencies.settings.enhancement.seconds
    began, answer = run.dependencies.clock.monotonic(), _Rewording()
    try:
        async with asyncio.timeout(min(limit_seconds, run.seconds_left() * _SHARE_OF_DEADLINE)):
            reason = await _receive(run, request, answer)
    except TimeoutError:
        reason = "slow"
    except ProviderError as error:
        reason = "refused" if error.failure.category == "content_policy" else "failed"
    text = rewording.strip_quotes(answer.text)
    reason = (
        reason
        or rewording.find_flaw(run.user.content, text, run.claimed.id)
        or _unsendable_reason(run, text)
    )
    logs.logger().info(
        "rewording",
        model=request.model.identifier,
        reason=reason or "reworded",
        input_tokens=answer.used.input_tokens if answer.used else None,
        output_tokens=answer.used.output_tokens if answer.used else None,
        ms=int((run.dependencies.clock.monotonic() - began) * 1000),
    )
    if reason is not None:
        return Enhancement(applied=False, reason=reason)
    return Enhancement(applied=True, reason="reworded", text=text)


async def _receive(run: Run, request: ChatRequest, answer: _Rewording) -> Reason | None:
    """Receive the model's reply; return why it is unusable, or None. Raises ProviderError."""
    characters_max = rewording.TIMES_LONGER_MAX * len(run.user.content) + _MARGIN_CHARACTERS
    tokens = tokens_of(request.messages) + request.max_tokens
    reason: Reason | None = "failed"
    stream = run.dependencies.registry.provider_of(request.model).stream(request)
    guarded_call = run.dependencies.circuit_breaker.call(
        request.model, run.caller._replace(passes_over=True), lane=run.claimed.lane, tokens=tokens
    )
    async with guarded_call as call, aclosing(stream) as parts:
        async for part in parts:
            if isinstance(part, KeepAlive):
                call.note_response(part.limits)
                continue
            call.note_first_part()
            if isinstance(part, Text):
                answer.text += part.text
            elif isinstance(part, ReportedUsage):
                answer.used = part
                call.used_tokens = part.input_tokens + part.output_tokens
            elif isinstance(part, Ended):
                reason = _ENDS.get(part.reason, "failed")
            if len(answer.text) > characters_max:
                return "long"
    return reason


def _unsendable_reason(run: Run, text: str) -> Reason | None:
    """Return why a rewording cannot be sent: it is too long, or the hold does not pay for it."""
    if price.tokens_in(text) > run.dependencies.settings.enhancement.output_tokens_max:
        return "long"
    before, after = first_choice(run, run.user.content), first_choice(run, text)
    if after is None or after != before:
        return "unpaid"
    asked = min(run.submission.max_output_tokens, after.max_output_tokens)
    paid = price.affordable_tokens(after, tokens_to_send(run, after, text), run.claimed.hold)
    least = max(OUTPUT_TOKENS_MIN, int(asked * _SHARE_OF_ANSWER))
    return None if paid >= min(asked, least) else "unpaid"
