"""Companions: their list, their persona and memory, and refusals when no worker is alive."""

from typing import Final

import msgspec
import pytest

from shared import ids
from shared.companions import CompanionSettings
from tests.api.kombify_client import AI, CHAT, SESSIONS, chat, payload, refused, session
from tests.support import waiting
from tests.support.api_client import ApiClient, Json
from tests.support.scripted_provider import ScriptedProvider
from tests.support.system import System

AGENTS: Final = f"{AI}/agents"
COMPANIONS: Final = (
    CompanionSettings(type="pirate", name="Pirate", persona="Speak as a pirate.", model="beta"),
    CompanionSettings(type="poet", name="Poet", description="Rhymes.", persona="Speak in rhymes."),
)


def _last(provider: ScriptedProvider) -> list[tuple[str, str]]:
    """Return what the model was sent last."""
    return [(each["role"], each["content"]) for each in provider.requests[-1].messages]


@pytest.fixture
async def companion_system(system: System) -> ApiClient:
    """Return a customer of a system with companions of its own, and a worker."""
    system.settings = msgspec.structs.replace(system.settings, companions=COMPANIONS)
    await system.front()
    await system.worker()
    return await system.customer()


async def test_a_persona_reaches_the_model_before_the_sessions_own_prompt(
    companion_system: ApiClient, provider: ScriptedProvider
) -> None:
    await chat(companion_system, "hello", companion="pirate", system_prompt="Be brief.")
    assert _last(provider) == [
        ("system", "Speak as a pirate.\n\nBe brief."),
        ("user", "hello"),
    ]
    await chat(companion_system, "hello", companion="poet")
    assert _last(provider)[0] == ("system", "Speak in rhymes.")
    await chat(companion_system, "hello")
    assert _last(provider) == [("user", "hello")]


async def test_a_session_remembers_the_companion_it_was_created_with(
    companion_system: ApiClient, provider: ScriptedProvider
) -> None:
    said = await chat(companion_system, "one", companion="poet")
    id_ = said["session_id"]
    await chat(companion_system, "two", session_id=id_)
    assert _last(provider)[0] == ("system", "Speak in rhymes.")
    await companion_system.submit_and_wait("three", session_id=id_)
    assert _last(provider)[0] == ("system", "Speak in rhymes.")
    # A turn may name another companion; the next turn has the session's again.
    await chat(companion_system, "four", session_id=id_, companion="pirate")
    assert _last(provider)[0] == ("system", "Speak as a pirate.")
    await chat(companion_system, "five", session_id=id_)
    assert _last(provider)[0] == ("system", "Speak in rhymes.")
    assert payload(await companion_system.get(f"{SESSIONS}/{id_}"))["companion"] == "poet"


async def test_a_session_created_empty_has_its_companion_too(
    companion_system: ApiClient, provider: ScriptedProvider
) -> None:
    poets, nobodys = (
        await session(companion_system, companion="poet"),
        await session(companion_system),
    )
    await companion_system.submit_and_wait("one", session_id=poets["id"])
    assert _last(provider) == [("system", "Speak in rhymes."), ("user", "one")]
    await chat(companion_system, "one", session_id=nobodys["id"], companion="poet")
    assert _last(provider)[0] == ("system", "Speak in rhymes.")
    assert payload(await companion_system.get(f"{SESSIONS}/{nobodys['id']}"))["companion"] is None


async def test_a_companions_route_is_a_chat_with_it(
    companion_system: ApiClient, provider: ScriptedProvider
) -> None:
    path = f"{AI}/companion/pirate/chat"
    for asked in ({"message": "hello"}, {"message": "hello", "companion": "pirate"}):
        said = payload(await companion_system.post(path, json=asked))
        assert _last(provider)[0] == ("system", "Speak as a pirate.")
        found = payload(await companion_system.get(f"{SESSIONS}/{said['session_id']}"))
        assert found["companion"] == "pirate"
    answer = await companion_system.post(path, json={"message": "hello", "companion": "poet"})
    assert "`pirate`" in refused(answer, 400, "INVALID_FIELDS")["message"]


async def test_a_companions_own_model_answers_unless_another_is_named(
    companion_system: ApiClient,
) -> None:
    said = await chat(companion_system, "hello", companion="pirate")
    assert said["message"]["model"] == "beta"
    # Also where only the session names the companion.
    again = await chat(companion_system, "hello", session_id=said["session_id"])
    assert again["message"]["model"] == "beta"
    named = await chat(companion_system, "hello", session_id=said["session_id"], model="alpha")
    assert named["message"]["model"] == "alpha"
    assert (await chat(companion_system, "hello", companion="poet"))["routing"][
        "policy"
    ] == "catalogue_order"


