"""What an adapter reads from a well-behaved upstream: text, reasons, usage, in valid framings."""

import asyncio
from collections.abc import Callable

import pytest

from tests.support.waiting import until
from tests.worker.providers.calls import PATIENT_SECONDS, Call, connect, listen
from tests.worker.providers.dialect_row import Dialect, Reason
from tests.worker.providers.dialects import DIALECTS
from tests.worker.providers.memory_upstream import MemoryTransport
from tests.worker.providers.upstream import Line, chunked, held, whole
from worker.providers.contract import Ended, Reasoning, ReportedUsage, Text


async def test_whole_answer_is_text_an_end_and_usage(call: Call) -> None:
    received = await call(whole(call.dialect.answer("Two ", "bears.")))
    assert received.error is None
    assert received.parts == [Text("Two "), Text("bears."), Ended("stop"), ReportedUsage(3, 2)]
    assert call.upstream.line.request.startswith(f"POST {call.dialect.path} ".encode())
    assert f"\r\n{call.dialect.key_header}\r\n".encode() in call.upstream.line.request


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter", "tool_calls", "other"])
async def test_reason_is_translated(call: Call, reason: Reason) -> None:
    received = await call(whole(call.dialect.answer("Two", reason=reason)))
    # A reason that nobody knows is a stop, when nothing follows it.
    assert received.reasons == ["stop" if reason == "other" else reason]
    assert received.error is None


async def test_usage_may_be_missing(call: Call) -> None:
    said = call.dialect
    received = await call(whole(said.text("Two"), said.ended("stop"), said.done))
    assert (received.text, received.used, received.error) == ("Two", None, None)


@pytest.mark.parametrize("usage", [(-1, 5), (5, -1), (10**12, 5), (5, 2**70)])
async def test_implausible_usage_is_no_usage(call: Call, usage: tuple[int, int]) -> None:
    received = await call(whole(call.dialect.answer("Two", usage=usage)))
    assert (received.text, received.used, received.error) == ("Two", None, None)


async def test_largest_believable_usage_is_reported(call: Call) -> None:
    received = await call(whole(call.dialect.answer("Two", usage=(2_000_000, 128_000))))
    assert received.used == ReportedUsage(2_000_000, 128_000)


async def test_what_was_thought_is_reported_beside_the_answer(call: Call) -> None:
    said = call.dialect
    thought = said.reasoning("Bears? ") + said.reasoning("Count.")
    received = await call(whole(said.framed(thought + said.text("Two"), "stop", (3, 2))))
    assert received.error is None
    expected_parts = [Reasoning("Bears? "), Reasoning("Count."), Text("Two")]
    assert received.parts == [*expected_parts, Ended("stop"), ReportedUsage(3, 2)]


async def test_empty_answer_is_an_end_without_text(call: Call) -> None:
    received = await call(whole(call.dialect.answer()))
    assert received.parts == [Ended("stop"), ReportedUsage(3, 2)]


async def test_end_without_the_last_event_is_an_end(call: Call) -> None:
    said = call.dialect
    received = await call(whole(said.text("Two"), said.ended("length")))
    assert (received.text, received.reasons, received.error) == ("Two", ["length"], None)


@pytest.mark.parametrize("is_chunked", [True, False])
async def test_connection_that_is_cut_after_the_end_was_reported_is_no_fault(
    call: Call, *, is_chunked: bool
) -> None:
    data = call.dialect.text("Two") + call.dialect.ended("stop")
    received = await call(chunked(data, is_ended=False) if is_chunked else whole(data))
    assert (received.text, received.reasons, received.error) == ("Two", ["stop"], None)


async def test_upstream_that_says_nothing_after_the_end_is_not_waited_for_long(brief: Call) -> None:
    said = brief.dialect
    received = await brief(held(said.text("Two"), said.ended("stop")))
    assert (received.text, received.reasons, received.error) == ("Two", ["stop"], None)
    assert received.seconds < PATIENT_SECONDS / 2


async def test_answers_come_over_one_kept_connection(call: Call) -> None:
    for _ in range(3):
        received = await call(chunked(call.dialect.answer("Two")))
        assert (received.text, received.error) == ("Two", None)
    assert call.upstream.connections == 1


@pytest.mark.parametrize(
    "dialect",
    [dialect for dialect in DIALECTS if dialect.has_last_word],
    ids=lambda dialect: dialect.name,
    indirect=True,
)
async def test_upstream_that_keeps_talking_after_the_last_event_is_left(call: Call) -> None:
    async def script(line: Line) -> None:
        await line.head()
        await line.send(call.dialect.answer("Two"))
        while True:
            await line.send(b": still here\n\n")

    received = await call(script)
    assert (received.text, received.error) == ("Two", None)
    assert received.seconds < PATIENT_SECONDS / 2
    await asyncio.wait_for(call.upstream.line.gone.wait(), 1)


