"""The operators' port: who is let in, what only it serves, and dead letters."""

import signal
from pathlib import Path
from typing import Final

import httpx
import openapi_spec_validator
import pytest

from api.endpoints.endpoint import Endpoint
from shared import ids
from tests.support import openapi_document, processes
from tests.support.api_client import ApiClient, Json, body, refused
from tests.support.mounts import ADMIN_MOUNTS
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.system import System

DEAD: Final = "/admin/v1/dead"


@pytest.fixture
async def admin_url(system: System) -> str:
    """Return the URL of the operators' port of an API server that customers call, too."""
    return await system.front_with_admin_port()


@pytest.fixture
async def operator(admin_url: str, system: System) -> ApiClient:
    """Return an operator's client, whose account has nothing."""
    owner = await system.account("ops", funds=0)
    key = await system.key(owner, scopes=("operator",))
    return await system.caller({"x-api-key": key.key}, admin_url)


@pytest.fixture
async def customer(admin_url: str, system: System) -> ApiClient:
    """Return a customer at the public port."""
    assert admin_url
    return await system.customer()


async def _make_dead_letter(
    customer: ApiClient, provider: ScriptedProvider, **fields: object
) -> Json:
    """Make a message fail for no fault of its sender; return its receipt."""
    answer = provider.answer
    provider.answer = lambda _: ScriptedAnswer(status=302)
    receipt = await customer.submit("Why is it down?", **fields)
    assert (await customer.wait_for_end(receipt))["state"] == "failed"
    provider.answer = answer
    return receipt


def _id(receipt: Json) -> str:
    return f"one/{receipt['message_id']}"


ROWS: Final = [(prefix, row) for prefix, rows in ADMIN_MOUNTS.items() for row in rows]


@pytest.mark.parametrize(("prefix", "row"), ROWS, ids=[row.route for _, row in ROWS])
async def test_only_an_operators_key_opens(
    system: System, admin_url: str, operator: ApiClient, prefix: str, row: Endpoint
) -> None:
    path = prefix + row.path.format(account="one", generation_id=ids.new_id())
    method = row.method
    sent: Json | None = {"filter": {}} if row.body is not None else None
    owner = await system.account("one")
    narrow = await system.key(owner, scopes=("chat", "read", "approve", "keys"))
    for headers, status, code in (
        ({}, 401, "INVALID_API_KEY"),
        ({"x-api-key": ids.new_key()}, 401, "INVALID_API_KEY"),
        ({"x-api-key": narrow.key}, 403, "FORBIDDEN"),
    ):
        caller = await system.caller(headers, admin_url)
        refused(await caller.request(method, path, json=sent), status, code)
    allowed = await operator.request(method, path, json=sent)
    assert allowed.status_code in {200, 404}
    # The public port does not have it, whoever asks.
    public = await system.caller({"x-api-key": operator.headers["x-api-key"]})
    refused(await public.request(method, path, json=sent), 404, "NOT_FOUND")


async def test_each_port_serves_its_own_routes(
    operator: ApiClient, customer: ApiClient, admin_url: str, system: System
) -> None:
    # On the public port, only POST is allowed there.
    refused(await operator.get("/api/v1/chat"), 404, "NOT_FOUND")
    refused(await operator.get("/openapi.json"), 404, "NOT_FOUND")
    refused(await customer.get("/admin/v1/openapi.json"), 404, "NOT_FOUND")
    # A caller's Host header changes nothing.
    payload = {"host": admin_url.removeprefix("http://"), "x-forwarded-host": admin_url}
    refused(await customer.get(DEAD, headers=payload), 404, "NOT_FOUND")
    public = (await customer.get("/openapi.json")).json()
    assert not [path for path in public["paths"] if path.startswith("/admin")]
    assert system.url != admin_url


async def test_without_the_operators_door_nothing_is_served_behind_it(
    api: ApiClient, system: System
) -> None:
    key = (await system.key(scopes=("operator", "read"))).key
    refused(await api.get(DEAD, headers={"x-api-key": key}), 404, "NOT_FOUND")


