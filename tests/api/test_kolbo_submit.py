"""`POST /chat`, field by field: the values, the effect, the refusals."""

from typing import Any, Final

import msgspec
import pytest

from shared import ids
from tests.support import waiting
from tests.support.api_client import ApiClient, Json, body, refused
from tests.support.scripted_provider import ScriptedProvider
from tests.support.system import System

CHAT: Final = "/api/v1/chat"
OPTIONAL: Final = (
    "model session_id system_prompt enhance_prompt web_search deep_think media_urls project_id "
    "priority max_credits deadline_seconds metadata cost_quality on_conflict webhook_url"
).split()

# Values that a field must not have, and the code of the refusal.
WRONG: Final[dict[str, tuple[Any, ...]]] = {
    "message": (3, True, [], {}, ["hello"], "a\0b"),
    "model": (3, ["alpha"], "al\0pha"),
    "session_id": (3, {}),
    "system_prompt": (3, False, "\0"),
    "enhance_prompt": ("true", 1, 0, []),
    "web_search": ("false", 0, {}),
    "deep_think": ("no", 2.5),
    "media_urls": (
        "https://a/b.png",
        [3],
        {},
        ["https://a/b.png"] * 11,
        ["https://a/b.png", "ftp://a/b.png"],
        ["https://user@a/b.png"],
        ["https://a/" + "b" * 2048],
        [""],
        ["http://0177.0.0.1/"],
    ),
    "project_id": (3, "p" * 129, "a\0"),
    "priority": ("urgent", "Batch", 1, ""),
    "max_credits": (0, -1, "5", True, 1_000_001, []),
    "deadline_seconds": (0, -5, 1.5, "60", 604_801, True),
    "metadata": (
        "a",
        ["a"],
        {"a": 1},
        {"a": None},
        {"a": {"b": "c"}},
        {"k" * 65: "v"},
        {"k": "v" * 513},
        {f"k{n}": "v" for n in range(17)},
        {"k": "\0"},
        {"\0": "v"},
    ),
    "cost_quality": (-1, 11, 5.5, "5"),
    "on_conflict": ("drop", "", 0),
    "webhook_url": (
        3,
        [],
        "example.com",
        "ftp://example.com/",
        "https://me:secret@a/b",
        "http://[::1",
    ),
}
UNAVAILABLE: Final[dict[str, tuple[Any, ...]]] = {
    "web_search": (True,),
    "cost_quality": (0, 10),
}


async def _is_empty(api: ApiClient) -> None:
    """Nothing was accepted, and nothing was held."""
    listed = body(await api.get("/api/v1/chat/conversations"))
    assert listed["pagination"]["total"] == 0
    assert await api.credits() == {"total": 1000.0, "available": 1000.0, "held": 0.0}


async def test_each_wrong_value_is_refused_by_the_fields_name(api: ApiClient) -> None:
    for name, values in WRONG.items():
        for value in values:
            asked = {"message": "hello"} | {name: value}
            refusal = refused(await api.post(CHAT, json=asked), 400, "INVALID_FIELDS")
            assert f"`{name}" in refusal["error"], (name, value, refusal)
    await _is_empty(api)


async def test_what_is_not_there_yet_is_refused_and_never_ignored(api: ApiClient) -> None:
    for name, values in UNAVAILABLE.items():
        for value in values:
            asked = {"message": "hello", name: value}
            refusal = refused(await api.post(CHAT, json=asked), 400, "FEATURE_UNAVAILABLE")
            assert f"`{name}`" in refusal["error"]
    await _is_empty(api)


async def test_what_no_model_of_the_deployment_can_do_is_refused_by_its_name(
    api: ApiClient,
) -> None:
    for name, value in (
        ("deep_think", True),
        ("media_urls", ["https://example.com/a.png"]),
        ("web_search", True),
    ):
        answer = await api.post(CHAT, json={"message": "hello", name: value})
        refusal = refused(answer, 400, "FEATURE_UNAVAILABLE")
        assert f"`{name}`" in refusal["error"]
    await _is_empty(api)


async def test_a_picture_that_cannot_be_fetched_is_refused_by_its_place(api: ApiClient) -> None:
    urls = ["https://a/b.png", "https://me:secret@a/c.png"]
    answer = await api.post(CHAT, json={"message": "hello", "media_urls": urls})
    refusal = refused(answer, 400, "INVALID_FIELDS")
    assert "`media_urls[1]`" in refusal["error"]
    assert "secret" not in refusal["error"]
    await _is_empty(api)


