"""A body that has arrived is read without a timer; one that has not, within its time."""

import asyncio

import pytest
from starlette.requests import Request
from starlette.types import Message

from api.guards import body
from shared.errors import Code, RequestError
from shared.settings import ApiSettings

SETTINGS = ApiSettings(body_seconds=0.01)


def request(said: Message | None, **scope: object) -> Request:
    """Return a request whose body arrives at once, or never."""

    async def receive() -> Message:
        if said is None:
            await asyncio.Event().wait()
        return said or {}

    return Request({"type": "http", "headers": [], **scope}, receive)


async def test_body_that_is_here_needs_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    timers: list[float | None] = []
    timeout = asyncio.timeout

    def timed(seconds: float | None) -> asyncio.Timeout:
        timers.append(seconds)
        return timeout(seconds)

    monkeypatch.setattr(asyncio, "timeout", timed)
    said: Message = {"type": "http.request", "body": b"{}", "more_body": False}
    assert await body.read(request(said, body_is_here=True), 1000, SETTINGS.body_seconds) == b"{}"
    assert timers == []
    assert await body.read(request(said), 1000, SETTINGS.body_seconds) == b"{}"
    assert timers == [SETTINGS.body_seconds]


async def test_body_that_does_not_arrive_is_given_up() -> None:
    with pytest.raises(RequestError) as refused:
        await body.read(request(None), 1000, SETTINGS.body_seconds)
    assert refused.value.code == Code.REQUEST_TIMEOUT


@pytest.mark.parametrize("scope", [{}, {"body_is_here": True}])
async def test_a_disconnect_is_no_body(scope: dict[str, bool]) -> None:
    with pytest.raises(RequestError, match="whole") as refused:
        await body.read(request({"type": "http.disconnect"}, **scope), 1000, SETTINGS.body_seconds)
    assert refused.value.code == Code.REQUEST_TIMEOUT
