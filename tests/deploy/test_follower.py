"""The follower of one message: when it reconnects, how long it retries, and when it gives up."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from typing_extensions import override

from deploy.follower import Follower
from shared.errors import UnavailableError
from tests.deploy.scripted_api import (
    ID,
    ScriptedApi,
    ScriptedReply,
    accepted,
    accepted_without_stream,
    completed,
    event,
    refusal,
)
from tests.support.clocks import ManualClock


class SteadyClock(ManualClock):
    """A clock that moves by 50 s whenever it is read, so that every connection seems long."""

    @override
    def monotonic(self) -> float:
        self.now += 50.0
        return super().monotonic()


@asynccontextmanager
async def _follower(url: str, clock: ManualClock) -> AsyncIterator[tuple[Follower, list[str]]]:
    notes: list[str] = []
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        yield Follower(http, clock, notes.append), notes


async def _received(follower: Follower) -> list[str]:
    return [received.event.type async for received in follower.ask({"message": "What?"})]


async def test_an_address_that_never_answered_is_given_up_after_five_seconds() -> None:
    clock = ManualClock()
    async with ScriptedApi() as gone:
        url = gone.url
    async with _follower(url, clock) as (follower, notes):
        with pytest.raises(UnavailableError, match="did not answer"):
            await _received(follower)
    assert clock.slept == [0.25, 0.5, 1.0, 2.0]
    assert len(notes) == 1


async def test_an_api_that_answered_is_retried_with_growing_pauses(
    scripted_api: ScriptedApi,
) -> None:
    clock = ManualClock()
    scripted_api.replies.extend([refusal(503, "The queue is full.")] * 100)
    async with _follower(scripted_api.url, clock) as (follower, notes):
        with pytest.raises(UnavailableError, match="The queue is full"):
            await _received(follower)
    assert clock.slept == [0.25, 0.5, 1.0, 2.0, 4.0, *[5.0] * 10]
    assert notes == ["[The queue is full; trying again]"]


async def test_every_event_restarts_the_retry_timer(
    scripted_api: ScriptedApi,
) -> None:
    clock = ManualClock()
    for number in range(1, 30):
        scripted_api.replies.extend([refusal(503, "Away.", "Retry-After: 20")] * 2)
        scripted_api.replies.append(
            ScriptedReply((accepted(), event(f"1-{number}", "delta", text="x")))
        )
    scripted_api.replies.append(ScriptedReply((completed("1-99", "x"),)))
    async with _follower(scripted_api.url, clock) as (follower, _):
        assert (await _received(follower))[-1] == "completed"
    assert sum(clock.slept) > 600


async def test_a_long_connection_without_events_restarts_the_retry_timer(
    scripted_api: ScriptedApi,
) -> None:
    scripted_api.replies.append(ScriptedReply((accepted(),), is_cut=True))
    scripted_api.replies.extend([ScriptedReply((b": ping\n\n",), is_cut=True)] * 30)
    scripted_api.replies.append(ScriptedReply((completed("1-1", "x"),)))
    async with _follower(scripted_api.url, SteadyClock()) as (follower, _):
        assert await _received(follower) == ["accepted", "completed"]


async def test_a_short_connection_without_events_does_not_restart_the_retry_timer(
    scripted_api: ScriptedApi,
) -> None:
    scripted_api.replies.append(ScriptedReply((accepted(),), is_cut=True))
    scripted_api.replies.extend([ScriptedReply((b": ping\n\n",), is_cut=True)] * 100)
    async with _follower(scripted_api.url, ManualClock()) as (follower, _):
        with pytest.raises(UnavailableError, match="broke off"):
            await _received(follower)


async def test_an_accepted_message_whose_events_cannot_be_read_yet_is_followed_later(
    scripted_api: ScriptedApi,
) -> None:
    scripted_api.replies.append(accepted_without_stream())
    scripted_api.replies.append(refusal(503, "Away."))
    scripted_api.replies.append(ScriptedReply((accepted(), completed("1-1", "x"))))
    async with _follower(scripted_api.url, ManualClock()) as (follower, notes):
        assert await _received(follower) == ["accepted", "completed"]
    assert [asked.path for asked in scripted_api.requests[1:]] == [
        f"/api/v1/generate/{ID}/events"
    ] * 2
    assert notes == ["[the message is accepted, but its events cannot be read yet; trying again]"]


async def test_a_retry_after_beyond_the_deadline_is_not_waited_for(
    scripted_api: ScriptedApi,
) -> None:
    clock = ManualClock()
    scripted_api.replies.append(refusal(429, "Too many.", "Retry-After: 3600"))
    async with _follower(scripted_api.url, clock) as (follower, _):
        with pytest.raises(UnavailableError, match="Too many"):
            await _received(follower)
    assert clock.slept == []


async def test_a_stream_is_resumed_after_the_last_complete_event(
    scripted_api: ScriptedApi,
) -> None:
    scripted_api.replies.append(ScriptedReply((accepted(), b"id: 1-9\ndata: {"), is_cut=True))
    scripted_api.replies.append(ScriptedReply((completed("1-2", "x"),)))
    async with _follower(scripted_api.url, ManualClock()) as (follower, _):
        assert await _received(follower) == ["accepted", "completed"]
    assert scripted_api.requests[1].headers["last-event-id"] == "0-1"
    assert scripted_api.requests[1].path == f"/api/v1/generate/{ID}/events"
