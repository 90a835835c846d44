"""The watchdog alone, on a loop with a fake clock and a transport with a fake buffer."""

import asyncio
import math
from collections.abc import Callable
from typing import cast

from api.server.watchdog import Watchdog


class Timer:
    """What the loop's `call_at` returns."""

    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self.when = when
        self.call = call
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Scene:
    """A loop, a transport, and the callbacks of their watchdog."""

    def __init__(self, *, stuck_seconds: float = 40, shortest_wait_seconds: float = 1000) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []
        self.unread_bytes = 0
        self.limits: list[int | None] = []
        self.said: list[tuple[str, float]] = []
        self.watchdog = Watchdog(
            cast("asyncio.AbstractEventLoop", self),
            cast("asyncio.WriteTransport", self),
            stuck_seconds=stuck_seconds,
            shortest_wait_seconds=shortest_wait_seconds,
            on_timeout=lambda: self.said.append(("late", self.now)),
            on_stuck_reader=lambda: self.said.append(("stuck", self.now)),
        )

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: Callable[[], None]) -> Timer:
        self.timers.append(Timer(when, call))
        return self.timers[-1]

    def get_write_buffer_size(self) -> int:
        return self.unread_bytes

    def set_write_buffer_limits(self, high: int | None = None) -> None:
        self.limits.append(high)

    @property
    def pending(self) -> list[Timer]:
        return [timer for timer in self.timers if not timer.is_cancelled]

    def turn(self, now: float) -> None:
        """Let time pass, and fire what is due on the way."""
        while due := [timer for timer in self.pending if timer.when <= now]:
            timer = min(due, key=lambda timer: timer.when)
            self.now = timer.when
            self.timers.remove(timer)
            timer.call()
        self.now = now


def test_the_timeout_fires_at_the_deadline_and_once() -> None:
    scene = Scene()
    scene.watchdog.set_timeout(25)
    scene.turn(100)
    assert scene.said == [("late", 25)]


def test_a_deadline_may_move_both_ways() -> None:
    scene = Scene()
    scene.watchdog.set_timeout(25)
    scene.turn(20)
    scene.watchdog.set_timeout(25)
    scene.turn(44)
    assert scene.said == []
    scene.watchdog.set_timeout(0.5)
    scene.turn(45)
    assert scene.said == [("late", 44.5)]


def test_nothing_is_late_when_nothing_is_waited_for() -> None:
    scene = Scene()
    scene.watchdog.set_timeout(25)
    scene.watchdog.deadline = math.inf
    scene.turn(100)
    assert scene.said == []


def test_there_is_never_more_than_one_timer() -> None:
    scene = Scene()
    for seconds in (25, 5, 50, 1, 12):
        scene.watchdog.set_timeout(seconds)
        assert len(scene.pending) == 1
        scene.turn(scene.now + 2)
        assert len(scene.pending) == 1


def test_later_deadlines_set_no_timer() -> None:
    scene = Scene(shortest_wait_seconds=5)
    for _ in range(100):
        scene.watchdog.set_timeout(5)
    assert len(scene.timers) == 1


def test_the_timer_keeps_its_distance() -> None:
    scene = Scene(shortest_wait_seconds=0)
    scene.turn(10)
    assert len(scene.pending) == 1


def test_a_reader_is_stuck_once_nothing_was_read_for_long_enough() -> None:
    scene = Scene()
    scene.turn(15)
    scene.unread_bytes = 100
    scene.turn(200)
    assert scene.said == [("stuck", 60)]  # seen at 20


def test_who_reads_a_little_is_not_stuck() -> None:
    scene = Scene()
    for waiting in range(1000, 900, -1):
        scene.unread_bytes = waiting
        scene.turn(scene.now + 35)
    assert scene.said == []


def test_who_has_read_all_is_not_stuck_though_as_much_waits_again() -> None:
    scene = Scene()
    scene.unread_bytes = 100
    for _ in range(20):
        scene.turn(scene.now + 35)
        scene.watchdog.note_drained()
    assert scene.said == []


def test_the_writer_is_held_while_bytes_wait_and_free_after() -> None:
    scene = Scene()
    scene.turn(10)
    scene.unread_bytes = 100
    scene.turn(30)
    assert scene.limits == [0]
    scene.unread_bytes = 0
    scene.watchdog.note_drained()
    scene.watchdog.note_drained()
    assert scene.limits == [0, None]


def test_a_stopped_watchdog_never_calls_back() -> None:
    scene = Scene()
    scene.watchdog.set_timeout(1)
    scene.watchdog.stop()
    assert scene.pending == []
