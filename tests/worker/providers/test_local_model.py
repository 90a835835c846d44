"""The adapters against a real server of their dialects: llama.cpp with the local model."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Final

import httpx
import msgspec
import pytest

from deploy.local import catalogue
from deploy.local.model import UPSTREAM
from shared.errors import ProviderError
from shared.routing.needs import first_lack, needs
from shared.search_settings import SearchSettings
from shared.settings import ModelSettings, ProviderSettings
from shared.wire.conversation import AnswerForm
from shared.wire.submission import Submission
from tests.support.processes import Process, free_port
from tests.support.waiting import until
from worker.providers.contract import (
    ChatRequest,
    Ended,
    KeepAlive,
    Part,
    ReportedUsage,
    Text,
    text_message,
)
from worker.providers.http_provider import HttpProvider
from worker.providers.registry import DIALECTS

_MODEL: Final = ModelSettings(identifier="local", provider="local", upstream=UPSTREAM)
# Of ours, those that the server speaks.
_SPOKEN: Final = ("openai", "anthropic")
# Words that no model of this size would choose by itself.
_COLOURS: Final = ("xanthic", "gules")
_COLOUR: Final = AnswerForm(
    kind="json_schema",
    name="colour",
    schema={
        "type": "object",
        "properties": {"colour": {"enum": list(_COLOURS)}},
        "required": ["colour"],
        "additionalProperties": False,
    },
)


@pytest.fixture
async def locals_(tmp_path: Path) -> AsyncIterator[dict[str, HttpProvider]]:
    """Return an adapter for each dialect of the one server that has loaded the local model."""
    port = free_port()
    words = ["deploy.local.model", "--port", str(port)]
    async with AsyncExitStack() as stack:
        stack.enter_context(Process(words, {"PATH": "/usr/bin:/bin"}, tmp_path / "log"))
        prober = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}")
        await stack.enter_async_context(prober)

        async def is_loaded() -> bool:
            try:
                return (await prober.get("/health")).status_code == 200
            except httpx.TransportError:
                return False

        await until(is_loaded, 40, what="the local model")
        settings = ProviderSettings(name="local", base_url=f"http://127.0.0.1:{port}/v1")
        adapters = {name: HttpProvider(DIALECTS[name], settings, None) for name in _SPOKEN}
        for adapter in adapters.values():
            stack.push_async_callback(adapter.close)
        yield adapters


def _ask(text: str, max_tokens: int) -> ChatRequest:
    messages = [text_message("system", "You are friendly."), text_message("user", text)]
    return ChatRequest(model=_MODEL, messages=messages, max_tokens=max_tokens)


async def _parts(provider: HttpProvider, request: ChatRequest) -> list[Part]:
    return [part async for part in provider.stream(request)]


async def _try(provider: HttpProvider) -> None:
    """Hold a server to what any model says, at any temperature."""
    first, second = await asyncio.gather(
        _parts(provider, _ask("Say hello to the bears.", 24)),
        _parts(provider, _ask("Count to a thousand: 1, 2, 3,", 5)),
    )
    for parts, tokens_max in ((first, 24), (second, 5)):
        text = "".join(part.text for part in parts if isinstance(part, Text))
        (used,) = (part for part in parts if isinstance(part, ReportedUsage))
        (reason,) = (part.reason for part in parts if isinstance(part, Ended))
        # A model may have nothing to say, but it may not be silenced.
        assert text or reason == "stop" or tokens_max < 24
        assert used.input_tokens > 5
        assert 0 < used.output_tokens <= tokens_max
        assert reason in {"stop", "length"}

    again = await _parts(provider, _ask("Say hello to the bears.", 1))
    (used,) = (part for part in again if isinstance(part, ReportedUsage))
    # All but the last token of what it has read before, which is a part of the whole input.
    assert used.input_tokens > used.cached_input_tokens >= used.input_tokens // 2

    async with aclosing(provider.stream(_ask("Tell a long story.", 200))) as parts_of:
        assert isinstance(await anext(parts_of), KeepAlive)
        assert isinstance(await anext(parts_of), Text | Ended | KeepAlive)

    with pytest.raises(ProviderError) as refused:
        await _parts(provider, _ask("bear " * 20_000, 5))
    assert refused.value.failure.code == "CONTEXT_TOO_LONG"


async def _try_forms(provider: HttpProvider, folder: Path) -> None:
    """Hold the server to the forms that its entry in the catalogue promises."""
    settings_file = folder / "local.toml"
    settings_file.write_text(catalogue.render(9))
    (model,) = catalogue.read({"POLLUX_CONFIG": str(settings_file)}).models
    for form in (_COLOUR, AnswerForm(kind="json_object")):
        asked = Submission(session=None, form=form)
        needed = needs(asked, SearchSettings())
        assert needed == (form.kind,)
        assert first_lack(model, "openai", needed) is None
        request = msgspec.structs.replace(_ask("Name a colour.", 40), form=form)
        parts = await _parts(provider, request)
        text = "".join(part.text for part in parts if isinstance(part, Text))
        # An object without a schema may be longer than the answer.
        assert text.lstrip().startswith("{")
        if form is _COLOUR:
            assert json.loads(text)["colour"] in _COLOURS


@pytest.mark.timeout(120)
async def test_local_model_is_an_upstream_like_any_other(
    locals_: dict[str, HttpProvider], tmp_path: Path
) -> None:
    for name in _SPOKEN:
        await _try(locals_[name])
    await _try_forms(locals_["openai"], tmp_path)
