"""Accepts a message: hold, create, enqueue, receipt, in one Redis call.

Owns what must be decided before that call: the deadline, the bounds, and what is stored. One Redis
function then does all of it or none. Knows no dialect: it takes an `Intent` and raises our own
errors.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypedDict

from api.accept import rejections
from api.accept.intent import Intent, check_conversation
from api.accept.load_shedding import LoadMonitor
from api.accept.pricing import Pricing, quote
from api.accept.rejections import Rejections
from api.guards.identify import Caller
from api.guards.rate_limits import RateLimits, rate_headers
from api.live_fleet import LiveFleet
from api.polling.eta import ModelDurations
from api.polling.hints import Outlook
from shared import fairness, ids
from shared.catalogue import CatalogueHolder
from shared.clock import Clock, iso
from shared.errors import (
    NotNowError,
    PolluxError,
    UnavailableError,
)
from shared.redis import functions, keys
from shared.redis.client import Connection, Redis
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
from shared.settings import RetentionSettings, Settings
from shared.stores import generations, idempotency_records
from shared.stores.fleet import Fleet
from shared.stores.idempotency_records import IdempotencyRecord
from shared.stores.partition_load import has_memory
from shared.telemetry import logs
from shared.wire import submission as submissions
from shared.wire.generation import QueuePosition
from shared.wire.submission import Lane, Submission


class IdempotencyArguments(TypedDict):
    """The fields by which a Redis function recognizes a repeated request."""

    idempotency: str | None
    fingerprint: str | None
    idempotency_ms: int | None


class Idempotency(NamedTuple):
    """A caller's Idempotency-Key, and a fingerprint of route and raw body."""

    key: str
    fingerprint: str

    @classmethod
    def of(cls, key: str, route: str, raw: bytes) -> "Idempotency":
        """Hash both: the key may have any form, the body any size."""
        return cls(
            idempotency_records.hash_key(key),
            hashlib.sha256(route.encode() + b"\n" + raw).hexdigest()[:32],
        )


def idempotency_arguments(
    idempotency: Idempotency | None, retention: RetentionSettings
) -> IdempotencyArguments:
    """Return what a Redis function keeps of an Idempotency-Key, and for how long."""
    if idempotency is None:
        return {"idempotency": None, "fingerprint": None, "idempotency_ms": None}
    return {
        "idempotency": idempotency.key,
        "fingerprint": idempotency.fingerprint,
        "idempotency_ms": retention.idempotency_seconds * 1000,
    }


class Receipt(NamedTuple):
    """A message is accepted.

    In the answer to a repeated request `position`, `deadline_seconds` (the time left for an answer)
    and `outlook` (for the poll hint) are None.
    """

    generation: str
    session: str | None
    position: QueuePosition | None
    rate: Rate | None
    deadline_seconds: float | None = None
    outlook: Outlook | None = None

    def headers(self) -> dict[str, str]:
        """Return the headers of a response that carries this receipt."""
        return receipt_headers(self.rate, is_replayed=self.position is None)


def receipt_headers(rate: Rate | None, *, is_replayed: bool) -> dict[str, str]:
    """Return the headers of a response to a request that created something, or repeated one."""
    headers = rate_headers(rate)
    if is_replayed:
        headers["idempotent-replayed"] = "true"
    return headers


class _Room(NamedTuple):
    """How many unfinished generations the caller's partition may have, and how fast they end."""

    total_max: int
    outlook: Outlook


