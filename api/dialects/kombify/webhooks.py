"""The webhook of an account and its deliveries in the Kombify dialect."""

from typing import Final, get_args

from api.accept import accept
from api.dialects.kombify import paging, webhook_wire as wire
from api.dialects.kombify.chat import idempotency
from api.endpoints.endpoint import RequestContext
from api.resources import webhooks
from api.server.responses import Response
from shared.clock import iso
from shared.errors import Code, RequestError
from shared.wire.webhook import Attempt, Delivery, DeliveryState, Webhook

_STATES: Final[tuple[DeliveryState, ...]] = get_args(DeliveryState)


async def put_config(context: RequestContext) -> Response:
    """PUT /webhooks/config: set where the account's events are reported."""
    body = context.body
    events = wire.EVENT_TYPES if body.events is None else tuple(dict.fromkeys(body.events))
    webhook, secret = await webhooks.put(context, body.url, events)
    return Response(_config(webhook, secret))


async def read_config(context: RequestContext) -> Response:
    """GET /webhooks/config: the account's webhook, without its secret."""
    return Response(_config(await webhooks.load(context), None))


async def delete_config(context: RequestContext) -> Response:
    """DELETE /webhooks/config: delete it, its secrets and the deliveries to it."""
    await webhooks.delete(context)
    return Response(None, status=204)


async def rotate_secret(context: RequestContext) -> Response:
    """POST /webhooks/config/rotate: give the account another secret."""
    request, secret = await webhooks.rotate(context, idempotency(context))
    headers = accept.receipt_headers(request.rate, is_replayed=request.is_replayed)
    return Response(wire.SecretReply(secret=secret), headers=headers)


async def send_test(context: RequestContext) -> Response:
    """POST /webhooks/test: send an event that only tests the webhook."""
    request, event, delivery = await webhooks.send_test(context, idempotency(context))
    headers = accept.receipt_headers(request.rate, is_replayed=request.is_replayed)
    headers["location"] = f"/v1/ai/webhooks/deliveries/{delivery}"
    return Response(
        wire.TestReply(event_id=event, delivery_id=delivery), status=202, headers=headers
    )


async def list_deliveries(context: RequestContext) -> Response:
    """GET /webhooks/deliveries: the account's deliveries, newest first."""
    limit, offset = paging.limit_and_offset(context)
    state = context.query.get("state") or None
    known: DeliveryState | None = next((each for each in _STATES if each == state), None)
    if known != state:
        raise RequestError(
            f"The parameter `state` must be one of {', '.join(_STATES)}.", Code.INVALID_FIELDS
        )
    found, total = await webhooks.page(context, offset=offset, limit=limit, state=known)
    items = [_delivery(each) for each in found]
    return Response(wire.DeliveriesReply(items=items, total=total, limit=limit, offset=offset))


async def read_delivery(context: RequestContext) -> Response:
    """GET /webhooks/deliveries/{delivery_id}: one delivery with every attempt."""
    return Response(_delivery(await webhooks.load_delivery(context)))


async def replay_delivery(context: RequestContext) -> Response:
    """POST /webhooks/deliveries/{delivery_id}/replay: send it again, with the same id."""
    request = await webhooks.replay(context, idempotency(context))
    headers = accept.receipt_headers(request.rate, is_replayed=request.is_replayed)
    return Response(_delivery(await webhooks.load_delivery(context)), status=202, headers=headers)


def _config(webhook: Webhook, secret: str | None) -> wire.WebhookReply:
    return wire.WebhookReply(
        url=webhook.url,
        events=list(webhook.events),
        secret=secret,
        former_secret_valid_until=_time(webhook.former_until),
        disabled_at=_time(webhook.disabled_at),
        created_at=iso(webhook.created),
        updated_at=iso(webhook.updated),
    )


def _delivery(delivery: Delivery) -> wire.DeliveryReply:
    return wire.DeliveryReply(
        id=delivery.id,
        event_id=delivery.event,
        type=delivery.type,
        subject=delivery.subject,
        url=delivery.url,
        state=delivery.state,
        reason=delivery.reason,
        next_attempt_at=_time(delivery.next) if delivery.state == "pending" else None,
        created_at=iso(delivery.created),
        finished_at=_time(delivery.ended),
        attempts=[
            _attempt(number, each)
            for number, each in enumerate(delivery.attempts, delivery.first_attempt)
        ],
    )


def _attempt(number: int, attempt: Attempt | None) -> wire.AttemptReply:
    if attempt is None:
        return wire.AttemptReply(number=number)
    return wire.AttemptReply(
        number=number,
        started_at=iso(attempt.at),
        duration_ms=attempt.duration_ms,
        status=attempt.status,
        answer=attempt.answer,
        error=attempt.error or None,
    )


def _time(at_ms: int | None) -> str | None:
    return None if at_ms is None else iso(at_ms)
