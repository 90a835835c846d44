"""Pictures in and out, through the front: named by URL, made by a model, told, fetched, deleted."""

import asyncio
import base64
import hashlib
import io
import wave
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import pytest

from shared.redis import keys
from shared.settings import EgressSettings, ModelSettings, ProviderSettings
from tests.support import waiting
from tests.support.api_client import ApiClient, Json, body, refused
from tests.support.system import System
from tests.worker.providers import gemini
from tests.worker.providers.upstream import Line, Upstream, whole
from worker.consumer.arq_worker import PolluxWorker

pytestmark = pytest.mark.each_once

PNG: Final = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 3_000
SAMPLES: Final = bytes(range(100))


def _blob(kind: str, content: bytes) -> dict[str, Any]:
    return {"inlineData": {"mimeType": kind, "data": base64.b64encode(content).decode()}}


def _answer(*parts: dict[str, Any]) -> bytes:
    used = gemini.used(3, 1_290)
    return gemini.chunk(*parts) + gemini.chunk({"text": ""}, reason="STOP", usageMetadata=used)


@pytest.fixture
async def painter(system: System) -> AsyncIterator[Upstream]:
    """Return an upstream of Gemini's kind whose one model sees, paints and speaks."""
    async with Upstream() as listening:
        listening.script = whole(_answer({"text": "Here: "}, _blob("image/png", PNG)))
        system.settings = msgspec.structs.replace(
            system.settings,
            providers=(ProviderSettings(name="painter", dialect="gemini", base_url=listening.url),),
            models=(
                ModelSettings(
                    identifier="brush",
                    provider="painter",
                    upstream="brush-1",
                    capabilities=("vision", "image_output"),
                    context_window=32_000,
                    input_rate=1.0,
                    output_rate=2.0,
                ),
            ),
            egress=EgressSettings(allow=("127.0.0.1",), ports=(listening.port,)),
        )
        yield listening


@pytest.fixture
async def drawing(painter: Upstream, system: System) -> tuple[ApiClient, PolluxWorker]:
    """Return a customer of a deployment whose model paints, and its worker."""
    assert painter
    await system.front()
    worker = await system.worker()
    return await system.customer(), worker


def _folder(system: System) -> Path:
    return Path(system.settings.media.folder)


def _files(system: System) -> list[Path]:
    return [path for path in _folder(system).rglob("*") if path.is_file()]


async def _look(api: ApiClient, url: str, method: str = "GET") -> httpx.Response:
    """Ask for a file as a browser would: without a key."""
    async with httpx.AsyncClient(base_url=api.base_url, trust_env=False) as browser:
        return await browser.request(method, url)


async def test_a_picture_is_told_everywhere_and_whoever_has_its_url_gets_it(
    drawing: tuple[ApiClient, PolluxWorker], system: System
) -> None:
    api, _ = drawing
    status = await api.submit_and_wait("draw")
    assert (status["state"], status["result"]["content"]) == ("completed", "Here: ")
    (url,) = status["result"]["image_urls"]
    name = hashlib.sha256(PNG).hexdigest() + ".png"
    assert url.startswith(f"/media/one/{status['session_id']}/{name}?expires=")

    answer = await _look(api, url)
    assert (answer.status_code, answer.content) == (200, PNG)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-length"] == str(len(PNG))
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"] == f'attachment; filename="{name}"'
    assert "sandbox" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"
    # As a base that ends in /api makes it.
    assert (await _look(api, f"/api{url}")).content == PNG
    head = await _look(api, url, "HEAD")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(PNG))

    (file,) = _files(system)
    assert file.stat().st_mode & 0o777 == 0o600
    listed = await api.messages(status["session_id"])
    assert "image_urls" not in listed[0]
    assert (await _look(api, listed[1]["image_urls"][0])).content == PNG
    session = (await api.get(f"/v1/ai/sessions/{status['session_id']}")).json()
    assert (await _look(api, session["messages"][1]["image_urls"][0])).content == PNG


async def test_followers_and_callers_who_wait_are_told_urls_that_are_good(
    drawing: tuple[ApiClient, PolluxWorker],
) -> None:
    api, _ = drawing
    waited = (await api.post("/v1/ai/chat", json={"message": "draw"})).json()
    followed = await api.post("/v1/ai/chat", json={"message": "draw", "stream": True})
    payload = [
        msgspec.json.decode(line.removeprefix("data: "))
        for line in followed.text.splitlines()
        if line.startswith("data: ")
    ]
    by_type: dict[str, Json] = {event["type"]: event for event in payload}
    assert by_type["media"]["kind"] == "image"
    for url in (
        waited["message"]["image_urls"][0],
        by_type["media"]["url"],
        by_type["completed"]["message"]["image_urls"][0],
    ):
        assert (await _look(api, url)).content == PNG


