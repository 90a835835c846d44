"""Sets, reads, tests and deletes an account's webhook, and lists and replays its deliveries.

A webhook is the account's own; what belongs to another account is refused as unknown. Requests that
create something count as submissions, and are recognized when they are repeated.
"""

from typing import NamedTuple

from api.accept import accept, rejections
from api.accept.accept import Idempotency
from api.endpoints.endpoint import RequestContext
from shared import egress, ids
from shared.egress import EgressPolicy
from shared.errors import Code, EgressError, RequestError
from shared.redis import functions
from shared.redis.functions import (
    FORMER_SECRET_MS,
    Rate,
    Rejected,
    ReleaseIdempotencyKeyAsk,
    ReplayDeliveryAsk,
    RotateWebhookSecretAsk,
    SendTestEventAsk,
    SetWebhookAsk,
)
from shared.settings import EgressSettings
from shared.stores import webhooks
from shared.wire.webhook import Delivery, DeliveryState, Webhook, new_secret


class Request(NamedTuple):
    """A request that was counted: its own id, or that of the request which it repeats."""

    id: str
    rate: Rate | None

    @property
    def is_replayed(self) -> bool:
        """Whether it repeats another."""
        return self.rate is None


def check_url(url: str, settings: EgressSettings) -> str:
    """Return a receiver's URL in its normal form; no name is resolved.

    Raises RequestError (INVALID_FIELDS) for one that could never be called.
    """
    try:
        target = egress.parse(url)
        EgressPolicy(settings.allow, settings.ports).check(target)
    except EgressError as error:
        raise RequestError(
            f"The field `url` cannot be taken. {error.message}", Code.INVALID_FIELDS
        ) from None
    return target.url


async def put(
    context: RequestContext, url: str, events: tuple[str, ...]
) -> tuple[Webhook, str | None]:
    """Set the account's webhook; return it, and its secret if that was made now."""
    state, caller = context.state, context.caller
    await state.rejections.check_memory(caller)
    ask = SetWebhookAsk(
        account=caller.account.id,
        url=check_url(url, state.settings.egress),
        events=webhooks.events_text(events),
        secret=new_secret(),
    )
    is_new = await functions.set_webhook(state.redis, caller.root, ask)
    return await load(context), ask.secret if is_new else None


async def load(context: RequestContext) -> Webhook:
    """Return the account's webhook. Raises RequestError (NOT_FOUND)."""
    caller = context.caller
    found = await webhooks.find(context.state.redis, caller.root, caller.account.id)
    if found is None:
        raise unknown_webhook()
    return found


async def delete(context: RequestContext) -> None:
    """Delete the account's webhook. Raises RequestError (NOT_FOUND)."""
    caller = context.caller
    if not await webhooks.delete(context.state.redis, caller.root, caller.account.id):
        raise unknown_webhook()


async def rotate(
    context: RequestContext, idempotency: Idempotency | None
) -> tuple[Request, str | None]:
    """Give the account another secret; None where the repeated request has done it."""
    await context.state.rejections.check_memory(context.caller)
    request = await _count(context, idempotency)
    ask = RotateWebhookSecretAsk(
        account=context.caller.account.id,
        secret=new_secret(),
        request=request.id,
        former_ms=FORMER_SECRET_MS,
        idempotency=None if idempotency is None else idempotency.key,
    )
    is_new = await functions.rotate_webhook_secret(context.state.redis, context.caller.root, ask)
    return request, ask.secret if is_new else None


async def send_test(
    context: RequestContext, idempotency: Idempotency | None
) -> tuple[Request, str, str]:
    """Send a test event to the account's webhook; return its id and that of its delivery.

    Raises RequestError (NOT_FOUND).
    """
    request = await _count(context, idempotency)
    ask = SendTestEventAsk(
        account=context.caller.account.id,
        request=request.id,
        key=context.caller.key.id,
        log_ms=context.state.settings.retention.log_seconds * 1000,
        idempotency=None if idempotency is None else idempotency.key,
    )
    event = await functions.send_test_event(context.state.redis, context.caller.root, ask)
    if event is None:
        await _free(context, idempotency, request)
        raise unknown_webhook()
    return request, event, f"{request.id}-{event}"


async def page(
    context: RequestContext, *, offset: int, limit: int, state: DeliveryState | None
) -> tuple[list[Delivery], int]:
    """Return the account's deliveries, newest first, and how many there are."""
    caller = context.caller
    return await webhooks.page(
        context.state.redis,
        caller.root,
        caller.account.id,
        offset=offset,
        limit=limit,
        state=state,
    )


async def load_delivery(context: RequestContext) -> Delivery:
    """Return the path's delivery. Raises RequestError (NOT_FOUND)."""
    caller, id_ = context.caller, _delivery_id(context)
    found = await webhooks.find_delivery(context.state.redis, caller.root, caller.account.id, id_)
    if found is None:
        raise _unknown_delivery()
    return found


async def replay(context: RequestContext, idempotency: Idempotency | None) -> Request:
    """Send the path's delivery again, with the same id.

    Raises RequestError (NOT_FOUND) for an unknown one, and where the account's webhook is deleted
    or disabled.
    """
    id_ = _delivery_id(context)
    request = await _count(context, idempotency)
    settings = context.state.settings.webhooks
    ask = ReplayDeliveryAsk(
        account=context.caller.account.id,
        id=id_,
        request=request.id,
        give_up_ms=settings.give_up_seconds * 1000,
        keep_ms=max(settings.kept_seconds, settings.give_up_seconds) * 1000,
        idempotency=None if idempotency is None else idempotency.key,
    )
    answer = await functions.replay_delivery(context.state.redis, context.caller.root, ask)
    if answer != "replayed":
        await _free(context, idempotency, request)
        raise _unknown_delivery() if answer == "unknown" else unknown_webhook()
    return request


async def _count(context: RequestContext, idempotency: Idempotency | None) -> Request:
    """Count a request, and reserve its Idempotency-Key.

    Raises RequestError (IDEMPOTENCY_MISMATCH), RefusedError (RATE_LIMITED).
    """
    state, caller = context.state, context.caller
    ask = functions.CountSubmissionAsk(
        account=caller.account.id,
        per_minute=state.settings.limits.of(caller.account.tier).submissions_per_minute,
        id=ids.new_id(),
        **accept.idempotency_arguments(idempotency, state.settings.retention),
    )
    counted = await functions.count_submission(state.redis, caller.root, ask)
    if not isinstance(counted, Rejected):
        if counted.id != ask.id:
            accept.note_replayed(caller)
        return Request(counted.id, counted.rate)
    if counted.reason == "mismatch":
        raise rejections.idempotency_mismatch()
    raise state.rejections.rate_limited(caller.account.id, counted.rate)


async def _free(context: RequestContext, idempotency: Idempotency | None, request: Request) -> None:
    """Forget the Idempotency-Key of a request that is refused."""
    if idempotency is not None:
        ask = ReleaseIdempotencyKeyAsk(
            account=context.caller.account.id, idempotency=idempotency.key, id=request.id
        )
        await functions.release_idempotency_key(context.state.redis, context.caller.root, ask)


def _delivery_id(context: RequestContext) -> str:
    id_ = context.path["delivery_id"]
    if not ids.is_id(id_):
        raise _unknown_delivery()
    return id_


def unknown_webhook() -> RequestError:
    """Return the refusal of an account without a webhook that may be called."""
    return RequestError(
        "The account has no webhook, or its receiver has disabled it by answering 410.",
        Code.NOT_FOUND,
    )


def _unknown_delivery() -> RequestError:
    return RequestError("There is no such delivery.", Code.NOT_FOUND)
