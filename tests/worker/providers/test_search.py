"""An upstream that searches the web itself: its pages are cited, its searches counted."""

from collections.abc import Callable

import pytest

from shared.settings import ModelSettings
from shared.wire.message import Citation
from tests.worker.providers import anthropic, openai
from tests.worker.providers.calls import Call
from tests.worker.providers.dialect_row import REQUESTS, event
from tests.worker.providers.upstream import whole
from worker.providers.citations import CITATIONS_MAX
from worker.providers.contract import ChatRequest, Ended, ReportedUsage, Text
from worker.providers.openai import OpenAI

_ASKED = REQUESTS["web search"]


async def test_pages_are_reported_once_in_their_order_beside_the_text(call: Call) -> None:
    said = call.dialect
    content = b"".join(
        (
            said.text("Two "),
            said.cited("https://b.example/1?x=ü", "B"),
            said.cited("https://a.example", "A"),
            said.cited("https://b.example/1?x=ü", "B again"),
            said.text("bears."),
        )
    )
    received = await call(whole(said.framed(content, "stop", (3, 2))), _ASKED)
    assert received.error is None
    assert received.parts == [
        Text("Two "),
        Citation("https://b.example/1?x=ü", "B"),
        Citation("https://a.example", "A"),
        Text("bears."),
        Ended("stop"),
        ReportedUsage(3, 2),
    ]


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_searches_are_read_past_and_counted_where_they_are_reported(
    call: Call, count: int
) -> None:
    said = call.dialect
    content = said.text("Two") + said.cited("https://a.example", "A")
    received = await call(whole(said.searched(content, count)), _ASKED)
    assert received.error is None
    assert (received.text, received.called, received.reasons) == ("Two", [], ["stop"])
    assert received.cited == [Citation("https://a.example", "A")]
    assert received.used == ReportedUsage(3, 2, 0, count if said.counts_searches else 0)


@pytest.mark.parametrize("count", [-1, 1_001, 2**70])
async def test_count_of_searches_that_is_implausible_is_no_usage(call: Call, count: int) -> None:
    said = call.dialect
    plain = said.searched(said.text("Two"), 0)
    received = await call(whole(plain.replace(b'_requests": 0', b'_requests": %d' % count)), _ASKED)
    assert received.text == "Two"
    assert (received.used is None) == (b"web_search_requests" in plain)


@pytest.mark.parametrize(
    ("url", "title"),
    [
        (None, None),
        (7, ["A"]),
        ({}, "A"),
        ("", "A"),
        ("javascript:alert(1)", "A"),
        ("data:text/html,x", "A"),
        ("//a.example", "A"),
        ("https://", "A"),
        ("https://a.example/ b", "A"),
        ("https://a.example/\n", "A"),
        ("https://a.example/\u202eb", "A"),
        (f"https://a.example/{'a' * 2048}", "A"),
    ],
    ids=repr,
)
async def test_what_is_no_address_of_the_web_is_no_citation(
    call: Call, url: object, title: object
) -> None:
    said = call.dialect
    received = await call(
        whole(said.framed(said.cited(url, title) + said.text("Two"), "stop", (3, 2)))
    )
    assert (received.error, received.cited, received.text) == (None, [], "Two")


@pytest.mark.parametrize(
    ("title", "told"),
    [
        (None, ""),
        (7, ""),
        (" A\n\tB\x00C\u202eD\u200b ", "A B C D"),
        ("ä" * 1000, "ä" * 300),
        ("\x00" * 5000 + "A", ""),
    ],
    ids=lambda value: repr(value)[:20],
)
async def test_titles_are_one_line_within_bounds(call: Call, title: object, told: str) -> None:
    said = call.dialect
    content = said.cited("https://a.example", title) + said.text("Two")
    received = await call(whole(said.framed(content, "stop", (3, 2))))
    assert received.cited == [Citation("https://a.example", told)]


async def test_more_pages_than_anybody_reads_are_left_out(call: Call) -> None:
    said = call.dialect
    pages = b"".join(said.cited(f"https://a.example/{n}", "A") for n in range(CITATIONS_MAX + 9))
    received = await call(whole(said.framed(said.text("Two") + pages, "stop", (3, 2))))
    assert (received.error, len(received.cited)) == (None, CITATIONS_MAX)


_ODDLY: dict[str, Callable[[object], bytes]] = {
    "openai": lambda odd: openai.chunk({"delta": {"annotations": odd}}),
    "anthropic": lambda odd: anthropic.grown("citations_delta", citation=odd),
    "gemini": lambda odd: event({"candidates": [{"groundingMetadata": odd}]}),
}


@pytest.mark.parametrize(
    "odd",
    [
        *(None, [], {}, "x", 7, [7], [None], [[]], [{}], {"url": 7}),
        *([{"type": "url_citation"}], [{"url_citation": 7}], [{"url_citation": {"url": 7}}]),
        *({"groundingChunks": 7, "webSearchQueries": 7}, {"groundingChunks": [7, {"web": 7}]}),
    ],
    ids=str,
)
async def test_odd_form_of_a_citation_takes_nothing_from_the_answer(
    call: Call, odd: object
) -> None:
    said = call.dialect
    content = _ODDLY[said.name](odd) + said.text("Two")
    received = await call(whole(said.framed(content, "stop", (3, 2))))
    assert (received.error, received.text, received.cited) == (None, "Two", [])


def test_plugin_is_asked_for_where_the_catalogue_says_so() -> None:
    model = ModelSettings(identifier="m", provider="up", upstream="m", search_option="plugins")
    body = OpenAI().body(
        ChatRequest(model=model, messages=_ASKED.messages, max_tokens=5, web_search=True)
    )
    assert b'"plugins":[{"id":"web","max_results":5}]' in body
    assert b"web_search_options" not in body
