"""Webhooks: set, rotate the secret, delete, test; deliveries: take, end, replay, list."""

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

import msgspec

from shared.errors import StoreError
from shared.redis.client import Connection, Reply
from shared.redis.functions.contract import Ask, text_of
from shared.redis.library import invoke
from shared.settings import WebhookSettings

# How long the former secret signs, too.
FORMER_SECRET_MS: Final = 86_400_000
# Between the end of a call's time and that of its lease: for the call that stores how it ended.
_LEASE_ROOM_MS: Final = 10_000


class SetWebhookAsk(Ask, frozen=True, kw_only=True):
    """Where to report which events; `events` are codes of types, each between blanks."""

    account: str
    url: str
    events: str
    secret: str


async def set_webhook(redis: Connection, root: str, ask: SetWebhookAsk) -> bool:
    """Set an account's webhook; return whether `secret` is its secret now."""
    return bool(await invoke(redis, "set_webhook", root, ask))


class RotateWebhookSecretAsk(Ask, frozen=True, kw_only=True):
    """A new secret; a `request` with the same id rotates once."""

    account: str
    secret: str
    request: str
    former_ms: int
    idempotency: str | None = None


async def rotate_webhook_secret(redis: Connection, root: str, ask: RotateWebhookSecretAsk) -> bool:
    """Give an account another secret; return whether it is that of this call."""
    return bool(await invoke(redis, "rotate_webhook_secret", root, ask))


class DeleteWebhookAsk(Ask, frozen=True, kw_only=True):
    """Whose webhook to delete; `offset` is 0 at first, then what the call before returned."""

    account: str
    offset: int


async def delete_webhook(redis: Connection, root: str, ask: DeleteWebhookAsk) -> tuple[bool, int]:
    """Delete an account's webhook and some of the deliveries to it.

    Return whether there was one, and the offset of the next piece, -1 after the last.
    """
    answer, following = await invoke(redis, "delete_webhook", root, ask)
    return text_of(answer) == "deleted", int(following)


class SendTestEventAsk(Ask, frozen=True, kw_only=True):
    """A test by an API key; a `request` with the same id is sent once."""

    account: str
    request: str
    key: str
    log_ms: int
    idempotency: str | None = None


async def send_test_event(redis: Connection, root: str, ask: SendTestEventAsk) -> str | None:
    """Send a test event to an account's webhook; return the event's id, None without a webhook."""
    reply: list[Reply] = await invoke(redis, "send_test_event", root, ask)
    match [text_of(each) for each in reply]:
        case ["sent", event]:
            return event
        case ["unknown"]:
            return None
        case _:
            raise StoreError(f"send_test_event answered {reply!r}")