async def test_an_answer_of_a_picture_alone_is_whole(
    drawing: tuple[ApiClient, PolluxWorker], painter: Upstream
) -> None:
    api, _ = drawing
    painter.script = whole(_answer(_blob("image/png", PNG), _blob("image/png", PNG)))
    status = await api.submit_and_wait("draw")
    assert (status["state"], status["result"]["content"]) == ("completed", "")
    # The same picture twice is one file.
    first, second = status["result"]["image_urls"]
    assert first == second
    assert status["credits_used"] > 0


async def test_a_sound_is_a_file_that_players_know(
    drawing: tuple[ApiClient, PolluxWorker], painter: Upstream
) -> None:
    api, _ = drawing
    painter.script = whole(_answer(_blob("audio/L16;codec=pcm;rate=24000", SAMPLES)))
    status = await api.submit_and_wait("speak")
    (url,) = status["result"]["audio_urls"]
    answer = await _look(api, url)
    assert answer.headers["content-type"] == "audio/wav"
    with wave.open(io.BytesIO(answer.content)) as read:
        assert (read.getframerate(), read.readframes(1_000)) == (24_000, SAMPLES)


async def test_a_url_that_was_changed_or_is_over_is_refused(
    drawing: tuple[ApiClient, PolluxWorker], system: System
) -> None:
    api, _ = drawing
    status = await api.submit_and_wait("draw")
    (url,) = status["result"]["image_urls"]
    path, _, query = url.partition("?")
    last = "0" if url[-1] != "0" else "1"
    wrong = [
        *(path, f"{path}?", url[:-1] + last, url[:-1], url + "0", f"{url}&expires=99999999999"),
        f"{path}?{query.replace('expires=', 'expires=9')}",
        f"{path.replace('/one/', '/two/')}?{query}",
        f"/media/one/x/{'0' * 64}.png?{query}",
        f"/media/one/%2e%2e/passwd?{query}",
        f"{path}?expires=&signature=",
        f"{path}?expires=%C3%BC&signature=%C3%BC",
    ]
    for each in wrong:
        refused(await _look(api, each), 403, "FORBIDDEN")
    refused(await _look(api, "/media/one/../../../etc/passwd"), 404, "NOT_FOUND")
    refused(await _look(api, f"/media/one/..%2F..%2Fetc/passwd?{query}"), 404, "NOT_FOUND")
    refused(await _look(api, url, "POST"), 405, "METHOD_NOT_ALLOWED")
    assert (await _look(api, url)).status_code == 200
    system.clock.advance(system.settings.media.url_seconds * 2)
    refused(await _look(api, url), 403, "FORBIDDEN")
    # Whoever looks again is told another.
    (fresh,) = (await api.messages(status["session_id"]))[1]["image_urls"]
    assert fresh != url
    assert (await _look(api, fresh)).status_code == 200


async def test_urls_are_good_at_every_front(
    drawing: tuple[ApiClient, PolluxWorker], system: System
) -> None:
    api, _ = drawing
    (url,) = (await api.submit_and_wait("draw"))["result"]["image_urls"]
    other = await system.front()
    async with httpx.AsyncClient(trust_env=False) as browser:
        assert (await browser.get(other + url)).content == PNG


async def _due_now(worker: PolluxWorker) -> None:
    # The clock may have had them run a moment ago, and they run once in each slot of time.
    system = keys.system_root(worker.settings.redis)
    for slot in await worker.redis.call("KEYS", keys.CHORE_SLOT(system, "*", "*")):
        await worker.redis.call("DEL", slot)
    for chore in worker.cron_jobs:
        chore.next_run = datetime.now(tz=UTC)


async def test_a_deleted_session_takes_its_files_along(
    drawing: tuple[ApiClient, PolluxWorker], system: System
) -> None:
    api, worker = drawing
    kept, gone = await api.submit_and_wait("draw"), await api.submit_and_wait("draw")
    urls = [each["result"]["image_urls"][0] for each in (kept, gone)]
    assert len(_files(system)) == 2
    body(await api.delete(f"/api/v1/chat/conversations/{gone['session_id']}"))
    await _due_now(worker)
    await waiting.until(lambda: len(_files(system)) == 1)
    assert [(await _look(api, url)).status_code for url in urls] == [200, 404]
    refused(await _look(api, urls[1]), 404, "NOT_FOUND")


