"""Signals a waiting request that its client disconnected or the server shuts down.

The protocol calls `signal`, a waiting handler `listen`; both go through the request's scope. A
cause that was signalled before `listen` is delivered by `listen` at once, since a shutdown is
signalled only once.
"""

from collections.abc import Callable, MutableMapping
from typing import Any, Final, Literal

Cause = Literal["caller", "process"]

_SIGNALLED: Final = "disconnect_causes"
_CALLBACKS: Final = "disconnect_callbacks"


def signal(scope: MutableMapping[str, Any], cause: Cause) -> None:
    """Note why a request's wait should end, and call its callback if it has one."""
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
    """Call one of these on disconnect or shutdown; at once if it was signalled before."""
    callbacks: dict[Cause, Callable[[], None]] = {"caller": on_disconnect, "process": on_shutdown}
    scope[_CALLBACKS] = callbacks
    for cause in scope.get(_SIGNALLED, ()):
        callbacks[cause]()