class TakeDeliveriesAsk(Ask, frozen=True, kw_only=True):
    """How many deliveries to take, and under which rules; `calls` by account are under way here."""

    count: int
    lease_ms: int
    give_up_ms: int
    keep_ms: int
    kept_max: int
    undelivered_max: int
    calls_per_host: int
    calls_per_account: int
    secret: str
    calls: Mapping[str, int] | None = None

    @classmethod
    def of(
        cls, settings: WebhookSettings, count: int, calls: Mapping[str, int], secret: str
    ) -> "TakeDeliveriesAsk":
        """Return the arguments for a worker that has room for `count` more calls.

        An account may take a quarter of the room, so that many slow receivers of one account leave
        room for others.
        """
        return cls(
            count=count,
            lease_ms=int(settings.call_seconds * 1000) + _LEASE_ROOM_MS,
            give_up_ms=settings.give_up_seconds * 1000,
            keep_ms=max(settings.kept_seconds, settings.give_up_seconds) * 1000,
            kept_max=settings.kept_max,
            undelivered_max=settings.undelivered_max,
            calls_per_host=settings.calls_per_host,
            calls_per_account=max(1, count // 4),
            secret=secret,
            calls=calls or None,
        )


class TakenDelivery(NamedTuple):
    """A delivery to send now. `secrets` sign it; `target` is the queue from which it was taken."""

    account: str
    target: str
    id: str
    attempt: int
    event: str
    type: str
    subject: str
    created: int
    url: str
    secrets: tuple[str, ...]


class TakenDeliveries(NamedTuple):
    """What was taken, in how many ms something is due (None: nothing waits), what is damaged."""

    deliveries: list[TakenDelivery]
    next_ms: int | None
    faults: tuple[str, ...] = ()


async def take_deliveries(redis: Connection, root: str, ask: TakeDeliveriesAsk) -> TakenDeliveries:
    """Turn new events into deliveries, and take those that are due."""
    taken, next_ms, faults = await invoke(redis, "take_deliveries", root, ask)
    return TakenDeliveries(
        [_taken(each) for each in taken],
        None if int(next_ms) < 0 else int(next_ms),
        tuple(text_of(each) for each in faults),
    )


def _taken(fields: list[Reply]) -> TakenDelivery:
    account, target, id_, attempt, event, type_name, subject, created, url, *secrets = fields
    return TakenDelivery(
        account=text_of(account),
        target=text_of(target),
        id=text_of(id_),
        attempt=int(attempt),
        event=text_of(event),
        type=text_of(type_name),
        subject=text_of(subject),
        created=int(created),
        url=text_of(url),
        secrets=tuple(text_of(each) for each in secrets if each),
    )


# Of an attempt: the receiver has it; try again; never; the receiver wants no more.
Outcome = Literal["delivered", "retry", "failed", "gone"]


class EndDeliveryAsk(Ask, frozen=True, kw_only=True):
    """How an attempt ended, and in how many ms to make the next one."""

    account: str
    target: str
    id: str
    attempt: int
    outcome: Outcome
    retry_ms: int = 0
    calls_per_host: int


async def end_delivery(
    redis: Connection, root: str, ask: EndDeliveryAsk, attempt: bytes
) -> Literal["pending", "delivered", "failed", "disabled", "unknown"]:
    """Store an attempt; return the delivery's state, or that its webhook is disabled now."""
    answer = text_of(await invoke(redis, "end_delivery", root, ask, blob=attempt))
    match answer:
        case "pending" | "delivered" | "failed" | "disabled" | "unknown":
            return answer
        case _:
            raise StoreError(f"end_delivery answered {answer}")


class ReplayDeliveryAsk(Ask, frozen=True, kw_only=True):
    """Which delivery to send again; a `request` with the same id sends it once."""

    account: str
    id: str
    request: str
    give_up_ms: int
    keep_ms: int
    idempotency: str | None = None


async def replay_delivery(
    redis: Connection, root: str, ask: ReplayDeliveryAsk
) -> Literal["replayed", "unknown", "disabled"]:
    """Send a delivery again; `disabled` where its receiver is no longer the account's."""
    answer = text_of(await invoke(redis, "replay_delivery", root, ask))
    match answer:
        case "replayed" | "unknown" | "disabled":
            return answer
        case _:
            raise StoreError(f"replay_delivery answered {answer}")


class ListDeliveriesAsk(Ask, frozen=True, kw_only=True):
    """A part of an account's deliveries, of one state if one is named."""

    account: str
    offset: int
    count: int
    state: str | None = None


async def list_deliveries(
    redis: Connection, root: str, ask: ListDeliveriesAsk
) -> tuple[list[tuple[str, list[bytes]]], int]:
    """Return deliveries by id, newest first, each with its hash; and how many there are in all."""
    total, found = await invoke(redis, "list_deliveries", root, ask, effect="none")
    return [(text_of(id_), fields) for id_, fields in found], int(total)


class DeliveryLoadAsk(Ask, frozen=True, kw_only=True):
    """No arguments."""


class DeliveryLoadReply(msgspec.Struct, frozen=True, array_like=True):
    """A partition's deliveries: how many ended how, and how late the others are."""

    delivered: int
    failed: int
    undelivered: int
    oldest_ms: int
    late_ms: int
    disabled: int


async def delivery_load(redis: Connection, root: str, ask: DeliveryLoadAsk) -> DeliveryLoadReply:
    """Return what deliveries came to, and how late they are."""
    return DeliveryLoadReply(*await invoke(redis, "delivery_load", root, ask))
