"""How long a caller waits: what ends the wait, and that no such signal is missed."""

from starlette.requests import Request
from typing_extensions import override

from api.follow.wait import WaitDeadline
from api.server import disconnect


class Line(Request):
    """A request that is told of a shutdown just while its disconnect is checked."""

    def __init__(self) -> None:
        super().__init__({"type": "http"})

    @override
    async def is_disconnected(self) -> bool:
        disconnect.signal(self.scope, "process")
        return False


async def test_a_shutdown_during_the_disconnect_check_is_kept() -> None:
    wait_deadline = WaitDeadline(Line(), 10.0)
    await wait_deadline.wait_for_change(0.0)
    assert wait_deadline.has_ended


def test_a_signal_before_the_wait_is_delivered() -> None:
    line = Line()
    assert not WaitDeadline(line, 10.0).has_ended
    disconnect.signal(line.scope, "caller")
    assert WaitDeadline(line, 10.0).has_ended