@dataclass(kw_only=True)
class Submissions:
    """Accepts messages. `durable_redis` waits for a replica where the settings ask for it."""

    settings: Settings
    redis: Redis
    durable_redis: Connection
    clock: Clock
    catalogue_holder: CatalogueHolder
    live_fleet: LiveFleet
    model_durations: ModelDurations
    load_monitor: LoadMonitor
    rate_limits: RateLimits
    rejections: Rejections

    @cached_property
    def _persona_tokens_max(self) -> int:
        """The tokens of the longest companion's persona."""
        companions = self.settings.companions
        return max((price.tokens_in(each.persona) for each in companions), default=0)

    async def accept(
        self,
        caller: Caller,
        intent: Intent,
        idempotency: Idempotency | None,
        request_id: str,
        *,
        origin: str | None = None,
    ) -> Receipt:
        """Accept a message, which wakes a worker.

        `origin` is what the generation keeps of its request (`api/follow/resume.py`).

        Raises:
            RequestError: INVALID_FIELDS, MODEL_NOT_FOUND, NO_SUITABLE_MODEL, FEATURE_UNAVAILABLE,
                CONTEXT_TOO_LONG, SESSION_NOT_FOUND, IDEMPOTENCY_MISMATCH.
            RefusedError: RATE_LIMITED, QUOTA_EXCEEDED, INSUFFICIENT_CREDITS, SESSION_BUSY,
                QUEUE_FULL.
            UnavailableError: Redis is away; the same Idempotency-Key may be sent again.

        """
        if intent.conversation is not None or intent.tools:
            check_conversation(intent)
        fleet = await self.live_fleet.current()
        pricing = self.quote(intent, fleet)
        known = await self.model_durations.durations(caller.root, intent.model)
        room = _Room(await self._total_max(caller, intent.lane), Outlook(known, fleet))
        ask = self._ask(caller, intent, pricing, room, idempotency, origin=origin)
        submission = submission_of(intent, pricing, ask.session, request_id)
        result = await self._accept_durably(caller.root, ask, submissions.encode(submission))
        match result:
            case Accepted():
                self._note_accepted(caller, result.unfinished)
                logs.logger().info(
                    "accepted", generation=ask.generation, account=caller.account.id, lane=ask.lane
                )
                position, seconds = _position(result, ask.running_max), ask.deadline_ms / 1000
                return Receipt(
                    ask.generation, ask.session, position, result.rate, seconds, room.outlook
                )
            case Replayed(generation, session):
                # We repeated a call whose reply was lost: to the caller that is no replay.
                if generation == ask.generation:
                    return Receipt(generation, session, QueuePosition(), None)
                note_replayed(caller)
                return Receipt(generation, session, None, None)
            case Rejected():
                raise await self.rejections.error(caller.root, ask, result)

    async def receipt_of_first_request(
        self, caller: Caller, idempotency: Idempotency | None, refused: PolluxError
    ) -> Receipt:
        """Return the receipt of the first request with this key, now that this one is refused.

        Only a request that is about to be refused pays for the look-up. Raises `refused` when it
        repeats none, RequestError (IDEMPOTENCY_MISMATCH) when the key was used for another request.
        """
        found = await self.stored_receipt(caller, idempotency, refused)
        if found.generation is None:
            raise refused
        return Receipt(found.generation, found.session, None, None)

    async def stored_receipt(
        self, caller: Caller, idempotency: Idempotency | None, refused: PolluxError
    ) -> IdempotencyRecord:
        """Return the ids stored for a repeated request; raises as `receipt_of_first_request`."""
        # A server that just failed to reply would only cost a second timeout.
        is_redis_away = isinstance(refused, UnavailableError) and not isinstance(
            refused, NotNowError
        )
        if idempotency is None or is_redis_away:
            raise refused
        found = await idempotency_records.find(
            self.redis, caller.root, caller.account.id, idempotency.key
        )
        if found is None:
            raise refused
        if found.fingerprint != idempotency.fingerprint:
            raise rejections.idempotency_mismatch() from refused
        note_replayed(caller)
        return found

    def session_name(self) -> str:
        """Return the name of a session that its caller did not name."""
        return f"API Chat - {iso(self.clock.now_ms())[:10]}"

    def _note_accepted(self, caller: Caller, unfinished: int) -> None:
        self.rate_limits.note_unfinished(caller.account.id, unfinished, is_new=True)
        if caller.attempt is not None:
            caller.attempt.give_back()

    async def _accept_durably(
        self, root: str, ask: AcceptAsk, submission: bytes
    ) -> Accepted | Replayed | Rejected:
        """Accept; what no replica confirmed in time is cancelled before it is refused."""
        try:
            return await functions.accept(self.durable_redis, root, ask, submission)
        except NotReplicatedError:
            cancel_ask = CancelAsk.of(self.settings, ask.account, ask.generation)
            await functions.cancel(self.redis, root, cancel_ask)
            raise

    def quote(self, intent: Intent, fleet: Fleet) -> Pricing:
        """Return what an answer may cost. Raises RequestError where no model can give one."""
        catalogue, offered = self.catalogue_holder.catalogue, self.live_fleet.offered(fleet)
        return quote(self.settings, catalogue, offered, intent, fleet)

    async def _total_max(self, caller: Caller, lane: Lane) -> int:
        """Return how many unfinished generations the partition may have; 0 without memory.

        The configured bound counts all partitions together.
        """
        loads, limits = await self.load_monitor.loads(), self.settings.limits
        if not has_memory(loads[caller.root], limits, lane, caller.account.tier):
            return 0
        elsewhere = sum(load.unfinished for root, load in loads.items() if root != caller.root)
        return limits.unfinished_total - elsewhere

    def _deadline_ms(self, intent: Intent) -> int:
        limits = self.settings.limits
        default = (
            limits.interactive_deadline_seconds
            if intent.lane == "interactive"
            else limits.batch_deadline_seconds
        )
        return int(min(intent.deadline_seconds or default, limits.deadline_seconds_max) * 1000)

    def _ask(
        self,
        caller: Caller,
        intent: Intent,
        pricing: Pricing,
        room: _Room,
        idempotency: Idempotency | None,
        *,
        origin: str | None,
    ) -> AcceptAsk:
        settings, limits = self.settings, self.settings.limits
        deadline_ms, name = self._deadline_ms(intent), self.session_name()
        tier = limits.of(caller.account.tier)
        is_interrupt = intent.on_conflict == "interrupt"
        history_max = pricing.model.context_window - pricing.tokens - pricing.paid_output_tokens
        return AcceptAsk(
            account=caller.account.id,
            key=caller.key.id,
            generation=ids.new_id(),
            session=None if intent.is_sessionless else intent.session or ids.new_id(),
            is_new=intent.session is None and not intent.is_sessionless,
            message=ids.new_id(),
            content=intent.message,
            lane=intent.lane,
            wire=intent.wire,
            model=intent.model,
            hold=pricing.hold,
            deadline_ms=deadline_ms,
            per_minute=tier.submissions_per_minute,
            unfinished_max=tier.unfinished_max,
            waiting_max=limits.waiting_per_session,
            running_max=tier.running_max,
            stride=fairness.STRIDE // tier.weight,
            total_max=room.total_max,
            slots=room.outlook.fleet.slots,
            rounds_max=int(deadline_ms / 1000 / room.outlook.known.typical_seconds),
            sessions_max=tier.sessions_max,
            stored_bytes_max=tier.stored_bytes_max,
            on_conflict=None if intent.on_conflict == "enqueue" else intent.on_conflict,
            keep=KeepTimes.of(settings.retention) if is_interrupt else None,
            channels=keys.worker_channels(settings.redis) if is_interrupt else None,
            name=name,
            system_prompt=intent.system_prompt if intent.session is None else None,
            companion=intent.companion,
            metadata=intent.metadata,
            project=intent.project,
            media=intent.features.media_urls or None,
            input_price=price.input_price(pricing.model),
            history_max=max(0, history_max),
            added=price.tokens_in(intent.message)
            + price.tokens_of_answer(pricing.paid_output_tokens),
            persona=self._persona_tokens_max,
            budget=intent.budget,
            least=pricing.hold_min,
            origin=origin,
            webhook=intent.webhook,
            **idempotency_arguments(idempotency, settings.retention),
        )


def submission_of(
    intent: Intent, pricing: Pricing, session: str | None, request_id: str
) -> Submission:
    """Return what a worker needs to know of a message beside its text."""
    return Submission(
        session=session,
        model=intent.model,
        enhance_prompt=intent.enhance_prompt,
        max_output_tokens=pricing.paid_output_tokens,
        request_id=request_id,
        companion=intent.companion,
        features=intent.features,
        holds_history=True,
        conversation=intent.conversation,
        tools=intent.tools,
        tool_choice=intent.tool_choice,
        sampling=intent.sampling,
        form=intent.form,
    )


def note_replayed(caller: Caller) -> None:
    """Count a submission as a repeated one."""
    if caller.attempt is not None:
        caller.attempt.note_replayed()


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
