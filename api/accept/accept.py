"""The one door: price, hold, create, enqueue, receipt.

Owns what must be decided before a message is in: the model that the hold is priced by, the
deadline, the bounds; then ONE Redis function does all of it or none. Refuses to know a dialect: it
takes an `Intent` and raises our own errors.
"""

import hashlib
from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec

from api.accept import rejections
from api.guards.identify import Caller
from api.state import State
from shared import ids
from shared.catalogue import Catalogue
from shared.clock import iso
from shared.errors import Code, NotNowError, PolluxError, RequestError, UnavailableError
from shared.redis import functions, keys
from shared.redis.functions import (
    AcceptAsk,
    Accepted,
    CancelAsk,
    KeepTimes,
    Rate,
    Rejected,
    Replayed,
)
from shared.redis.replicated import NotReplicatedError
from shared.routing import price
from shared.routing.choose import (
    OUTPUT_TOKENS_MIN,
    RoutingQuery,
    choose,
    estimate_search,
    first_eligible,
    needs,
    too_long,
)
from shared.settings import ModelSettings, Settings
from shared.stores import generations, idempotency_records
from shared.stores.fleet import Fleet
from shared.stores.idempotency_records import IdempotencyRecord
from shared.stores.partition_load import has_memory
from shared.telemetry import logs
from shared.wire import submission as submissions
from shared.wire.generation import QueuePosition
from shared.wire.submission import AUTO, PLAIN, Features, Lane, OnConflict, Submission

# What a claim costs an account of weight 1 in virtual time, which is counted in whole numbers.
_STRIDE: Final = 1_000
# The fields that ask for what not every model is capable of.
_FIELD_OF_CAPABILITY: Final[dict[str, str]] = {
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
            idempotency_records.hash_key(key),
            hashlib.sha256(route.encode() + b"\n" + raw).hexdigest()[:32],
        )


