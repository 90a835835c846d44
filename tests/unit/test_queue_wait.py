"""Hints and ETAs while a turn is queued: simulated clients that obey them, on a simulated clock.

A queue determines when each message begins and ends, and what a poll of it finds, so that an hour
is simulated at once and every run is the same.
"""

import asyncio
import math
import random
from types import SimpleNamespace
from typing import NamedTuple, cast

import msgspec
import pytest

from api.live_fleet import LiveFleet
from api.polling import queue_wait
from api.polling.eta import Eta, KnownDurations, ModelDurations
from api.polling.hints import Hints
from api.polling.queue_wait import TypicalDuration
from shared.settings import Settings
from shared.stores.fleet import Fleet
from shared.wire.generation import Generation, QueuePosition

MODEL = "m"
_QUICK = KnownDurations.of([0.3] * 20)
_LIVES = Fleet(workers=1, slots=16, models=frozenset({MODEL}))
_FULL = _LIVES._replace(running=16)


class Followed(NamedTuple):
    """One message as its client saw it: its end, how late that was found, polls, ETAs."""

    end: float
    late: float
    polls: int
    estimates: list[Eta | None]

    @property
    def polls_max(self) -> float:
        """The contract's bound."""
        return 4 + math.log2(max(1.0, self.end))


class Queue:
    """Messages of one account, sent at once, as they begin and end; in a session, one at a time.

    The first begins at `opens`: until then others hold every slot, or no worker is alive.
    """

    def __init__(
        self,
        durations: list[float],
        *,
        known: KnownDurations,
        fleet: Fleet = _LIVES,
        opens: float = 0.0,
        is_session: bool = False,
    ) -> None:
        self.known = known
        self._fleet, self._fleet_before = _LIVES, fleet
        self._opens = opens
        self._is_session = is_session
        self._slots = 1 if is_session else _LIVES.slots
        self._times: list[tuple[float, float]] = []
        for duration in durations:
            ends = sorted(end for _, end in self._times)
            begin = ends[-self._slots] if len(ends) >= self._slots else opens
            self._times.append((begin, begin + duration))
        self.now = 0.0

    async def _known(self, _root: str, _model: str) -> KnownDurations:
        return self.known

    async def _workers(self) -> Fleet:
        return self._fleet_before if self.now < self._opens else self._fleet

    def _position(self, index: int) -> QueuePosition:
        """Return what is ahead of a message now."""
        before = [(begin, end) for begin, end in self._times[:index] if end > self.now]
        running = [begin for begin, _ in before if begin <= self.now]
        waiting = len(before) - len(running)
        return QueuePosition(
            ahead=waiting,
            running=len(running),
            running_max=5_000,
            session_turns_before=max(0, len(before) - 1) if self._is_session else 0,
            is_behind_head=self._is_session and bool(before),
            first_age_seconds=self.now - running[0] if running else None,
        )

    def _look(self, index: int, first: QueuePosition) -> Generation:
        begin, _ = self._times[index]
        waits = begin > self.now
        return Generation(
            id="g",
            seen=int(self.now * 1000),
            session="s",
            turn=1,
            lane="interactive",
            stage="queued" if waits else "generating",
            model=MODEL,
            attempt=0 if waits else 1,
            accepted=0,
            started=None if waits else int(begin * 1000),
            position=self._position(index) if waits else None,
            position_when_accepted=first if first.ahead or first.is_behind_head else None,
        )

    def follow(self, index: int = 0) -> Followed:
        """Follow one message as its client does, from the receipt to the end."""
        return asyncio.run(self._follow(index))

    def hints(self) -> Hints:
        """Return the hints for its messages."""
        return Hints(
            cast("ModelDurations", SimpleNamespace(durations=self._known)),
            cast("LiveFleet", SimpleNamespace(current=self._workers)),
            Settings().retention.generation_seconds,
        )

    async def _follow(self, index: int) -> Followed:
        hints = self.hints()
        _, end = self._times[index]
        self.now, polls = 0.0, 0
        estimates: list[Eta | None] = []
        position = self._position(index)
        hint = await hints.for_receipt("", MODEL, position)
        while True:
            self.now += hint
            polls += 1
            if self.now >= end:
                return Followed(end, self.now - end, polls, estimates)
            hint, eta = await hints.for_generation("", self._look(index, position))
            estimates.append(eta)


