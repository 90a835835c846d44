"""Polls the status of a message until its answer begins, and prints what the message waits for.

Owns the polls and their sentence: stage, queue position, model, time left. Refuses to fail: a poll
without a usable reply prints nothing.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Final

import httpx
import msgspec

from shared.clock import Clock

# Most answers begin sooner, and a poll is cheap.
_POLL_SECONDS: Final = 2.0


class Eta(msgspec.Struct, frozen=True):
    """Seconds until the answer is complete: half of all answers take at most `p50`."""

    p50: float


class Routing(msgspec.Struct, frozen=True):
    """The chosen model, once it is known."""

    chosen: str | None = None


class Status(msgspec.Struct, frozen=True):
    """The fields that are read of a status."""

    state: str
    stage: str
    queue_position: int | None = None
    eta_seconds: Eta | None = None
    routing: Routing | None = None

    def sentence(self) -> str:
        """Return what the message waits for: `queued, place 3, model alpha, about 12 s left`."""
        parts = [self.stage.replace("_", " ")]
        if self.queue_position is not None and self.stage in {"queued", "retrying"}:
            parts.append(f"place {self.queue_position + 1}")
        if self.routing is not None and self.routing.chosen:
            parts.append(f"model {self.routing.chosen}")
        if self.eta_seconds is not None:
            parts.append(f"about {max(1, round(self.eta_seconds.p50))} s left")
        return ", ".join(parts)


_decode = msgspec.json.Decoder(Status).decode


async def print_changes(
    http: httpx.AsyncClient, clock: Clock, poll_url: Callable[[], str], note: Callable[[str], None]
) -> None:
    """Note what the message waits for, each time that it changes, until cancelled.

    `poll_url` returns an empty text before the message is accepted, and once the answer has begun.
    """
    printed = ""
    while True:
        await clock.sleep(_POLL_SECONDS)
        sentence = await _poll(http, poll_url()) if poll_url() else ""
        # The answer may have begun during the poll.
        if sentence and sentence != printed and poll_url():
            printed = sentence
            note(f"waiting: {sentence}")


async def _poll(http: httpx.AsyncClient, poll_url: str) -> str:
    with suppress(httpx.HTTPError, msgspec.MsgspecError):
        reply = await http.get(poll_url)
        if reply.is_success:
            status = _decode(reply.content)
            return status.sentence() if status.state == "processing" else ""
    return ""