async def test_an_unknown_companion_is_not_found(system: System) -> None:
    await system.front()
    api = await system.customer()
    # Although no worker is alive: an unknown companion is refused first.
    for path, asked in (
        (CHAT, {"message": "hello", "companion": "nobody"}),
        (f"{AI}/companion/nobody/chat", {"message": "hello"}),
        (f"{AI}/companion/nobody/chat", {"message": "hello", "companion": "work"}),
        (SESSIONS, {"companion": "nobody"}),
        (SESSIONS, {"companion": ""}),
    ):
        refused(await api.post(path, json=asked), 404, "COMPANION_NOT_FOUND")
    assert payload(await api.get(SESSIONS))["total"] == 0


async def test_without_a_worker_there_is_no_brain_but_chat_is_taken_in(system: System) -> None:
    system.change("api", wait_seconds_max=1)
    await system.front()
    api = await system.customer()
    begun, plain = await session(api, companion="work"), await session(api)
    answers = [
        await api.post(CHAT, json={"message": "hello", "companion": "work"}),
        await api.post(f"{AI}/companion/personal/chat", json={"message": "hello"}),
        await api.post(CHAT, json={"message": "hello", "session_id": begun["id"]}),
        await api.get(AGENTS),
    ]
    for answer in answers:
        refused(answer, 503, "BRAIN_UNAVAILABLE")
        assert int(answer.headers["retry-after"]) >= 1
    payload(await api.post(CHAT, json={"message": "hello", "session_id": plain["id"]}), 202)
    unknown = await api.post(CHAT, json={"message": "hello", "session_id": ids.new_id()})
    refused(unknown, 404, "SESSION_NOT_FOUND")
    await system.worker()
    # The fleet is cached for a second.
    system.clock.advance(1.1)
    assert (await chat(api, "hello", companion="work"))["message"]["content"]
    assert (await chat(api, "hello", session_id=begun["id"]))["message"]["content"]
    assert payload(await api.get(AGENTS))["total"] == 4


async def test_a_worker_that_leaves_takes_the_brain_along(system: System) -> None:
    await system.front()
    worker = await system.worker()
    api = await system.customer()
    assert payload(await api.get(AGENTS))["items"]
    await system.stop(worker)
    system.clock.advance(1.1)
    refused(await api.get(AGENTS), 503, "BRAIN_UNAVAILABLE")


@pytest.mark.usefixtures("worker")
async def test_the_companions_that_ship_are_listed(api: ApiClient) -> None:
    listed = payload(await api.get(AGENTS))
    assert (listed["total"], listed["limit"], listed["offset"]) == (4, 20, 0)
    items: list[Json] = listed["items"]
    assert [each["type"] for each in items] == ["smart-home", "devops", "personal", "work"]
    for each in items:
        assert (each["kind"], each["tools"], each["model"]) == ("companion", [], "auto")
        assert each["name"]
        assert each["description"]
        assert each["capabilities"]
        assert each["memory_layers"] == ["identity", "preferences", "history"]
        assert each["available"] is True
    part = payload(await api.get(AGENTS, params={"limit": 2, "offset": 1}))
    assert part["items"] == items[1:3]
    assert (part["total"], part["limit"], part["offset"]) == (4, 2, 1)


async def test_an_agent_is_available_while_its_model_is_served(system: System) -> None:
    keyless = msgspec.structs.replace(COMPANIONS[0], model="gamma")
    companions = (keyless, *COMPANIONS[1:])
    system.settings = msgspec.structs.replace(system.settings, companions=companions)
    await system.front()
    await system.worker()
    api = await system.customer()
    items = payload(await api.get(AGENTS))["items"]
    assert [(each["model"], each["available"]) for each in items] == [
        ("gamma", False),
        ("auto", True),
    ]
    # No worker has its API key, so the catalogue decides.
    assert (await chat(api, "hello", companion="pirate"))["message"]["model"] == "alpha"


async def test_a_worker_that_does_not_know_a_companion_answers_as_nobody(
    system: System, provider: ScriptedProvider
) -> None:
    system.expected.add("unknown companion")
    await system.worker()
    system.settings = msgspec.structs.replace(system.settings, companions=COMPANIONS)
    await system.front()
    api = await system.customer()
    await chat(api, "hello", companion="poet", system_prompt="Be brief.")
    assert _last(provider) == [("system", "Be brief."), ("user", "hello")]
    await waiting.until(
        lambda: [line for line in system.lines if line["event"] == "unknown companion"]
    )
