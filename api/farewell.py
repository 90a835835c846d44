"""How a request that waits learns that it waits in vain: its caller, or this process, goes.

Owns the words in the request's scope by which the edge tells and the waiting hear. What was said
before anybody listened is heard by whoever begins to: a process says once that it goes.
"""

from collections.abc import Callable, MutableMapping
from typing import Any, Final, Literal

Going = Literal["caller", "process"]

_SAID: Final = "farewells"
_HEARD_BY: Final = "farewells_heard_by"


def say(scope: MutableMapping[str, Any], going: Going) -> None:
    """Tell a request who goes."""
    scope.setdefault(_SAID, set()).add(going)
    hear = scope.get(_HEARD_BY, {}).get(going)
    if hear is not None:
        hear()


def listen(
    scope: MutableMapping[str, Any], *, on_gone: Callable[[], None], on_leave: Callable[[], None]
) -> None:
    """Hear that the caller has gone, and that the process goes; at once if it was said before."""
    heard_by: dict[Going, Callable[[], None]] = {"caller": on_gone, "process": on_leave}
    scope[_HEARD_BY] = heard_by
    for going in scope.get(_SAID, ()):
        heard_by[going]()
