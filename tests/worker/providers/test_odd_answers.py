"""Answers that deviate from their dialect in form or end, and how each is read."""

import json
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import pytest

from tests.worker.providers import anthropic, gemini, openai
from tests.worker.providers.calls import REQUEST, Call
from tests.worker.providers.dialect_row import event
from tests.worker.providers.upstream import Line, whole
from worker.providers.contract import Ended, Paused, Reasoning, ReportedUsage, Text

_FAILED: Final = ("provider_error", "PROVIDER_FAILED", "backoff")
_OPENAI: Final = pytest.mark.parametrize("dialect", [openai.ROW], ids=["openai"], indirect=True)
_ANTHROPIC: Final = pytest.mark.parametrize(
    "dialect", [anthropic.ROW], ids=["anthropic"], indirect=True
)
_GEMINI: Final = pytest.mark.parametrize("dialect", [gemini.ROW], ids=["gemini"], indirect=True)
_USAGE: Final = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def _step(reason: object = None, **delta: object) -> bytes:
    return openai.chunk({"index": 0, "delta": delta, "finish_reason": reason})


def _ending(name: str, reason: object) -> bytes:
    """Return the event by which an upstream of a dialect ends for a reason."""
    if name == "openai":
        return _step(reason)
    if name == "anthropic":
        return anthropic.said("message_delta", delta={"stop_reason": reason})
    return event({"candidates": [{"finishReason": reason}]})


# Ends


@pytest.mark.parametrize(
    "reason",
    [
        *("error", "abort", "aborted", "network_error", "insufficient_system_resource"),
        *("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "OTHER", "MALFORMED_RESPONSE"),
        *("cancelled", "internal-error", "engine overloaded", "request_timeout", "failed"),
        *({"type": "abort", "message": "no"}, ["error"]),
    ],
    ids=str,
)
async def test_end_by_an_error_is_a_failure(call: Call, reason: object) -> None:
    received = await call(
        whole(call.dialect.text("The answer"), _ending(call.dialect.name, reason))
    )
    assert (received.text, received.reasons, received.fault) == ("The answer", [], _FAILED)


@pytest.mark.parametrize("word", ["null", "", "NONE", None, "unspecified"])
async def test_word_for_none_is_no_end(call: Call, word: object) -> None:
    name = call.dialect.name
    answer = call.dialect.text("Two ") + _ending(name, word) + call.dialect.answer("bears")
    assert (await call(whole(answer))).text == "Two bears"
    received = await call(whole(call.dialect.text("Two "), _ending(name, word)))
    assert received.fault == ("provider_error", "STREAM_CUT", "backoff")


@pytest.mark.parametrize("reason", ["of_their_own", 7, True, ["x"], {"a": 1}], ids=str)
async def test_reason_that_nobody_knows_is_an_end_once_nothing_follows(
    call: Call, reason: object
) -> None:
    name = call.dialect.name
    said = call.dialect.text("Two ") + _ending(name, reason) + call.dialect.text("bears")
    received = await call(whole(said, _ending(name, reason), call.dialect.done))
    assert (received.text, received.reasons, received.error) == ("Two bears", ["stop"], None)


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        *(("STOP", "stop"), ("eos", "stop"), ("end_turn", "stop"), ("MAX_TOKENS", "length")),
        *(("model_length", "length"), ("function_call", "tool_calls"), ("tool_use", "tool_calls")),
        *(("sensitive", "content_filter"), ("content-filter", "content_filter")),
        *(("LANGUAGE", "content_filter"), ({"type": "stop"}, "stop")),
    ],
    ids=str,
)
async def test_words_of_every_dialect_are_known_in_all(
    call: Call, reason: object, told: str
) -> None:
    received = await call(whole(call.dialect.text("Two"), _ending(call.dialect.name, reason)))
    assert (received.reasons, received.error) == ([told], None)


@_OPENAI
async def test_error_of_a_choice_is_an_error(call: Call) -> None:
    broken = {"index": 0, "delta": {"content": ""}, "error": {"code": 429, "message": "slow down"}}
    received = await call(
        whole(_step(content="Two"), openai.chunk(broken | {"finish_reason": "error"}))
    )
    assert received.fault[1] == "PROVIDER_RATE_LIMITED"


