"""Which shape an error has: decided by path, with statuses and headers of the dialect's own."""

import json

import pytest

from api.app import DIALECTS
from api.endpoints import dialect
from api.errors import FAILURE_STATUS, STATUS, ErrorReport, ErrorShape, ErrorShapes
from api.wire import error_reply
from shared.errors import Code, FailedError, Failure, RefusedError, RequestError


def _body(report: ErrorReport) -> bytes:
    parts = (report.code.value, report.message, report.request_id, str(sorted(report.details)))
    return "|".join(parts).encode()


def _headers(code: Code, headers: dict[str, str]) -> dict[str, str]:
    wait = headers.pop("retry-after", None)
    return headers | {"x-code": code.value} | ({"x-wait": wait} if wait else {})


OWN = ErrorShape(
    reply=str,
    body=_body,
    content_type="text/plain",
    statuses={Code.QUEUE_FULL: 529},
    failure_statuses={"overloaded": 529},
    headers=_headers,
)
SHAPES = ErrorShapes(error_reply.ERRORS, {"/v1": OWN, "/v1/inner": error_reply.ERRORS})


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/x/y"])
def test_a_dialect_answers_with_statuses_headers_and_a_body_of_its_own(path: str) -> None:
    full = RefusedError("full", Code.QUEUE_FULL, retry_after_seconds=7, headers={"a": "b"})
    refusal = SHAPES.refusal(path, full, "a sentence", "id")
    assert refusal == (
        529,
        "text/plain",
        {"a": "b", "x-code": "QUEUE_FULL", "x-wait": "7"},
        b"QUEUE_FULL|a sentence|id|[]",
    )
    other = SHAPES.refusal(path, RequestError("no", Code.NOT_FOUND, details={"k": 1}), "no", "id")
    assert (other.status, other.content) == (404, b"NOT_FOUND|no|id|['k']")
    failure = Failure(message="busy", category="overloaded", code="busy")
    assert SHAPES.refusal(path, FailedError(failure), "m", "id").status == 529


@pytest.mark.parametrize("path", ["", "/", "/v", "/v12", "/other", "/v1/inner", "/v1/inner/x"])
def test_other_paths_have_the_default_shape_and_a_longer_prefix_decides(path: str) -> None:
    refusal = SHAPES.refusal(path, RequestError("full", Code.QUEUE_FULL), "full", "id")
    assert (refusal.status, refusal.content_type) == (503, "application/json")
    assert json.loads(refusal.content) == {
        "success": False,
        "error": "full",
        "code": "QUEUE_FULL",
        "request_id": "id",
    }


def test_the_default_tables_know_every_code_and_category() -> None:
    assert {OWN.status(code) for code in Code} == set(STATUS.values()) | {529}
    assert OWN.failure_status("expired") == FAILURE_STATUS["expired"]


def test_two_dialects_below_one_prefix_and_links_to_nowhere_are_found() -> None:
    first, second = DIALECTS
    dialect.check(DIALECTS)
    with pytest.raises(ValueError, match="two dialects"):
        dialect.check([first, first])
    with pytest.raises(ValueError, match="leads to no route"):
        dialect.check([second])
