"""More connections than a process may have: which are served, refused and closed."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec

from shared.settings import ApiSettings
from tests.api.server.clients import (
    BOUNDS,
    GATED,
    GET,
    POST,
    Client,
    RunningServer,
    assert_refused,
    running,
)
from tests.support import processes, waiting

_MOST = 4


def _bounds() -> ApiSettings:
    return msgspec.structs.replace(BOUNDS, header_seconds=30.0, connections_max=_MOST)


@asynccontextmanager
async def _full(live_server: RunningServer) -> AsyncIterator[list[Client]]:
    """Have as many requests under way as there may be connections."""
    async with AsyncExitStack() as stack:
        busy = [await stack.enter_async_context(live_server.client()) for _ in range(_MOST)]
        for client in busy:
            await client.send(GATED)
        await waiting.until(lambda: len(live_server.app.seen) == _MOST, what="the requests")
        yield busy


async def test_where_all_are_busy_the_next_is_refused_and_they_go_on() -> None:
    async with running(_bounds(), keep_alive_seconds=30) as live_server:
        async with _full(live_server) as busy:
            request = b"GET /plain HTTP/1.1\r\nHost: a\r\nX-Request-ID: mine-3\r\n\r\n"
            (answer,) = await live_server.ask(request)
            assert_refused(answer, 503, "UNAVAILABLE")
            assert (answer.fields["connection"], answer.json["request_id"]) == ("close", "mine-3")
            assert 1 <= int(answer.fields["retry-after"]) <= 3
            (answer,) = await live_server.ask(POST.replace(b"/plain", b"/v1/ai/chat") + b"\r\n")
            assert (answer.status, answer.json["status"]) == (503, "error")
            live_server.app.gate.set()
            for client in busy:
                assert (await client.answer()).status == 200
                await client.send(GET)
                assert (await client.answer()).status == 200
        await live_server.is_empty()
        async with live_server.client() as client:
            await client.send(GET)
            assert (await client.answer()).status == 200


async def test_a_new_connection_takes_the_place_of_the_longest_silent_one() -> None:
    async with (
        running(_bounds(), keep_alive_seconds=30) as live_server,
        AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(live_server.client()) for _ in range(_MOST)]
        silent, served, waits, _ = clients
        await waiting.until(lambda: len(live_server.server.server_state.connections) == _MOST)
        await served.send(GET)
        assert (await served.answer()).status == 200
        # Part of a head is no request yet.
        await waits.send(GET[:20])
        for gone in (silent, waits):
            async with live_server.client() as newcomer:
                await newcomer.send(GATED)
                assert await gone.read_all() == b""
                live_server.app.gate.set()
                assert (await newcomer.answer()).status == 200
            await waiting.until(lambda: len(live_server.server.server_state.connections) < _MOST)
            await stack.enter_async_context(live_server.client())
            await waiting.until(lambda: len(live_server.server.server_state.connections) == _MOST)
        await served.send(GET)
        assert (await served.answer()).status == 200


async def test_silent_connections_keep_nobody_out() -> None:
    async with (
        running(_bounds(), keep_alive_seconds=30) as live_server,
        AsyncExitStack() as stack,
    ):
        for _ in range(5 * _MOST):
            await stack.enter_async_context(live_server.client())
            async with live_server.client() as client:
                await client.send(GET)
                assert (await client.answer()).status == 200


async def test_beyond_those_that_are_refused_connections_are_closed_at_once() -> None:
    async with (
        running(_bounds(), keep_alive_seconds=30) as live_server,
        _full(live_server),
        live_server.client() as one,
        live_server.client() as two,
    ):
        await waiting.until(lambda: len(live_server.server.server_state.connections) == _MOST + 2)
        async with live_server.client() as beyond:
            assert await beyond.read_all() == b""
        for client in (one, two):
            await client.send(GET)
            (answer,) = await client.answers()
            assert_refused(answer, 503, "UNAVAILABLE")
        live_server.app.gate.set()


async def test_operators_come_in_where_all_others_are_taken() -> None:
    port = processes.free_port()
    async with (
        running(_bounds(), port=port, admin_port=port) as live_server,
        _full(live_server),
    ):
        async with live_server.client() as client:
            await client.send(GET)
            assert (await client.answer()).status == 200
        live_server.app.gate.set()