@_OPENAI
async def test_count_and_last_event_are_an_end_without_a_reason(call: Call) -> None:
    received = await call(whole(_step(content="Two"), openai.chunk(usage=_USAGE), openai.DONE))
    assert (received.text, received.reasons, received.error) == ("Two", ["stop"], None)
    received = await call(whole(_step(content="Two"), openai.chunk(usage=_USAGE)))
    assert received.fault == ("provider_error", "STREAM_CUT", "backoff")


async def test_nothing_after_the_end_takes_the_answer_back(call: Call) -> None:
    whole_answer = call.dialect.text("Two") + call.dialect.ended("stop")
    for after in (
        call.dialect.error_event(500, "too late"),
        b'data: {"delta": {"text": "broken\n\n',
        _ending(call.dialect.name, "error"),
        b"data: " + b"x" * 2_000_000,
    ):
        received = await call(whole(whole_answer, after))
        assert (received.text, received.reasons, received.error) == ("Two", ["stop"], None)


# Refusals, and answers in another place


@_OPENAI
async def test_refusal_is_an_end_by_the_filter(call: Call) -> None:
    refused = _step(refusal="I cannot ") + _step(refusal="help.")
    received = await call(whole(refused, _step("stop"), openai.DONE))
    assert (received.text, received.reasons) == ("", ["content_filter"])
    listed = _step(content=[{"type": "refusal", "refusal": "No."}])
    assert (await call(whole(listed, _step("stop")))).reasons == ["content_filter"]


@_OPENAI
async def test_answer_in_the_message_of_the_last_chunk_is_read_once(call: Call) -> None:
    message = {"role": "assistant", "content": "Two bears", "reasoning_content": "hm"}
    last = openai.chunk(
        {"index": 0, "delta": {"content": ""}, "message": message, "finish_reason": "stop"}
    )
    received = await call(whole(last, openai.DONE))
    assert received.parts == [Reasoning("hm"), Text("Two bears"), Ended("stop")]
    received = await call(whole(_step(content="Two bears"), last, openai.DONE))
    assert received.text == "Two bears"


# Whole answers


