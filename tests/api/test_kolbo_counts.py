"""The token counts in a status."""

import pytest

from tests.support.api_client import ApiClient
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider


@pytest.mark.usefixtures("worker")
async def test_what_an_answer_consumed_is_counted(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    provider.script.append(ScriptedAnswer(text="one two", reasoning="Let me see.", cached_tokens=2))
    counts = {
        "input_tokens": 3,
        "cached_input_tokens": 2,
        "cache_write_tokens": 0,
        "output_tokens": 5,
        "reasoning_tokens": 3,
    }
    assert (await api.submit_and_wait("hello there you"))["usage"] == counts
    provider.script.append(ScriptedAnswer(status=422))
    assert (await api.submit_and_wait("hello"))["usage"] == dict.fromkeys(counts, 0)
