"""The rows of the route table that are about events and webhooks."""

from typing import Final, get_args

from api.dialects.kombify import paging, webhook_wire as wire
from api.dialects.kombify.events import list_events
from api.dialects.kombify.webhooks import (
    delete_config,
    list_deliveries,
    put_config,
    read_config,
    read_delivery,
    replay_delivery,
    rotate_secret,
    send_test,
)
from api.endpoints.endpoint import Endpoint, Query
from api.guards.body_kinds import JsonBody
from api.openapi.headers import ACCEPTED
from shared.errors import Code
from shared.wire.webhook import DeliveryState

WEBHOOK_ENDPOINTS: Final = (
    Endpoint(
        operation="list_events",
        method="GET",
        path="/events",
        scope="read",
        handler=list_events,
        summary="Follow the events of the account",
        description=(
            "The account's log, oldest first: the end of every generation and batch, as webhooks "
            "report it. A reader that sends `next` of the last reply as `after` misses nothing "
            "and reads nothing twice; it can be away for 30 days, the default of how far the log "
            "reaches back. Items of a batch have no events of their own."
        ),
        replies=wire.EventsReply,
        query=(
            Query("after", "string", "The `next` of the last reply, or the id of an event."),
            Query("type", "string", "Only events of this type, as in generation.completed."),
            paging.PAGING[0],
        ),
    ),
    Endpoint(
        operation="set_webhook",
        method="PUT",
        path="/webhooks/config",
        scope="keys",
        handler=put_config,
        summary="Set the webhook of the account",
        description=(
            "Events are sent as the Standard Webhooks specification says, signed with the "
            "account's secret, which is shown when it is made. A webhook that its receiver has "
            "disabled is enabled again."
        ),
        body=JsonBody(wire.WebhookBody),
        replies=wire.WebhookReply,
        errors=(Code.MISSING_FIELDS, Code.QUEUE_FULL),
    ),
    Endpoint(
        operation="get_webhook",
        method="GET",
        path="/webhooks/config",
        scope="read",
        handler=read_config,
        summary="Read the webhook of the account",
        replies=wire.WebhookReply,
        errors=(Code.NOT_FOUND,),
    ),
    Endpoint(
        operation="delete_webhook",
        method="DELETE",
        path="/webhooks/config",
        scope="keys",
        handler=delete_config,
        summary="Delete the webhook of the account",
        description="Its secrets and the deliveries to it are deleted with it.",
        replies=None,
        status=204,
        errors=(Code.NOT_FOUND,),
    ),
    Endpoint(
        operation="rotate_webhook_secret",
        method="POST",
        path="/webhooks/config/rotate",
        scope="keys",
        handler=rotate_secret,
        summary="Replace the secret of the account's webhooks",
        description=(
            "For a day, requests are signed with the former secret, too. The secret also signs "
            "what is sent to a `webhook_url`: an account without a webhook gets it here."
        ),
        replies=wire.SecretReply,
        headers=("Idempotency-Key",),
        response_headers=ACCEPTED,
        errors=(Code.IDEMPOTENCY_MISMATCH, Code.QUEUE_FULL),
    ),
    Endpoint(
        operation="test_webhook",
        method="POST",
        path="/webhooks/test",
        scope="chat",
        handler=send_test,
        summary="Send a test event",
        replies=wire.TestReply,
        status=202,
        headers=("Idempotency-Key",),
        response_headers=("Location", *ACCEPTED),
        errors=(Code.NOT_FOUND, Code.IDEMPOTENCY_MISMATCH),
    ),
    Endpoint(
        operation="list_deliveries",
        method="GET",
        path="/webhooks/deliveries",
        scope="read",
        handler=list_deliveries,
        summary="List the deliveries of the account",
        replies=wire.DeliveriesReply,
        query=(
            Query("state", "string", "Only those in this state.", get_args(DeliveryState)),
            *paging.PAGING,
        ),
    ),
    Endpoint(
        operation="get_delivery",
        method="GET",
        path="/webhooks/deliveries/{delivery_id}",
        scope="read",
        handler=read_delivery,
        summary="Read a delivery and its attempts",
        replies=wire.DeliveryReply,
        errors=(Code.NOT_FOUND,),
    ),
    Endpoint(
        operation="replay_delivery",
        method="POST",
        path="/webhooks/deliveries/{delivery_id}/replay",
        scope="chat",
        handler=replay_delivery,
        summary="Send a delivery again",
        description=(
            "With the same id, and to where the account's webhook is now; it has a day again."
        ),
        replies=wire.DeliveryReply,
        status=202,
        headers=("Idempotency-Key",),
        response_headers=ACCEPTED,
        errors=(Code.NOT_FOUND, Code.IDEMPOTENCY_MISMATCH),
    ),
)
