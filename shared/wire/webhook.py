"""Webhooks as they are stored: where an account's events go, deliveries and their attempts.

A delivery is one event for one receiver. Its id is the event's subject and id, so it is the same
whoever makes it and however often it is sent.
"""

import base64
import secrets
from typing import Final, Literal

import msgspec

DeliveryState = Literal["pending", "delivered", "failed"]
# Why a delivery ended without being delivered: the receiver answered 410, the URL must not be
# called, a day has passed, the account's webhook was deleted or disabled meanwhile.
FailureReason = Literal["gone", "refused", "too_late", "disabled"]

SECRET_PREFIX: Final = "whsec_"  # noqa: S105  no secret, what one begins with
_SECRET_BYTES: Final = 32
# Of a receiver's answer, so much is kept.
ANSWER_BYTES_MAX: Final = 1_024
# A day has some sixty attempts; a delivery that is replayed again and again has the latest.
ATTEMPTS_KEPT: Final = 100
# Of how many of them the receiver's answers are kept.
ANSWERS_KEPT: Final = 10


def new_secret() -> str:
    """Return a new secret, as the Standard Webhooks specification writes one."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """Where an account's events are reported. Times in ms.

    `disabled_at` is when its receiver answered that it wants no more.
    """

    url: str
    events: tuple[str, ...]
    created: int
    updated: int
    former_until: int | None = None
    disabled_at: int | None = None


class Attempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One call of a receiver: when it began, in ms, and how long it took.

    `status` is the answer's, `answer` its first bytes as text; `error` says why there is none.
    """

    at: int
    duration_ms: int
    status: int | None = None
    answer: str = ""
    error: str = ""


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One event for one receiver. Times in ms.

    `next` is when the next attempt is due. An attempt is None while its call is under way, and for
    ever where its worker died. `attempts` are the latest, of which the first has the number
    `first_attempt`.
    """

    id: str
    event: str
    type: str
    subject: str
    url: str
    state: DeliveryState
    created: int
    reason: FailureReason | None = None
    next: int | None = None
    ended: int | None = None
    attempts: tuple[Attempt | None, ...] = ()
    first_attempt: int = 1


encode_attempt = msgspec.msgpack.Encoder().encode
decode_attempt = msgspec.msgpack.Decoder(Attempt).decode
