"""The tutorial: any process may be killed at any moment. Here, real ones are killed."""

import asyncio
import signal

import httpx
import pytest

from shared.redis import keys
from tests.support import waiting
from tests.support.api_client import ApiClient, Json
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.stream_reader import ENDS, ReceivedEvent, following, text_of
from tests.support.system import System


@pytest.fixture(autouse=True)
def short_leases(system: System) -> None:
    """Let the lease of a dead worker expire after a second."""
    system.change("worker", lease_seconds=1.0)


async def _begun(api: ApiClient, receipt: Json) -> None:
    async def has_begun() -> bool:
        return bool((await api.poll(receipt))["result"]["content"])

    await waiting.until(has_begun, what="the answer's beginning")


async def test_a_worker_is_killed_in_the_middle_and_another_finishes(
    system: System, provider: ScriptedProvider
) -> None:
    """A worker dies while it writes my answer; another one makes it, and I pay once."""
    await system.front()
    api = await system.customer()
    first = await system.spawn_worker()
    provider.script.append(
        ScriptedAnswer(text="half an answer", gate=asyncio.Event(), gate_after=1)
    )
    provider.script.append(ScriptedAnswer(text="the whole answer"))
    receipt = await api.submit("hello")
    await _begun(api, receipt)
    first.kill()
    await system.spawn_worker()
    status = await api.wait_for_end(receipt)
    assert (status["state"], status["attempt"]) == ("completed", 2)
    assert status["result"]["content"] == "the whole answer"
    credits_ = await api.credits()
    assert credits_["held"] == 0
    assert credits_["total"] == pytest.approx(1000 - status["credits_used"])
    listed = [each["content"] for each in await api.messages(receipt["session_id"])]
    assert listed == ["hello", "the whole answer"]


async def test_a_worker_is_terminated_and_loses_nothing(
    system: System, provider: ScriptedProvider
) -> None:
    """A new version is rolled out while my answers are made; every one of them arrives."""
    system.change("worker", grace_seconds=10.0)
    await system.front()
    api = await system.customer()
    old = await system.spawn_worker()
    gate = asyncio.Event()
    provider.script += [ScriptedAnswer(text=f"answer {n}", gate=gate) for n in range(3)]
    begun = [await api.submit(f"question {n}") for n in range(3)]
    await waiting.until(lambda: len(provider.requests) == 3)
    old.terminate()
    await old.wait_for_line("draining")
    late = [await api.submit(f"late question {n}") for n in range(3)]
    gate.set()
    assert await old.wait_until_ended() == 0
    # What had begun was finished by the old worker, and the rest waits for the new one.
    for receipt in begun:
        status = await api.poll(receipt)
        assert (status["state"], status["attempt"]) == ("completed", 1)
    await system.spawn_worker()
    for receipt in late:
        assert (await api.wait_for_end(receipt))["state"] == "completed"
    assert len(provider.requests) == 6


async def test_a_worker_that_runs_out_of_grace_returns_its_work(
    system: System, provider: ScriptedProvider
) -> None:
    """My answer outlasts a stopping worker; the next worker makes it, at no extra cost."""
    await system.front()
    api = await system.customer()
    old = await system.spawn_worker()
    provider.script.append(
        ScriptedAnswer(text="half an answer", gate=asyncio.Event(), gate_after=1)
    )
    receipt = await api.submit("hello")
    await _begun(api, receipt)
    old.terminate()
    assert await old.wait_until_ended() == 0
    status = await api.poll(receipt)
    assert (status["state"], status["stage"]) == ("processing", "queued")
    await system.spawn_worker()
    status = await api.wait_for_end(receipt)
    assert (status["state"], status["result"]["content"]) == ("completed", "You said: hello")


async def test_a_front_is_killed_and_another_answers_for_it(
    system: System, provider: ScriptedProvider
) -> None:
    """The server that took my message dies; another one knows my receipt."""
    front = await system.spawn_front()
    api = await system.customer()
    receipt = await api.submit("hello")
    front.kill()
    system.url = await system.front()
    await system.spawn_worker()
    api = await system.customer()
    assert (await api.wait_for_end(receipt))["result"]["content"] == "You said: hello"
    assert len(provider.requests) == 1


