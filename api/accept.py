"""The one door: price, hold, create, enqueue, receipt.

Owns what must be decided before a message is in: the model that the hold is priced by, the
deadline, the bounds; then ONE Redis function does all of it or none. Refuses to know a dialect: it
takes an `Intent` and raises our own errors.
"""

import hashlib
from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec

from api import not_accepted
from api.guards.identify import Caller
from api.state import State
from shared import ids
from shared.catalogue import Catalogue
from shared.clock import iso
from shared.errors import Code, NotNowError, PolluxError, RequestError, UnavailableError
from shared.redis import functions, keys
from shared.redis.functions import AcceptAsk, Accepted, CancelAsk, Keep, NotAccepted, Rate, Replayed
from shared.redis.replicated import NotReplicatedError
from shared.routing import price
from shared.routing.choose import (
    OUTPUT_TOKENS_MIN,
    Question,
    choose,
    needs,
    pick,
    terms,
    too_long,
)
from shared.settings import ModelSettings, Settings
from shared.stores import generations, receipts
from shared.stores.fleet import Fleet
from shared.stores.pressure import has_memory
from shared.stores.receipts import StoredReceipt
from shared.telemetry import logs
from shared.wire import submission as submissions
from shared.wire.generation import Line
from shared.wire.submission import AUTO, PLAIN, Features, Lane, OnConflict, Submission

_MICROCREDITS: Final = 1_000_000
# What a claim costs an account of weight 1 in virtual time, which is counted in whole numbers.
_STRIDE: Final = 1_000
# The fields that ask for what not every model is capable of.
_FIELDS: Final[dict[str, str]] = {
    "reasoning": "deep_think",
    "vision": "media_urls",
    "web_search": "web_search",
}


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller wants, checked and in the words of no dialect. `budget` in microcredits."""

    message: str
    model: str
    session: str | None
    system_prompt: str | None
    enhance_prompt: bool
    lane: Lane
    on_conflict: OnConflict
    budget: int | None
    deadline_seconds: float | None
    metadata: dict[str, str] | None
    project: str | None
    companion: str | None = None
    features: Features = PLAIN


class Idempotency(NamedTuple):
    """A caller's key and what it stands for: route and raw body."""

    key: str
    fingerprint: str

    @classmethod
    def of(cls, key: str, route: str, raw: bytes) -> "Idempotency":
        """Hash both: the key is of any form, the body of any size."""
        return cls(
            receipts.hashed(key),
            hashlib.sha256(route.encode() + b"\n" + raw).hexdigest()[:32],
        )


class Receipt(NamedTuple):
    """A message is in. `line` is None when this is the answer to a repeated request.

    So is `deadline_seconds`, the time that is left for an answer.
    """

    generation: str
    session: str
    line: Line | None
    rate: Rate | None
    deadline_seconds: float | None = None


async def accept(
    state: State,
    caller: Caller,
    intent: Intent,
    idempotency: Idempotency | None,
    request_id: str,
    *,
    origin: str | None = None,
) -> Receipt:
    """Take a message in, which wakes a worker.

    `origin` is what the generation keeps of its request (`api/resume.py`).

    Raises:
        RequestError: MODEL_NOT_FOUND, NO_SUITABLE_MODEL, FEATURE_UNAVAILABLE, CONTEXT_TOO_LONG,
            SESSION_NOT_FOUND, IDEMPOTENCY_MISMATCH.
        RefusedError: RATE_LIMITED, QUOTA_EXCEEDED, INSUFFICIENT_CREDITS, SESSION_BUSY, QUEUE_FULL.
        UnavailableError: Redis is away; the same Idempotency-Key may be sent again.

    """
    model, question = await _model(state, intent)
    added = terms(model, question)
    tokens = question.input_tokens + added.input_tokens
    hold = price.cost(model, tokens, model.max_output_tokens, added.searches)
    paid = max(1, price.affordable_tokens(model, tokens, _hold(intent, hold), added.searches))
    least = min(OUTPUT_TOKENS_MIN, model.max_output_tokens)
    ask = _ask(state, caller, intent, hold, idempotency)
    ask = msgspec.structs.replace(
        ask,
        **await _pressed(state, caller, ask),
        input_price=price.input_price(model),
        history_max=max(0, model.context_window - tokens - paid),
        added=price.tokens_in(intent.message) + price.tokens_of_answer(paid),
        persona=state.persona_tokens_max,
        budget=intent.budget,
        least=price.cost(model, tokens, least, added.searches),
        origin=origin,
    )
    submission = Submission(
        session=ask.session,
        model=intent.model,
        enhance_prompt=intent.enhance_prompt,
        max_output_tokens=paid,
        request_id=request_id,
        companion=intent.companion,
        features=intent.features,
        holds_history=True,
    )
    result = await _take_in(state, caller.root, ask, submissions.encode(submission))
    match result:
        case Accepted():
            _note_accepted(state, caller, result.unfinished)
            logs.logger().info(
                "accepted", generation=ask.generation, account=caller.account.id, lane=ask.lane
            )
            line, seconds = _line(result, ask.running_max), ask.deadline_ms / 1000
            return Receipt(ask.generation, ask.session, line, result.rate, seconds)
        case Replayed(generation, session):
            # Our own repetition of a call whose reply was lost is no replay to the caller.
            if generation == ask.generation:
                return Receipt(generation, session, Line(), None)
            note_replayed(caller)
            return Receipt(generation, session, None, None)
        case NotAccepted():
            raise await not_accepted.error(state, caller.root, ask, result)


