"""How long a caller waits: what ends it, and that no end is missed."""

from starlette.requests import Request
from typing_extensions import override

from api import farewell
from api.follow.wait import Patience


class Line(Request):
    """A request whose waiter is told to go in the very moment in which its line is looked at."""

    def __init__(self) -> None:
        super().__init__({"type": "http"})

    @override
    async def is_disconnected(self) -> bool:
        farewell.say(self.scope, "process")
        return False


async def test_an_end_during_the_look_at_the_line_is_kept() -> None:
    patience = Patience(Line(), 10.0)
    await patience.change(0.0)
    assert patience.has_ended


def test_an_end_that_was_said_before_is_heard() -> None:
    line = Line()
    assert not Patience(line, 10.0).has_ended
    farewell.say(line.scope, "caller")
    assert Patience(line, 10.0).has_ended
