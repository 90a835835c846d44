"""Hear one upstream call: take the parts of an answer as they come, for as long as it may last.

Owns the time limits (silence, first token, the whole deadline), what a part does to the run, what
a call consumed where the upstream does not say, and what an answer without words comes to. Decides
nothing about a second call.
"""

import asyncio
from contextlib import aclosing
from typing import Final, NamedTuple

import msgspec

from shared.errors import EXPIRED, Failure, ProviderError
from shared.routing import price
from shared.settings import ModelSettings
from shared.wire import event as events
from shared.wire.message import Citation, Media, Usage
from worker.gate import Call
from worker.providers.contract import (
    Alive,
    Aside,
    ChatRequest,
    Ended,
    EndReason,
    Paused,
    Produced,
    Reasoning,
    Text,
    Used,
)
from worker.run import Run

_ENDS: Final = (Ended, Paused)
# What may follow the end of an answer, its usage, follows soon or not at all.
_AFTERWORD_SECONDS: Final = 2.0
_TIMERS_PER_SILENCE: Final = 16
# Of pictures and sounds in one answer: each is a file, and stands in its record.
_MEDIA_MAX: Final = 64
NOTHING_USED: Final = Usage()

_TOO_MANY: Final = Failure(
    message="The model made more pictures and sounds than an answer may hold.",
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
    message="The provider's content policy forbids the answer.",
    category="content_policy",
    code="CONTENT_POLICY",
)
_SPENT_ON_THINKING: Final = Failure(
    message="The limit of output tokens was spent on thinking: nothing was left for an answer.",
    category="invalid_request",
    code="ANSWER_SPENT_ON_THINKING",
)
_UNFINISHED: Final = Failure(
    message="The provider paused too often before the answer was whole.",
    category="provider_error",
    code="PROVIDER_FAILED",
    retryable=True,
)


class Heard(NamedTuple):
    """How a call ended: why, or what to send back to an upstream that paused."""

    reason: EndReason | None
    so_far: tuple[dict[str, object], ...] = ()


class _Limits:
    """How long to wait for what comes next, at every point of an answer.

    Before it begins: for a sign of life, and with signs of life for as long as the model may take.
    Then for any sign of life, and once it has ended a moment for what was used. Never beyond the
    deadline.
    """

    def __init__(self, run: Run, request: ChatRequest) -> None:
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        self._deadline = now + run.seconds_left()
        self._first = min(self._deadline, now + request.model.first_token_seconds)
        self._silence_seconds = request.silence_seconds()
        self._next_seconds = run.tools.catalogue.provider_of(request.model).idle_seconds
        self._due = 0.0
        self._is_heard = False
        self._has_ended = False
        self.timer = asyncio.timeout_at(min(self._first, now + self._silence_seconds))

    def note_part(self) -> None:
        """Wait for the next part. A timer is set again for a sixteenth of its time, not each."""
        now = self._loop.time()
        if now > self._due:
            self._is_heard = True
            self.timer.reschedule(min(self._deadline, now + self._next_seconds))
            self._due = now + self._next_seconds / _TIMERS_PER_SILENCE

    def note_life(self) -> None:
        """Wait on, but for an answer that does not begin, or has ended, no longer than before."""
        if self._is_heard and not self._has_ended:
            self.note_part()
        elif not self._is_heard:
            self.timer.reschedule(min(self._first, self._loop.time() + self._silence_seconds))

    def note_end(self) -> None:
        """Wait a moment longer for what was used."""
        self._has_ended, self._due = True, 0.0
        self._next_seconds = _AFTERWORD_SECONDS

    def check(self, model: ModelSettings) -> None:
        """Take a time that has run out. Raises ProviderError, unless the answer has ended."""
        if self._has_ended:
            return
        if self.timer.when() == self._deadline:
            raise ProviderError(EXPIRED) from None
        raise _silent(model, is_heard=self._is_heard) from None


async def hear(run: Run, request: ChatRequest, call: Call) -> Heard:
    """Take the parts of an answer as they come; return how it ended. Raises ProviderError."""
    heard = Heard(None)
    limits = _Limits(run, request)
    run.writer.expect(run.tools.lengths.expected(request.model.identifier, request.max_tokens))
    parts = run.tools.registry.provider_of(request.model).stream(request)
    try:
        async with limits.timer, aclosing(parts):
            async for part in parts:
                if isinstance(part, Text):
                    run.writer.add(part.text)
                elif isinstance(part, Alive):
                    call.begun(part.limits)
                    limits.note_life()
                    continue
                elif isinstance(part, _ENDS):
                    heard = _ended(part)
                    limits.note_end()
                else:
                    await _pass_on(run, request.model, part)
                call.heard()
                limits.note_part()
    except TimeoutError:
        limits.check(request.model)
    return heard


def _ended(part: Ended | Paused) -> Heard:
    return Heard(part.reason) if isinstance(part, Ended) else Heard(None, part.content)


def nothing_said(model: ModelSettings, reason: EndReason | None) -> ProviderError:
    """Return what an answer without text or media comes to, by the reason of its end."""
    failure = {"content_filter": _FILTERED, "length": _SPENT_ON_THINKING}.get(reason or "", _EMPTY)
    told = msgspec.structs.replace(failure, provider=model.provider)
    return ProviderError(told, retry="backoff" if told.retryable else "never")


def unfinished(model: ModelSettings) -> ProviderError:
    """Return what an answer comes to that is paused once more than there may be calls."""
    return ProviderError(
        msgspec.structs.replace(_UNFINISHED, provider=model.provider), retry="backoff"
    )


async def _pass_on(run: Run, model: ModelSettings, part: Aside) -> None:
    """Hand on what comes beside the text."""
    match part:
        case Reasoning(text):
            run.writer.think(text)
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


def added(model: ModelSettings, before: Usage, after: Usage) -> Usage:
    """Return what two calls of one answer consumed."""
    used = Used(
        input_tokens=before.input_tokens + after.input_tokens,
        output_tokens=before.output_tokens + after.output_tokens,
        reasoning_tokens=before.reasoning_tokens + after.reasoning_tokens,
        cached_input_tokens=before.cached_input_tokens + after.cached_input_tokens,
    )
    is_estimated = before.estimated or after.estimated
    return msgspec.structs.replace(_usage(model, used), estimated=is_estimated)


def _usage(model: ModelSettings, used: Used) -> Usage:
    return Usage(
        input_tokens=used.input_tokens,
        output_tokens=used.output_tokens,
        reasoning_tokens=used.reasoning_tokens,
        cached_input_tokens=used.cached_input_tokens,
        cost=price.cost(model, used.input_tokens, used.output_tokens),
    )