def _complete(name: str) -> dict[str, Any]:
    """Return an answer that comes whole, with a thought, a call and what was used."""
    if name == "openai":
        call = {"id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        message = {"content": "Two", "reasoning_content": "hm", "tool_calls": [call]}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
        return {"object": "chat.completion", "choices": [choice], "usage": _USAGE}
    if name == "anthropic":
        thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
        call = {"type": "tool_use", "id": "x", "name": "f", "input": {}}
        content = [thought, {"type": "text", "text": "Two"}, call]
        usage = {"input_tokens": 7, "output_tokens": 3}
        said = {"type": "message", "content": content, "stop_reason": "tool_use"}
        return {**said, "usage": usage}
    parts = [{"text": "hm", "thought": True}, {"text": "Two"}]
    called = {"functionCall": {"id": "x", "name": "f", "args": {}}}
    candidate = {"content": {"parts": [*parts, called]}, "finishReason": "STOP"}
    usage = {"promptTokenCount": 7, "candidatesTokenCount": 3}
    return {"candidates": [candidate], "usageMetadata": usage}


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("lead", ["", "\ufeff", "\n \n"], ids=["plain", "mark", "blanks"])
async def test_whole_answer_in_json_is_read(call: Call, indent: int | None, lead: str) -> None:
    answer = json.dumps(_complete(call.dialect.name), indent=indent)
    received = await call(whole((lead + answer).encode(), content_type="application/json"))
    assert received.error is None
    assert (received.text, received.reasons, received.used) == (
        "Two",
        ["tool_calls"],
        ReportedUsage(7, 3),
    )
    assert [called.tool for called in received.called] == ["f"]
    assert Reasoning("hm") in received.parts


async def test_array_and_lines_of_json_are_read_item_by_item(call: Call) -> None:
    said = [
        line.removeprefix(b"data: ")
        for line in call.dialect.answer("Two ", "bears").split(b"\n")
        if line.startswith(b"data: {")
    ]
    for body in (b"[" + b"\n,\r\n".join(said) + b"]", b"\n".join(said)):
        received = await call(whole(body, content_type="application/json"))
        assert (received.text, received.used, received.error) == (
            "Two bears",
            ReportedUsage(3, 2),
            None,
        )


async def test_error_in_json_is_an_error(call: Call) -> None:
    told = {"error": {"code": 429, "message": "slow", "type": "rate_limit_error"}}
    for body in (told, [told]):
        received = await call(whole(json.dumps(body).encode(), content_type="application/json"))
        assert received.fault[1] == "PROVIDER_RATE_LIMITED"


@pytest.mark.parametrize(
    "data",
    [
        b'error: {"code": 429, "type": "rate_limit_error", "message": "slow"}\n\n',
        b'event: error\ndata: {"code": 429, "type": "rate_limit_error"}\n\n',
        b'event: error\ndata: {"error": {"code": 429, "type": "rate_limit_error"}}\n\n',
    ],
)
async def test_error_in_every_framing_is_an_error(call: Call, data: bytes) -> None:
    assert (await call(whole(data))).fault[1] == "PROVIDER_RATE_LIMITED"


async def test_json_that_breaks_off_is_a_cut(call: Call) -> None:
    answer = json.dumps(_complete(call.dialect.name)).encode()
    received = await call(whole(answer[:-20], content_type="application/json"))
    assert received.fault == ("provider_error", "STREAM_CUT", "backoff")


# Odd details


@_OPENAI
@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ([{"type": "text", "text": "b"}], [Text("b")]),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}], [Reasoning("hm")]),
        (
            [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "b"}],
            [Reasoning("hm"), Text("b")],
        ),
        ({"type": "text", "text": "b"}, [Text("b")]),
        (["b", {"type": ["x"], "text": "c"}], [Text("b"), Text("c")]),
        ([{"type": "reference", "reference_ids": [1]}, 7, None], []),
        (7, [Text("7")]),
    ],
    ids=str,
)
async def test_content_of_every_form(call: Call, content: object, parts: Sequence[object]) -> None:
    received = await call(whole(_step(content=content), _step("stop"), openai.DONE))
    assert (received.parts, received.error) == ([*parts, Ended("stop")], None)


@_OPENAI
@pytest.mark.parametrize("word", [b"[DONE] ", b" [done]", b'"[DONE]"', b"DONE"])
async def test_last_event_in_every_form(call: Call, word: bytes) -> None:
    answer = _step(content="Two") + openai.chunk(usage=_USAGE) + b"data: " + word + b"\n\n"
    assert (await call(whole(answer))).reasons == ["stop"]


@_OPENAI
async def test_halves_of_a_character_are_joined(call: Call) -> None:
    first = b'data: {"choices": [{"delta": {"content": "a \\ud83d"}}]}\n\n'
    second = b'data: {"choices": [{"delta": {"content": "\\ude00 b"}}]}\n\n'
    received = await call(whole(first, second, _step("stop")))
    assert (received.text, received.error) == ("a \U0001f600 b", None)
    received = await call(whole(second, first, _step("stop")))
    assert (received.text, received.error) == ("\ufffd ba ", None)


@_OPENAI
@pytest.mark.parametrize("arguments", ['{"a":', "[1]", 7, True])
async def test_call_that_nobody_offered_takes_nothing_from_the_text(
    call: Call, arguments: object
) -> None:
    piece = {"index": "0", "id": 5, "function": {"name": "f", "arguments": arguments}}
    answer = _step(content="Two") + _step(tool_calls=[piece]) + _step("tool_calls")
    received = await call(whole(answer))
    assert (received.text, received.reasons, received.error) == ("Two", ["tool_calls"], None)


@_OPENAI
async def test_arguments_may_be_an_object(call: Call) -> None:
    piece = {"index": 0, "id": "x", "function": {"name": "f", "arguments": {"a": 1}}}
    received = await call(whole(_step(tool_calls=[piece]), _step("tool_calls")))
    assert [called.arguments for called in received.called] == ['{"a":1}']


# What was used


