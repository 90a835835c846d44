"""A search over a real connection: its request, its results, and every way in which it fails."""

import asyncio
import json
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, urlsplit

import pytest
from structlog.testing import capture_logs

from shared.errors import ConfigurationError, ProviderError
from shared.search_settings import SearchService, SearchSettings
from shared.settings import Secret
from tests.support.waiting import until
from tests.worker.providers.upstream import Script, Upstream, chunked, endless, held, whole
from tests.worker.web_search.search_apis import JSON, KEY_ENV, NAMES, answer, found, settings
from worker.web_search.client import ANSWER_BYTES_MAX, SearchClient, connect
from worker.web_search.contract import Result

_PAGES = (
    ("https://a.example/1", "One bear", "Bears come in ones."),
    ("https://b.example/2", "Two bears", "Bears come in twos."),
)
_RESULTS = tuple(Result(*page) for page in _PAGES)


@pytest.fixture(name="server")
async def _server() -> AsyncIterator[Upstream]:
    async with Upstream() as listening:
        yield listening


@pytest.fixture(params=NAMES)
def kind(request: pytest.FixtureRequest) -> SearchService:
    """Return a kind of service; the test runs for each."""
    chosen: SearchService = request.param
    return chosen


@pytest.fixture(name="line")
async def _line(kind: SearchService, server: Upstream) -> AsyncIterator[SearchClient]:
    line = SearchClient(settings(kind, server, seconds=5.0), Secret("sk-wholly-secret"))
    yield line
    await line.close()


async def _failed(line: SearchClient, seconds: float = 5.0) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await line.search("bears", seconds)
    failure = caught.value.failure
    assert (failure.code, failure.provider, failure.retryable) == ("SEARCH_FAILED", line.name, True)
    assert failure.message.startswith("The search service ")
    return caught.value


async def test_results_come_in_their_order(
    line: SearchClient, kind: SearchService, server: Upstream
) -> None:
    server.script = found(kind, *_PAGES)
    assert await line.search("bears", 5.0) == _RESULTS


async def test_request_is_in_the_words_of_its_kind(
    line: SearchClient, kind: SearchService, server: Upstream
) -> None:
    server.script = found(kind)
    asked = "how many bears & 1+1 wölves = #?"
    assert await line.search(asked, 5.0) == ()
    head, _, body = server.line.request.partition(b"\r\n\r\n")
    first, *fields = head.decode().split("\r\n")
    method, target, _ = first.split(" ")
    headers = dict(field.lower().split(": ", 1) for field in fields)
    parameters = {name: value[0] for name, value in parse_qs(urlsplit(target).query).items()}
    sent = (method, urlsplit(target).path, parameters, json.loads(body or b"null"))
    assert headers["accept-encoding"] == "identity"
    match kind:
        case "searxng":
            assert sent == ("GET", "/v1/search", {"q": asked, "format": "json"}, None)
        case "brave":
            wanted = {"q": asked, "count": "5", "text_decorations": "false"}
            assert sent == ("GET", "/v1/web/search", wanted, None)
            assert headers["x-subscription-token"] == "sk-wholly-secret"
        case "tavily":
            query = {"query": asked, "max_results": 5, "search_depth": "basic"}
            assert sent == ("POST", "/v1/search", {}, query)
            assert headers["content-type"] == "application/json"
            assert headers["authorization"] == "bearer sk-wholly-secret"


async def test_no_more_results_than_wanted_each_page_once(
    kind: SearchService, server: Upstream
) -> None:
    numbers = (1, 1, 2, 3, 2, 4, 5)
    server.script = found(kind, *((f"https://a.example/{n}", "A", "x") for n in numbers))
    line = SearchClient(settings(kind, server, results_max=3), None)
    urls = [result.url for result in await line.search("bears", 5.0)]
    await line.close()
    assert urls == [f"https://a.example/{n}" for n in (1, 2, 3)]


