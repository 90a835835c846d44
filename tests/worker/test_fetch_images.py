"""Images of a message: fetched by the URL fetcher and sent to the model, or the reason why not."""

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typing_extensions import override

from shared.routing import price
from shared.settings import EgressSettings
from shared.wire.generation import Generation
from shared.wire.submission import Features
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.system import System
from tests.support.waiting import until
from tests.worker.front import GRANT, HOLD, Front
from tests.worker.name_server import SILENT, NameServer
from tests.worker.providers.upstream import Line, Script, Upstream, endless, held, whole
from tests.worker.single_attempts import Attempts
from worker.fetching.dns_resolver import PER_ACCOUNT_MAX
from worker.fetching.url_fetcher import REQUESTS_PER_HOST_MAX, FetchBudget, UrlFetcher

PNG = b"\x89PNG\r\n\x1a\n" + b"p" * 40
GIF = b"GIF89a" + b"g" * 40


@pytest.fixture
async def image_server(attempts: Attempts) -> AsyncIterator[Upstream]:
    """Return a server of pictures that an operator allows, for models that see."""
    async with Upstream() as listening:
        attempts.change_models(capabilities=("vision",), context_window=100_000)
        egress = EgressSettings(allow=("127.0.0.1",), ports=(listening.port,))
        media = msgspec.structs.replace(attempts.settings.media, fetch_seconds=5.0)
        attempts.settings = msgspec.structs.replace(attempts.settings, egress=egress, media=media)
        yield listening


def _change_media(attempts: Attempts, **fields: Any) -> None:  # noqa: ANN401  of any field's type
    media = msgspec.structs.replace(attempts.settings.media, **fields)
    attempts.settings = msgspec.structs.replace(attempts.settings, media=media)


def _urls(image_server: Upstream, *names: str) -> Features:
    return Features(
        media_urls=tuple(f"http://127.0.0.1:{image_server.port}/{name}" for name in names)
    )


def _image_server(**contents: bytes | Script) -> Script:
    """Return a script that gives each name what it has."""

    async def script(line: Line) -> None:
        content = contents[line.request.split(b" ")[1].decode().removeprefix("/")]
        script = whole(content, content_type="text/html") if isinstance(content, bytes) else content
        await script(line)

    return script


def _code(ended: Generation) -> tuple[str, str, str]:
    assert ended.assistant is not None
    failure = ended.assistant.failure
    assert failure is not None
    assert "127.0.0.1" not in failure.message
    return failure.category, failure.code, failure.message


async def test_images_are_shown_with_the_message_and_in_their_order(
    attempts: Attempts, image_server: Upstream, provider: ScriptedProvider
) -> None:
    # What a server calls them is not asked.
    image_server.script = _image_server(a=PNG, b=GIF)
    ended = await attempts.ended("What is it?", features=_urls(image_server, "b", "a"))
    assert ended.stage == "completed"
    content: Any = provider.requests[0].messages[-1]["content"]
    *shown, text = content
    assert text == {"type": "text", "text": "What is it?"}
    kinds = ("image/gif", GIF), ("image/png", PNG)
    assert [each["image_url"]["url"] for each in shown] == [
        f"data:{kind};base64,{base64.b64encode(picture).decode()}" for kind, picture in kinds
    ]
    assert ended.user is not None
    assert [url.rpartition("/")[2] for url in ended.user.media] == ["b", "a"]


async def test_images_belong_to_their_turn(
    attempts: Attempts, image_server: Upstream, provider: ScriptedProvider, front: Front
) -> None:
    image_server.script = _image_server(a=PNG)
    provider.script.append(ScriptedAnswer(text="A bear."))
    first = await front.submit("Look", features=_urls(image_server, "a"))
    await attempts.run(first)
    await attempts.run(await front.submit("And now?", session=first.session))
    contents = [message["content"] for message in provider.requests[-1].messages]
    assert contents == ["Look", "A bear.", "And now?"]


