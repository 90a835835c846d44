"""How a request that waits learns that it waits in vain: its caller, or this process, goes.

Owns the words in the request's scope by which the edge tells and the waiting hear. What was said
before anybody listened is heard by whoever begins to: a process says once that it goes.
"""

from collections.abc import Callable, MutableMapping
from typing import Any, Final, Literal

Cause = Literal["caller", "process"]

_SIGNALLED: Final = "farewells"
_CALLBACKS: Final = "farewells_heard_by"


def signal(scope: MutableMapping[str, Any], cause: Cause) -> None:
    """Tell a request who goes."""
    scope.setdefault(_SIGNALLED, set()).add(cause)
    callback = scope.get(_CALLBACKS, {}).get(cause)
    if callback is not None:
        callback()


def listen(
    scope: MutableMapping[str, Any],
    *,
    on_disconnect: Callable[[], None],
    on_shutdown: Callable[[], None],
) -> None:
    """Hear that the caller has gone, and that the process goes; at once if it was said before."""
    callbacks: dict[Cause, Callable[[], None]] = {"caller": on_disconnect, "process": on_shutdown}
    scope[_CALLBACKS] = callbacks
    for cause in scope.get(_SIGNALLED, ()):
        callbacks[cause]()
