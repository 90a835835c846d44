"""The chat of the Kombify dialect: in through the one door, then waited for or followed.

Owns which companion and which model a message goes to, and what a caller is told when there is no
answer in time. Once a message is in, nothing that happens to us refuses it: it is told where to
look.
"""

from collections.abc import AsyncGenerator
from contextlib import ExitStack
from functools import partial
from typing import Final

from api import (
    accept,
    event_ids,
    hints,
    links,
    not_accepted,
    options,
    overdue,
    pace,
    parameters,
    resume,
    sessions,
    stream,
)
from api.dialects.kombify import translate, wire
from api.endpoint import Answer, Call, Stream
from api.follow import told, wait
from api.follow.ring import BEGINNING, Number
from shared import ids
from shared.companions import CompanionSettings
from shared.errors import (
    CANCELLED,
    Code,
    FailedError,
    Failure,
    PolluxError,
    RefusedError,
    RequestError,
    UnavailableError,
)
from shared.stores.fleet import Fleet
from shared.wire.generation import Generation
from shared.wire.submission import AUTO

_BRAIN_AGAIN_SECONDS: Final = 3
_OVERLOADED_AGAIN_SECONDS: Final = 5


def _ends_in_time() -> None:
    """Do nothing: an answer is waited for no longer than a place is kept."""


async def chat(call: Call) -> Answer | Stream:
    """POST /chat: take a message in, and answer it if it is answered in time."""
    return await _chat(call, call.body.companion)


async def companion_chat(call: Call) -> Answer | Stream:
    """POST /companion/{type}/chat: the same, with the companion fixed."""
    fixed = call.path["type"]
    if call.body.companion not in (None, fixed):
        sessions.named_companion(call, fixed)
        raise RequestError(
            f"The field `companion` must be `{fixed}` here, or absent.", Code.INVALID_FIELDS
        )
    return await _chat(call, fixed)


async def _chat(call: Call, name: str | None) -> Answer | Stream:
    is_streamed = translate.is_streamed(call.body, call.request.headers.getlist("accept"))
    key, heard = idempotency(call), resume.last_heard(call)
    if heard is not None:
        receipt = await resume.receipt(call, heard, key, _route(call))
        call.drop_body()
        return await _repeat(call, receipt, heard.number, is_streamed=is_streamed)
    with ExitStack() as waiting:
        try:
            intent = await _intent(call, name)
            # Where there is no room to wait, the message is not taken in.
            waiting.enter_context(call.state.places.hold(call.caller.account, _ends_in_time))
            origin = resume.origin(call, _route(call))
            receipt = await accept.accept(
                call.state, call.caller, intent, key, call.request_id, origin=origin
            )
        except PolluxError as refused:
            receipt = await accept.first_receipt(call.state, call.caller, key, refused)
            call.drop_body()
            return await _repeat(call, receipt, BEGINNING, is_streamed=is_streamed)
        model = intent.model
        # A wait may be long, and there may be thousands: none keeps the message in memory.
        del intent
        call.drop_body()
        if not is_streamed:
            return await _answer(call, model, receipt)
    return await _follow(call, model, receipt, BEGINNING)


async def _intent(call: Call, name: str | None) -> accept.Intent:
    companion = None
    if name is not None:
        companion = sessions.named_companion(call, name)
        await check_brain(call)
    else:
        await _check_brain_of_session(call)
    return options.intent(
        call.body,
        call.state.settings.limits,
        model=await _model(call, companion),
        companion=name,
    )


async def _repeat(
    call: Call, receipt: accept.Receipt, after: Number, *, is_streamed: bool
) -> Answer | Stream:
    """Answer for a message that was taken in before: wait, or go on after an event."""
    if is_streamed:
        return await _follow(call, AUTO, receipt, after)
    with ExitStack() as waiting:
        try:
            waiting.enter_context(call.state.places.hold(call.caller.account, _ends_in_time))
        except RefusedError:
            return await _later(call, AUTO, receipt)
        return await _answer(call, AUTO, receipt)


async def check_brain(call: Call) -> Fleet:
    """Return the live workers. Raises RefusedError (BRAIN_UNAVAILABLE) where there are none."""
    fleet = await call.state.fleet()
    if not fleet.workers:
        raise RefusedError(
            "No agent can answer now.",
            Code.BRAIN_UNAVAILABLE,
            retry_after_seconds=_BRAIN_AGAIN_SECONDS,
        )
    return fleet


async def _check_brain_of_session(call: Call) -> None:
    """Refuse where no worker lives what a session's companion would answer.

    Only then is the session looked up.
    """
    session = call.body.session_id
    if session is None or not ids.is_id(session) or (await call.state.fleet()).workers:
        return
    if (await sessions.load(call, session)).companion is not None:
        await check_brain(call)