async def test_the_operators_document_is_served_and_valid(admin_url: str, system: System) -> None:
    stranger = await system.caller({}, admin_url)
    served = (await stranger.get("/admin/v1/openapi.json")).json()
    openapi_spec_validator.validate(served)
    made = openapi_document.document(is_admin=True)
    assert served["paths"] == made["paths"]
    documented = {
        (method.upper(), path) for path, item in served["paths"].items() for method in item
    }
    assert documented == {
        (endpoint.method, prefix + endpoint.path)
        for prefix, endpoints in ADMIN_MOUNTS.items()
        for endpoint in endpoints
    }
    refused(await stranger.post("/admin/v1/openapi.json"), 405, "METHOD_NOT_ALLOWED")


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_both_ports_start_and_stop_together(system: System, workers: str) -> None:
    port = processes.free_port()
    front = await system.spawn_front("--admin-port", str(port), "--workers", workers)
    key = (await system.key(scopes=("operator",))).key
    behind = await system.caller({"x-api-key": key}, f"http://127.0.0.1:{port}")
    public = await system.caller({"x-api-key": key})
    # Enough connections to reach every process.
    for _ in range(6):
        head = {"connection": "close"}
        assert body(await behind.get(DEAD, headers=head))["count"] == 0
        refused(await public.get(DEAD, headers=head), 404, "NOT_FOUND")
    front.terminate()
    # A process ends by the signal that it got, after everything is done.
    assert await front.wait_until_ended() in {0, -signal.SIGTERM}
    for gone in (behind, public):
        with pytest.raises(httpx.TransportError):
            await gone.get("/readyz")


async def test_admin_port_must_differ_from_port(system: System, tmp_path: Path) -> None:
    environment = processes.environment(system.settings, tmp_path)
    words = ["api", "--port", "8000", "--admin-port", "8000"]
    with processes.Process(words, environment, tmp_path / "log") as front:
        assert await front.wait_until_ended() == 2
        assert "another port" in front.text()


@pytest.mark.usefixtures("worker")
async def test_dead_letter_is_listed_and_shown_with_the_prompt(
    operator: ApiClient, customer: ApiClient, provider: ScriptedProvider, system: System
) -> None:
    asked = {"metadata": {"a": "b"}, "project_id": "p", "model": "alpha"}
    receipt = await _make_dead_letter(customer, provider, **asked)
    listed = await operator.get(DEAD)
    assert "Why is it down?" not in listed.text
    page = body(listed)
    assert (page["count"], page["next_after"]) == (1, None)
    [letter] = page["dead"]
    assert letter["id"] == _id(receipt)
    assert (letter["account"], letter["generation_id"]) == ("one", receipt["message_id"])
    assert letter["session_id"] == receipt["session_id"]
    assert letter["failure"]["category"] == "provider_error"
    assert letter["failure"]["provider"] == "scripted"
    assert [each["why"] for each in letter["attempts"]] == [letter["failure"]["code"]]
    # The log has who read a prompt, and nobody else.
    refused(await operator.get(f"{DEAD}/one/{ids.new_id()}"), 404, "NOT_FOUND")
    assert not [line for line in system.lines if line["event"] == "prompt read"]
    shown = body(await operator.get(f"{DEAD}/{letter['id']}"))
    [read] = [line for line in system.lines if line["event"] == "prompt read"]
    assert (read["operator"], read["dead"]) == ("ops", letter["id"])
    keys = await system.accounts.list_keys()
    assert read["key"] in {key.id for key in keys if key.account == "ops"}
    assert read["request_id"]
    assert "Why" not in str(read)
    assert shown["dead"] == letter
    assert shown["asked"]["message"] == "Why is it down?"
    assert (shown["asked"]["metadata"], shown["asked"]["project_id"]) == ({"a": "b"}, "p")


@pytest.mark.usefixtures("worker")
async def test_retried_it_is_answered_in_its_session_and_charged_once(
    operator: ApiClient, customer: ApiClient, provider: ScriptedProvider
) -> None:
    receipt = await _make_dead_letter(customer, provider)
    before = (await customer.credits())["total"]
    payload = body(await operator.post(f"{DEAD}/retry", json={"ids": [_id(receipt)] * 2}))
    assert (payload["count"], payload["refused"]) == (1, [])
    [retried] = payload["retried"]
    assert body(await operator.post(f"{DEAD}/retry", json={"ids": [_id(receipt)]})) == payload
    again = {"poll_url": f"/api/v1/generate/{retried['generation_id']}/status"}
    ended = await customer.wait_for_end(again)
    assert ended["state"] == "completed"
    assert ended["result"]["content"] == "You said: Why is it down?"
    messages = await customer.messages(receipt["session_id"])
    assert [each["status"] for each in messages] == [
        "completed",
        "failed",
        "completed",
        "completed",
    ]
    left = await customer.credits()
    assert left["held"] == 0
    assert before - left["total"] == pytest.approx(ended["credits_used"])
    assert ended["credits_used"] > 0
    assert body(await operator.get(DEAD))["dead"] == []


