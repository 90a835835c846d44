"""What a message waits for, told to a person as long as no word of its answer has come.

Owns the looks at the status and their sentence: stage, place in the line, model, time left. Refuses
to fail: a look that brings nothing tells nothing.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Final

import httpx
import msgspec

from shared.clock import Clock

# Most answers begin sooner, and a look is cheap.
_POLL_SECONDS: Final = 2.0


class Eta(msgspec.Struct, frozen=True):
    """Seconds until the end: half of all answers take at most `p50`."""

    p50: float


class Routing(msgspec.Struct, frozen=True):
    """Which model answers, once that is known."""

    chosen: str | None = None


class Status(msgspec.Struct, frozen=True):
    """What is read of a status."""

    state: str
    stage: str
    queue_position: int | None = None
    eta_seconds: Eta | None = None
    routing: Routing | None = None

    def sentence(self) -> str:
        """Return what is waited for, as in `queued, place 3, model alpha, about 12 s left`."""
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
    """Note what is waited for, each time that it has changed, until cancelled.

    `poll_url` is empty as long as nothing has been accepted, and once words have come.
    """
    printed = ""
    while True:
        await clock.sleep(_POLL_SECONDS)
        sentence = await _poll(http, poll_url()) if poll_url() else ""
        # The answer may have begun while the status was asked for.
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
