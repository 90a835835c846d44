"""Makes one attempt at a delivery: signs the payload, calls the receiver, judges the answer.

Owns the payload, the times between attempts, and what an answer means. 2xx is delivered; 410 asks
for no more; a URL that must not be called is never tried again; everything else is, redirects too.
"""

import random
from http import HTTPStatus
from typing import Final, NamedTuple

import msgspec

from shared.clock import Clock, iso
from shared.errors import EgressError
from shared.redis.functions import Outcome, TakenDelivery
from shared.settings import WebhookSettings
from shared.wire import account_event
from shared.wire.account_event import AccountEvent
from shared.wire.webhook import ANSWER_BYTES_MAX, Attempt
from worker.fetching.url_fetcher import UrlFetcher
from worker.webhooks import signature

_FIRST_SECONDS: Final = 5.0
_LONGEST_SECONDS: Final = 3_600.0
_encode = msgspec.json.Encoder().encode


class Sent(NamedTuple):
    """An attempt, what it means for the delivery, and in how many ms to try again."""

    attempt: Attempt
    outcome: Outcome
    retry_ms: int = 0


class Sender:
    """Calls receivers through the worker's one way out."""

    def __init__(self, settings: WebhookSettings, url_fetcher: UrlFetcher, clock: Clock) -> None:
        self._settings = settings
        self._url_fetcher = url_fetcher
        self._clock = clock

    async def send(self, delivery: TakenDelivery) -> Sent:
        """Make one attempt; it raises nothing that a receiver could cause."""
        began, began_ms = self._clock.monotonic(), self._clock.now_ms()
        body = payload(delivery, self._settings)
        headers = signature.headers(delivery.id, began_ms // 1000, body, delivery.secrets)
        status, answer, error, is_forbidden = None, b"", "", False
        try:
            status, answer = await self._url_fetcher.post(
                delivery.url,
                body,
                {"content-type": "application/json", **headers},
                account=delivery.account,
                seconds=self._settings.call_seconds,
                answer_bytes_max=ANSWER_BYTES_MAX,
            )
        except EgressError as failed:
            error, is_forbidden = failed.message, failed.kind == "forbidden"
        attempt = Attempt(
            at=began_ms,
            duration_ms=int((self._clock.monotonic() - began) * 1000),
            status=status,
            answer=_text(answer),
            error=error,
        )
        outcome = _outcome(status, is_forbidden=is_forbidden)
        return Sent(attempt, outcome, retry_ms(delivery.attempt) if outcome == "retry" else 0)


def payload(delivery: TakenDelivery, settings: WebhookSettings) -> bytes:
    """Return the body of a delivery: the same bytes at every attempt."""
    event = AccountEvent(
        id=delivery.event,
        type=delivery.type,
        actor=None,
        subject=delivery.subject,
        created=account_event.order(delivery.event)[0],
    )
    base = (settings.public_url or "").rstrip("/")
    return _encode(
        {
            "type": event.type,
            "timestamp": iso(event.created),
            "data": {
                "id": event.subject,
                "url": None if event.path is None else base + event.path,
                "event_id": event.id,
            },
        }
    )


def retry_ms(attempt: int) -> int:
    """Return how long to wait after the n-th attempt: 5 s, doubled each time, at most an hour.

    Half of it is random, so that a receiver that comes back is not called by all at once.
    """
    longest = min(_LONGEST_SECONDS, _FIRST_SECONDS * 2 ** min(attempt - 1, 16))
    return int(longest * random.uniform(0.5, 1.0) * 1000)  # noqa: S311  jitter


def _text(answer: bytes) -> str:
    """Return an answer as text that takes no more bytes than the answer may have."""
    text = answer.decode(errors="replace")
    return text.encode()[:ANSWER_BYTES_MAX].decode(errors="ignore")


def _outcome(status: int | None, *, is_forbidden: bool) -> Outcome:
    if is_forbidden:
        return "failed"
    if status is None:
        return "retry"
    if status == HTTPStatus.GONE:
        return "gone"
    return "delivered" if HTTPStatus(200) <= status < HTTPStatus.MULTIPLE_CHOICES else "retry"
