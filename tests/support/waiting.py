"""Waits for a condition, with a time limit: the only place in the tests that polls and sleeps.

Owns the pause between two checks. Does not wait for a time to pass: a test that needs that advances
a clock.
"""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

T = TypeVar("T")

_PAUSE_SECONDS: Final = 0.003


async def until(condition: Callable[[], object], seconds: float = 10.0, *, what: str = "") -> Any:
    """Return the condition's value once it is true; it may be a coroutine function.

    Raises:
        AssertionError: when it was not true within `seconds`, with the last value seen.

    """
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        seen = await value if inspect.isawaitable(value) else value
        if seen:
            return seen
        _check_deadline(deadline, what, seen)
        await asyncio.sleep(_PAUSE_SECONDS)


def until_now(condition: Callable[[], T], seconds: float = 10.0, *, what: str = "") -> T:
    """Return the condition's value once it is true; for what runs outside an event loop."""
    deadline = time.monotonic() + seconds
    while not (seen := condition()):
        _check_deadline(deadline, what, seen)
        time.sleep(_PAUSE_SECONDS)
    return seen


def _check_deadline(deadline: float, what: str, seen: object) -> None:
    if time.monotonic() > deadline:
        message = f"timed out waiting for {what or 'a condition'}; last seen: {seen!r}"
        raise AssertionError(message)
