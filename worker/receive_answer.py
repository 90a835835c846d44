"""Receives the parts of one upstream call as they come, within its timeouts.

Owns the timeouts (silence, first token, deadline), what each part changes in the run, the estimate
of usage when the upstream reports none, and the failure of an answer without text. Decides nothing
about a second call.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final, NamedTuple

import msgspec

from shared.errors import EXPIRED, Failure, ProviderError
from shared.ids import new_id
from shared.routing import price
from shared.settings import ModelSettings
from shared.wire import event as events
from shared.wire.conversation import CallPart, OpaquePart, part_size
from shared.wire.message import Citation, FinishReason, Media, Usage
from shared.wire.round import TEXT_SEPARATOR
from worker.providers.contract import (
    ChatRequest,
    Ended,
    GeneratedMedia,
    KeepAlive,
    NonTextPart,
    Part,
    Paused,
    Reasoning,
    ReportedUsage,
    Text,
)
from worker.providers.failures import CONTENT_POLICY
from worker.resilience.circuit_breaker import UpstreamCall
from worker.run import Run

_ENDS: Final = (Ended, Paused)
# After the end of an answer, how long to wait for its usage.
_USAGE_WAIT_SECONDS: Final = 2.0
_TIMERS_PER_SILENCE: Final = 16
# Images and sounds in one answer: each is a file, and is listed in the record.
_MEDIA_MAX: Final = 64
NOTHING_USED: Final = Usage()

_TOO_MANY: Final = Failure(
    message="The model made more images and sounds than an answer may hold.",
    category="provider_error",
    code="RESPONSE_TOO_LARGE",
)
_EMPTY: Final = Failure(
    message="The model gave an empty answer.",
    category="provider_error",
    code="EMPTY_ANSWER",
    retryable=True,
)
_FILTERED: Final = Failure(
    message=CONTENT_POLICY,
    category="content_policy",
    code="CONTENT_POLICY",
)
_SPENT_ON_REASONING: Final = Failure(
    message="The limit of output tokens was spent on reasoning: nothing was left for an answer.",
    category="invalid_request",
    code="ANSWER_SPENT_ON_THINKING",
)
_STOPPED_AT_ONCE: Final = Failure(
    message="A text of `stop` ended the answer before it had any other.",
    category="invalid_request",
    code="EMPTY_ANSWER",
)
_UNFINISHED: Final = Failure(
    message="The provider paused too often before the answer was complete.",
    category="provider_error",
    code="PROVIDER_FAILED",
    retryable=True,
)


class ReceivedAnswer(NamedTuple):
    """How a call ended: the reason, or (`so_far`) what to send back to an upstream that paused."""

    reason: FinishReason | None
    so_far: tuple[dict[str, object], ...] = ()


class _AnswerTimeouts:
    """How long to wait for the next part, at every point of an answer.

    Before the first part: `silence_seconds` for a sign of life, and `first_token_seconds` in all.
    After it: `idle_seconds` for any sign of life. After the end: a moment for the usage. Never
    beyond the deadline.
    """

    def __init__(self, run: Run, request: ChatRequest) -> None:
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        self._deadline = now + run.seconds_left()
        self._first = min(self._deadline, now + request.model.first_token_seconds)
        self._silence_seconds = request.silence_seconds()
        self._next_seconds = run.dependencies.catalogue.provider_of(request.model).idle_seconds
        self._due = 0.0
        self._has_begun = False
        self._has_ended = False
        self.timer = asyncio.timeout_at(min(self._first, now + self._silence_seconds))

    def note_part(self) -> None:
        """Wait for the next part; to save CPU, the timer moves 16 times per idle time at most."""
        now = self._loop.time()
        if now > self._due:
            self._has_begun = True
            self.timer.reschedule(min(self._deadline, now + self._next_seconds))
            self._due = now + self._next_seconds / _TIMERS_PER_SILENCE

    def note_alive(self) -> None:
        """Wait on after a sign of life; it extends neither the first-token limit nor the end."""
        if self._has_begun and not self._has_ended:
            self.note_part()
        elif not self._has_begun:
            self.timer.reschedule(min(self._first, self._loop.time() + self._silence_seconds))

    def note_end(self) -> None:
        """Wait a moment longer for the usage."""
        self._has_ended, self._due = True, 0.0
        self._next_seconds = _USAGE_WAIT_SECONDS

    def check(self, model: ModelSettings) -> None:
        """Handle an expired timer. Raises ProviderError, unless the answer has ended."""
        if self._has_ended:
            return
        if self.timer.when() == self._deadline:
            raise ProviderError(EXPIRED) from None
        raise _silence_error(model, has_begun=self._has_begun) from None


async def receive_answer(run: Run, request: ChatRequest, call: UpstreamCall) -> ReceivedAnswer:
    """Receive the parts of an answer as they come; return how it ended. Raises ProviderError."""
    received = ReceivedAnswer(None)
    timeouts = _AnswerTimeouts(run, request)
    run.writer.expect(
        run.dependencies.lengths.expected_bytes(request.model.identifier, request.max_tokens)
    )
    parts = run.dependencies.registry.provider_of(request.model).stream(request)
    if run.text_start:
        parts = _on_new_paragraph(run, parts)
    try:
        async with timeouts.timer, aclosing(parts):
            async for part in parts:
                if isinstance(part, Text):
                    run.writer.append_text(part.text)
                elif isinstance(part, KeepAlive):
                    call.note_response(part.limits)
                    timeouts.note_alive()
                    continue
                elif isinstance(part, _ENDS):
                    received = _read_end(part)
                    timeouts.note_end()
                else:
                    await _record_part(run, request.model, part)
                if not call.has_first_part:
                    call.note_first_part()
                timeouts.note_part()
    except TimeoutError:
        timeouts.check(request.model)
    return received


async def _on_new_paragraph(
    run: Run, parts: AsyncGenerator[Part, None]
) -> AsyncGenerator[Part, None]:
    """Yield the parts, with a separator between the text of earlier rounds and this round's."""
    is_at_start = len(run.writer.text()) == run.text_start
    async with aclosing(parts):
        async for part in parts:
            if is_at_start and isinstance(part, Text) and part.text:
                is_at_start = False
                run.text_start += len(TEXT_SEPARATOR)
                yield Text(TEXT_SEPARATOR)
            yield part