@_OPENAI
@pytest.mark.parametrize(
    ("usage", "told"),
    [
        # Within the completion, beside it by the total, and beside it since it is more than that.
        ((10, 300, 310, 200), ReportedUsage(10, 300, 200)),
        ((32, 9, 363, 322), ReportedUsage(32, 331, 322)),
        ((32, 9, None, 322), ReportedUsage(32, 331, 322)),
        ((10, 300, 510, 200), ReportedUsage(10, 500, 200)),
        ((10, 300, 999, 0), ReportedUsage(10, 300)),
    ],
)
async def test_thoughts_are_counted_once(
    call: Call, usage: tuple[int, int, int | None, int], told: ReportedUsage
) -> None:
    asked, answered, total, thought = usage
    details = {"reasoning_tokens": thought}
    counts = {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": total}
    last = openai.chunk(usage=counts | {"completion_tokens_details": details})
    assert (await call(whole(_step("stop", content="Two"), last))).used == told


@_GEMINI
async def test_prompts_of_the_upstream_s_own_tools_are_counted(call: Call) -> None:
    used = gemini.used(151, 1089, toolUsePromptTokenCount=18_329, thoughtsTokenCount=1120)
    received = await call(whole(gemini.chunk({"text": "a"}, reason="STOP", usageMetadata=used)))
    assert received.used == ReportedUsage(18_480, 2209, 1120)


# Pauses


@_ANTHROPIC
async def test_pause_tells_what_to_send_back(call: Call) -> None:
    request = msgspec.structs.replace(REQUEST, web_search=True)
    page = {"type": "web_search_result_location", "url": "https://a.example/", "title": "A"}
    said = b"".join(
        (
            anthropic.begun(0, type="thinking", thinking="", signature=""),
            anthropic.grown("thinking_delta", 0, thinking="hm"),
            anthropic.grown("signature_delta", 0, signature="sig"),
            anthropic.closed(0),
            anthropic.searching(1),
            anthropic.begun(3, type="text", text="", citations=[]),
            anthropic.grown("text_delta", 3, text="Let me "),
            anthropic.grown("citations_delta", 3, citation=page),
            anthropic.closed(3),
            anthropic.begun(4, type="text", text=""),
            anthropic.closed(4),
        )
    )
    usage = {"output_tokens": 3}
    paused = anthropic.said("message_delta", delta={"stop_reason": "pause_turn"}, usage=usage)
    first = anthropic.started(input_tokens=7, output_tokens=1) + said + paused + anthropic.DONE
    received = await call(whole(first), request)
    assert received.error is None
    (pause,) = (part for part in received.parts if isinstance(part, Paused))
    thought, searching, found, text = pause.content
    assert thought == {"type": "thinking", "thinking": "hm", "signature": "sig"}
    assert (searching["input"], found["type"]) == ({"query": "bears"}, "web_search_tool_result")
    assert text == {"type": "text", "text": "Let me ", "citations": [page]}
    received = await call(
        whole(anthropic.ROW.answer("count.")),
        msgspec.structs.replace(request, so_far=pause.content),
    )
    sent = json.loads(call.upstream.lines[-1].request.partition(b"\r\n\r\n")[2])
    assert sent["messages"][-1] == {"role": "assistant", "content": list(pause.content)}
    assert received.text == "count."


@_ANTHROPIC
async def test_pause_that_nothing_gave_a_reason_for_is_a_failure(call: Call) -> None:
    received = await call(
        whole(call.dialect.text("Let me"), _ending("anthropic", "pause_turn"), anthropic.DONE)
    )
    assert (received.text, received.reasons, received.fault) == ("Let me", [], _FAILED)


# Signs of life


@pytest.mark.parametrize("sign", [b": keep-alive\n\n", b"\n", b'data: {"type": "ping"}\n\n'])
async def test_signs_of_life_are_reported_apart_from_parts(call: Call, sign: bytes) -> None:
    async def script(line: Line) -> None:
        await line.head()
        await line.send(sign)
        await line.send(call.dialect.answer("Two"))

    received = await call(script)
    assert (received.text, received.error) == ("Two", None)
    assert received.signs_of_life >= 1
