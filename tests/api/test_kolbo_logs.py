"""The log: request and generation ids on every line of both processes, and no caller's text."""

import asyncio
from typing import Any, Final

from tests.support.api_client import ApiClient, Json, body
from tests.support.processes import Process
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.system import System

CANARY: Final = "canary"


def _lines(process: Process) -> list[dict[str, Any]]:
    """Return a process' log lines about requests and generations."""
    own = ("front ready", "worker ready", "draining", "no pepper is set", "fewer connections")
    # A worker's periodic work is due by the clock, perhaps just now.
    chores = ("trimmed function libraries", "swept media", "counted what accounts store")
    return [line for line in process.lines() if not line["event"].startswith((*own, *chores))]


async def _talk(api: ApiClient, provider: ScriptedProvider) -> list[Json]:
    """Hold a conversation in which much fails; every text in it is a canary."""
    provider.answer = lambda _: ScriptedAnswer(text=f"{CANARY}-answer more")
    provider.script += [
        ScriptedAnswer(text=f"{CANARY}-answer one"),
        ScriptedAnswer(status=401, message=f"{CANARY}-provider"),
        ScriptedAnswer(status=503, message=f"{CANARY}-provider"),
        ScriptedAnswer(text=f"{CANARY}-answer two"),
        ScriptedAnswer(raw=f"HTTP/1.1 200 OK\r\n\r\n{CANARY}-garbage".encode()),
        ScriptedAnswer(raw=f"{CANARY}-garbage".encode()),
        ScriptedAnswer(text=f"{CANARY}-answer cut", error_after=1, message=f"{CANARY}-provider"),
        ScriptedAnswer(is_malformed=True, text=f"{CANARY}-answer"),
    ]
    receipts = []
    for number in range(6):
        answer = await api.post(
            "/api/v1/chat",
            json={
                "message": f"{CANARY}-message",
                "system_prompt": f"{CANARY}-system",
                "metadata": {f"{CANARY}-name": f"{CANARY}-value"},
                "project_id": f"{CANARY}-project",
            },
            headers={"x-request-id": f"request-{number}", "idempotency-key": f"{CANARY}-{number}"},
        )
        receipts.append(body(answer))
        await api.wait_for_end(receipts[-1])
    return receipts


async def _send_refused(api: ApiClient, receipt: Json) -> None:
    """Send requests that are refused, with a canary in each."""
    session = f"/api/v1/chat/conversations/{receipt['session_id']}"
    for asked in (
        {"message": f"{CANARY}\0"},
        {"message": f"{CANARY}" * 50_000},
        {"message": f"{CANARY}", "model": f"{CANARY}-model"},
        {"message": f"{CANARY}", "session_id": f"{CANARY}-session"},
        {"message": f"{CANARY}", f"{CANARY}-field": 1},
        {"message": f"{CANARY}", "priority": f"{CANARY}-lane"},
        {"message": f"{CANARY}", "webhook_url": f"ftp://{CANARY}.example"},
    ):
        assert (await api.post("/api/v1/chat", json=asked)).status_code in {400, 404}
    await api.post("/api/v1/chat", content=f'{{"message":"{CANARY}'.encode())
    await api.patch(session, json={"name": f"{CANARY}-name"})
    await api.get("/api/v1/models", params={"type": CANARY, "provider": CANARY})
    await api.get(receipt["poll_url"], params={"wait": CANARY})
    await api.get(receipt["poll_url"], headers={"x-request-id": f"{CANARY} {CANARY}"})
    key = api.headers["x-api-key"]
    for path in (f"/api/v1/{key}", f"/%2570ollux_live_{key[12:]}", f"/a?api_key={key}"):
        assert (await api.get(path)).status_code == 404
    assert (await api.get("/%E2%80%AE%1B%5B2J" + "/a" * 500)).status_code == 404
    stranger = {"x-api-key": f"pollux_live_{CANARY}"}
    await api.get("/api/v1/models", headers=stranger)
    await api.get("/api/v1/models", headers={"x-api-key": "", "authorization": f"Bearer {CANARY}"})


async def test_no_line_holds_what_anybody_wrote_and_every_line_says_whose_it_is(
    system: System, provider: ScriptedProvider
) -> None:
    # Failures here are soon retried.
    system.change("breaker", cooling_seconds=0.2)
    front, worker = await asyncio.gather(system.spawn_front(), system.spawn_worker())
    api = await system.customer()
    receipts = await _talk(api, provider)
    await _send_refused(api, receipts[0])
    worker.terminate()
    assert await worker.wait_until_ended() == 0
    text = front.text() + worker.text()
    assert CANARY not in text
    assert api.headers["x-api-key"] not in text
    assert api.headers["x-api-key"][12:] not in text
    assert "no pepper is set" in front.text()
    assert "\u202e" not in text
    cut = [line["path"] for line in _lines(front) if "\u202e" in line.get("path", "")]
    assert cut == ["/\u202e\x1b[2J" + "/a" * 96 + "/…"]
    for line in _lines(front):
        assert line.get("request_id"), line
    for line in _lines(worker):
        assert line.get("request_id"), line
        assert line["generation"], line
        assert line["attempt"], line


async def test_one_message_can_be_followed_through_both_sides(system: System) -> None:
    front, worker = await asyncio.gather(system.spawn_front(), system.spawn_worker())
    api = await system.customer()
    answer = await api.post(
        "/api/v1/chat", json={"message": "hello"}, headers={"x-request-id": "my-own.id"}
    )
    await api.wait_for_end(body(answer))
    await front.wait_for_line('"accepted"')
    (accepted,) = [line for line in _lines(front) if line["event"] == "accepted"]
    assert accepted["request_id"] == "my-own.id"
    assert accepted["generation"] == body(answer)["message_id"]
    assert (accepted["account"], accepted["process"]) == ("one", "api")
    await worker.wait_for_line("settled")
    (settled,) = [line for line in _lines(worker) if line["event"] == "settled"]
    assert settled["request_id"] == "my-own.id"
    assert settled["generation"] == body(answer)["message_id"]
    assert (settled["account"], settled["process"]) == ("one", "worker")
