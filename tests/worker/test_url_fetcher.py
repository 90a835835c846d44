"""The URL fetcher against real servers: what is fetched, what is refused, within which bounds."""

import asyncio
import socket
import zlib
from collections.abc import AsyncIterator

import pytest

from shared.egress import Address
from shared.errors import EgressError
from shared.settings import EgressSettings
from tests.support.waiting import until
from tests.worker.providers.upstream import Line, Script, Upstream, chunked, endless, held, whole
from tests.worker.url_fetching import (
    BYTES,
    PATIENT_SECONDS,
    ScriptedResolver,
    fetch,
    picture,
    redirect,
    refused,
    settings_of,
    url_fetcher_of,
)
from worker.fetching.url_fetcher import FetchBudget


@pytest.fixture
async def server() -> AsyncIterator[Upstream]:
    """Return a server of bare bytes."""
    async with Upstream() as listening:
        yield listening


async def test_what_is_public_for_the_operator_is_fetched(server: Upstream) -> None:
    server.script = picture()
    url_fetcher = url_fetcher_of(settings_of(server, "127.0.0.0/8"))
    assert await fetch(url_fetcher, f"http://127.0.0.1:{server.port}/a%2Fb?c=d%26#e") == b"picture"
    head = server.line.request.lower()
    assert head.startswith(b"get /a%2fb?c=d%26 http/1.1\r\n")
    assert b"\r\naccept-encoding: identity\r\n" in head
    assert b"\r\nuser-agent: pollux\r\n" in head
    assert b"cookie" not in head


async def test_the_name_is_kept_and_the_connection_goes_to_the_address_that_was_checked(
    server: Upstream,
) -> None:
    server.script = picture()
    resolver = ScriptedResolver(["127.0.0.1"])
    url_fetcher = url_fetcher_of(settings_of(server, "pictures.example"), resolver)
    url = f"http://Pictures.Example:{server.port}/a"
    assert await fetch(url_fetcher, url) == b"picture"
    assert resolver.asked == ["pictures.example"]
    said = f"\r\nhost: pictures.example:{server.port}\r\n".encode()
    assert said in server.line.request.lower()


async def test_tls_asks_for_the_name_too(server: Upstream) -> None:
    asked: asyncio.Queue[bytes] = asyncio.Queue()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.put_nowait(await reader.read(4_096))
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        settings = EgressSettings(allow=("pictures.example",), ports=(port,))
        url_fetcher = url_fetcher_of(settings, ScriptedResolver(["127.0.0.1"]))
        error = await refused(url_fetcher, f"https://pictures.example:{port}/a")
    assert (error.kind, error.retry) == ("unreachable", "soon")
    assert b"pictures.example" in asked.get_nowait()
    assert not server.lines


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["::1"], ["::ffff:127.0.0.1"], ["1.1.1.1", "127.0.0.1"], ["2002:7f00:1::"]],
)
async def test_a_name_of_a_private_address_is_not_called(
    server: Upstream, addresses: list[str]
) -> None:
    resolver = ScriptedResolver(addresses)
    error = await refused(
        url_fetcher_of(settings_of(server), resolver), f"http://a.example:{server.port}/"
    )
    assert (error.kind, error.retry) == ("unreachable", "never")
    assert server.connections == 0