async def test_a_message_is_required(api: ApiClient) -> None:
    bodies: tuple[Json, ...] = (
        {},
        {"message": None},
        {"message": ""},
        {"message": " \n\t"},
        {"model": "alpha"},
    )
    for asked in bodies:
        refusal = refused(await api.post(CHAT, json=asked), 400, "MISSING_FIELDS")
        assert "`message`" in refusal["error"], asked
    await _is_empty(api)


async def test_an_unknown_field_is_refused_by_its_name(api: ApiClient) -> None:
    for name in ("massage", "Message", "stream", "events_url", "", "message "):
        asked = {"message": "hello", name: None}
        refusal = refused(await api.post(CHAT, json=asked), 400, "INVALID_FIELDS")
        assert f"`{name}`" in refusal["error"] or not name
    await _is_empty(api)


@pytest.mark.usefixtures("worker")
async def test_null_counts_as_absent(api: ApiClient, provider: ScriptedProvider) -> None:
    nothing = dict.fromkeys(OPTIONAL)
    for asked in (nothing, *({name: None} for name in OPTIONAL)):
        status = await api.submit_and_wait("hello", **asked)
        assert status["state"] == "completed"
        assert status["result"]["model"] == "auto"
        assert status["metadata"] == {}
        assert status["project_id"] is None
    assert [message["role"] for message in provider.requests[0].messages] == ["user"]


async def test_asking_for_nothing_is_no_request_for_a_feature(api: ApiClient) -> None:
    nothing: tuple[Json, ...] = (
        {"web_search": False, "deep_think": False},
        {"media_urls": []},
        {"enhance_prompt": True},
        {"enhance_prompt": False},
    )
    for asked in nothing:
        assert await api.submit("hello", **asked)


async def test_the_receipt_holds_what_is_published(api: ApiClient) -> None:
    for model in (None, "auto", "alpha"):
        receipt = await api.submit("hello", model=model)
        id_ = receipt["message_id"]
        assert receipt == {
            "success": True,
            "message_id": id_,
            "session_id": receipt["session_id"],
            "type": "chat",
            "model": model or "auto",
            "poll_url": f"/api/v1/generate/{id_}/status",
            "poll_interval_hint": receipt["poll_interval_hint"],
            "events_url": f"/api/v1/generate/{id_}/events",
            "cancel_url": f"/api/v1/generate/{id_}/cancel",
        }
        assert ids.is_id(id_)
        assert ids.is_id(receipt["session_id"])
        assert receipt["session_id"] != id_
        assert receipt["poll_interval_hint"] in range(1, 31)
        assert (await api.post(receipt["cancel_url"])).status_code == 200


@pytest.mark.usefixtures("worker")
async def test_a_model_is_an_identifier_or_auto(api: ApiClient, provider: ScriptedProvider) -> None:
    for model, shown, asked in (
        (None, "auto", "upstream-alpha"),
        ("auto", "auto", "upstream-alpha"),
        ("alpha", "alpha", "upstream-alpha"),
        ("beta", "beta", "upstream-beta"),
    ):
        status = await api.submit_and_wait("hello", model=model)
        assert status["result"]["model"] == shown
        assert status["routing"]["chosen"] == asked.removeprefix("upstream-")
        assert status["routing"]["policy"] == (
            "catalogue_order" if shown == "auto" else "requested"
        )
        assert provider.requests[-1].body["model"] == asked


async def test_a_model_that_is_not_in_the_catalogue_is_not_found(api: ApiClient) -> None:
    for model in ("gpt-4o", "Alpha", "upstream-alpha", "alpha ", "AUTO", "", "../alpha", "é"):
        asked = {"message": "hello", "model": model}
        refused(await api.post(CHAT, json=asked), 400, "MODEL_NOT_FOUND")
    await _is_empty(api)


async def test_a_model_whose_key_no_live_worker_ever_had_is_not_found(
    system: System, api: ApiClient
) -> None:
    await api.submit("nobody knows yet", model="gamma")
    await system.worker()

    async def is_refused() -> bool:
        answer = await api.post(CHAT, json={"message": "hello", "model": "gamma"})
        if answer.status_code == 200:
            return False
        refused(answer, 400, "MODEL_NOT_FOUND")
        return True

    await waiting.until(is_refused)


