"""The adapter against a real server of its dialect: llama.cpp with the local model."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from deploy.local.model import UPSTREAM
from shared.errors import ProviderError
from shared.settings import ModelSettings, ProviderSettings
from tests.support.processes import Process, free_port
from tests.support.waiting import until
from worker.providers.contract import ChatMessage, ChatRequest, Ended, Part, Text, Used
from worker.providers.openai import OpenAI
from worker.providers.upstream import Upstream

_MODEL = ModelSettings(identifier="local", provider="local", upstream=UPSTREAM)


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[Upstream]:
    """Return an adapter whose upstream is the local model, loaded."""
    port = free_port()
    words = ["deploy.local.model", "--port", str(port)]
    with Process(words, {"PATH": "/usr/bin:/bin"}, tmp_path / "log"):
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as prober:

            async def is_loaded() -> bool:
                try:
                    return (await prober.get("/health")).status_code == 200
                except httpx.TransportError:
                    return False

            await until(is_loaded, 40, what="the local model")
        settings = ProviderSettings(name="local", base_url=f"http://127.0.0.1:{port}/v1")
        provider = Upstream(OpenAI(), settings, None)
        yield provider
        await provider.close()


def _ask(text: str, max_tokens: int) -> ChatRequest:
    return ChatRequest(model=_MODEL, messages=[ChatMessage("user", text)], max_tokens=max_tokens)


async def _parts(provider: Upstream, request: ChatRequest) -> list[Part]:
    return [part async for part in provider.stream(request)]


@pytest.mark.timeout(90)
async def test_local_model_is_an_upstream_like_any_other(local: Upstream) -> None:
    first, second = await asyncio.gather(
        _parts(local, _ask("Say hello to the bears.", 24)),
        _parts(local, _ask("Count to a thousand: 1, 2, 3,", 5)),
    )
    for parts, tokens_max in ((first, 24), (second, 5)):
        text = "".join(part.text for part in parts if isinstance(part, Text))
        (used,) = (part for part in parts if isinstance(part, Used))
        assert text.strip()
        assert used.input_tokens > 5
        assert 0 < used.output_tokens <= tokens_max
        assert {part.reason for part in parts if isinstance(part, Ended)} <= {"stop", "length"}

    parts_of = local.stream(_ask("Tell a long story.", 200))
    assert isinstance(await anext(parts_of), Text)
    await parts_of.aclose()

    with pytest.raises(ProviderError) as refused:
        await _parts(local, _ask("bear " * 20_000, 5))
    assert refused.value.failure.code == "CONTEXT_TOO_LONG"