@pytest.mark.usefixtures("worker")
async def test_filter_chooses_what_is_retried_and_discarded(
    operator: ApiClient, customer: ApiClient, provider: ScriptedProvider
) -> None:
    receipts = [await _make_dead_letter(customer, provider) for _ in range(3)]
    nothing: list[Json] = [{"category": "internal"}, {"account": "two"}, {"until": "2020-01-01"}]
    for filter_ in nothing:
        for action in ("retry", "discard"):
            answer = await operator.post(f"{DEAD}/{action}", json={"filter": filter_})
            assert body(answer)["count"] == 0
    payload = body(await operator.post(f"{DEAD}/discard", json={"filter": {"limit": 1}}))
    assert payload["discarded"] == [_id(receipts[2])]
    sent: Json = {
        "filter": {"category": "provider_error", "provider": "scripted", "account": "one"}
    }
    payload = body(await operator.post(f"{DEAD}/retry", json=sent))
    assert {each["id"] for each in payload["retried"]} == {_id(each) for each in receipts[:2]}
    sent = {"ids": [_id(receipts[2]), "one/nobody"]}
    payload = body(await operator.post(f"{DEAD}/discard", json=sent))
    assert (payload["count"], payload["unknown"]) == (0, sent["ids"])
    for each in body(await operator.post(f"{DEAD}/retry", json=sent))["refused"]:
        assert each["code"] == "NOT_FOUND"


@pytest.mark.usefixtures("worker")
async def test_list_is_paged_and_narrowed(
    operator: ApiClient, customer: ApiClient, provider: ScriptedProvider
) -> None:
    receipts = [await _make_dead_letter(customer, provider) for _ in range(3)]
    found: list[str] = []
    after: str | None = None
    while True:
        asked = {"limit": "2"} | ({"after": after} if after else {})
        page = body(await operator.get(DEAD, params=asked))
        found += [each["id"] for each in page["dead"]]
        after = page["next_after"]
        if after is None:
            break
        assert page["count"] == 2
    assert found == [_id(each) for each in reversed(receipts)]
    for asked, count in (({"code": "NO_SUCH"}, 0), ({"model": "auto"}, 3), ({"account": "x"}, 0)):
        assert body(await operator.get(DEAD, params=asked))["count"] == count


@pytest.mark.usefixtures("worker")
async def test_letter_of_a_deleted_session_is_gone(
    operator: ApiClient, customer: ApiClient, provider: ScriptedProvider
) -> None:
    receipt = await _make_dead_letter(customer, provider)
    body(await customer.delete(f"/api/v1/chat/conversations/{receipt['session_id']}"))
    refused(await operator.get(f"{DEAD}/{_id(receipt)}"), 404, "NOT_FOUND")
    payload = body(await operator.post(f"{DEAD}/retry", json={"ids": [_id(receipt)]}))
    assert [each["code"] for each in payload["refused"]] == ["NOT_FOUND"]
    assert body(await operator.get(DEAD))["count"] == 0


@pytest.mark.parametrize(
    "query",
    ["category=weather", "limit=0", "limit=x", "limit=1001", "since=soon", "after=x", "after=1.a"],
)
async def test_wrong_parameters_are_refused(operator: ApiClient, query: str) -> None:
    refused(await operator.get(f"{DEAD}?{query}"), 400, "INVALID_FIELDS")


@pytest.mark.parametrize("action", ["retry", "discard"])
@pytest.mark.parametrize(
    "sent",
    [
        {},
        {"ids": [], "filter": None},
        {"ids": ["one"]},
        {"ids": ["one/a:b"]},
        {"ids": ["one/x"], "filter": {}},
        {"filter": {"limit": 0}},
        {"filter": {"category": "weather"}},
        {"filter": {"since": "soon"}},
        {"filter": {"colour": "red"}},
        {"all": True},
    ],
)
async def test_wrong_bodies_are_refused(operator: ApiClient, action: str, sent: Json) -> None:
    refused(await operator.post(f"{DEAD}/{action}", json=sent), 400, "INVALID_FIELDS")


@pytest.mark.parametrize("account", ["one", "a:b", "*", "%0A", "%2E%2E"])
async def test_unknown_letters_are_not_found(operator: ApiClient, account: str) -> None:
    refused(await operator.get(f"{DEAD}/{account}/{ids.new_id()}"), 404, "NOT_FOUND")