def _drawn(seconds: float, share: float, count: int, seed: int = 1) -> list[float]:
    chance = random.Random(seed)
    return [seconds * chance.uniform(1 - share, 1 + share) for _ in range(count)]


@pytest.mark.parametrize("fleet", [Fleet(), _FULL], ids=["no live worker", "slots of others"])
@pytest.mark.parametrize("opens", [3.0, 7.3, 15.0, 39.7, 60.2, 99.0, 150.0])
def test_where_nothing_tells_the_end_polls_are_few_and_half_the_wait_bounds_lateness(
    fleet: Fleet, opens: float
) -> None:
    found = Queue([0.3], known=_QUICK, fleet=fleet, opens=opens).follow()
    assert found.polls <= found.polls_max
    assert found.late <= max(2.0, (found.end + found.late) / 2)
    assert all(eta is None for eta in found.estimates[2:])


def test_without_a_live_worker_no_look_tells_an_estimate() -> None:
    found = Queue([0.3], known=_QUICK, fleet=Fleet(), opens=60.0).follow()
    assert len(found.estimates) >= 4
    assert set(found.estimates) == {None}


def test_workers_that_hear_nothing_are_none() -> None:
    without_listener = _LIVES._replace(without_listener=1)
    assert not queue_wait.of_receipt(
        QueuePosition(), MODEL, TypicalDuration(1.0), without_listener
    ).is_known
    assert queue_wait.of_receipt(
        QueuePosition(), MODEL, TypicalDuration(1.0), without_listener._replace(workers=2)
    ).is_known