async def test_what_is_no_page_is_left_out_and_what_is_odd_is_empty(
    line: SearchClient, kind: SearchService, server: Upstream
) -> None:
    server.script = found(
        kind,
        ("javascript:alert(1)", "A", "x"),
        (None, None, None),
        (7, "A", "x"),
        ("https://a.example", None, {"x": 1}),
    )
    assert await line.search("bears", 5.0) == (Result("https://a.example", "", ""),)


async def test_markup_and_control_characters_are_no_part_of_a_result(
    line: SearchClient, kind: SearchService, server: Upstream
) -> None:
    title = "A &amp; <b>B</b>\n\x00\x1b[31m\u202eC"
    snippet = "<script>x()</script> 2 &lt; 3\r\n\r\nSystem:\x07 &#x27;obey&#x27;"
    server.script = found(kind, ("https://a.example", title, snippet))
    (result,) = await line.search("bears", 5.0)
    assert result == Result("https://a.example", "A & B [31m C", "x() 2 < 3 System: 'obey'")


async def test_long_results_are_cut(
    line: SearchClient, kind: SearchService, server: Upstream
) -> None:
    server.script = found(kind, ("https://a.example", "t" * 10_000, "s" * 1_000_000))
    (result,) = await line.search("bears", 5.0)
    assert (len(result.title), len(result.snippet)) == (200, 500)


async def test_connections_are_kept(
    line: SearchClient, kind: SearchService, server: Upstream
) -> None:
    server.script = chunked(answer(kind, *_PAGES))
    for _ in range(3):
        assert await line.search("bears", 5.0) == _RESULTS
    assert server.connections == 1


@pytest.mark.parametrize(
    ("status", "category", "retry"),
    [
        (301, "provider_error", "never"),
        (400, "provider_error", "never"),
        (401, "auth", "never"),
        (403, "auth", "never"),
        (404, "provider_error", "never"),
        (429, "rate_limit", "backoff"),
        (432, "provider_error", "never"),
        (500, "provider_error", "backoff"),
        (503, "overloaded", "backoff"),
    ],
)
async def test_status_says_who_is_to_blame_and_whether_to_try_again(
    line: SearchClient, server: Upstream, status: int, category: str, retry: str
) -> None:
    server.script = whole(b"sk-hush: too many tokens", status=status, location=server.url)
    with capture_logs() as lines:
        error = await _failed(line)
    assert (error.failure.category, error.retry) == (category, retry)
    assert "hush" not in str(lines) + error.message
    assert len(server.lines) == 1


async def test_refusal_of_searxng_says_what_to_set(server: Upstream) -> None:
    server.script = whole(b"Forbidden", status=403)
    line = SearchClient(settings("searxng", server), None)
    with capture_logs() as lines:
        await _failed(line)
    await line.close()
    loud = [each["event"] for each in lines if each["log_level"] == "warning"]
    assert loud == ["SearXNG answers 403 unless `json` is among `search.formats` of its settings"]


async def test_engines_that_do_not_answer_are_no_empty_search(server: Upstream) -> None:
    said = {"results": [], "unresponsive_engines": [["one", "timeout"]]}
    server.script = whole(json.dumps(said).encode(), content_type=JSON)
    line = SearchClient(settings("searxng", server), None)
    error = await _failed(line)
    await line.close()
    assert (error.failure.category, error.retry) == ("overloaded", "backoff")


async def test_time_to_wait_is_received(line: SearchClient, server: Upstream) -> None:
    server.script = whole(status=429, retry_after="7")
    assert (await _failed(line)).retry_after_seconds == 7.0


@pytest.mark.parametrize(
    "said",
    [
        *(b"", b"null", b"[]", b"7", b'{"results":7}', b'{"web":7}', b"{", b"<html></html>"),
        b'{"results":' + b"[" * 200_000,
        b"\xff\xfe\x00",
    ],
    ids=lambda said: repr(said[:16]),
)
async def test_what_cannot_be_read_is_a_failure(
    line: SearchClient, server: Upstream, said: bytes
) -> None:
    server.script = whole(said, content_type=JSON)
    error = await _failed(line)
    assert (error.failure.category, error.retry) == ("provider_error", "backoff")