def _read_end(part: Ended | Paused) -> ReceivedAnswer:
    return (
        ReceivedAnswer(part.reason)
        if isinstance(part, Ended)
        else ReceivedAnswer(None, part.content)
    )


def no_answer_error(request: ChatRequest, reason: FinishReason | None) -> ProviderError:
    """Return the error of an answer without text or media, by its finish reason."""
    model, empty = request.model, _STOPPED_AT_ONCE if request.sampling.stop else _EMPTY
    known = {"content_filter": _FILTERED, "length": _SPENT_ON_REASONING}.get(reason or "", empty)
    failure = msgspec.structs.replace(known, provider=model.provider)
    return ProviderError(failure, retry="backoff" if failure.retryable else "never")


def unfinished_error(model: ModelSettings) -> ProviderError:
    """Return the error of an answer that pauses more often than calls are allowed."""
    return ProviderError(
        msgspec.structs.replace(_UNFINISHED, provider=model.provider), retry="backoff"
    )


async def _record_part(run: Run, model: ModelSettings, part: NonTextPart) -> None:
    """Record a part other than text."""
    match part:
        case Reasoning(text):
            run.writer.append_reasoning(text)
        case ReportedUsage():
            run.usage = _usage(model, part)
            run.searches = part.searches if run.searched_by == "model" else run.searches
        case Citation():
            _record_citation(run, part)
        case Media():
            run.media.append(part)
            run.writer.append_event(events.Media(part.kind, part.url))
        case GeneratedMedia():
            await _save_media(run, part)
        case CallPart() | OpaquePart():
            _record_for_later(run, part)
        case events.ToolResult():
            run.writer.append_event(part)