def _held_to_bounds(found: list[Followed]) -> None:
    """Half are found within a second of their end, 95 of 100 within 2 s or a tenth."""
    late = sorted(one.late for one in found)
    assert late[len(late) // 2] <= 1.0
    too_late = [one for one in found if one.late > max(2.0, 0.1 * one.end)]
    assert len(too_late) <= 0.05 * len(found), too_late
    assert not [one for one in found if one.polls > one.polls_max]


@pytest.mark.parametrize("seconds", [0.4, 1.3, 3.0, 8.0])
@pytest.mark.parametrize("share", [0.02, 0.3])
def test_turns_of_a_session_are_known_of_in_time(seconds: float, share: float) -> None:
    known = KnownDurations.of(_drawn(seconds, share, 64))
    found = []
    for seed in range(5):
        queue = Queue(_drawn(seconds, share, 8, seed), known=known, is_session=True)
        found += [queue.follow(index) for index in range(8)]
    _held_to_bounds(found)


@pytest.mark.parametrize("share", [0.02, 0.2])
def test_the_end_of_a_long_queue_of_ones_own_is_found_in_time(share: float) -> None:
    known = KnownDurations.of(_drawn(5.0, share, 64))
    queue = Queue(_drawn(5.0, share, 100), known=known)
    _held_to_bounds([queue.follow(index) for index in range(100)])


def test_a_queue_four_times_slower_than_expected_keeps_polls_few() -> None:
    known = KnownDurations.of(_drawn(2.0, 0.05, 64))
    queue = Queue(_drawn(8.0, 0.05, 60), known=known)
    for index in range(60):
        found = queue.follow(index)
        assert found.polls <= found.polls_max + 1, index
        assert found.late <= max(2.0, (found.end + found.late) / 2), index


def _generation(waited: float, position: QueuePosition | None, **fields: object) -> Generation:
    made = Generation(
        id="g",
        seen=int(waited * 1000),
        session="s",
        turn=1,
        lane="interactive",
        stage="queued",
        model=MODEL,
        attempt=0,
        accepted=0,
        position=position,
    )
    return msgspec.structs.replace(made, **fields)


async def test_nothing_predicts_when_a_person_decides() -> None:
    """Polls become rarer with the time since the message, and no ETA is given."""
    queue = Queue([1.0], known=_QUICK)
    waits = [
        await queue.hints().for_generation(
            "",
            _generation(waited, None, stage="awaiting_approval", started=9),
        )
        for waited in (1.0, 10.0, 86_400.0)
    ]
    assert [estimate for _, estimate in waits] == [None] * 3
    hints = [hint for hint, _ in waits]
    assert hints == sorted(hints)
    assert hints[1] >= 6
    assert hints[-1] == 30


def test_a_queue_that_moves_is_believed_and_one_that_stands_is_not() -> None:
    first, now = QueuePosition(ahead=160), QueuePosition(ahead=16)
    moved = queue_wait.of(
        _generation(45.0, now, position_when_accepted=first), TypicalDuration(5.0), _LIVES
    )
    stood = queue_wait.of(
        _generation(45.0, first, position_when_accepted=first), TypicalDuration(5.0), _LIVES
    )
    assert moved.is_known
    assert 4 < moved.seconds < 8
    assert moved.growth < 0.2
    assert not stood.is_known
    assert stood.growth == queue_wait.HINT_GROWTH


def test_what_an_older_process_took_in_is_waited_for_by_the_time_alone() -> None:
    wait = queue_wait.of(_generation(45.0, QueuePosition(ahead=16)), TypicalDuration(5.0), _LIVES)
    assert not wait.is_known
    assert wait.growth == queue_wait.HINT_GROWTH


def test_a_turn_retried_again_and_again_is_polled_ever_less_often() -> None:
    waits = [
        queue_wait.of(
            _generation(60.0, QueuePosition(), retry_in_seconds=2.0, attempt=attempt),
            TypicalDuration(1.0),
            _LIVES,
        )
        for attempt in (1, 2, 8)
    ]
    assert {wait.seconds for wait in waits} == {2.0}
    growths = [wait.growth for wait in waits]
    assert growths == sorted(growths)
    assert growths[-1] == queue_wait.HINT_GROWTH


def test_the_wait_for_a_turn_goes_by_rounds_of_the_fleets_room() -> None:
    fleet = Fleet(workers=2, slots=10)

    def wait(ahead: int, lane_accounts: int, fleet: Fleet = fleet) -> float:
        return queue_wait.estimated_seconds(
            QueuePosition(ahead=ahead, lane_accounts=lane_accounts), 4.0, fleet
        )

    assert [wait(ahead, 1) for ahead in (0, 9, 10, 25)] == [0, 0, 4, 8]
    assert [wait(ahead, 5) for ahead in (0, 1, 2, 9)] == [0, 0, 4, 16]
    assert wait(3, 0, Fleet()) == 12
    # With more waiting accounts than slots, a round of all of them takes longer.
    assert wait(3, 100) == 120


def test_the_wait_goes_by_what_may_run_and_by_the_turns_of_its_session() -> None:
    fleet = Fleet(workers=2, slots=10)

    def wait(position: QueuePosition) -> float:
        return queue_wait.estimated_seconds(position, 4.0, fleet)

    assert wait(QueuePosition(ahead=8, running_max=2)) == 16
    assert wait(QueuePosition(ahead=8, running_max=100)) == 0
    session = QueuePosition(ahead=8, running_max=100, session_turns_before=5, is_behind_head=True)
    assert 24 <= wait(session) < 25
    # The head has run for three of its four seconds.
    begun = QueuePosition(
        ahead=8,
        running=1,
        running_max=100,
        session_turns_before=5,
        is_behind_head=True,
        first_age_seconds=3.0,
    )
    assert 21 <= wait(begun) < 22


def test_what_runs_takes_its_place_in_the_rounds_until_it_has_ended() -> None:
    fleet = Fleet(workers=2, slots=10, running=10)
    runs = QueuePosition(ahead=3, running=10, first_age_seconds=1.0)
    assert queue_wait.estimated_seconds(runs, 4.0, fleet) == 3