def idempotency(call: Call) -> accept.Idempotency | None:
    """Return the caller's key, if any; the routes of a dialect, and of a companion, are its own."""
    return parameters.idempotency(call, _route(call))


def _route(call: Call) -> str:
    return f"{call.request.method} {call.request.scope['path']}"


async def _model(call: Call, companion: CompanionSettings | None) -> str:
    """Return the model to ask: the caller's, else one that was chosen before and is still there."""
    catalogue, account = call.state.catalogue, call.caller.account
    fleet = await call.state.fleet()
    if call.body.model is not None:
        return translate.identifier(call.body.model, catalogue, fleet)
    preferred = account.preferred_model
    if preferred == AUTO or (preferred and accept.is_offered(catalogue, preferred, fleet)):
        return preferred
    companion = companion or await _remembered(call)
    own = companion.model if companion is not None else None
    return own if own is not None and accept.is_offered(catalogue, own, fleet) else AUTO


async def _remembered(call: Call) -> CompanionSettings | None:
    """Return the companion of the session, looked up only where it could have a model."""
    settings, session = call.state.settings, call.body.session_id
    if session is None or not ids.is_id(session):
        return None
    if all(companion.model is None for companion in settings.companions):
        return None
    name = (await sessions.load(call, session)).companion
    return settings.companion(name) if name is not None else None


async def _answer(call: Call, model: str, receipt: accept.Receipt) -> Answer:
    """Return the answer, if it is there in time.

    The message is in: only the end of the caller's key refuses it now.
    """
    state = call.state
    place = (call.caller.root, call.caller.account.id, receipt.generation)
    patience = wait.Patience(call.request, float(state.settings.api.wait_seconds_max))
    try:
        with state.revocations.watched(call.caller.key, patience.end) as use:
            generation = await wait.until(
                partial(overdue.look, state, place),
                state.subscriber,
                state.clock,
                place,
                None,
                patience=patience,
            )
    except UnavailableError:
        return await _later(call, model, receipt)
    use.check()
    if generation is None:
        # Its session was deleted meanwhile.
        raise _failed(receipt, CANCELLED)
    if generation.stage == "completed":
        return Answer(translate.answer(generation, state.seal.signed), headers=_headers(receipt))
    if generation.is_final:
        assistant = generation.assistant
        raise _failed(receipt, (assistant.failure if assistant else None) or CANCELLED)
    return await _later(call, model, receipt, generation)


async def _follow(
    call: Call, model: str, receipt: accept.Receipt, after: Number
) -> Answer | Stream:
    """Return the events after a number. The message is in: nothing refuses it now."""
    begun = None
    if receipt.deadline_seconds is not None:
        begun = stream.Begun(receipt.session, receipt.deadline_seconds)
    try:
        streamed = await stream.follow(call, receipt.generation, after, begun=begun)
    except (UnavailableError, RefusedError):
        # Redis is away, or the last place went to another stream.
        return await _later(call, model, receipt)
    except RequestError as error:
        if error.code is Code.INVALID_API_KEY:
            raise
        # Its session was deleted meanwhile.
        raise _failed(receipt, CANCELLED) from None
    if isinstance(streamed, Answer):
        # Clients that follow by POST take anything but a stream for a failure and try again.
        streamed = await Stream.begin(_nothing_more())
    named = await event_ids.name_generation(streamed, receipt.generation)
    return named._replace(headers=_headers(receipt))


async def _nothing_more() -> AsyncGenerator[bytes, None]:
    yield b""


async def _later(
    call: Call,
    model: str,
    receipt: accept.Receipt,
    generation: Generation | None = None,
) -> Answer:
    """Return where the answer will be."""
    state, root = call.state, call.caller.root
    try:
        if generation is None:
            hint = await hints.first(state, root, model, receipt.line)
        else:
            hint, _ = await hints.now(state, root, generation)
    except UnavailableError:
        hint = pace.HINT_SECONDS_UNKNOWN
    reply = wire.LaterReply(
        id=receipt.generation,
        session_id=receipt.session,
        poll_url=links.poll_url(receipt.generation),
        poll_interval_hint=hint,
        events_url=links.events_url(receipt.generation),
        cancel_url=links.cancel_url(receipt.generation),
    )
    return Answer(reply, status=202, headers=_headers(receipt))


def _headers(receipt: accept.Receipt) -> dict[str, str]:
    replayed = {"idempotent-replayed": "true"} if receipt.line is None else {}
    return not_accepted.rate_headers(receipt.rate) | replayed


def _failed(receipt: accept.Receipt, failure: Failure) -> FailedError:
    is_overload = failure.category in {"rate_limit", "overloaded"}
    return FailedError(
        failure,
        retry_after_seconds=_OVERLOADED_AGAIN_SECONDS if is_overload else None,
        headers=_headers(receipt),
        details={
            "id": receipt.generation,
            "session_id": receipt.session,
            "failure": told.failure(failure),
        },
    )
