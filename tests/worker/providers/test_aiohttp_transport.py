"""The connections to an upstream: reused, never shared; the classes of their failures."""

import asyncio
from types import SimpleNamespace

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

from tests.support.waiting import until
from tests.worker.providers.calls import Call, listen
from tests.worker.providers.upstream import Line, Upstream, chunked, held, whole
from worker.providers.aiohttp_transport import AiohttpTransport, TransportError, UpstreamRequest

_KEY = ConnectionKey("up", 443, True, True, None, None, None)


async def _at_once(call: Call, count: int) -> None:
    """Make so many calls that are all answered when the last has begun."""
    begun = 0
    release = asyncio.Event()
    answer = chunked(call.dialect.answer("Two"))

    async def script(line: Line) -> None:
        nonlocal begun
        begun += 1
        await release.wait()
        await answer(line)

    call.upstream.script = script
    calls = [asyncio.create_task(listen(call.provider)) for _ in range(count)]
    await until(lambda: begun == count)
    release.set()
    assert {received.text for received in await asyncio.gather(*calls)} == {"Two"}


def _idle(call: Call) -> int:
    lines = call.provider._transport
    assert isinstance(lines, AiohttpTransport)
    session = lines._client_session
    assert session is not None
    connector = session.connector
    return sum(map(len, connector._conns.values())) if connector is not None else 0


async def test_calls_at_once_have_a_connection_each_and_leave_it_to_the_next(call: Call) -> None:
    await _at_once(call, 8)
    assert (call.upstream.connections, _idle(call)) == (8, 8)
    await _at_once(call, 5)
    assert (call.upstream.connections, _idle(call)) == (8, 8)


async def test_connection_of_a_call_that_failed_serves_the_next(brief: Call) -> None:
    for script in (whole(b"data: 5\n\n"), whole(status=500), chunked(is_ended=False), held()):
        assert (await brief(script)).error is not None
        assert (await brief(chunked(brief.dialect.answer("Two")))).text == "Two"
        assert _idle(brief) == 1


async def test_connection_that_the_upstream_closed_meanwhile_is_opened_again(call: Call) -> None:
    async def script(line: Line) -> None:
        await chunked(call.dialect.answer("Two"))(line)
        line.is_kept = False

    for _ in range(3):
        assert (await call(script)).text == "Two"
        await until(lambda: call.upstream.closed == call.upstream.connections)
    assert call.upstream.connections == 3


async def test_connection_that_the_upstream_closes_as_it_is_taken_is_replaced(call: Call) -> None:
    assert (await call(chunked(call.dialect.answer("Two")))).text == "Two"
    asked: list[Line] = []

    async def close_the_first(line: Line) -> None:
        asked.append(line)
        if len(asked) > 1:
            await chunked(call.dialect.answer("bears"))(line)

    assert (await call(close_the_first)).text == "bears"
    assert (len(asked), call.upstream.connections) == (2, 2)


async def test_no_connection_is_left_open_behind(upstream: Upstream, call: Call) -> None:
    await _at_once(call, 4)
    await call.provider.close()
    await until(lambda: upstream.closed == upstream.connections)
    assert _idle(call) == 0


@pytest.mark.parametrize(
    ("error", "code", "repeats"),
    [
        (aiohttp.SocketTimeoutError(), "PROVIDER_SILENT", 0),
        (aiohttp.ConnectionTimeoutError(), "CONNECT_TIMEOUT", 0),
        (aiohttp.ServerTimeoutError(), "CONNECT_TIMEOUT", 0),
        (aiohttp.ClientConnectorDNSError(_KEY, OSError()), "CONNECT_FAILED", 0),
        (aiohttp.InvalidURL("http://"), "CONNECT_FAILED", 0),
        (UnicodeError(), "CONNECT_FAILED", 0),
        (TimeoutError(), "PROVIDER_SILENT", 0),
        (aiohttp.ClientPayloadError(), "STREAM_CUT", 1),
        (aiohttp.ClientOSError(), "STREAM_CUT", 1),
        (aiohttp.ServerDisconnectedError(), "STREAM_CUT", 1),
        (aiohttp.ClientError(), "STREAM_CUT", 1),
    ],
    ids=lambda field: type(field).__name__ if isinstance(field, Exception) else None,
)
@pytest.mark.parametrize("is_reused", [True, False])
async def test_failed_connection_is_classified_and_only_a_cut_reused_one_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, error: Exception, code: str, repeats: int, *, is_reused: bool
) -> None:
    sent = 0
    transport = AiohttpTransport()
    request = UpstreamRequest("POST", "http://up/v1", {}, connect_seconds=1.0)

    async def fail(*_: object, trace_request_ctx: SimpleNamespace, **__: object) -> None:
        nonlocal sent
        sent += 1
        trace_request_ctx.is_reused = is_reused
        raise error

    monkeypatch.setattr(transport._session(), "request", fail)
    with pytest.raises(TransportError) as raised:
        await transport.send(request, b"", read_seconds=1.0)
    await transport.close()
    assert raised.value.classification[1] == code
    assert raised.value.__cause__ is error
    assert sent == 1 + (repeats if is_reused else 0)
