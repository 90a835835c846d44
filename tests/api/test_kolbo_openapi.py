"""The published document: valid, complete, and true of every response.

Responses are checked against it everywhere: every customer of these tests validates each response
that it gets.
"""

from typing import Final

import openapi_spec_validator
import pytest

from shared.errors import Code
from tests.support import openapi_document
from tests.support.api_client import ApiClient, body
from tests.support.mounts import MOUNTS
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.stored_batch import StoredBatch, answered

JSON: Final = "application/json"
ALWAYS: Final = {
    "x-request-id": "r",
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
}


async def test_the_document_is_served(api: ApiClient) -> None:
    answer = await api.get("/openapi.json")
    assert answer.status_code == 200
    served = answer.json()
    assert served["info"].pop("version")
    made = dict(openapi_document.document())
    assert served == made | {"info": served["info"]}


def test_the_document_is_valid() -> None:
    made = openapi_document.document()
    assert made["openapi"] == "3.1.0"
    openapi_spec_validator.validate(made)


def test_the_document_has_every_route_and_no_other() -> None:
    made = openapi_document.document()
    documented = {(method.upper(), path) for path, item in made["paths"].items() for method in item}
    assert documented == {
        (endpoint.method, prefix + endpoint.path)
        for prefix, endpoints in MOUNTS.items()
        for endpoint in endpoints
    }
    operations = [each for item in made["paths"].values() for each in item.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    for operation in operations:
        assert operation["summary"]
        assert {"401", "403", "429", "500", "503"} <= operation["responses"].keys()
    schemes = made["components"]["securitySchemes"]
    assert [next(iter(each)) for each in made["security"]] == list(schemes)


def test_every_code_of_the_contract_is_documented_somewhere() -> None:
    made = openapi_document.document()
    payload = {
        code
        for item in made["paths"].values()
        for operation in item.values()
        for response in operation["responses"].values()
        for code in response["description"].split(", ")
    }
    missing = {code.value for code in Code} - payload
    # Those of unknown routes and methods; and that of other models.
    assert missing == {"METHOD_NOT_ALLOWED", "WRONG_MODEL_TYPE"}


@pytest.mark.usefixtures("worker")
async def test_every_operation_answers_as_it_is_documented(
    api: ApiClient, provider: ScriptedProvider, batch: StoredBatch
) -> None:
    provider.script += [ScriptedAnswer(text="one"), ScriptedAnswer(status=401)]
    asked = {"message": "hello", "metadata": {"a": "b"}, "project_id": "p", "model": "alpha"}
    receipt = body(await api.post("/api/v1/chat", json=asked))
    await api.wait_for_end(receipt)
    session = receipt["session_id"]
    await api.submit_and_wait("fails", session_id=session)
    list_, batches = "/api/v1/chat/conversations", "/api/v1/batches"
    await batch.add([answered(1, "done"), None])
    stored, actions = await batch.write(), ("pause", "resume", "cancel", "retry")
    answers = [
        await api.post("/api/v1/chat", json=asked),
        await api.get(receipt["poll_url"]),
        await api.get(receipt["events_url"]),
        await api.post((await api.submit("hello"))["cancel_url"]),
        await api.get("/api/v1/models"),
        await api.get(list_),
        await api.get(f"{list_}/{session}/messages"),
        await api.get("/api/v1/account/credits"),
        await api.get("/api/v1/account/usage"),
        await api.patch(f"{list_}/{session}", json={"name": "n"}),
        await api.delete(f"{list_}/{session}"),
        await api.post(batches, json={"items": [{"message": "hello"}]}),
        await api.get(batches),
        await api.get(f"{batches}/{stored}"),
        await api.get(f"{batches}/{stored}/results"),
        *[await api.post(f"{batches}/{stored}/{each}") for each in actions],
        await api.delete(f"{batches}/{stored}"),
    ]
    assert len(answers) == len(MOUNTS["/api/v1"])
    for answer in answers:
        asked_ = answer.request
        where = (asked_.method, asked_.url.path, answer.status_code)
        assert openapi_document.faults(*where, answer.headers, answer.content) == []


def test_the_referee_sees_a_wrong_answer() -> None:
    credits_ = ("GET", "/api/v1/account/credits")
    headers = {"content-type": JSON, **ALWAYS, "date": "today"}
    good = b'{"success":true,"credits":{"total":1,"available":1,"held":0}}'
    assert openapi_document.faults(*credits_, 200, headers, good) == []
    assert openapi_document.faults(*credits_, 200, headers, good.replace(b"true", b"false"))
    assert openapi_document.faults(
        *credits_, 200, headers, good.replace(b'"held":0', b'"held":"0"')
    )
    assert openapi_document.faults(
        *credits_, 200, headers, good.replace(b'"held":0', b'"held":0,"a":1')
    )
    assert openapi_document.faults(*credits_, 200, headers, good.replace(b',"held":0', b""))
    assert openapi_document.faults(*credits_, 418, headers, good)
    assert openapi_document.faults(
        *credits_, 200, headers | {"content-type": "text/event-stream"}, good
    )
    assert openapi_document.faults("GET", "/api/v1/generate/x/status", 304, headers, b"{}")


def test_the_referee_sees_a_wrong_header() -> None:
    credits_ = ("GET", "/api/v1/account/credits")
    headers = {"content-type": JSON, **ALWAYS, "retry-after": "1"}
    refusal = b'{"success":false,"error":"No.","code":"RATE_LIMITED","request_id":"r"}'
    assert openapi_document.faults(*credits_, 429, headers, refusal) == []
    assert openapi_document.faults(*credits_, 429, headers | {"x-more": "1"}, refusal)
    assert openapi_document.faults(*credits_, 429, headers | {"retry-after": "soon"}, refusal)
    assert openapi_document.faults(*credits_, 429, headers | {"ratelimit-reset": "-1"}, refusal)
    del headers["retry-after"]
    assert openapi_document.faults(*credits_, 429, headers, refusal)


def test_the_referee_sees_what_no_refusal_tells() -> None:
    chat = ("POST", "/api/v1/chat")
    headers = {"content-type": JSON, **ALWAYS}
    refusal = b'{"success":false,"error":"No.","code":"SESSION_BUSY","request_id":"r"%b}'
    assert openapi_document.faults(*chat, 409, headers, refusal % b"") == []
    assert openapi_document.faults(*chat, 409, headers, refusal % b',"generation_id":"g"') == []
    assert openapi_document.faults(*chat, 409, headers, refusal % b',"generation":"g"')