def _line(accepted: Accepted, running_max: int) -> Line:
    return Line(
        ahead=accepted.ahead,
        running=accepted.running,
        most=running_max,
        crowd=accepted.crowd,
        behind=accepted.behind,
        follows=accepted.follows,
        front_seconds=generations.seconds_since(accepted.front_ms),
    )


async def first_receipt(
    state: State, caller: Caller, idempotency: Idempotency | None, refused: PolluxError
) -> Receipt:
    """Return what the first request with this key was answered, now that this one is refused.

    Only a request that is about to be refused pays for the look-up. Raises `refused` when it is no
    repetition, RequestError (IDEMPOTENCY_MISMATCH) when the key stands for another request.
    """
    found = await stored_receipt(state, caller, idempotency, refused)
    if found.generation is None:
        raise refused
    return Receipt(found.generation, found.session, None, None)


async def stored_receipt(
    state: State, caller: Caller, idempotency: Idempotency | None, refused: PolluxError
) -> StoredReceipt:
    """Return the ids that a repeated request was answered with; raises as `first_receipt`."""
    # A server that did not answer would only be waited for once more.
    is_silent = isinstance(refused, UnavailableError) and not isinstance(refused, NotNowError)
    if idempotency is None or is_silent:
        raise refused
    found = await receipts.find(state.redis, caller.root, caller.account.id, idempotency.key)
    if found is None:
        raise refused
    if found.fingerprint != idempotency.fingerprint:
        raise not_accepted.mismatch() from refused
    note_replayed(caller)
    return found


def _note_accepted(state: State, caller: Caller, unfinished: int) -> None:
    state.limits.note_unfinished(caller.account.id, unfinished, is_new=True)
    if caller.attempt is not None:
        caller.attempt.give_back()


def note_replayed(caller: Caller) -> None:
    """Count a submission as one that was repeated."""
    if caller.attempt is not None:
        caller.attempt.note_replayed()


async def _take_in(
    state: State, root: str, ask: AcceptAsk, submission: bytes
) -> Accepted | Replayed | NotAccepted:
    """Accept; what was not confirmed by a replica in time is called off before it is refused."""
    try:
        return await functions.accept(state.promise, root, ask, submission)
    except NotReplicatedError:
        off = CancelAsk.of(state.settings, ask.account, ask.generation)
        await functions.cancel(state.redis, root, off)
        raise


async def _model(state: State, intent: Intent) -> tuple[ModelSettings, Question]:
    """Return the model that the hold is priced by, and what was asked, as far as known now."""
    fleet = await state.fleet()
    if intent.model == AUTO:
        models = state.offered(fleet)
    else:
        models = (find_model(state.catalogue, intent.model, fleet),)
    tokens = sum(map(price.tokens_in, _known_texts(state.settings, intent)))
    tokens += price.IMAGE_TOKENS * len(intent.features.media_urls)
    search = state.settings.search
    question = Question(
        model=intent.model,
        input_tokens=tokens,
        needs=needs(intent.features, search),
        budget=intent.budget,
        search=search if intent.features.web_search else None,
    )
    model = pick(models, question)
    if model is None:
        _refuse_unavailable(state.offered(fleet), question)
        raise _unsuitable(models, question)
    if intent.model == AUTO and fleet.models and model.identifier not in fleet.models:
        # Without a live worker the message waits for one, priced by the first that could answer.
        model = pick(models, msgspec.structs.replace(question, served=fleet.models)) or model
    return model, question


def _known_texts(settings: Settings, intent: Intent) -> Iterator[str]:
    """Yield what goes in; what a session remembers is not known yet."""
    yield intent.message
    if intent.system_prompt:
        yield intent.system_prompt
    companion = settings.companion(intent.companion) if intent.companion is not None else None
    if companion is not None:
        yield companion.persona


def is_offered(catalogue: Catalogue, name: str, fleet: Fleet) -> bool:
    """Tell whether a message may ask for a model by its name."""
    model = catalogue.by_identifier.get(name)
    return model is not None and fleet.may_take(model, catalogue.provider_of(model))


