"""The demo's client: what it prints, and which failures it retries."""

import httpx
import pytest

from deploy.demo_client import DemoClient
from shared.errors import UnavailableError
from tests.deploy.scripted_api import ScriptedApi, ScriptedReply, refusal
from tests.support.api_client import NO_TLS
from tests.support.clocks import ManualClock


async def _post(scripted_api: ScriptedApi, clock: ManualClock) -> list[str]:
    lines: list[str] = []
    async with httpx.AsyncClient(base_url=scripted_api.url, trust_env=False, verify=NO_TLS) as http:
        client = DemoClient(http, "pollux_live_secret-key", lines.append, clock)
        await client.post("/api/v1/chat", {"message": "Hello"})
    return lines


async def test_a_failed_request_is_sent_again_with_the_same_idempotency_key(
    scripted_api: ScriptedApi,
) -> None:
    done = ScriptedReply((b'{"success": true}',), kind="application/json")
    scripted_api.replies.extend([ScriptedReply(is_cut=True), refusal(429, "Too many."), done])
    lines = await _post(scripted_api, ManualClock())
    assert len({request.headers["idempotency-key"] for request in scripted_api.requests}) == 1
    assert len(scripted_api.requests) == 3
    assert [line for line in lines if "sent again" in line] == [
        "< no reply (RemoteProtocolError); the same request is sent again"
    ]
    assert not [line for line in lines if "secret-key" in line]


async def test_an_api_that_stays_away_is_given_up_after_a_minute(scripted_api: ScriptedApi) -> None:
    clock = ManualClock()
    scripted_api.replies.extend([refusal(503, "Away.", "Retry-After: 25")] * 9)
    with pytest.raises(UnavailableError, match="did not answer: 503"):
        await _post(scripted_api, clock)
    assert clock.slept == [25.0, 25.0]
