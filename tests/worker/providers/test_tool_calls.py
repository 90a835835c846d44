"""Tool calls of a model: each is reported once and complete, or is an error of the stream."""

import json

import pytest

from shared.wire.conversation import CallPart
from tests.worker.providers.calls import Call
from tests.worker.providers.dialects import DIALECTS
from tests.worker.providers.upstream import chunked, whole
from worker.providers.contract import Ended, ReportedUsage, Text
from worker.providers.sse import EVENT_BYTES_MAX
from worker.providers.tool_calls import TOOL_CALLS_MAX

_MALFORMED = ("provider_error", "MALFORMED_STREAM", "backoff")
_TOO_LARGE = ("provider_error", "RESPONSE_TOO_LARGE", "never")
_in_pieces = pytest.mark.parametrize(
    "dialect",
    [dialect for dialect in DIALECTS if dialect.has_pieces],
    ids=lambda dialect: dialect.name,
    indirect=True,
)


async def test_call_is_reported_whole(call: Call) -> None:
    said = call.dialect
    called = said.call("c-1", "weather", ['{"city":"Bärn 🐻","days":[1,2.5,null]}'], 1)
    received = await call(whole(said.framed(said.text("So: ") + called, "tool_calls", (3, 2))))
    assert received.error is None
    arguments = '{"city":"Bärn 🐻","days":[1,2.5,null]}'
    expected_parts = [Text("So: "), CallPart("c-1", "weather", arguments)]
    assert received.parts == [*expected_parts, Ended("tool_calls"), ReportedUsage(3, 2)]


@_in_pieces
async def test_call_in_pieces_is_reported_once(call: Call) -> None:
    pieces = list('{"city":"Bärn \\u00e4","deep":{"a":[{}]}}')
    received = await call(
        whole(call.dialect.calling(call.dialect.call("c-1", "weather", pieces, 1)))
    )
    assert received.error is None
    assert received.called == [CallPart("c-1", "weather", "".join(pieces))]


@_in_pieces
async def test_call_that_breaks_off_is_never_reported(call: Call) -> None:
    called = call.dialect.call("c-1", "weather", ['{"city":', '"Bern"', "}"], 1)
    events = called.split(b"\n\n")
    for count in range(1, len(events) - 1):
        received = await call(chunked(b"\n\n".join([*events[:count], b""])))
        assert received.fault == ("provider_error", "STREAM_CUT", "backoff")
        assert received.called == []


async def test_two_calls_in_one_answer_are_reported_in_their_order(call: Call) -> None:
    said = call.dialect
    first = said.call("c-1", "weather", ['{"city":', '"Bern"}'], 1)
    second = said.call("c-2", "count", ['{"what":"bears"}'], 2)
    received = await call(whole(said.calling(first, second)))
    assert received.error is None
    assert received.called == [
        CallPart("c-1", "weather", '{"city":"Bern"}'),
        CallPart("c-2", "count", '{"what":"bears"}'),
    ]
    assert received.reasons == ["tool_calls"]


@pytest.mark.parametrize("pieces", [[], ["{}"], ["null"]])
async def test_call_without_arguments_has_none(call: Call, pieces: list[str]) -> None:
    received = await call(whole(call.dialect.calling(call.dialect.call("c-1", "now", pieces, 1))))
    assert (received.called, received.error) == ([CallPart("c-1", "now", "{}")], None)


async def test_call_without_an_id_gets_one_of_its_own(call: Call) -> None:
    said = call.dialect
    calls = [said.call("", "now", ["{}"], index) for index in (1, 2)]
    received = await call(whole(said.calling(*calls)))
    assert received.error is None
    ids = {called.call_id for called in received.called}
    assert len(ids) == 2
    assert all(ids)


async def test_answer_that_called_and_stopped_is_one_that_calls(call: Call) -> None:
    said = call.dialect
    called = said.call("c-1", "now", ["{}"], 1)
    received = await call(whole(said.framed(called, "stop", (3, 2))))
    assert (received.reasons, received.error) == (["tool_calls"], None)


# What a model may write; a whole answer of Gemini that holds no JSON is no JSON either.
_NO_OBJECTS = ["[1]", "5", '"text"', '{"a":1e999}']
_NO_JSON = ['{"a":', "{]", "{}{}", "[" * 100_000, 'cut "off']


@pytest.mark.parametrize("arguments", _NO_OBJECTS)
async def test_arguments_that_are_no_object_are_reported_as_written(
    call: Call, arguments: str
) -> None:
    said = call.dialect
    received = await call(whole(said.calling(said.call("c-1", "weather", [arguments], 1))))
    assert (received.error, received.reasons) == (None, ["tool_calls"])
    assert received.called == [CallPart("c-1", "weather", arguments)]
    assert received.called[0].object is None


@_in_pieces
@pytest.mark.parametrize("arguments", _NO_JSON)
async def test_arguments_that_are_no_json_are_reported_as_written(
    call: Call, arguments: str
) -> None:
    said = call.dialect
    pieces = [arguments[:2], arguments[2:]]
    received = await call(whole(said.calling(said.call("c-1", "weather", pieces, 1))))
    assert (received.error, received.reasons) == (None, ["tool_calls"])
    assert received.called == [CallPart("c-1", "weather", arguments)]
    assert received.called[0].object is None


async def test_call_of_no_tool_is_an_error(call: Call) -> None:
    received = await call(whole(call.dialect.calling(call.dialect.call("c-1", "", ["{}"], 1))))
    assert (received.fault, received.called) == (_MALFORMED, [])


@pytest.mark.parametrize("more", [0, 1])
async def test_calls_are_bounded_in_number(call: Call, more: int) -> None:
    said = call.dialect
    calls = [said.call(f"c{n}", "now", ["{}"], n) for n in range(1, TOOL_CALLS_MAX + 1 + more)]
    received = await call(whole(said.calling(*calls)))
    if more:
        assert received.fault == _TOO_LARGE
    else:
        assert (len(received.called), received.error) == (TOOL_CALLS_MAX, None)


async def test_arguments_are_bounded_in_all(call: Call) -> None:
    said = call.dialect
    arguments = json.dumps({"text": "x" * (EVENT_BYTES_MAX // 10)})
    calls = [said.call(f"c{n}", "write", [arguments], n) for n in range(1, 11)]
    received = await call(whole(said.calling(*calls[:9])))
    assert (len(received.called), received.error) == (9, None)
    assert (await call(whole(said.calling(*calls)))).fault == _TOO_LARGE