def find_model(catalogue: Catalogue, name: str, fleet: Fleet) -> ModelSettings:
    """Return a model by its name; raises RequestError (MODEL_NOT_FOUND) if it is not to be had."""
    if not is_offered(catalogue, name, fleet):
        raise RequestError(
            f"There is no model `{name}`; GET /api/v1/models lists those there are.",
            Code.MODEL_NOT_FOUND,
        )
    return catalogue.by_identifier[name]


def _refuse_unavailable(offered: tuple[ModelSettings, ...], question: Question) -> None:
    """Refuse by its field's name what no model that is to be had can do."""
    for capability in question.needs:
        if not any(capability in model.capabilities for model in offered):
            raise RequestError(
                f"The field `{_FIELDS[capability]}` asks for a feature that this deployment does "
                "not have.",
                Code.FEATURE_UNAVAILABLE,
            )


def _unsuitable(models: tuple[ModelSettings, ...], question: Question) -> RequestError:
    routing = choose(models, question).routing
    able = [model for model in models if set(question.needs) <= set(model.capabilities)]
    bars = {each.model: each.excluded_by for each in routing.candidates}
    if able and all(bars[model.identifier] == "context_window" for model in able):
        exceeded = too_long(able, question)
        return RequestError(
            exceeded.sentence, Code.CONTEXT_TOO_LONG, details=dict(exceeded._asdict())
        )
    return RequestError(
        "No model can answer this request; `routing` says what excluded each.",
        Code.NO_SUITABLE_MODEL,
        details={"routing": routing},
    )


def _hold(intent: Intent, longest: int) -> int:
    """Return the credits to set aside: the longest answer's price, or the caller's own limit."""
    return longest if intent.budget is None else min(longest, intent.budget)


def _ask(
    state: State, caller: Caller, intent: Intent, hold: int, idempotency: Idempotency | None
) -> AcceptAsk:
    settings = state.settings
    limits, root = settings.limits, keys.system_root(settings.redis)
    default = (
        limits.interactive_deadline_seconds
        if intent.lane == "interactive"
        else limits.batch_deadline_seconds
    )
    tier = limits.of(caller.account.tier)
    return AcceptAsk(
        account=caller.account.id,
        key=caller.key.id,
        generation=ids.new_id(),
        session=intent.session or ids.new_id(),
        is_new=intent.session is None,
        message=ids.new_id(),
        content=intent.message,
        lane=intent.lane,
        wire=submissions.PLAIN_WIRE if intent.features == PLAIN else submissions.FEATURES_WIRE,
        model=intent.model,
        hold=hold,
        deadline_ms=int(
            min(intent.deadline_seconds or default, limits.deadline_seconds_max) * 1000
        ),
        per_minute=tier.submissions_per_minute,
        unfinished_max=tier.unfinished_max,
        waiting_max=limits.waiting_per_session,
        running_max=tier.running_max,
        stride=_STRIDE // tier.weight,
        total_max=limits.unfinished_total,
        slots=0,
        rounds_max=0,
        sessions_max=tier.sessions_max,
        stored_bytes_max=tier.stored_bytes_max,
        on_conflict=None if intent.on_conflict == "enqueue" else intent.on_conflict,
        keep=Keep.of(settings.retention) if intent.on_conflict == "interrupt" else None,
        channels=keys.worker_channel(root, "") if intent.on_conflict == "interrupt" else None,
        name=session_name(state),
        system_prompt=intent.system_prompt if intent.session is None else None,
        companion=intent.companion,
        metadata=intent.metadata,
        project=intent.project,
        media=intent.features.media_urls or None,
        idempotency=idempotency.key if idempotency else None,
        fingerprint=idempotency.fingerprint if idempotency else None,
        idempotency_ms=settings.retention.idempotency_seconds * 1000 if idempotency else None,
    )


async def _pressed(state: State, caller: Caller, ask: AcceptAsk) -> dict[str, int]:
    """Return what the moment allows, by its names in what is asked: of room and of memory."""
    now, fleet = await state.pressures.of(caller.root), await state.fleet()
    known = await state.paces.durations(caller.root, ask.model)
    elsewhere = await _unfinished_elsewhere(state, caller.root)
    has_room = has_memory(now, state.settings.limits, ask.lane, caller.account.tier)
    return {
        "total_max": ask.total_max - elsewhere if has_room else 0,
        "slots": fleet.slots,
        "rounds_max": int(ask.deadline_ms / 1000 / known.typical_seconds),
    }


async def _unfinished_elsewhere(state: State, root: str) -> int:
    """Count what is unfinished in the other partitions: the bound is one of all of them."""
    redis = state.settings.redis
    others = {keys.partition_root(redis, number) for number in range(redis.partitions)} - {root}
    return sum([(await state.pressures.of(other)).unfinished for other in others])


def session_name(state: State) -> str:
    """Return the name of a session that nobody named."""
    return f"API Chat - {iso(state.clock.now_ms())[:10]}"