async def test_images_are_counted_when_nobody_says_what_was_used(
    attempts: Attempts, image_server: Upstream, provider: ScriptedProvider
) -> None:
    image_server.script = _image_server(a=PNG)
    provider.script.append(ScriptedAnswer(text="A bear.", has_usage=False))
    ended = await attempts.ended("hi", features=_urls(image_server, "a", "a"), hold=HOLD * 9)
    assert ended.assistant is not None
    assert ended.assistant.usage is not None
    said = price.tokens_in("hi")
    assert ended.assistant.usage.input_tokens == said + 2 * price.IMAGE_TOKENS


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (_image_server(a=PNG, b=b"<html>not at all</html>"), "MEDIA_TYPE"),
        (_image_server(a=PNG, b=b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "MEDIA_TYPE"),
        (_image_server(a=PNG, b=b"RIFF\x24\0\0\0WAVEfmt "), "MEDIA_TYPE"),
        (_image_server(a=PNG, b=b""), "MEDIA_TYPE"),
        (_image_server(a=PNG, b=whole(PNG, content_encoding="gzip")), "MEDIA_TYPE"),
        (_image_server(a=PNG, b=whole(b"", status=404)), "MEDIA_UNREACHABLE"),
        (_image_server(a=PNG, b=held(PNG)), "MEDIA_UNREACHABLE"),
        (_image_server(a=PNG, b=endless(PNG)), "MEDIA_TOO_LARGE"),
        (
            _image_server(a=PNG, b=whole(b"", status=302, location="http://10.0.0.1/")),
            "MEDIA_FORBIDDEN",
        ),
        (_image_server(a=PNG, b=whole(b"", status=302, location="/b")), "MEDIA_UNREACHABLE"),
        (_image_server(a=PNG, b=whole(b"", status=302, location="http://[")), "MEDIA_FORBIDDEN"),
    ],
    ids=[
        *("html", "svg", "sound", "nothing", "gzip", "404", "slow", "endless", "inside", "round"),
        "nowhere",
    ],
)
async def test_an_image_that_cannot_be_had_ends_the_generation_at_no_cost(
    attempts: Attempts,
    image_server: Upstream,
    provider: ScriptedProvider,
    front: Front,
    script: Script,
    code: str,
) -> None:
    image_server.script = script
    _change_media(attempts, fetch_seconds=1.0, file_bytes_max=10_000)
    ended = await attempts.ended(features=_urls(image_server, "a", "b"))
    category, said, message = _code(ended)
    assert (ended.stage, category, said) == ("failed", "invalid_request", code)
    assert "`media_urls[1]`" in message
    assert provider.requests == []
    assert (await front.credit_totals()).balance == GRANT


@pytest.mark.parametrize("url", ["http://169.254.169.254/latest", "http://[::1]/", "http://a:22/"])
async def test_what_is_inside_is_forbidden(
    attempts: Attempts, image_server: Upstream, url: str
) -> None:
    ended = await attempts.ended(features=Features(media_urls=(url,)))
    assert _code(ended)[1] == "MEDIA_FORBIDDEN"
    assert image_server.connections == 0


async def test_all_the_images_of_a_message_are_bounded_together(
    attempts: Attempts, image_server: Upstream
) -> None:
    image_server.script = _image_server(a=PNG)
    _change_media(attempts, fetched_bytes_max=3 * len(PNG))
    assert (await attempts.ended(features=_urls(image_server, *"aaa"))).stage == "completed"
    assert (
        _code(await attempts.ended(features=_urls(image_server, *"aaaa")))[1] == "MEDIA_TOO_LARGE"
    )


async def test_trouble_that_passes_is_tried_once_more(
    attempts: Attempts, image_server: Upstream
) -> None:
    troubles = [whole(b"", status=503), whole(PNG), whole(b"", status=500), whole(b"", status=500)]

    async def script(line: Line) -> None:
        await troubles.pop(0)(line)

    image_server.script = script
    assert (await attempts.ended(features=_urls(image_server, "a"))).stage == "completed"
    assert _code(await attempts.ended(features=_urls(image_server, "a")))[1] == "MEDIA_UNREACHABLE"
    assert troubles == []


async def test_images_come_at_once(attempts: Attempts, image_server: Upstream) -> None:
    asked, all_asked = 0, asyncio.Event()

    async def script(line: Line) -> None:
        nonlocal asked
        asked += 1
        if asked == 5:
            all_asked.set()
        await all_asked.wait()
        await whole(PNG)(line)

    image_server.script = script
    assert (await attempts.ended(features=_urls(image_server, *"abcde"))).stage == "completed"


async def test_a_cancel_leaves_what_is_being_fetched(
    attempts: Attempts, image_server: Upstream, front: Front
) -> None:
    arrived = asyncio.Event()

    async def script(line: Line) -> None:
        arrived.set()
        await line.gone.wait()

    image_server.script = script
    ticket = await front.submit(features=_urls(image_server, "a"))
    running = attempts.begin(ticket)
    await asyncio.wait_for(arrived.wait(), 5)
    attempts.stop_signal.trigger("cancel")
    await running
    assert (await front.poll(ticket)).stage == "cancelled"
    await asyncio.wait_for(image_server.line.gone.wait(), 5)


async def test_a_fault_of_ours_with_one_image_ends_the_generation_while_another_is_fetched(
    attempts: Attempts, image_server: Upstream, front: Front, system: System
) -> None:
    system.expected.add("a step failed")

    class FailingFetcher(UrlFetcher):
        @override
        async def fetch(
            self, url: str, *, bytes_max: int, seconds: float, budget: FetchBudget
        ) -> bytes:
            if url.endswith("b"):
                raise ZeroDivisionError
            await asyncio.Event().wait()
            raise AssertionError

    attempts.url_fetcher = FailingFetcher(attempts.settings.egress, attempts.clock)
    ended = await attempts.ended(features=_urls(image_server, "a", "b"))
    assert _code(ended)[1] == "INTERNAL"
    assert (await front.credit_totals()).balance == GRANT


