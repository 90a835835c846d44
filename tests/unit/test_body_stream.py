"""A body that arrives gives way to other requests, whatever it consists of, and can be ended."""

import asyncio
import gzip
from typing import Any, cast

import pytest
from starlette.requests import Request
from typing_extensions import override

from api.batches.body_stream import BodyStream
from shared.errors import Code, PolluxError, RequestError
from tests.support import waiting
from tests.support.clocks import ManualClock

_BYTES_MAX = 100_000_000


class _Clock(ManualClock):
    """Each look at it takes a slice."""

    @override
    def monotonic(self) -> float:
        self.now += 0.001
        return self.now


def _stream(clock: ManualClock, *parts: bytes, is_gzip: bool = True, length: int = 0) -> BodyStream:
    """Return a body that never ends if its last part is empty."""
    left = list(parts)

    async def receive() -> dict[str, Any]:
        if left == [b""]:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    request = Request({"type": "http"}, cast("Any", receive))
    return BodyStream(
        request, clock, length=length, bytes_max=_BYTES_MAX, is_gzip=is_gzip, hash_prefix=b""
    )


async def _read(body: BodyStream) -> int:
    return sum([len(block) async for block in body.blocks()])


@pytest.mark.parametrize(
    ("packed", "size", "steps"),
    [
        (gzip.compress(b"\n" * 20_000_000), 20_000_000, 300),
        (gzip.compress(b"") * 1_000, 0, 1_000),
    ],
)
async def test_unpacking_gives_way(packed: bytes, size: int, steps: int) -> None:
    clock = _Clock()
    assert await _read(_stream(clock, packed)) == size
    assert clock.slept.count(0) >= steps


async def test_what_unpacks_to_nothing_has_a_size_too() -> None:
    body = _stream(ManualClock(), *[gzip.compress(b"") + bytes(_BYTES_MAX // 10)] * 11)
    with pytest.raises(RequestError) as caught:
        await _read(body)
    assert caught.value.code == Code.PAYLOAD_TOO_LARGE


async def test_a_body_is_ended_while_it_is_waited_for() -> None:
    body = _stream(ManualClock(), b"a", b"", is_gzip=False)
    reading = asyncio.create_task(_read(body))
    await waiting.until(lambda: body.bytes_per_second > 0, what="the first part")
    body.end(PolluxError("No more", Code.UNAVAILABLE))
    with pytest.raises(PolluxError, match="No more"):
        await reading


async def test_a_body_is_ended_while_what_came_is_worked_on() -> None:
    body = _stream(ManualClock(), b"a", b"b", b"", is_gzip=False)
    blocks = body.blocks()
    assert await anext(blocks) == b"a"
    body.end(PolluxError("No more", Code.UNAVAILABLE))
    with pytest.raises(PolluxError, match="No more"):
        await anext(blocks)


async def test_its_rate_is_that_of_the_last_seconds_in_which_it_was_waited_for() -> None:
    class Slow(ManualClock):
        """A part takes a second."""

        @override
        def monotonic(self) -> float:
            self.now += 0.5
            return self.now

    body = _stream(Slow(), *[b"a" * 65_536] * 60, is_gzip=False, length=60 * 65_536)
    blocks = body.blocks()
    for _ in range(30):
        await anext(blocks)
    steady = body.bytes_per_second
    assert steady == pytest.approx(2 * 65_536, rel=0.2)
    seconds_left = body.seconds_left
    assert seconds_left is not None
    assert seconds_left == pytest.approx(15, rel=0.2)
    await blocks.aclose()
