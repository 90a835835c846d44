"""`enhancement` of a status: what became of the permission to reword the message."""

import asyncio
from typing import Final

import msgspec
import pytest

from shared.settings import EnhancementSettings
from tests.support import waiting
from tests.support.api_client import ApiClient, Json
from tests.support.scripted_provider import Request, ScriptedAnswer, ScriptedProvider, by_words
from tests.support.system import System

UNCLEAR: Final = "how do i sort list numbers python biggest first"
CLEARER: Final = "How do I sort a list of numbers in Python with the biggest first?"


def _untouched(reason: str) -> Json:
    return {"applied": False, "reason": reason, "text": None}


@pytest.fixture
def rewording(system: System, provider: ScriptedProvider) -> System:
    """Return a deployment with rewording configured, in which nothing runs yet."""

    def answer(request: Request) -> ScriptedAnswer:
        is_scribe = request.body["model"] == "upstream-scribe"
        return ScriptedAnswer(text=CLEARER) if is_scribe else by_words(request)

    provider.answer = answer
    alpha, *_ = models = system.settings.models
    scribe = msgspec.structs.replace(
        alpha, identifier="scribe", upstream="upstream-scribe", aliases=()
    )
    system.settings = msgspec.structs.replace(
        system.settings,
        models=(*models, scribe),
        enhancement=EnhancementSettings(model="scribe", seconds=15.0),
    )
    return system


async def test_the_status_tells_what_became_of_the_message(rewording: System) -> None:
    await rewording.front()
    api = await rewording.customer()
    receipt = await api.submit(UNCLEAR)
    assert (await api.poll(receipt))["enhancement"] == _untouched("Not decided yet.")
    await rewording.worker()
    status = await api.wait_for_end(receipt)
    assert status["result"]["content"] == f"You said: {CLEARER}"
    assert status["enhancement"] == {
        "applied": True,
        "reason": "The message was reworded to be clearer.",
        "text": CLEARER,
    }
    asked, _ = await api.messages(receipt["session_id"])
    assert asked["content"] == UNCLEAR
    withheld = await api.submit_and_wait(UNCLEAR, enhance_prompt=False)
    assert withheld["result"]["content"] == f"You said: {UNCLEAR}"
    assert withheld["enhancement"] == _untouched(
        "The caller withheld the permission to reword the message."
    )
    for message, reason in (
        ("hello", "The message is too short to be worded better."),
        ("What is a job queue?", "The message is clear as it is."),
    ):
        assert (await api.submit_and_wait(message))["enhancement"] == _untouched(reason)


async def test_a_message_whose_generation_is_cancelled_before_was_not_reworded(
    rewording: System,
) -> None:
    await rewording.front()
    api = await rewording.customer()
    receipt = await api.submit(UNCLEAR)
    await api.post(receipt["cancel_url"])
    assert (await api.poll(receipt))["enhancement"] == _untouched(
        "The generation ended before its message could be reworded."
    )


async def test_a_status_tells_the_stage_and_no_more_while_the_message_is_reworded(
    rewording: System, provider: ScriptedProvider
) -> None:
    gate = asyncio.Event()
    provider.script.append(ScriptedAnswer(text=CLEARER, gate=gate))
    await rewording.front()
    await rewording.worker()
    api = await rewording.customer()
    receipt = await api.submit(UNCLEAR)

    async def is_reworded() -> Json | None:
        status = await api.poll(receipt)
        return status if status["stage"] == "enhancing" else None

    status: Json = await waiting.until(is_reworded, what="the stage")
    assert status["enhancement"] == _untouched("Not decided yet.")
    gate.set()
    assert (await api.wait_for_end(receipt))["enhancement"]["applied"] is True


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("wish", [{}, {"enhance_prompt": False}], ids=str)
async def test_where_nothing_is_reworded_every_status_says_so(
    api: ApiClient, wish: dict[str, object]
) -> None:
    receipt = await api.submit(UNCLEAR, **wish)
    expected = _untouched("This deployment sends messages as they are written.")
    assert (await api.poll(receipt))["enhancement"] == expected
    assert (await api.wait_for_end(receipt))["enhancement"] == expected
