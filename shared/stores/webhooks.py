"""An account's webhook and its deliveries, as they are shown. Changes are Redis functions."""

import asyncio
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import msgspec

from shared.redis import functions, keys
from shared.redis.client import Connection
from shared.redis.functions import DeleteWebhookAsk, DeliveryLoadAsk, ListDeliveriesAsk
from shared.wire.account_event import CODES, TYPES
from shared.wire.webhook import ATTEMPTS_KEPT, Delivery, DeliveryState, Webhook, decode_attempt


class DeliveryLoad(NamedTuple):
    """Deliveries of all accounts: how many have ended how, and how late the others are."""

    delivered: int
    failed: int
    undelivered: int
    oldest_seconds: int
    late_seconds: int
    disabled: int


async def load(redis: Connection, roots: Iterable[str]) -> DeliveryLoad:
    """Return the figures of all partitions: sums, and the latest of all."""
    ask = DeliveryLoadAsk()
    found = await asyncio.gather(*(functions.delivery_load(redis, root, ask) for root in roots))
    return DeliveryLoad(
        delivered=sum(each.delivered for each in found),
        failed=sum(each.failed for each in found),
        undelivered=sum(each.undelivered for each in found),
        oldest_seconds=max(each.oldest_ms for each in found) // 1000,
        late_seconds=max(each.late_ms for each in found) // 1000,
        disabled=sum(each.disabled for each in found),
    )


def events_text(types: tuple[str, ...]) -> str:
    """Return types of events as a webhook stores them."""
    return "".join(f" {CODES.get(each, each)}" for each in types) + " "


async def find(redis: Connection, root: str, account: str) -> Webhook | None:
    """Return an account's webhook, or None."""
    names = ("url", "events", "created", "updated", "former_until", "disabled_at")
    found = await redis.call("HMGET", keys.WEBHOOK(root, account), *names)
    stored = {
        name: value.decode() for name, value in zip(names, found, strict=True) if value is not None
    }
    if "url" not in stored:
        return None
    codes = stored.get("events", "").split()
    fields = stored | {"events": [TYPES.get(code, code) for code in codes]}
    return msgspec.convert(fields, Webhook, strict=False)


async def delete(redis: Connection, root: str, account: str) -> bool:
    """Delete an account's webhook and the deliveries to it; False where there was none.

    The deliveries go piece by piece, and other calls come between.
    """
    was_set, offset = False, 0
    while offset >= 0:
        ask = DeleteWebhookAsk(account=account, offset=offset)
        is_deleted, offset = await functions.delete_webhook(redis, root, ask)
        was_set = was_set or is_deleted
    return was_set


async def page(
    redis: Connection,
    root: str,
    account: str,
    *,
    offset: int,
    limit: int,
    state: DeliveryState | None = None,
) -> tuple[list[Delivery], int]:
    """Return an account's deliveries, newest first, and how many there are."""
    ask = ListDeliveriesAsk(account=account, offset=offset, count=limit, state=state)
    found, total = await functions.list_deliveries(redis, root, ask)
    return [_delivery(id_, dict(_pairs(fields))) for id_, fields in found], total


async def find_delivery(redis: Connection, root: str, account: str, id_: str) -> Delivery | None:
    """Return a delivery, or None."""
    stored: dict[bytes, bytes] = await redis.call("HGETALL", keys.DELIVERY(root, account, id_))
    return _delivery(id_, stored) if b"state" in stored else None


def _pairs(flat: list[bytes]) -> list[tuple[bytes, bytes]]:
    return list(pairwise(flat))[::2]


def _delivery(id_: str, stored: dict[bytes, bytes]) -> Delivery:
    count = int(stored.get(b"attempts", b"0"))
    first = max(1, count - ATTEMPTS_KEPT + 1)
    records = [stored.get(b"a%d" % number) for number in range(first, count + 1)]
    texts = {
        name.decode(): value.decode()
        for name, value in stored.items()
        if name.decode() in Delivery.__struct_fields__ and value
    }
    attempts = [None if record is None else decode_attempt(record) for record in records]
    found = texts | {"id": id_, "attempts": attempts, "first_attempt": first}
    return msgspec.convert(found, Delivery, strict=False)
