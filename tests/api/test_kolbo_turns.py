"""Sessions: one turn at a time, in order, each with its whole history; conflicts; long history."""

import asyncio
from typing import Final

import pytest

from tests.support import waiting
from tests.support.api_client import ApiClient, Json, body, refused
from tests.support.scripted_provider import Request, ScriptedAnswer, ScriptedProvider, context_error
from tests.support.system import System

CHAT: Final = "/api/v1/chat"


def _sent_messages(request: Request) -> list[str]:
    """Return what a model was sent, message by message."""
    return [str(message["content"]) for message in request.messages]


async def _wait_until_begun(api: ApiClient, receipt: Json) -> None:
    """Wait until the first words of an answer are visible."""

    async def has_begun() -> bool:
        return bool((await api.poll(receipt))["result"]["content"])

    await waiting.until(has_begun)


@pytest.mark.usefixtures("worker")
async def test_turns_posted_at_once_are_answered_in_order_one_at_a_time(
    api: ApiClient, system: System, provider: ScriptedProvider
) -> None:
    await system.worker()
    urls = [system.url + CHAT, await system.front() + CHAT]
    first = await api.submit("m0")
    session = first["session_id"]
    answers = await asyncio.gather(
        *(
            api.post(urls[n % 2], json={"message": f"m{n}", "session_id": session})
            for n in range(1, 21)
        )
    )
    for answer in answers:
        await api.wait_for_end(body(answer))
    listed = [each["content"] for each in await api.messages(session)]
    assert sorted(listed[::2]) == sorted(f"m{n}" for n in range(21))
    assert listed[1::2] == [f"You said: {asked}" for asked in listed[::2]]
    # Each turn had the whole history, and started after the previous one had ended.
    assert len(provider.requests) == 21
    for turn, request in enumerate(provider.requests):
        assert _sent_messages(request) == listed[: 2 * turn + 1]
        ended = provider.requests[turn - 1].answered_at if turn else 0.0
        assert ended is not None
        assert request.came_at >= ended