async def test_answers_at_once_do_not_mix(call: Call) -> None:
    count = 0
    release = asyncio.Event()

    async def script(line: Line) -> None:
        nonlocal count
        count += 1
        own = f"bear {count}"
        await release.wait()
        await line.head()
        for letter in own:
            await line.send(call.dialect.text(letter))
        await line.send(call.dialect.answer())

    call.upstream.script = script
    calls = [asyncio.create_task(listen(call.provider)) for _ in range(20)]
    await until(lambda: count == len(calls))
    release.set()
    received = await asyncio.gather(*calls)
    assert sorted(each.text for each in received) == sorted(f"bear {n}" for n in range(1, 21))


Reframe = Callable[[bytes], bytes]

_FRAMINGS: dict[str, Reframe] = {
    "crlf": lambda data: data.replace(b"\n", b"\r\n"),
    "cr": lambda data: data.replace(b"\n", b"\r"),
    "mixed": lambda data: data.replace(b"\n\n", b"\r\n\n"),
    "comments": lambda data: b": hello\n\n" + data.replace(b"\n\n", b"\n: ping\n\n"),
    "no space": lambda data: data.replace(b"data: ", b"data:"),
    "event names": lambda data: data.replace(b"data: ", b"event: message\ndata: "),
    "ids and retries": lambda data: data.replace(b"data: ", b"id: 7\nretry: 10\ndata: "),
    "unknown fields": lambda data: data.replace(b"data: ", b"mood: fine\nnothing\ndata: "),
    "many lines": lambda data: data.replace(b", ", b",\ndata: "),
    "blank lines": lambda data: data.replace(b"\n\n", b"\n\n\n\n"),
    "empty events": lambda data: data.replace(b"\n\n", b"\n\nevent: ping\n\ndata:\n\n"),
    "byte order mark": lambda data: b"\xef\xbb\xbf" + data,
}


@pytest.mark.parametrize("framing", _FRAMINGS)
async def test_every_lawful_framing_says_the_same(call: Call, framing: str) -> None:
    plain = call.dialect.answer("Two ", "brown ", "bears.")
    received = await call(whole(_FRAMINGS[framing](plain)))
    assert received.error is None
    assert (received.text, received.reasons) == ("Two brown bears.", ["stop"])
    assert received.used == ReportedUsage(3, 2)


@pytest.mark.parametrize(
    "text", ["a\u2028b\u2029c\x85d\x0be\x0cf\x1cg", "🐻‍❄️ äöü", "\ufeff\x00\x7f"]
)
async def test_odd_characters_come_through(call: Call, text: str) -> None:
    received = await call(whole(call.dialect.answer(text)))
    assert (received.text, received.error) == (text, None)


async def test_wrong_utf8_is_replaced_and_nothing_else_is_lost(call: Call) -> None:
    data = call.dialect.answer("Two @ bears").replace(b"@", b"\xff\xc3\x28\xe2\x82")
    received = await call(whole(data))
    assert received.error is None
    assert received.text.startswith("Two \ufffd")
    assert received.text.endswith(" bears")


@pytest.mark.parametrize("charset", ["utf-16", "latin-1", "bz2", "hex", "idna", "nonsense"])
async def test_streams_are_utf8_whatever_their_head_says(call: Call, charset: str) -> None:
    script = whole(call.dialect.answer("Bär"), content_type=f"text/event-stream; charset={charset}")
    received = await call(script)
    assert (received.text, received.error) == ("Bär", None)


async def test_answer_that_comes_byte_by_byte_is_the_same(call: Call) -> None:
    data = call.dialect.answer("Zwei Bären.").replace(b"\n", b"\r\n")

    async def script(line: Line) -> None:
        await line.head()
        for byte in data:
            await line.send(bytes([byte]))

    received = await call(script)
    assert (received.text, received.used, received.error) == (
        "Zwei Bären.",
        ReportedUsage(3, 2),
        None,
    )


@pytest.mark.parametrize("line_ending", [b"\n", b"\r\n", b"\r"])
async def test_answer_cut_in_two_anywhere_is_the_same(dialect: Dialect, line_ending: bytes) -> None:
    data = dialect.answer("Bär\u2028🐻").replace(b"\n", line_ending)
    memory = MemoryTransport()
    provider = connect(dialect, "http://127.0.0.1:9/v1", lines=memory)
    for at in range(len(data) + 1):
        memory.reads = [data[:at], data[at:]]
        received = await listen(provider)
        assert (received.text, received.used, received.error) == (
            "Bär\u2028🐻",
            ReportedUsage(3, 2),
            None,
        ), at
    await provider.close()