def _record_for_later(run: Run, part: CallPart | OpaquePart) -> None:
    """Note a part that belongs into the conversation; callers see the calls."""
    if isinstance(part, CallPart) and part.call_id in run.call_ids:
        # Results are read by the ids of their calls.
        part = msgspec.structs.replace(part, call_id=new_id())
    run.parts.append((len(run.writer.text()), part))
    if isinstance(part, CallPart):
        run.writer.append_event(events.ToolCall.of(part))


def _record_citation(run: Run, page: Citation) -> None:
    """Note a cited page; after a service's search, its results already are the citations."""
    if run.searched_by != "service":
        run.citations.append(page)


async def _save_media(run: Run, part: GeneratedMedia) -> None:
    """Store generated media, then append the event with its URL. Raises ProviderError.

    The URL is valid for as long as the stream may be read. The files of a generation without a
    session end with its record.
    """
    if len(run.media) == _MEDIA_MAX:
        raise ProviderError(_TOO_MANY)
    claimed, retention = run.claimed, run.dependencies.settings.retention
    media_store, session = run.dependencies.media_store, run.submission.session
    if session is None:
        await media_store.expire_with_record(claimed)
    saved = await media_store.save(
        claimed.account,
        session or claimed.id,
        part.content,
        seconds_min=run.seconds_left() + retention.events_seconds,
    )
    if saved is not None:
        run.media.append(saved.stored)
        run.writer.append_event(events.Media(saved.published.kind, saved.published.url))


def _silence_error(model: ModelSettings, *, has_begun: bool) -> ProviderError:
    failure = Failure(
        message="The provider fell silent." if has_begun else "The provider did not begin in time.",
        category="timeout",
        code="PROVIDER_SILENT" if has_begun else "FIRST_TOKEN_TIMEOUT",
        retryable=True,
        provider=model.provider,
    )
    return ProviderError(failure, retry="backoff")


def estimate_output(run: Run) -> tuple[int, int]:
    """Estimate the output tokens of an answer so far, and how many of them are reasoning.

    As providers do, it counts reasoning and calls of tools as output; an image or a sound counts as
    much as an input image.
    """
    text_tokens, reasoning_tokens = run.writer.tokens()
    others = price.IMAGE_TOKENS * (len(run.media) - len(run.rounds.media))
    if run.parts:
        calls = (part for _, part in run.parts if isinstance(part, CallPart))
        others += sum(price.tokens_in_bytes(part_size(call)) for call in calls)
    return text_tokens + reasoning_tokens + others, reasoning_tokens


def estimate_usage(run: Run, model: ModelSettings) -> Usage:
    """Return the usage of an answer whose provider reported none, flagged as estimated."""
    output_tokens, reasoning_tokens = estimate_output(run)
    return Usage(
        input_tokens=run.input_tokens,
        output_tokens=output_tokens,
        reasoning_tokens=reasoning_tokens,
        cost=price.cost(model, run.input_tokens, output_tokens),
        estimated=True,
    )


def sum_usage(model: ModelSettings, before: Usage, after: Usage) -> Usage:
    """Return the usage of two calls of one answer together."""
    used = ReportedUsage(
        input_tokens=before.input_tokens + after.input_tokens,
        output_tokens=before.output_tokens + after.output_tokens,
        reasoning_tokens=before.reasoning_tokens + after.reasoning_tokens,
        cached_input_tokens=before.cached_input_tokens + after.cached_input_tokens,
        cache_write_tokens=before.cache_write_tokens + after.cache_write_tokens,
    )
    is_estimated = before.estimated or after.estimated
    return msgspec.structs.replace(_usage(model, used), estimated=is_estimated)


def _usage(model: ModelSettings, used: ReportedUsage) -> Usage:
    counts = Usage(
        input_tokens=used.input_tokens,
        output_tokens=used.output_tokens,
        reasoning_tokens=used.reasoning_tokens,
        cached_input_tokens=used.cached_input_tokens,
        cache_write_tokens=used.cache_write_tokens,
    )
    return msgspec.structs.replace(counts, cost=price.usage_cost(model, counts))