class Receipt(NamedTuple):
    """A message is in. `line` is None when this is the answer to a repeated request.

    So is `deadline_seconds`, the time that is left for an answer.
    """

    generation: str
    session: str
    position: QueuePosition | None
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

    `origin` is what the generation keeps of its request (`api/follow/resume.py`).

    Raises:
        RequestError: MODEL_NOT_FOUND, NO_SUITABLE_MODEL, FEATURE_UNAVAILABLE, CONTEXT_TOO_LONG,
            SESSION_NOT_FOUND, IDEMPOTENCY_MISMATCH.
        RefusedError: RATE_LIMITED, QUOTA_EXCEEDED, INSUFFICIENT_CREDITS, SESSION_BUSY, QUEUE_FULL.
        UnavailableError: Redis is away; the same Idempotency-Key may be sent again.

    """
    model, question = await _pricing_model(state, intent)
    added = estimate_search(model, question)
    tokens = question.input_tokens + added.input_tokens
    hold = price.cost(model, tokens, model.max_output_tokens, added.searches)
    paid_output_tokens = max(
        1, price.affordable_tokens(model, tokens, _credits_to_hold(intent, hold), added.searches)
    )
    least = min(OUTPUT_TOKENS_MIN, model.max_output_tokens)
    ask = _accept_arguments(state, caller, intent, hold, idempotency)
    ask = msgspec.structs.replace(
        ask,
        **await _current_limits(state, caller, ask),
        input_price=price.input_price(model),
        history_max=max(0, model.context_window - tokens - paid_output_tokens),
        added=price.tokens_in(intent.message) + price.tokens_of_answer(paid_output_tokens),
        persona=state.persona_tokens_max,
        budget=intent.budget,
        least=price.cost(model, tokens, least, added.searches),
        origin=origin,
    )
    submission = Submission(
        session=ask.session,
        model=intent.model,
        enhance_prompt=intent.enhance_prompt,
        max_output_tokens=paid_output_tokens,
        request_id=request_id,
        companion=intent.companion,
        features=intent.features,
        holds_history=True,
    )
    result = await _accept_durably(state, caller.root, ask, submissions.encode(submission))
    match result:
        case Accepted():
            _note_accepted(state, caller, result.unfinished)
            logs.logger().info(
                "accepted", generation=ask.generation, account=caller.account.id, lane=ask.lane
            )
            position, seconds = _position(result, ask.running_max), ask.deadline_ms / 1000
            return Receipt(ask.generation, ask.session, position, result.rate, seconds)
        case Replayed(generation, session):
            # Our own repetition of a call whose reply was lost is no replay to the caller.
            if generation == ask.generation:
                return Receipt(generation, session, QueuePosition(), None)
            note_replayed(caller)
            return Receipt(generation, session, None, None)
        case Rejected():
            raise await rejections.error(state, caller.root, ask, result)


def _position(accepted: Accepted, running_max: int) -> QueuePosition:
    return QueuePosition(
        ahead=accepted.ahead,
        running=accepted.running,
        running_max=running_max,
        lane_accounts=accepted.lane_accounts,
        session_turns_before=accepted.session_turns_before,
        is_behind_head=accepted.is_behind_head,
        first_age_seconds=generations.seconds_or_none(accepted.first_age_ms),
    )


async def receipt_of_first_request(
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
) -> IdempotencyRecord:
    """Return the ids that a repeated request was answered with; raises as `first_receipt`."""
    # A server that did not answer would only be waited for once more.
    is_redis_away = isinstance(refused, UnavailableError) and not isinstance(refused, NotNowError)
    if idempotency is None or is_redis_away:
        raise refused
    found = await idempotency_records.find(
        state.redis, caller.root, caller.account.id, idempotency.key
    )
    if found is None:
        raise refused
    if found.fingerprint != idempotency.fingerprint:
        raise rejections.idempotency_mismatch() from refused
    note_replayed(caller)
    return found


def _note_accepted(state: State, caller: Caller, unfinished: int) -> None:
    state.rate_limits.note_unfinished(caller.account.id, unfinished, is_new=True)
    if caller.attempt is not None:
        caller.attempt.give_back()


def note_replayed(caller: Caller) -> None:
    """Count a submission as one that was repeated."""
    if caller.attempt is not None:
        caller.attempt.note_replayed()


async def _accept_durably(
    state: State, root: str, ask: AcceptAsk, submission: bytes
) -> Accepted | Replayed | Rejected:
    """Accept; what was not confirmed by a replica in time is called off before it is refused."""
    try:
        return await functions.accept(state.durable_redis, root, ask, submission)
    except NotReplicatedError:
        cancel_ask = CancelAsk.of(state.settings, ask.account, ask.generation)
        await functions.cancel(state.redis, root, cancel_ask)
        raise


async def _pricing_model(state: State, intent: Intent) -> tuple[ModelSettings, RoutingQuery]:
    """Return the model that the hold is priced by, and what was asked, as far as known now."""
    fleet = await state.fleet()
    if intent.model == AUTO:
        models = state.offered(fleet)
    else:
        models = (find_model(state.catalogue, intent.model, fleet),)
    tokens = sum(map(price.tokens_in, _known_texts(state.settings, intent)))
    tokens += price.IMAGE_TOKENS * len(intent.features.media_urls)
    search = state.settings.search
    question = RoutingQuery(
        model=intent.model,
        input_tokens=tokens,
        needs=needs(intent.features, search),
        budget=intent.budget,
        search=search if intent.features.web_search else None,
    )
    model = first_eligible(models, question)
    if model is None:
        _refuse_unavailable(state.offered(fleet), question)
        raise _no_suitable_model(models, question)
    if intent.model == AUTO and fleet.models and model.identifier not in fleet.models:
        # Without a live worker the message waits for one, priced by the first that could answer.
        model = (
            first_eligible(models, msgspec.structs.replace(question, served=fleet.models)) or model
        )
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


def _refuse_unavailable(offered: tuple[ModelSettings, ...], question: RoutingQuery) -> None:
    """Refuse by its field's name what no model that is to be had can do."""
    for capability in question.needs:
        if not any(capability in model.capabilities for model in offered):
            raise RequestError(
                f"The field `{_FIELD_OF_CAPABILITY[capability]}` asks for a feature that this "
                "deployment does not have.",
                Code.FEATURE_UNAVAILABLE,
            )


def _no_suitable_model(models: tuple[ModelSettings, ...], question: RoutingQuery) -> RequestError:
    routing = choose(models, question).routing
    capable = [model for model in models if set(question.needs) <= set(model.capabilities)]
    exclusions = {each.model: each.excluded_by for each in routing.candidates}
    if capable and all(exclusions[model.identifier] == "context_window" for model in capable):
        exceeded = too_long(capable, question)
        return RequestError(
            exceeded.sentence, Code.CONTEXT_TOO_LONG, details=dict(exceeded._asdict())
        )
    return RequestError(
        "No model can answer this request; `routing` says what excluded each.",
        Code.NO_SUITABLE_MODEL,
        details={"routing": routing},
    )


def _credits_to_hold(intent: Intent, longest: int) -> int:
    """Return the credits to set aside: the longest answer's price, or the caller's own limit."""
    return longest if intent.budget is None else min(longest, intent.budget)


def _accept_arguments(
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
        keep=KeepTimes.of(settings.retention) if intent.on_conflict == "interrupt" else None,
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


async def _current_limits(state: State, caller: Caller, ask: AcceptAsk) -> dict[str, int]:
    """Return what the moment allows, by its names in what is asked: of room and of memory."""
    now, fleet = await state.load_monitor.of(caller.root), await state.fleet()
    known = await state.model_durations.durations(caller.root, ask.model)
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
    other_roots = {keys.partition_root(redis, number) for number in range(redis.partitions)} - {
        root
    }
    return sum([(await state.load_monitor.of(other)).unfinished for other in other_roots])


def session_name(state: State) -> str:
    """Return the name of a session that nobody named."""
    return f"API Chat - {iso(state.clock.now_ms())[:10]}"
