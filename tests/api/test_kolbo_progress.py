"""Progress as a poller sees it: a share of the expected length, never falling before the end."""

import asyncio

import pytest

from tests.support import waiting
from tests.support.api_client import ApiClient, Json
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.system import System


@pytest.mark.usefixtures("worker")
async def test_progress_never_falls(api: ApiClient, provider: ScriptedProvider) -> None:
    provider.answer = lambda _: ScriptedAnswer(text="word " * 100, gap_seconds=0.001)
    receipt = await api.submit("go on")
    seen: list[Json] = []

    async def is_over() -> bool:
        seen.append(await api.poll(receipt))
        return bool(seen[-1]["state"] != "processing")

    await waiting.until(is_over)
    progress = [status["progress"] for status in seen]
    texts = [len(status["result"]["content"]) for status in seen]
    assert progress == sorted(progress)
    assert texts == sorted(texts)
    assert progress[-1] == 100
    assert len(set(progress)) > 2


async def test_progress_is_the_share_of_the_length_that_answers_of_the_model_have(
    api: ApiClient, system: System, provider: ScriptedProvider
) -> None:
    worker = await system.worker()
    lengths = worker.ctx["dependencies"].lengths
    text, half = " ".join(["word"] * 40), " ".join(["word"] * 20)
    provider.answer = lambda _: ScriptedAnswer(text=text)
    await api.submit_and_wait("hello", model="alpha")
    longest = lengths.expected_bytes("beta", 10_000)
    await waiting.until(lambda: lengths.expected_bytes("alpha", 10_000) < longest, what="a report")
    assert lengths.expected_bytes("alpha", 10_000) == len(text)
    gate = asyncio.Event()
    provider.script.append(ScriptedAnswer(text=text, gate=gate, gate_after=20))
    receipt = await api.submit("hello", model="alpha")

    async def shows() -> Json | None:
        status = await api.poll(receipt)
        return status if status["result"]["content"] == half else None

    status: Json = await waiting.until(shows, what="half of the answer")
    assert status["progress"] == 100 * len(half) // len(text)
    gate.set()
    assert (await api.wait_for_end(receipt))["progress"] == 100