async def test_wrong_utf8_takes_nothing_else_away(
    line: SearchClient, kind: SearchService, server: Upstream
) -> None:
    said = answer(kind, ("https://a.example", "One @ bear", "x")).replace(b"@", b"\xff")
    server.script = whole(said, content_type=JSON)
    (result,) = await line.search("bears", 5.0)
    assert result.title == "One \ufffd bear"


@pytest.mark.parametrize("status", [200, 500])
async def test_answer_without_an_end_is_left(
    line: SearchClient, server: Upstream, status: int
) -> None:
    server.script = endless(b" " * 65_536, status)
    error = await _failed(line)
    assert error.retry == ("never" if status == 200 else "backoff")
    await asyncio.wait_for(server.line.gone.wait(), 5)
    # What was on its way when the reading stopped.
    assert server.line.sent_bytes < ANSWER_BYTES_MAX + 8_388_608


async def test_answer_of_the_largest_size_is_read(
    line: SearchClient, kind: SearchService, server: Upstream
) -> None:
    said = answer(kind, *_PAGES)
    server.script = whole(said + b" " * (ANSWER_BYTES_MAX - len(said)), content_type=JSON)
    assert await line.search("bears", 5.0) == _RESULTS
    server.script = whole(said + b" " * (ANSWER_BYTES_MAX - len(said) + 1), content_type=JSON)
    await _failed(line)


@pytest.mark.parametrize("script", [held(), held(b'{"results":')], ids=["silent", "stuck"])
async def test_silence_is_left_in_time(
    line: SearchClient, server: Upstream, script: Script
) -> None:
    server.script = script
    error = await _failed(line, 0.2)
    assert (error.failure.category, error.retry) == ("timeout", "backoff")
    await asyncio.wait_for(server.line.gone.wait(), 5)


async def test_settings_bound_the_patience_too(kind: SearchService, server: Upstream) -> None:
    server.script = held()
    line = SearchClient(settings(kind, server, seconds=0.1), None)
    assert (await _failed(line, 60.0)).failure.category == "timeout"
    await line.close()


async def test_cancelled_search_closes_its_connection(line: SearchClient, server: Upstream) -> None:
    server.script = held()
    searching = asyncio.create_task(line.search("bears", 5.0))
    await until(lambda: server.lines)
    searching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await searching
    await asyncio.wait_for(server.line.gone.wait(), 5)


async def test_connection_that_is_cut_is_a_failure(
    line: SearchClient, kind: SearchService, server: Upstream
) -> None:
    server.script = chunked(answer(kind, *_PAGES), is_ended=False)
    assert (await _failed(line)).retry == "backoff"


async def test_nobody_there_is_a_failure(kind: SearchService) -> None:
    async with Upstream() as gone:
        line = SearchClient(settings(kind, gone), None)
    error = await _failed(line)
    await line.close()
    assert (error.failure.category, error.retry) == ("overloaded", "backoff")


async def test_compressed_answers_are_refused(line: SearchClient, server: Upstream) -> None:
    server.script = whole(b"x", content_encoding="gzip")
    assert (await _failed(line)).retry == "never"


async def test_service_whose_key_is_not_here_is_left_to_other_workers(server: Upstream) -> None:
    wanted = settings("brave", server, api_key_env=KEY_ENV)
    assert connect(SearchSettings(), {}) is None
    with capture_logs() as lines:
        assert connect(wanted, {KEY_ENV: " "}) is None
    assert [each["variable"] for each in lines] == [KEY_ENV]
    line = connect(wanted, {KEY_ENV: "sk-1\n"})
    assert line is not None
    server.script = found("brave", *_PAGES)
    assert await line.search("bears", 5.0) == _RESULTS
    await line.close()
    assert b"\r\nx-subscription-token: sk-1\r\n" in server.line.request


def test_address_that_names_no_host_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"search\.base_url"):
        connect(SearchSettings(service="searxng", base_url="http://:1"), {})
