"""`GET /generate/{id}/status`: every field in every state, partial text, tags, and waits."""

import asyncio
import re
from collections.abc import AsyncGenerator
from typing import Any, Final, cast

import pytest

from api.follow import wait
from shared import ids
from shared.wire.message import Media, MediaKind
from tests.support import waiting
from tests.support.api_client import ApiClient, Json, body, refused
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.system import System
from worker.providers.contract import ChatRequest, Ended, Part
from worker.providers.registry import Registry

TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
FIELDS: Final = set(
    """success generation_id session_id type state stage progress poll_interval_hint queue_position
    eta_seconds attempt result error failure enhancement credits_used credits_breakdown usage
    routing metadata project_id created_at started_at finished_at""".split()
)
RESULT: Final = set(
    """content reasoning_content image_urls video_urls audio_urls citations finish_reason model
    created_at""".split()
)


def _check_form(status: Json, *, is_served: bool = True) -> None:
    """What holds in every state; without a live worker there is no ETA."""
    assert status.keys() == FIELDS
    assert status["success"] is True
    assert status["type"] == "chat"
    assert status["poll_interval_hint"] in range(1, 31)
    assert status["result"].keys() - {"partial"} == RESULT
    assert all(status["result"][f"{kind}_urls"] == [] for kind in ("image", "video", "audio"))
    assert TIME.fullmatch(status["created_at"])
    assert TIME.fullmatch(status["result"]["created_at"])
    assert status["enhancement"].keys() == {"applied", "reason", "text"}
    is_over = status["state"] != "processing"
    assert ("partial" in status["result"]) is not is_over
    assert (status["progress"] == 100) is is_over
    assert (status["finished_at"] is not None) is is_over
    assert (status["usage"] is not None) is is_over
    assert (status["eta_seconds"] is None) is (is_over or not is_served)
    assert is_over is (status["stage"] in {"completed", "failed", "cancelled"})
    assert (status["failure"] is None) is (status["error"] is None)
    assert (status["result"]["finish_reason"] is None) is (status["state"] != "completed")


class _Painter:
    """A provider whose answer has no text."""

    async def stream(self, _: ChatRequest) -> AsyncGenerator[Part, None]:
        kinds: tuple[MediaKind, ...] = ("image", "video", "image")
        for number, kind in enumerate(kinds, start=1):
            yield Media(kind, f"https://example.org/{number}")
        yield Ended("stop")


async def _partial(api: ApiClient, receipt: Json, text: str) -> Json:
    """Wait until the status has this much of the answer."""

    async def shows() -> Json | None:
        status = await api.poll(receipt)
        return status if status["result"]["content"] == text else None

    status: Json = await waiting.until(shows, what=text)
    return status


async def test_what_was_put_off_tells_when_it_is_tried_again(
    api: ApiClient, system: System, provider: ScriptedProvider
) -> None:
    provider.answer = lambda _: ScriptedAnswer(status=429, headers={"retry-after": "200"})
    await system.worker()
    receipt = await api.submit("hello", model="alpha")

    async def is_put_off() -> Json | None:
        status = await api.poll(receipt)
        return status if status["stage"] == "retrying" else None

    status: Json = await waiting.until(is_put_off, what="a message that is put off")
    _check_form(status)
    # Its answer takes a few more seconds.
    assert 100 < status["eta_seconds"]["p50"] < 300
    assert status["poll_interval_hint"] == 30


async def test_a_queued_generation_has_its_queue_position(api: ApiClient) -> None:
    receipt = await api.submit("hello")
    status = await api.poll(receipt)
    _check_form(status, is_served=False)
    assert status["generation_id"] == receipt["message_id"]
    assert status["session_id"] == receipt["session_id"]
    assert (status["state"], status["stage"], status["progress"]) == ("processing", "queued", 0)
    assert (status["queue_position"], status["attempt"]) == (0, 0)
    assert status["result"]["content"] == ""
    assert status["result"]["partial"] is True
    assert (status["credits_used"], status["credits_breakdown"]) == (0, [])
    assert status["started_at"] is None