@pytest.mark.usefixtures("worker")
async def test_the_message_reaches_the_model_and_the_list_as_it_was_written(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    for message in ("  hi\n", "日本語 🚀 \u2028 \u007f", "\u200b", '"\\n"', "e\u0301", "a" * 2000):
        receipt = await api.submit(message)
        status = await api.wait_for_end(receipt)
        assert status["state"] == "completed"
        assert provider.requests[-1].last == message
        asked, answered = await api.messages(receipt["session_id"])
        assert asked["content"] == message
        assert answered["content"] == status["result"]["content"]
        assert status["enhancement"]["applied"] is False
        assert status["enhancement"]["text"] is None


@pytest.mark.usefixtures("worker")
async def test_a_system_prompt_counts_for_a_new_session_only(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    receipt = await api.submit("one", system_prompt="Be brief.")
    await api.wait_for_end(receipt)
    await api.submit_and_wait("two", session_id=receipt["session_id"], system_prompt="Be long.")
    for request in provider.requests:
        system = [m["content"] for m in request.messages if m["role"] == "system"]
        assert system == ["Be brief."]
        assert request.messages[0]["role"] == "system"
    listed = await api.messages(receipt["session_id"])
    assert [message["role"] for message in listed] == ["user", "assistant"] * 2


async def test_texts_are_bounded_in_characters(system: System) -> None:
    system.change("limits", message_characters_max=10)
    await system.front()
    api = await system.customer()
    assert await api.submit("é" * 10, system_prompt="🚀" * 10)
    for name in ("message", "system_prompt"):
        asked = {"message": "hello"} | {name: "é" * 11}
        refusal = refused(await api.post(CHAT, json=asked), 400, "INVALID_FIELDS")
        assert f"`{name}`" in refusal["error"]


async def test_a_message_longer_than_every_window_is_refused(api: ApiClient) -> None:
    for asked, tokens, window in (
        ({"message": "word " * 4000}, 6690, 4096),
        ({"message": "word " * 400, "model": "beta"}, 690, 512),
    ):
        refusal = refused(await api.post(CHAT, json=asked), 400, "CONTEXT_TOO_LONG")
        # A token is three bytes; the message takes eight more, and the shortest answer sixteen.
        assert (refusal["tokens"], refusal["context_window"]) == (tokens, window)
        assert f" {tokens} tokens" in refusal["error"]
        assert refusal["error"].endswith(f" has {window}.")
    await _is_empty(api)


async def test_a_message_longer_than_every_window_that_could_do_it_is_refused_as_too_long(
    system: System,
) -> None:
    """Models without the capability do not hide that it is too long for those that have it."""
    alpha, beta, gamma = system.settings.models
    beta = msgspec.structs.replace(beta, capabilities=("web_search",))
    system.settings = msgspec.structs.replace(system.settings, models=(alpha, beta, gamma))
    await system.front()
    api = await system.customer()
    asked = {"message": "word " * 400, "web_search": True}
    refusal = refused(await api.post(CHAT, json=asked), 400, "CONTEXT_TOO_LONG")
    assert (refusal["tokens"], refusal["context_window"]) == (690, 512)


async def test_a_budget_that_buys_no_answer_names_what_shut_every_model_out(api: ApiClient) -> None:
    asked = {"message": "hello", "max_credits": 0.0001, "model": "alpha"}
    refusal = refused(await api.post(CHAT, json=asked), 400, "NO_SUITABLE_MODEL")
    assert refusal["routing"]["chosen"] is None
    assert [each["excluded_by"] for each in refusal["routing"]["candidates"]] == ["max_credits"]
    await _is_empty(api)


async def test_an_empty_session_id_begins_a_session(api: ApiClient) -> None:
    first = await api.submit("hello", session_id="")
    second = await api.submit("hello", session_id="")
    assert ids.is_id(first["session_id"])
    assert first["session_id"] != second["session_id"]
    streamed = {"message": "hello", "session_id": "", "stream": True, "priority": "sometimes"}
    answer = await api.post("/v1/ai/chat", json=streamed)
    assert "`priority`" in answer.json()["message"]


async def test_a_session_that_is_not_there_is_not_found(api: ApiClient) -> None:
    for session in (ids.new_id(), " ", "a b", "x" * 65, "a:b", "é", "..", "*"):
        asked = {"message": "hello", "session_id": session}
        refused(await api.post(CHAT, json=asked), 404, "SESSION_NOT_FOUND")
    await _is_empty(api)


@pytest.mark.usefixtures("worker")
async def test_labels_come_back_as_they_were_given(api: ApiClient) -> None:
    metadata = {"": "empty", "1": "one", "k" * 64: "v" * 512, "🚀": "日本"}
    metadata |= {f"k{n}": "" for n in range(12)}
    receipt = await api.submit("hello", metadata=metadata, project_id="p" * 128)
    before = await api.poll(receipt)
    after = await api.wait_for_end(receipt)
    for status in (before, after):
        assert status["metadata"] == metadata
        assert status["project_id"] == "p" * 128


@pytest.mark.usefixtures("worker")
async def test_a_batch_is_answered_too(api: ApiClient) -> None:
    assert (await api.submit_and_wait("hello", priority="batch"))["state"] == "completed"