async def test_an_address_is_checked_without_asking_anybody(server: Upstream) -> None:
    resolver = ScriptedResolver(["1.1.1.1"])
    url_fetcher = url_fetcher_of(settings_of(server), resolver)
    for host in ("127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "localhost.127.0.0.1"):
        error = await refused(url_fetcher, f"http://{host}:{server.port}/")
        assert error.kind == "forbidden"
    assert (resolver.asked, server.connections) == ([], 0)


async def test_a_name_that_changes_its_mind_is_resolved_once(server: Upstream) -> None:
    """Allowed when it is judged, private a moment later: for one call it is asked one time."""
    server.script = picture()
    resolver = ScriptedResolver(["127.0.0.1"], ["127.0.0.2"])
    url_fetcher = url_fetcher_of(settings_of(server, "127.0.0.1"), resolver)
    url = f"http://a.example:{server.port}/"
    assert await fetch(url_fetcher, url) == b"picture"
    assert len(resolver.asked) == 1
    assert (await refused(url_fetcher, url)).kind == "unreachable"
    assert server.connections == 1


async def test_ports_beside_the_usual_are_not_called(server: Upstream) -> None:
    url_fetcher = url_fetcher_of(EgressSettings(allow=("127.0.0.1",)))
    assert (await refused(url_fetcher, f"http://127.0.0.1:{server.port}/")).kind == "forbidden"
    assert server.connections == 0


async def test_the_machines_own_names_are_resolved(server: Upstream) -> None:
    url_fetcher = url_fetcher_of(settings_of(server))
    assert (await refused(url_fetcher, f"http://localhost:{server.port}/")).kind == "unreachable"
    assert server.connections == 0
    server.script = picture()
    url_fetcher = url_fetcher_of(settings_of(server, "localhost"))
    assert await fetch(url_fetcher, f"http://localhost:{server.port}/") == b"picture"


# Redirects


async def test_redirects_are_followed_three_times(server: Upstream) -> None:
    url_fetcher = url_fetcher_of(settings_of(server, "127.0.0.1"))
    server.script = redirect("/b", "/c", "/d", "/e", status=308)
    error = await refused(url_fetcher, f"http://127.0.0.1:{server.port}/a")
    assert (error.kind, error.retry) == ("unreachable", "never")
    asked = [line.request.split(b" ")[1] for line in server.lines]
    assert asked == [b"/a", b"/b", b"/c", b"/d"]


async def test_what_a_redirect_leads_to_is_fetched(server: Upstream) -> None:
    async def script(line: Line) -> None:
        is_end = line.request.startswith(b"GET /x/c ")
        await (picture() if is_end else redirect("../x/c", status=301))(line)

    server.script = script
    url_fetcher = url_fetcher_of(settings_of(server, "127.0.0.1"))
    assert await fetch(url_fetcher, f"http://127.0.0.1:{server.port}/a/b") == b"picture"


@pytest.mark.parametrize(
    "location",
    [
        *("http://10.0.0.1/", "http://[::1]/", "http://169.254.169.254/latest/meta-data/"),
        *("http://2130706433/", "file:///etc/passwd", "//10.0.0.1/"),
        *("http://me:you@127.0.0.1/", "http://127.0.0.1:22/", "ftp://127.0.0.1/"),
    ],
)
async def test_each_redirect_is_checked_again(server: Upstream, location: str) -> None:
    server.script = redirect(location)
    url_fetcher = url_fetcher_of(settings_of(server, "127.0.0.1"), ScriptedResolver(["10.0.0.1"]))
    error = await refused(url_fetcher, f"http://127.0.0.1:{server.port}/a")
    assert (error.kind, error.retry) == ("forbidden", "never")
    assert len(server.lines) == 1


async def test_a_redirect_to_nowhere_is_the_same_place_again(server: Upstream) -> None:
    async def script(line: Line) -> None:
        await line.head(status=302)

    server.script = script
    url_fetcher = url_fetcher_of(settings_of(server, "127.0.0.1"))
    assert (await refused(url_fetcher, f"http://127.0.0.1:{server.port}/")).kind == "unreachable"
    assert len(server.lines) == 4


# Bounds


@pytest.mark.parametrize(
    "script",
    [
        endless(b"x" * 1_000),
        picture(b"x" * (BYTES + 1)),
        chunked(*[b"x" * 100] * (BYTES // 100 + 1)),
        whole(b"", content_length=str(10**15)),
    ],
    ids=["endless", "one byte more", "in chunks", "told before"],
)
async def test_more_than_may_be_is_not_read(server: Upstream, script: Script) -> None:
    server.script = script
    url_fetcher = url_fetcher_of(settings_of(server, "127.0.0.1"))
    error = await refused(url_fetcher, f"http://127.0.0.1:{server.port}/")
    assert (error.kind, error.retry) == ("too_large", "never")
    await until(lambda: server.closed == server.connections == 1)
    assert server.line.sent_bytes < 10_000_000


async def test_as_much_as_may_be_is_read(server: Upstream) -> None:
    server.script = picture(b"x" * BYTES)
    url_fetcher = url_fetcher_of(settings_of(server, "127.0.0.1"))
    assert len(await fetch(url_fetcher, f"http://127.0.0.1:{server.port}/")) == BYTES


async def test_all_that_share_a_budget_are_bounded_by_it(server: Upstream) -> None:
    server.script = picture(b"x" * 600)
    url_fetcher, budget = (
        url_fetcher_of(settings_of(server, "127.0.0.1")),
        FetchBudget("ann", 1_000),
    )
    url = f"http://127.0.0.1:{server.port}/"
    await url_fetcher.fetch(url, bytes_max=BYTES, seconds=PATIENT_SECONDS, budget=budget)
    with pytest.raises(EgressError) as caught:
        await url_fetcher.fetch(url, bytes_max=BYTES, seconds=PATIENT_SECONDS, budget=budget)
    assert caught.value.kind == "too_large"


async def _drip(line: Line) -> None:
    await line.head()
    while not line.gone.is_set():
        await line.send(b"x")


@pytest.mark.parametrize("script", [held(), held(b"x"), _drip], ids=["head", "byte", "drip"])
async def test_time_is_bounded_however_slowly_it_comes(server: Upstream, script: Script) -> None:
    server.script = script
    url_fetcher = url_fetcher_of(settings_of(server, "127.0.0.1"))
    url = f"http://127.0.0.1:{server.port}/"
    async with asyncio.timeout(10):
        error = await refused(url_fetcher, url, seconds=0.2, bytes_max=10**9)
    assert error.kind == "unreachable"
    await until(lambda: server.closed == server.connections == 1)


async def test_a_resolver_that_hangs_is_left(server: Upstream) -> None:
    async def hang(_name: str, _account: str) -> list[Address]:
        await asyncio.Event().wait()
        raise AssertionError

    url_fetcher = url_fetcher_of(settings_of(server), hang)
    error = await refused(url_fetcher, "http://a.example/", seconds=0.1)
    assert (error.kind, error.retry) == ("unreachable", "never")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity, gzip"])
async def test_what_is_compressed_is_not_unpacked(server: Upstream, encoding: str) -> None:
    server.script = whole(zlib.compress(b"x" * 10_000_000), content_encoding=encoding)
    url_fetcher = url_fetcher_of(settings_of(server, "127.0.0.1"))
    error = await refused(url_fetcher, f"http://127.0.0.1:{server.port}/")
    assert (error.kind, error.retry) == ("encoded", "never")


# Trouble


@pytest.mark.parametrize(
    ("script", "retry"),
    [
        (whole(b"", status=404), "never"),
        (whole(b"", status=204), "never"),
        (whole(b"", status=206), "never"),
        (whole(b"", status=401), "never"),
        (whole(b"", status=429), "soon"),
        (whole(b"", status=500), "soon"),
        (whole(b"", status=503), "soon"),
        (chunked(b"half", is_ended=False), "soon"),
        (whole(b"half", content_length="100"), "soon"),
    ],
    ids=["404", "204", "206", "401", "429", "500", "503", "cut", "short"],
)
async def test_trouble_says_whether_it_may_pass(
    server: Upstream, script: Script, retry: str
) -> None:
    server.script = script
    url_fetcher = url_fetcher_of(settings_of(server, "127.0.0.1"))
    error = await refused(url_fetcher, f"http://127.0.0.1:{server.port}/")
    assert (error.kind, error.retry) == ("unreachable", retry)


async def test_nobody_there_may_pass_and_no_name_has_been_asked_for(
    server: Upstream,
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        url_fetcher = url_fetcher_of(EgressSettings(allow=("127.0.0.1",), ports=(port,)))
        error = await refused(url_fetcher, f"http://127.0.0.1:{port}/")
    assert (error.kind, error.retry) == ("unreachable", "soon")
    error = await refused(
        url_fetcher_of(settings_of(server), ScriptedResolver([])), "http://a.example/"
    )
    assert (error.kind, error.retry) == ("unreachable", "never")


async def test_what_speaks_no_http_is_trouble(server: Upstream) -> None:
    async def script(line: Line) -> None:
        await line.send(b"SSH-2.0-OpenSSH_9.2\r\n")

    server.script = script
    url_fetcher = url_fetcher_of(settings_of(server, "127.0.0.1"))
    assert (await refused(url_fetcher, f"http://127.0.0.1:{server.port}/")).kind == "unreachable"


@pytest.mark.parametrize(("interim", "is_read"), [(3, True), (5_000, False)])
async def test_an_answer_may_follow_a_few_interim_ones(
    server: Upstream, interim: int, *, is_read: bool
) -> None:
    """More of them would be parsed in one go, while nothing else in the worker runs."""

    async def script(line: Line) -> None:
        await line.send(b"HTTP/1.1 102 Processing\r\n\r\n" * interim)
        await line.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    server.script = script
    url_fetcher = url_fetcher_of(settings_of(server, "127.0.0.1"))
    url = f"http://127.0.0.1:{server.port}/"
    if is_read:
        assert await fetch(url_fetcher, url) == b"ok"
    else:
        assert (await refused(url_fetcher, url)).kind == "unreachable"


async def test_proxies_of_the_environment_are_not_asked(
    server: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    server.script = picture()
    url_fetcher = url_fetcher_of(settings_of(server, "127.0.0.1"))
    assert await fetch(url_fetcher, f"http://127.0.0.1:{server.port}/") == b"picture"


@pytest.mark.parametrize("location", ["http://[", "//[::1", "http://a]b/", "http://\u2100.com/"])
async def test_a_redirect_to_what_is_no_url_is_refused(server: Upstream, location: str) -> None:
    server.script = redirect(location)
    url_fetcher = url_fetcher_of(settings_of(server, "127.0.0.0/8"))
    error = await refused(url_fetcher, f"http://127.0.0.1:{server.port}/a")
    assert (error.kind, error.retry) == ("forbidden", "never")