@pytest.mark.usefixtures("worker")
async def test_the_text_so_far_shows_while_it_grows(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    gate = asyncio.Event()
    provider.script.append(ScriptedAnswer(text="one two three", gate=gate, gate_after=2))
    receipt = await api.submit("count")
    status = await _partial(api, receipt, "one two")
    _check_form(status)
    assert (status["state"], status["stage"]) == ("processing", "generating")
    assert status["queue_position"] is None
    assert status["attempt"] == 1
    assert 0 < status["progress"] < 100
    assert TIME.fullmatch(status["started_at"])
    gate.set()
    assert (await api.wait_for_end(receipt))["result"]["content"] == "one two three"


@pytest.mark.usefixtures("worker")
async def test_reasoning_is_returned_once_the_answer_has_ended(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    gate = asyncio.Event()
    provider.script.append(
        ScriptedAnswer(text="Two bears", reasoning="Hm, bears", gate=gate, gate_after=3)
    )
    receipt = await api.submit("How many?")
    status = await _partial(api, receipt, "Two")
    assert status["result"]["reasoning_content"] is None
    gate.set()
    status = await api.wait_for_end(receipt)
    _check_form(status)
    assert status["result"]["content"] == "Two bears"
    assert status["result"]["reasoning_content"] == "Hm, bears"
    assert (await api.submit_and_wait("hello"))["result"]["reasoning_content"] is None


@pytest.mark.usefixtures("worker")
async def test_media_urls_are_grouped_by_kind(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Registry, "provider_of", lambda *_: _Painter())
    status = await api.submit_and_wait("draw")
    result = status["result"]
    assert (status["state"], result["content"]) == ("completed", "")
    assert result["image_urls"] == ["https://example.org/1", "https://example.org/3"]
    assert result["video_urls"] == ["https://example.org/2"]
    assert result["audio_urls"] == []


@pytest.mark.usefixtures("worker")
async def test_a_completed_generation_has_its_answer_model_and_price(api: ApiClient) -> None:
    status = await api.submit_and_wait("hello there you")
    _check_form(status)
    assert (status["state"], status["stage"]) == ("completed", "completed")
    assert status["result"]["content"] == "You said: hello there you"
    assert status["result"]["model"] == "auto"
    # Three words in, five out, at 100 and 200 microcredits each.
    assert status["credits_used"] == 0.0013
    assert status["credits_breakdown"] == [
        {"item": "input", "quantity": 3, "credits": 0.0003, "estimated": False},
        {"item": "output", "quantity": 5, "credits": 0.001, "estimated": False},
    ]
    routing = status["routing"]
    assert routing.keys() == {"policy", "chosen", "category", "reason", "candidates"}
    assert routing["chosen"] == "alpha"
    # No worker has the third's API key.
    assert [each["model"] for each in routing["candidates"]] == ["alpha", "beta"]
    assert all(
        each.keys() == {"model", "score", "est_credits", "est_seconds", "excluded_by"}
        for each in routing["candidates"]
    )
    assert status["created_at"] <= status["started_at"] <= status["finished_at"]


@pytest.mark.parametrize(
    ("answer", "category", "code"),
    [
        (ScriptedAnswer(status=401), "auth", "BAD_CREDENTIALS"),
        (ScriptedAnswer(status=400), "invalid_request", "REFUSED_REQUEST"),
        (ScriptedAnswer(text=""), "provider_error", "EMPTY_ANSWER"),
        (
            ScriptedAnswer(text="", finish_reason="content_filter"),
            "content_policy",
            "CONTENT_POLICY",
        ),
        (ScriptedAnswer(text="one two", error_after=1), "provider_error", "PROVIDER_FAILED"),
    ],
    ids=["auth", "invalid", "empty", "policy", "broken"],
)
@pytest.mark.usefixtures("worker")
async def test_a_failed_generation_has_its_failure_and_costs_nothing(
    api: ApiClient, provider: ScriptedProvider, answer: ScriptedAnswer, category: str, code: str
) -> None:
    provider.answer = lambda _: answer
    status = await api.submit_and_wait("hello")
    _check_form(status)
    assert (status["state"], status["stage"]) == ("failed", "failed")
    failure = status["failure"]
    assert failure.keys() == {"message", "category", "code", "retryable", "severity", "provider"}
    assert (failure["category"], failure["code"]) == (category, code)
    assert failure["severity"] == "error"
    assert status["error"] == failure["message"]
    assert status["error"].endswith(".")
    assert status["credits_used"] == 0
    assert await api.credits() == {"total": 1000.0, "available": 1000.0, "held": 0.0}


@pytest.mark.usefixtures("worker")
async def test_a_cancelled_generation_keeps_what_there_was(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    provider.script.append(ScriptedAnswer(text="one two three", gate=asyncio.Event(), gate_after=2))
    receipt = await api.submit("count")
    await _partial(api, receipt, "one two")
    body(await api.post(receipt["cancel_url"]))
    status = await api.wait_for_end(receipt)
    _check_form(status)
    assert (status["state"], status["stage"]) == ("cancelled", "cancelled")
    assert status["result"]["content"] == "one two"
    assert status["failure"]["category"] == "cancelled"
    assert status["credits_used"] > 0


@pytest.mark.usefixtures("worker")
async def test_a_tag_saves_the_body_until_something_changes(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    gate = asyncio.Event()
    provider.script.append(ScriptedAnswer(text="one two three", gate=gate, gate_after=2))
    receipt = await api.submit("count")
    await _partial(api, receipt, "one two")
    first = await api.get(receipt["poll_url"])
    tag = first.headers["etag"]
    assert tag.startswith('W/"')
    assert first.headers["cache-control"] == "no-store"
    for known in (tag, f'W/"x", {tag}', tag.removeprefix("W/"), "*"):
        same = await api.get(receipt["poll_url"], headers={"if-none-match": known})
        assert (same.status_code, same.content) == (304, b""), known
        assert int(same.headers["poll-interval-hint"]) in range(1, 31)
        assert same.headers["etag"] == tag
    gate.set()
    await api.wait_for_end(receipt)
    last = await api.get(receipt["poll_url"], headers={"if-none-match": tag})
    assert body(last)["state"] == "completed"
    assert last.headers["etag"] != tag


async def test_every_stage_has_a_tag_of_its_own(
    api: ApiClient, system: System, provider: ScriptedProvider
) -> None:
    gate = asyncio.Event()
    provider.script.append(ScriptedAnswer(text="one two", gate=gate, gate_after=1))
    receipt = await api.submit("hello")
    tags = [(await api.get(receipt["poll_url"])).headers["etag"]]
    await system.worker()
    await _partial(api, receipt, "one")
    tags.append((await api.get(receipt["poll_url"])).headers["etag"])
    gate.set()
    await api.wait_for_end(receipt)
    tags.append((await api.get(receipt["poll_url"])).headers["etag"])
    assert len(set(tags)) == 3


@pytest.mark.usefixtures("worker")
async def test_a_wait_returns_at_the_end(api: ApiClient, provider: ScriptedProvider) -> None:
    gate = asyncio.Event()
    provider.script.append(ScriptedAnswer(text="one two", gate=gate, gate_after=1))
    receipt = await api.submit("hello")
    waits = [asyncio.create_task(api.poll(receipt, wait=45)) for _ in range(3)]
    await _partial(api, receipt, "one")
    assert not any(wait.done() for wait in waits)
    gate.set()
    for status in await asyncio.gather(*waits):
        assert status["state"] == "completed"
    assert (await api.poll(receipt, wait=45))["state"] == "completed"


async def test_a_wait_with_a_tag_returns_at_the_first_change(
    api: ApiClient, system: System, provider: ScriptedProvider
) -> None:
    gate = asyncio.Event()
    provider.script.append(ScriptedAnswer(text="one two", gate=gate, gate_after=1))
    receipt = await api.submit("hello")
    seen = []
    tag = (await api.get(receipt["poll_url"])).headers["etag"]
    await system.worker()
    while True:
        answer = await api.get(
            receipt["poll_url"], params={"wait": 45}, headers={"if-none-match": tag}
        )
        status, tag = body(answer), answer.headers["etag"]
        seen.append((status["stage"], status["result"]["content"]))
        if status["result"]["content"] == "one":
            gate.set()
        if status["state"] != "processing":
            break
    assert seen[-1] == ("completed", "one two")
    assert ("generating", "one") in seen
    assert len(seen) == len(set(seen))


async def test_a_wait_is_capped_and_then_returns_the_generation_as_it_is(system: System) -> None:
    system.change("api", wait_seconds_max=1)
    await system.front()
    api = await system.customer()
    receipt = await api.submit("hello")
    tag = (await api.get(receipt["poll_url"])).headers["etag"]
    plain, tagged = await asyncio.gather(
        api.get(receipt["poll_url"], params={"wait": 45}),
        api.get(receipt["poll_url"], params={"wait": 999}, headers={"if-none-match": tag}),
    )
    assert body(plain)["state"] == "processing"
    assert tagged.status_code == 304


async def test_a_wait_must_be_a_whole_number(api: ApiClient) -> None:
    receipt = await api.submit("hello")
    wrong: tuple[Any, ...] = ("", "-1", "1.5", "soon", "1e3", "0x1", "٣", " 1", "9" * 10, "+1")
    for seconds in wrong:
        answer = await api.get(receipt["poll_url"], params={"wait": seconds})
        assert "`wait`" in refused(answer, 400, "INVALID_FIELDS")["error"], seconds
    assert (await api.poll(receipt, wait=0))["state"] == "processing"


async def test_an_account_holds_only_so_many_waits(system: System) -> None:
    system.change_tier("enterprise", waits_max=2)
    await system.front()
    api, other = await system.customer(), await system.customer("two")
    receipt, others = await api.submit("hello"), await other.submit("hello")
    waits = [
        asyncio.create_task(api.get(receipt["poll_url"], params={"wait": 45})) for _ in range(3)
    ]
    done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    answer = done.pop().result()
    refused(answer, 429, "RATE_LIMITED")
    assert int(answer.headers["retry-after"]) >= 1
    assert len(pending) == 2
    # Polls without a wait, and other accounts' waits, still work.
    assert (await api.poll(receipt))["state"] == "processing"
    theirs = asyncio.create_task(other.wait_for_end(others))
    await system.worker()
    assert [body(await wait)["state"] for wait in pending] == ["completed"] * 2
    assert (await theirs)["state"] == "completed"
    assert (await api.poll(receipt, wait=1))["state"] == "completed"


async def test_who_stops_waiting_gives_the_place_back(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wait, "_POLL_ANYWAY_SECONDS", 0.05)
    system.change_tier("enterprise", waits_max=1)
    await system.front()
    api = await system.customer()
    receipt = await api.submit("hello")
    waits = [
        asyncio.create_task(api.get(receipt["poll_url"], params={"wait": 45})) for _ in range(2)
    ]
    done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    refused(done.pop().result(), 429, "RATE_LIMITED")
    pending.pop().cancel()

    async def is_free() -> bool:
        answer = await api.get(f"/api/v1/generate/{ids.new_id()}/status", params={"wait": 1})
        return answer.status_code == 404

    await waiting.until(is_free, 5, what="the place of who has gone")


async def test_an_unknown_generation_is_not_found(api: ApiClient) -> None:
    for id_ in (ids.new_id(), "x", "a:b", "x" * 65, "*", "%C3%A9", "a%20b", "a%0Ab"):
        for query in ({}, {"wait": 45}):
            answer = await api.get(f"/api/v1/generate/{id_}/status", params=query)
            refused(answer, 404, "GENERATION_NOT_FOUND")
        refused(await api.post(f"/api/v1/generate/{id_}/cancel"), 404, "GENERATION_NOT_FOUND")


@pytest.mark.usefixtures("worker")
async def test_what_the_provider_did_not_count_is_flagged_as_an_estimate(api: ApiClient) -> None:
    status = await api.submit_and_wait("hello [tokens=5 no-usage]")
    assert status["credits_used"] > 0
    lines = [(line["item"], line["estimated"]) for line in status["credits_breakdown"]]
    assert lines == [("input", True), ("output", True)]


@pytest.mark.usefixtures("worker")
async def test_routing_is_returned_once_a_model_is_chosen(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    gate = asyncio.Event()
    provider.script.append(ScriptedAnswer(text="one two", gate=gate))
    receipt = await api.submit("hello")

    async def is_routed() -> Json | None:
        return cast("Json | None", (await api.poll(receipt))["routing"])

    routing: Json = await waiting.until(is_routed, what="the choice of a model")
    status = await api.poll(receipt)
    assert (status["state"], status["result"]["content"]) == ("processing", "")
    assert routing["chosen"] == "alpha"
    gate.set()
    assert (await api.wait_for_end(receipt))["routing"] == routing