@pytest.mark.usefixtures("worker")
async def test_sessions_do_not_wait_for_each_other(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    gate = asyncio.Event()
    provider.script.append(ScriptedAnswer(gate=gate))
    slow = await api.submit("slow")
    await waiting.until(lambda: provider.requests)
    assert (await api.submit_and_wait("quick"))["state"] == "completed"
    assert (await api.poll(slow))["state"] == "processing"
    gate.set()
    assert (await api.wait_for_end(slow))["state"] == "completed"


@pytest.mark.usefixtures("worker")
async def test_turns_that_did_not_complete_are_not_sent_to_the_model(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    provider.script += [
        ScriptedAnswer(text="first"),
        ScriptedAnswer(status=422),
        ScriptedAnswer(text="half a word", gate=asyncio.Event(), gate_after=1),
        ScriptedAnswer(text="last"),
    ]
    receipt = await api.submit("a", system_prompt="s")
    session = receipt["session_id"]
    await api.wait_for_end(receipt)
    assert (await api.submit_and_wait("b", session_id=session))["state"] == "failed"
    receipt = await api.submit("c", session_id=session)
    await _wait_until_begun(api, receipt)
    await api.post(receipt["cancel_url"])
    assert (await api.wait_for_end(receipt))["state"] == "cancelled"
    assert (await api.submit_and_wait("d", session_id=session))["state"] == "completed"
    assert _sent_messages(provider.requests[-1]) == ["s", "a", "first", "d"]
    assert len(await api.messages(session)) == 8


@pytest.mark.usefixtures("worker")
async def test_a_busy_session_queues_the_next_turn(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    gate = asyncio.Event()
    provider.script.append(ScriptedAnswer(text="one", gate=gate))
    first = await api.submit("a")
    second = await api.submit("b", session_id=first["session_id"], on_conflict="enqueue")
    gate.set()
    assert (await api.wait_for_end(second))["state"] == "completed"
    assert _sent_messages(provider.requests[-1]) == ["a", "one", "b"]


@pytest.mark.usefixtures("worker")
async def test_a_busy_session_refuses_who_asked_for_that(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    gate = asyncio.Event()
    provider.script.append(ScriptedAnswer(gate=gate))
    first = await api.submit("a")
    asked = {"message": "b", "session_id": first["session_id"], "on_conflict": "reject"}
    held = await api.credits()
    refusal = refused(await api.post(CHAT, json=asked), 409, "SESSION_BUSY")
    assert refusal["generation_id"] == first["message_id"]
    assert await api.credits() == held
    gate.set()
    await api.wait_for_end(first)
    assert (await api.wait_for_end(body(await api.post(CHAT, json=asked))))["state"] == "completed"
    assert (await api.submit_and_wait("new", on_conflict="reject"))["state"] == "completed"


@pytest.mark.usefixtures("worker")
async def test_who_interrupts_is_answered_next(api: ApiClient, provider: ScriptedProvider) -> None:
    provider.script.append(ScriptedAnswer(text="one two", gate=asyncio.Event(), gate_after=1))
    first = await api.submit("a")
    session = first["session_id"]
    await _wait_until_begun(api, first)
    waits = [await api.submit(message, session_id=session) for message in ("b", "c")]
    last = await api.submit("stop", session_id=session, on_conflict="interrupt")
    assert (await api.wait_for_end(last))["result"]["content"] == "You said: stop"
    for receipt in (first, *waits):
        assert (await api.wait_for_end(receipt))["state"] == "cancelled"
    assert [_sent_messages(request) for request in provider.requests] == [["a"], ["stop"]]
    assert (await api.credits())["held"] == 0


async def test_who_interrupts_what_only_waits_is_answered_next(
    api: ApiClient, system: System, provider: ScriptedProvider
) -> None:
    first = await api.submit("a")
    second = await api.submit("b", session_id=first["session_id"])
    last = await api.submit("c", session_id=first["session_id"], on_conflict="interrupt")
    for receipt in (first, second):
        assert (await api.poll(receipt))["state"] == "cancelled"
    await system.worker()
    assert (await api.wait_for_end(last))["state"] == "completed"
    assert [_sent_messages(request) for request in provider.requests] == [["c"]]


@pytest.mark.usefixtures("worker")
async def test_a_long_history_is_cut_by_whole_turns_from_its_beginning(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    provider.answer = lambda request: ScriptedAnswer(text=f"{request.last[:2]} " + "y" * 90)
    receipt = await api.submit("00 " + "x" * 90, model="beta", system_prompt="Be brief.")
    session = receipt["session_id"]
    await api.wait_for_end(receipt)
    for turn in range(1, 10):
        message = f"{turn:02} " + "x" * 90
        status = await api.submit_and_wait(message, model="beta", session_id=session)
        assert status["state"] == "completed"
    listed = [each["content"] for each in await api.messages(session)]
    assert len(listed) == 20
    kept = 0
    for turn, request in enumerate(provider.requests):
        system, *rest = _sent_messages(request)
        assert system == "Be brief."
        kept = (len(rest) - 1) // 2
        assert rest == listed[2 * (turn - kept) : 2 * turn + 1]
        # A token has at least three bytes here; the answer takes 64 of the window's 512.
        assert sum(len(text) for text in (system, *rest)) / 3 <= 512 - 64
    assert 2 <= kept < 9


@pytest.mark.usefixtures("worker")
async def test_a_context_error_is_met_once_with_a_shorter_history(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    receipt = await api.submit("00 " + "x" * 900)
    session = receipt["session_id"]
    await api.wait_for_end(receipt)
    for turn in range(1, 4):
        await api.submit_and_wait(f"{turn:02} " + "x" * 900, session_id=session)
    provider.script.append(context_error(1000))
    status = await api.submit_and_wait("the last", session_id=session)
    assert status["state"] == "completed"
    refused_, met = (_sent_messages(request) for request in provider.requests[-2:])
    assert 1 < len(met) < len(refused_)
    assert met == refused_[-len(met) :]
    provider.script += [context_error(1000)] * 2
    status = await api.submit_and_wait("again", session_id=session)
    assert (status["state"], status["failure"]["code"]) == ("failed", "CONTEXT_TOO_LONG")