async def test_a_folder_that_cannot_be_written_fails_the_answer_and_is_said_at_the_start(
    painter: Upstream, system: System, tmp_path: Path
) -> None:
    assert painter
    (tmp_path / "file").write_bytes(b"")
    system.change("media", folder=str(tmp_path / "file" / "media"))
    system.expected |= {"the media folder cannot be written", "media cannot be kept"}
    await system.front()
    await system.worker()
    assert any(line["event"] == "the media folder cannot be written" for line in system.lines)
    status = await (await system.customer()).submit_and_wait("draw")
    assert (status["state"], status["credits_used"]) == ("failed", 0)
    assert (status["failure"]["category"], status["failure"]["code"]) == (
        "internal",
        "MEDIA_NOT_KEPT",
    )


async def test_what_is_larger_than_a_file_may_be_fails_the_answer(
    painter: Upstream, system: System
) -> None:
    assert painter
    system.change("media", file_bytes_max=1_000)
    await system.front()
    await system.worker()
    status = await (await system.customer()).submit_and_wait("draw")
    assert status["failure"]["code"] == "RESPONSE_TOO_LARGE"
    assert _files(system) == []


async def test_what_is_no_picture_is_not_kept(
    drawing: tuple[ApiClient, PolluxWorker], painter: Upstream, system: System
) -> None:
    api, _ = drawing
    system.expected.add("a model made something of no known form")
    painter.script = whole(_answer({"text": "Here"}, _blob("image/svg+xml", b"<svg/>")))
    status = await api.submit_and_wait("draw")
    assert (status["state"], status["result"]["image_urls"]) == ("completed", [])
    assert _files(system) == []


# Pictures in


async def test_a_picture_that_is_named_is_shown_and_listed(
    drawing: tuple[ApiClient, PolluxWorker], painter: Upstream
) -> None:
    api, _ = drawing
    seen = asyncio.Event()

    async def script(line: Line) -> None:
        if line.request.startswith(b"GET "):
            await whole(PNG)(line)
            return
        if base64.b64encode(PNG) in line.request:
            seen.set()
        await whole(_answer({"text": "A bear."}))(line)

    painter.script = script
    url = f"http://127.0.0.1:{painter.port}/bear.png"
    status = await api.submit_and_wait("What is it?", media_urls=[url])
    assert (status["state"], status["result"]["content"]) == ("completed", "A bear.")
    assert seen.is_set()
    user, assistant = await api.messages(status["session_id"])
    assert user["media_urls"] == [url]
    assert "media_urls" not in assistant
    session = (await api.get(f"/v1/ai/sessions/{status['session_id']}")).json()
    assert session["messages"][0]["media_urls"] == [url]


async def test_pictures_are_held_for(painter: Upstream, system: System) -> None:
    assert painter
    await system.front()
    api = await system.customer()
    await api.submit("What is it?")
    plain = (await api.credits())["held"]
    await api.submit("What is it?", media_urls=["https://example.org/a.png"] * 2)
    more = (await api.credits())["held"] - 2 * plain
    # 1,600 tokens each, at 100 microcredits a token.
    assert more == pytest.approx(0.32)


async def test_more_pictures_than_the_window_holds_are_refused(
    painter: Upstream, system: System
) -> None:
    assert painter
    model = msgspec.structs.replace(system.settings.models[0], context_window=4_096)
    system.settings = msgspec.structs.replace(system.settings, models=(model,))
    await system.front()
    api = await system.customer()
    asked = {"message": "hello", "media_urls": ["https://example.org/a.png"] * 3}
    refused(await api.post("/api/v1/chat", json=asked), 400, "CONTEXT_TOO_LONG")


async def test_a_picture_from_inside_is_told_in_the_callers_words(
    drawing: tuple[ApiClient, PolluxWorker],
) -> None:
    api, _ = drawing
    urls = ["http://192.168.0.1/a.png"]
    status = await api.submit_and_wait("What is it?", media_urls=urls)
    assert status["state"] == "failed"
    failure = status["failure"]
    assert (failure["category"], failure["code"]) == ("invalid_request", "MEDIA_FORBIDDEN")
    assert "`media_urls[0]`" in status["error"]
    assert (await api.credits())["held"] == 0
    answer = await api.post("/v1/ai/chat", json={"message": "hello", "media_urls": urls})
    assert answer.status_code == 422