async def test_cancel_although_the_worker_is_dead(
    system: System, provider: ScriptedProvider
) -> None:
    """I cancel an answer whose worker has died; it ends cancelled, and I pay nothing."""
    await system.front()
    api = await system.customer()
    first = await system.spawn_worker()
    provider.script.append(ScriptedAnswer(text="half an answer", gate=asyncio.Event()))
    receipt = await api.submit("hello")
    await waiting.until(lambda: provider.requests)
    first.kill()
    assert (await api.post(receipt["cancel_url"])).status_code == 200
    await system.spawn_worker()
    status = await api.wait_for_end(receipt)
    assert (status["state"], status["credits_used"]) == ("cancelled", 0)
    assert (await api.credits())["held"] == 0
    assert len(provider.requests) == 1


async def test_a_stream_survives_its_worker_and_its_front(
    system: System, provider: ScriptedProvider
) -> None:
    """I follow my answer; its worker and the server are killed: I continue after the last event."""
    first = await system.spawn_front()
    api = await system.customer()
    workers = [await system.spawn_worker()]
    provider.script.append(
        ScriptedAnswer(text="half an answer", gate=asyncio.Event(), gate_after=1)
    )
    gate = asyncio.Event()
    provider.script.append(ScriptedAnswer(text="the whole of the answer", gate=gate, gate_after=2))
    receipt = await api.submit("hello")
    received: list[ReceivedEvent] = []
    async with following(api, receipt["events_url"]) as stream:
        await stream.until("delta")
        workers.append(await system.spawn_worker())
        workers[0].kill()
        await stream.until("reset")
        await stream.until("delta")
        first.kill()
        with pytest.raises(httpx.RemoteProtocolError):
            await stream.rest()
        received += stream.received
    elsewhere = await system.front()
    gate.set()
    async with following(
        api, receipt["events_url"], after=received[-1].id, url=elsewhere
    ) as stream:
        received += await stream.rest()
    assert text_of(received) == "the whole of the answer"
    assert [one.name for one in received if one.name in ENDS] == ["completed"]
    assert received[-1].payload["message"]["content"] == "the whole of the answer"
    system.url = elsewhere
    api = await system.customer()
    listed = [each["content"] for each in await api.messages(receipt["session_id"])]
    assert listed == ["hello", "the whole of the answer"]


async def test_a_terminated_front_ends_its_streams_between_two_events(
    system: System, provider: ScriptedProvider
) -> None:
    """A new version of the server is rolled out while I follow; I miss nothing."""
    old = await system.spawn_front()
    api = await system.customer()
    await system.spawn_worker()
    gate = asyncio.Event()
    provider.script.append(ScriptedAnswer(text="the whole answer", gate=gate, gate_after=1))
    receipt = await api.submit("hello")
    async with following(api, receipt["events_url"]) as stream:
        await stream.until("delta")
        old.terminate()
        received = await stream.rest()
        assert stream.comments[-1].startswith(": going away")
    assert await old.wait_until_ended() == -signal.SIGTERM
    assert not [one for one in received if one.name in ENDS]
    elsewhere = await system.front()
    gate.set()
    async with following(
        api, receipt["events_url"], after=received[-1].id, url=elsewhere
    ) as stream:
        received = received + await stream.rest()
    assert text_of(received) == "the whole answer"
    assert received[-1].name == "completed"


async def test_a_terminated_front_answers_waiting_requests(
    system: System, provider: ScriptedProvider
) -> None:
    """A new version of the server is rolled out while I wait; I get the state so far."""
    old = await system.spawn_front()
    api = await system.customer()
    receipt = await api.submit("hello")
    waiting_ = asyncio.create_task(api.poll(receipt, wait=15))

    async def is_waiting() -> bool:
        account = await system.account()
        where = (system.accounts.root_of(account), account.id, receipt["message_id"])
        _, count = await system.redis.call("PUBSUB", "NUMSUB", keys.events_channel(*where))
        return bool(count)

    await waiting.until(is_waiting, what="the waiting request")
    old.terminate()
    assert (await asyncio.wait_for(waiting_, 5))["state"] == "processing"
    assert await old.wait_until_ended() == -signal.SIGTERM
    assert not provider.requests