async def test_a_model_that_fails_is_passed_over_for_one_that_sees(
    attempts: Attempts, image_server: Upstream, provider: ScriptedProvider, system: System
) -> None:
    image_server.script = _image_server(a=PNG)
    provider.script.append(ScriptedAnswer(status=401))
    ended = await attempts.ended(features=_urls(image_server, "a"), hold=HOLD * 100)
    assert ended.stage == "completed"
    assert len(image_server.lines) == 1
    assert isinstance(provider.requests[-1].messages[-1]["content"], list)
    assert system.settings.media.folder


# What one account's pictures cost others, and how often a host is called


async def test_an_accounts_silent_names_leave_the_images_of_others_alone(
    attempts: Attempts, image_server: Upstream, front: Front, tmp_path: Path
) -> None:
    """Six messages of ten names each, that no server answers for, beside one of another account."""
    image_server.script = whole(PNG)
    async with NameServer(bears_example=("127.0.0.1",)) as server:
        silent = [f"n{number}.example" for number in range(60)]
        server.records |= dict.fromkeys(silent, (SILENT,))
        names = server.names(tmp_path).addresses
        attempts.url_fetcher = UrlFetcher(attempts.settings.egress, attempts.clock, names)
        running = []
        for first in range(0, 60, 10):
            urls = tuple(
                f"http://{name}:{image_server.port}/" for name in silent[first : first + 10]
            )
            ticket = await front.submit(account="mallory", features=Features(media_urls=urls))
            running.append(attempts.begin(ticket))
        await until(lambda: len(server.asked) == 2 * PER_ACCOUNT_MAX)
        url = f"http://bears.example:{image_server.port}/a"
        ended = await asyncio.wait_for(attempts.ended(features=Features(media_urls=(url,))), 10)
        assert ended.stage == "completed"
        assert not any(each.done() for each in running)
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def test_a_private_name_and_an_unknown_one_end_alike(
    attempts: Attempts, image_server: Upstream, tmp_path: Path
) -> None:
    async with NameServer(inside_example=("10.0.0.1",)) as server:
        names = server.names(tmp_path, hosts="10.0.0.2 inside.hosts").addresses
        attempts.url_fetcher = UrlFetcher(attempts.settings.egress, attempts.clock, names)
        ends = set()
        for host in ("inside.example", "inside.hosts", "unknown.example"):
            url = f"http://{host}:{image_server.port}/"
            ended = await attempts.ended(features=Features(media_urls=(url,)))
            ends.add((_code(ended), ended.assistant and ended.assistant.failure))
    ((code, _),) = ends
    assert code[1] == "MEDIA_UNREACHABLE"
    assert image_server.connections == 0


async def test_a_message_calls_a_host_twenty_times_at_most(
    attempts: Attempts, image_server: Upstream
) -> None:
    """Ten pictures, each led round in circles and asked for once more."""

    async def script(line: Line) -> None:
        path = line.request.split(b" ")[1].decode()
        is_end = path.endswith("xxx")
        await whole(b"", status=503 if is_end else 302, location=f"{path}x")(line)

    image_server.script = script
    ended = await attempts.ended(features=_urls(image_server, *"abcdefghij"))
    assert _code(ended)[1] == "MEDIA_UNREACHABLE"
    assert len(image_server.lines) <= REQUESTS_PER_HOST_MAX == 20


async def test_a_url_that_stands_there_twice_is_fetched_once_and_shown_twice(
    attempts: Attempts, image_server: Upstream, provider: ScriptedProvider
) -> None:
    image_server.script = _image_server(a=PNG, b=GIF)
    assert (await attempts.ended(features=_urls(image_server, *"aba"))).stage == "completed"
    assert len(image_server.lines) == 2
    *shown, _ = provider.requests[0].messages[-1]["content"]
    kinds = [each["image_url"]["url"].partition(";")[0] for each in shown]
    assert kinds == ["data:image/png", "data:image/gif", "data:image/png"]


async def test_a_turn_that_was_deferred_fetches_nothing_again(
    attempts: Attempts, image_server: Upstream, provider: ScriptedProvider, front: Front
) -> None:
    image_server.script = _image_server(a=PNG)
    attempts.change_models(identifier="alone")
    provider.answer = lambda _: ScriptedAnswer(status=429)
    ticket = await front.submit(features=_urls(image_server, "a"))
    await attempts.run(ticket)
    assert (await front.poll(ticket)).stage == "retrying"
    provider.answer = lambda _: ScriptedAnswer(text="A bear.")
    await front.hasten(ticket)
    await front.thaw(attempts.circuit_breaker)
    await attempts.run(ticket)
    assert (await front.poll(ticket)).stage == "completed"
    assert len(image_server.lines) == 1
    assert isinstance(provider.requests[-1].messages[-1]["content"], list)
